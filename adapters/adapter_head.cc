#include "adapters/adapter_head.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "adapters/hub/safetensors.h"

namespace lorica {
namespace {

constexpr int64_t kLengthBytes = 8;            // that a safetensors file begins with
constexpr int64_t kFirstPartBytes = 64 << 10;  // hardly any adapter's header is longer

class StringSink : public DownloadSink {
 public:
  explicit StringSink(std::string* text) : text_(text), begin_(text->size()) {}
  absl::Status Append(std::string_view bytes) override {
    text_->append(bytes);
    return absl::OkStatus();
  }
  absl::Status Restart() override {
    text_->resize(begin_);
    return absl::OkStatus();
  }

 private:
  std::string* const text_;
  const size_t begin_;
};

struct Head {
  std::string text;
  int64_t size_bytes = 0;  // of the whole file
};

class HeadFile : public SourceFile {
 public:
  explicit HeadFile(const Head& head) : head_(head) {}
  int64_t size_bytes() const override { return head_.size_bytes; }
  FileStamp stamp() const override { return {.size_bytes = head_.size_bytes}; }
  absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
    if (offset + std::ssize(out) > std::ssize(head_.text)) {
      return absl::UnavailableError("only the beginning of the file was fetched");
    }
    std::memcpy(out.data(), head_.text.data() + offset, out.size());
    return absl::OkStatus();
  }

 private:
  const Head& head_;
};

class HeadSource : public Source {
 public:
  explicit HeadSource(std::map<std::string, Head> heads) : heads_(std::move(heads)) {}
  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string&,
                                                   const std::string& file) override {
    const auto found = heads_.find(file);
    if (found == heads_.end()) return absl::NotFoundError(absl::StrCat("no ", file));
    return std::make_unique<HeadFile>(found->second);
  }
  absl::StatusOr<std::vector<std::string>> List(int) override { return std::vector<std::string>(); }

 private:
  const std::map<std::string, Head> heads_;
};

absl::StatusOr<Head> FetchAll(RemoteSession& session, const RemoteFile& file) {
  Head head{"", file.size_bytes};
  StringSink sink(&head.text);
  if (absl::Status s = session.Download(file, sink); !s.ok()) return s;
  return head;
}

// How much of the file its beginning says is the header. What is no header is named as it is read.
int64_t HeaderEnd(const Head& head) {
  if (std::ssize(head.text) < kLengthBytes) return 0;
  const auto first = absl::MakeConstSpan(head.text).first(kLengthBytes);
  const auto bytes = SafetensorsHeaderBytes(
      {reinterpret_cast<const std::byte*>(first.data()), first.size()}, head.size_bytes);
  return bytes.ok() ? kLengthBytes + *bytes : 0;
}

absl::StatusOr<Head> FetchHeader(RemoteSession& session, const RemoteFile& file) {
  Head head{"", file.size_bytes};
  int64_t wanted = std::min(kFirstPartBytes, file.size_bytes);
  while (std::ssize(head.text) < wanted) {
    StringSink sink(&head.text);
    const absl::Status status = session.DownloadPart(file, {std::ssize(head.text), wanted}, sink);
    if (!status.ok()) return status;
    wanted = HeaderEnd(head);
  }
  return head;
}

}  // namespace

absl::StatusOr<GenerationPtr> FetchAdapterHead(RemoteSession& session, const RemoteFile& config,
                                               const RemoteFile& weights,
                                               const std::string& location) {
  absl::StatusOr<Head> config_head = FetchAll(session, config);
  if (!config_head.ok()) return config_head.status();
  if (auto parsed = ParseAdapterConfig(config_head->text); !parsed.ok()) return parsed.status();
  absl::StatusOr<Head> weights_head = FetchHeader(session, weights);
  if (!weights_head.ok()) return weights_head.status();
  auto generation = std::make_shared<Generation>();
  generation->location = location;
  generation->source = std::make_shared<HeadSource>(std::map<std::string, Head>{
      {config.name, *std::move(config_head)}, {weights.name, *std::move(weights_head)}});
  return generation;
}

}  // namespace lorica
