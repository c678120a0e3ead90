#include "adapters/hub/verified_body.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

absl::Status OtherLength(const RemoteFile& file, absl::string_view how) {
  return absl::DataLossError(
      absl::StrCat(Quoted(file.name), " was announced with ", file.size_bytes, " bytes and ", how));
}

}  // namespace

VerifiedBody::VerifiedBody(const RemoteFile& file, ByteRange part, DownloadSink& sink)
    : file_(file),
      part_(part),
      is_part_(part.begin > 0 || part.end < file.size_bytes),
      sink_(sink),
      hasher_(HasherFor(file)) {}

Hasher VerifiedBody::HasherFor(const RemoteFile& file) {
  Hasher hasher(file.hash.algorithm);
  if (file.hash.algorithm == HashAlgorithm::kSha1) {
    hasher.Update(absl::StrCat("blob ", file.size_bytes, std::string(1, '\0')));
  }
  return hasher;
}

// One byte at least is asked for: a range cannot be empty.
absl::Status VerifiedBody::Resume() {
  if (is_part_ || file_.hash.hex.empty() || file_.size_bytes == 0) return absl::OkStatus();
  return sink_.Replay(file_.size_bytes - 1, [this](std::string_view bytes) {
    hasher_.Update(bytes);
    size_bytes_ += std::ssize(bytes);
  });
}

std::vector<std::pair<std::string, std::string>> VerifiedBody::ResumeHeaders() const {
  if (size_bytes_ == 0 && !is_part_) return {};
  std::vector<std::pair<std::string, std::string>> headers;
  const std::string last = is_part_ ? absl::StrCat(part_.end - 1) : "";
  headers.emplace_back("Range", absl::StrCat("bytes=", part_.begin + size_bytes_, "-", last));
  const bool strong = absl::StartsWith(entity_tag_, "\"");
  if (strong) headers.emplace_back("If-Match", entity_tag_);
  return headers;
}

absl::Status VerifiedBody::Begin(const HttpClientReply& reply) {
  const std::string entity_tag = reply.Header("etag");
  if (reply.status == 206) {
    const auto range = ParseContentRange(reply.Header("content-range"));
    if ((is_part_ || size_bytes_ > 0) && entity_tag_.empty()) entity_tag_ = entity_tag;
    const bool continues = range && range->first == part_.begin + size_bytes_ &&
                           range->total == file_.size_bytes && entity_tag == entity_tag_;
    return continues ? absl::OkStatus() : absl::AbortedError("another piece came");
  }
  if (size_bytes_ > 0) {  // all of it comes again
    if (absl::Status s = Restart(); !s.ok()) return s;
  }
  entity_tag_ = entity_tag;
  skip_bytes_ = part_.begin;
  const std::string length = reply.Header("content-length");
  if (!length.empty() && ParseLength(length) != file_.size_bytes) {
    return OtherLength(file_, absl::StrCat("is sent with ", Quoted(length)));
  }
  return absl::OkStatus();
}

absl::Status VerifiedBody::Write(std::string_view bytes) {
  const int64_t skipped = std::min(skip_bytes_, std::ssize(bytes));
  skip_bytes_ -= skipped;
  bytes.remove_prefix(skipped);
  if (is_part_) bytes = bytes.substr(0, part_bytes() - size_bytes_);
  if (std::ssize(bytes) > part_bytes() - size_bytes_) return OtherLength(file_, "has more");
  hasher_.Update(bytes);
  size_bytes_ += std::ssize(bytes);
  return sink_.Append(bytes);
}

absl::Status VerifiedBody::Restart() {
  hasher_ = HasherFor(file_);
  size_bytes_ = 0;
  skip_bytes_ = 0;
  entity_tag_.clear();
  return sink_.Restart();
}

absl::Status VerifiedBody::Finish() {
  if (size_bytes_ < part_bytes()) {
    return absl::UnavailableError(absl::StrCat(Quoted(file_.name), " ended after ", size_bytes_,
                                               " of ", part_bytes(), " bytes"));
  }
  if (is_part_ || file_.hash.hex.empty() || hasher_.Finish() == file_.hash.hex)
    return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(Quoted(file_.name), " came with other content than was announced"));
}

}  // namespace lorica
