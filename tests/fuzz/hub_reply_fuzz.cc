// What a hub answers: headers, redirects, ranges, bodies.
//
// The input is a list of raw HTTP answers, with "---" and a line feed between them; {HUB} and
// {CDN} stand for the two servers' places. A session looks and downloads through them. The token
// is seen by the hub alone, and content that is given out has the hash that was announced.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/mutex.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "kernels/check.h"
#include "tests/fakes/collecting_sink.h"
#include "tests/fakes/free_port.h"
#include "tests/fuzz/fuzz.h"

namespace lorica {
namespace {

constexpr char kToken[] = "hf_the_token_of_this_test";

// One thread, one request a connection: takes the next answer from `take`, which sees the head.
class Place {
 public:
  explicit Place(std::function<std::string(const std::string& head)> take)
      : take_(std::move(take)), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int port = BindToLoopback(listener_);
    LORICA_CHECK(port > 0 && listen(listener_, 16) == 0);
    name_ = absl::StrCat("127.0.0.1:", port);
    std::thread([this] { Serve(); }).detach();  // for as long as the program runs
  }
  const std::string& name() const { return name_; }

 private:
  void Serve() {
    while (true) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      std::string head;
      char bytes[4096];
      ssize_t got = 1;
      while (head.find("\r\n\r\n") == std::string::npos && got > 0) {
        got = recv(fd, bytes, sizeof(bytes), 0);
        if (got > 0) head.append(bytes, got);
      }
      const std::string answer = take_(head);
      (void)!send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      close(fd);
    }
  }

  const std::function<std::string(const std::string&)> take_;
  const int listener_;
  std::string name_;
};

// Answers from a list, one a connection; nothing when the list has ended.
class Answers {
 public:
  void Set(std::string_view input) {
    absl::MutexLock lock(&mutex_);
    texts_.clear();
    next_ = 0;
    FuzzScript script(reinterpret_cast<const uint8_t*>(input.data()), input.size());
    while (!script.empty() && texts_.size() < 16) {
      texts_.push_back(absl::StrReplaceAll(std::string(script.Until("---\n")),
                                           {{"{HUB}", hub_.name()}, {"{CDN}", cdn_.name()}}));
    }
  }
  const Place& hub() const { return hub_; }
  const Place& cdn() const { return cdn_; }

 private:
  std::string Take() {
    absl::MutexLock lock(&mutex_);
    return next_ < texts_.size() ? texts_[next_++] : "";
  }

  absl::Mutex mutex_;
  std::vector<std::string> texts_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  const Place hub_{[this](const std::string&) { return Take(); }};
  const Place cdn_{[this](const std::string& head) {
    // What is asked for is the hub's own choice, which knows the token.
    const std::string headers = head.substr(std::min(head.find("\r\n"), head.size()));
    LORICA_CHECK(!absl::StrContains(headers, kToken), "the token reached another place");
    return Take();
  }};
};

std::unique_ptr<RemoteSource> MakeSource(Answers& answers) {
  HubOptions options;
  options.endpoint = absl::StrCat("http://", answers.hub().name());
  options.redirect_hosts = {answers.cdn().name()};
  options.http.limits.connect = options.http.limits.head = absl::Milliseconds(500);
  options.http.limits.slow_for = options.http.limits.total = absl::Seconds(1);
  options.retry.attempts_max = 2;
  options.retry.pause_min = options.retry.pause_max = absl::ZeroDuration();
  options.retry.pause_asked_max = absl::ZeroDuration();
  auto source = MakeHubSource(std::move(options));
  LORICA_CHECK(source.ok(), source.status().ToString());
  return *std::move(source);
}

std::string HashOf(const RemoteFile& file, const std::string& content) {
  Hasher hasher(file.hash.algorithm);
  if (file.hash.algorithm == HashAlgorithm::kSha1) {
    hasher.Update(std::string_view(absl::StrCat("blob ", content.size())));
    hasher.Update(std::string_view("\0", 1));
  }
  hasher.Update(std::string_view(content));
  return hasher.Finish();
}

void Session(RemoteSource& source) {
  auto session = source.Begin("org/name", "main", kToken);
  LORICA_CHECK(session.ok());
  const auto looked = (*session)->Look("adapter_model.safetensors");
  if (!looked.ok() || !looked->has_value()) {
    LORICA_CHECK(!absl::StrContains(looked.status().message(), kToken));
    return;
  }
  LORICA_CHECK((*looked)->size_bytes >= 0 && (*session)->commit().size() == 40);
  CollectingSink sink;
  const absl::Status status = (*session)->Download(**looked, sink);
  LORICA_CHECK(!absl::StrContains(status.message(), kToken));
  LORICA_CHECK(std::ssize(sink.text) <= (*looked)->size_bytes, sink.text.size());
  if (status.ok()) LORICA_CHECK(HashOf(**looked, sink.text) == (*looked)->hash.hex);
}

// Each line of the input as each header.
void Headers(std::string_view input) {
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  const Url base = *ParseUrl("https://hub.example/org/name");
  FuzzScript script(reinterpret_cast<const uint8_t*>(input.data()), input.size());
  for (int i = 0; !script.empty() && i < 32; ++i) {
    const std::string line(script.Until("\n"));
    const auto tag = ParseEntityTag(line);
    if (tag.ok()) LORICA_CHECK(tag->hex.size() == 64 || tag->hex.size() == 40);
    if (const auto range = ParseContentRange(line)) {
      LORICA_CHECK(range->first >= 0 && range->first <= range->last && range->last < range->total);
    }
    if (const auto length = ParseLength(line)) LORICA_CHECK(*length >= 0);
    const HttpClientReply reply{429,
                                {{"retry-after", line},
                                 {"ratelimit", line},
                                 {"x-error-code", line},
                                 {"x-error-message", line}}};
    if (const auto delay = RetryDelay(reply, now)) {
      LORICA_CHECK(*delay >= absl::ZeroDuration() && *delay <= kRetryDelayMax);
    }
    LORICA_CHECK(!RefusalOf(reply, "what", TokenOwner::kServer, now).ok());
    const auto url = ResolveUrl(base, line);
    if (!url.ok()) continue;
    LORICA_CHECK(url->scheme == "https" || url->scheme == "http", url->text);
    const auto again = ParseUrl(url->text);
    LORICA_CHECK(again.ok() && again->place() == url->place(), url->text);
  }
}

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  static Answers* const answers = new Answers();
  static RemoteSource* const source = MakeSource(*answers).release();
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.substr(0, 5) != "HTTP/") {
    Headers(input);
    return 0;
  }
  answers->Set(input);
  Session(*source);
  return 0;
}
