#include "adapters/hub/hub_source.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "adapters/hub/download_attempts.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/operator_file.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr size_t kRepoPartBytesMax = 96;

absl::Status Refuse(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("the hub ", what));
}

bool MayHoldToken(const Url& endpoint) {
  return endpoint.secure() || IsLoopbackHost(endpoint.host);
}

bool IsToken(absl::string_view text) {
  return !text.empty() && text.size() <= kTokenBytesMax &&
         std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

// An answer and where it came from.
struct Answer {
  HttpClientReply reply;
  Url url;
};

class HubSession : public RemoteSession {
 public:
  HubSession(const HubOptions& options, const Url& endpoint, const RepoPlace& place,
             std::string revision, std::string token, TokenOwner owner)
      : options_(options),
        endpoint_(endpoint),
        repo_(place.repo),
        folder_(place.folder),
        revision_(std::move(revision)),
        token_(std::move(token)),
        owner_(owner),
        client_(options.http) {}

  absl::StatusOr<std::optional<RemoteFile>> Look(const std::string& file) override {
    auto looked = LookAt(file);
    if (looked.ok()) return looked;
    return WithoutToken(looked.status());
  }
  absl::Status Download(const RemoteFile& file, DownloadSink& sink) override {
    return DownloadPart(file, {0, file.size_bytes}, sink);
  }
  absl::Status DownloadPart(const RemoteFile& file, ByteRange part, DownloadSink& sink) override {
    return WithoutToken(DownloadThat(file, part, sink));
  }
  const std::string& commit() const override { return commit_; }

 private:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  absl::StatusOr<std::optional<RemoteFile>> LookAt(const std::string& file);
  absl::Status DownloadThat(const RemoteFile& file, ByteRange part, DownloadSink& sink);
  // A hub may echo what it was sent, and errors quote hubs.
  absl::Status WithoutToken(const absl::Status& status) const {
    if (token_.empty() || !absl::StrContains(status.message(), token_)) return status;
    return WithText(status, absl::StrReplaceAll(status.message(), {{token_, "(the token)"}}));
  }
  absl::StatusOr<Url> UrlOf(const std::string& file) const;
  std::string What() const { return absl::StrCat("repository ", Quoted(repo_)); }
  bool IsNamed(const Url& url) const;
  absl::StatusOr<Url> NextUrl(const Url& url, const HttpClientReply& reply) const;
  absl::StatusOr<Answer> Follow(Url url, bool head, const Headers& headers, HttpBody* body);
  absl::StatusOr<HttpClientReply> LookOnce(const Url& url);
  absl::StatusOr<RemoteFile> Describe(const std::string& file, const HttpClientReply& reply);
  absl::Status DownloadOnce(const Url& url, VerifiedBody& body);

  const HubOptions& options_;
  const Url& endpoint_;
  const std::string repo_;
  const std::string folder_;
  const std::string revision_;
  const std::string token_;
  const TokenOwner owner_;
  std::string commit_;
  HttpClient client_;
};

absl::StatusOr<Url> HubSession::UrlOf(const std::string& file) const {
  std::vector<std::string> parts = absl::StrSplit(repo_, '/');
  std::string text = endpoint_.text;
  for (const std::string& part : parts) absl::StrAppend(&text, "/", EscapeSegment(part));
  const std::string& revision = commit_.empty() ? revision_ : commit_;
  absl::StrAppend(&text, "/resolve/", EscapeSegment(revision), "/");
  if (!folder_.empty()) absl::StrAppend(&text, folder_, "/");
  absl::StrAppend(&text, EscapeSegment(file));
  return ParseUrl(text);
}

bool HubSession::IsNamed(const Url& url) const {
  const auto& hosts = options_.redirect_hosts;
  return url.place() == endpoint_.place() ||
         std::any_of(hosts.begin(), hosts.end(), [&url](const std::string& host) {
           return host == url.host || host == url.place();
         });
}

absl::StatusOr<Url> HubSession::NextUrl(const Url& url, const HttpClientReply& reply) const {
  const std::string location = reply.Header("location");
  if (location.empty()) return Refuse("redirects without saying where to");
  absl::StatusOr<Url> next = ResolveUrl(url, location);
  if (!next.ok()) {
    return Refuse(absl::StrCat("redirects wrongly: ", next.status().message()));
  }
  if (url.secure() && !next->secure()) return Refuse("redirects from https to http");
  return next;
}

// A look stops at the first place that is not the hub's: what it says has been said by then.
absl::StatusOr<Answer> HubSession::Follow(Url url, bool head, const Headers& headers,
                                          HttpBody* body) {
  bool at_hub = true;  // never again once it was left
  for (int hops = 0; hops <= kRedirectsMax; ++hops) {
    HttpClientRequest request{url, head, IsNamed(url), headers};
    if (at_hub && !token_.empty()) {
      request.headers.emplace_back("Authorization", absl::StrCat("Bearer ", token_));
    }
    absl::StatusOr<HttpClientReply> reply = client_.Send(request, body);
    if (!reply.ok()) return reply.status();
    if (!IsRedirect(reply->status)) return Answer{*std::move(reply), url};
    absl::StatusOr<Url> next = NextUrl(url, *reply);
    if (!next.ok()) return next.status();
    at_hub = at_hub && next->place() == endpoint_.place();
    if (head && !at_hub) return Answer{*std::move(reply), url};
    url = *std::move(next);
  }
  return Refuse(absl::StrCat("redirects more than ", kRedirectsMax, " times"));
}

absl::StatusOr<HttpClientReply> HubSession::LookOnce(const Url& url) {
  absl::StatusOr<Answer> answer = Follow(url, /*head=*/true, {}, nullptr);
  if (!answer.ok()) return answer.status();
  const int status = answer->reply.status;
  if (status == 200 || IsRedirect(status) || IsEntryMissing(answer->reply)) {
    return std::move(answer->reply);
  }
  return RefusalOf(answer->reply, What(), owner_, absl::Now());
}

absl::StatusOr<std::optional<RemoteFile>> HubSession::LookAt(const std::string& file) {
  absl::StatusOr<Url> url = UrlOf(file);
  if (!url.ok()) return url.status();
  RetryPause pause(options_.retry, options_.http.stopped);
  while (true) {
    absl::StatusOr<HttpClientReply> reply = LookOnce(*url);
    if (reply.ok() && IsEntryMissing(*reply)) return std::nullopt;
    if (reply.ok()) {
      absl::StatusOr<RemoteFile> described = Describe(file, *reply);
      if (!described.ok()) return described.status();
      return *std::move(described);
    }
    if (!absl::IsUnavailable(reply.status())) return reply.status();
    if (absl::Status s = pause.Wait(reply.status()); !s.ok()) return s;
  }
}

absl::StatusOr<RemoteFile> HubSession::Describe(const std::string& file,
                                                const HttpClientReply& reply) {
  absl::StatusOr<std::string> commit = ParseCommit(reply.Header("x-repo-commit"));
  if (!commit.ok()) return commit.status();
  const bool pinned = !commit_.empty() || ParseCommit(revision_).ok();
  if (pinned && *commit != (commit_.empty() ? revision_ : commit_)) {
    return Refuse("answers with another commit than was asked for");
  }
  const std::string linked_tag = reply.Header("x-linked-etag");
  absl::StatusOr<ContentHash> hash =
      ParseEntityTag(linked_tag.empty() ? reply.Header("etag") : linked_tag);
  if (!hash.ok()) return hash.status();
  const std::string linked_size = reply.Header("x-linked-size");
  const bool here = reply.status == 200;
  const auto size =
      ParseLength(linked_size.empty() && here ? reply.Header("content-length") : linked_size);
  if (!size) return Refuse(absl::StrCat("does not say how long ", Quoted(file), " is"));
  commit_ = *std::move(commit);
  return RemoteFile{file, *size, *std::move(hash)};
}

absl::Status HubSession::DownloadOnce(const Url& url, VerifiedBody& body) {
  absl::StatusOr<Answer> answer = Follow(url, /*head=*/false, body.ResumeHeaders(), &body);
  if (!answer.ok()) return answer.status();
  const int status = answer->reply.status;
  if (status == 200 || status == 206) return body.Finish();
  if (status == 412 || status == 416) return absl::AbortedError("nothing to continue there");
  // Signed addresses expire: the hub gives a new one.
  if (status == 403 && answer->url.place() != endpoint_.place()) {
    return absl::UnavailableError(absl::StrCat("the files of ", What(), " cannot be had now"));
  }
  return RefusalOf(answer->reply, What(), owner_, absl::Now());
}

absl::Status HubSession::DownloadThat(const RemoteFile& file, ByteRange part, DownloadSink& sink) {
  absl::StatusOr<Url> url = UrlOf(file.name);
  if (!url.ok()) return url.status();
  return DownloadInAttempts(file, part, sink, options_.retry, options_.http.stopped,
                            [&](VerifiedBody& body) { return DownloadOnce(*url, body); });
}

class HubSource : public RemoteSource {
 public:
  HubSource(HubOptions options, Url endpoint)
      : options_(std::move(options)), endpoint_(std::move(endpoint)) {}

  const std::string& name() const override { return endpoint_.text; }

  absl::StatusOr<std::unique_ptr<RemoteSession>> Begin(const std::string& repo,
                                                       const std::string& revision,
                                                       const std::string& token) override {
    if (!IsRepoName(repo) && !IsRepoFolder(repo)) {
      return absl::NotFoundError(absl::StrCat(Quoted(repo), " cannot be a repository's name"));
    }
    if (!token.empty() && !IsToken(token)) {
      return absl::InvalidArgumentError("the hub's token holds what no token does");
    }
    if (!token.empty() && !MayHoldToken(endpoint_)) {
      return absl::FailedPreconditionError(
          "the hub's token would be sent unencrypted: this server's hub has no https address");
    }
    std::string used = token;
    if (used.empty() && !options_.token_file.empty()) {
      absl::StatusOr<std::string> own = ReadTokenFile(options_.token_file);
      if (!own.ok()) return own.status();
      used = *std::move(own);
    }
    return std::make_unique<HubSession>(options_, endpoint_, SplitRepoPlace(repo), revision,
                                        std::move(used),
                                        token.empty() ? TokenOwner::kServer : TokenOwner::kCaller);
  }

 private:
  const HubOptions options_;
  const Url endpoint_;
};

}  // namespace

bool IsRepoName(std::string_view name) {
  const std::vector<absl::string_view> parts =
      absl::StrSplit(absl::string_view(name.data(), name.size()), '/');
  const auto edge = [](char c) { return absl::ascii_isalnum(c) || c == '_'; };
  return parts.size() <= 2 && std::all_of(parts.begin(), parts.end(), [&](absl::string_view part) {
           return !part.empty() && part.size() <= kRepoPartBytesMax && edge(part.front()) &&
                  edge(part.back()) && !absl::StrContains(part, "--") &&
                  !absl::StrContains(part, "..") && !absl::EndsWith(part, ".git") &&
                  std::all_of(part.begin(), part.end(),
                              [&](char c) { return edge(c) || c == '-' || c == '.'; });
         });
}

RepoPlace SplitRepoPlace(const std::string& place) {
  const size_t owner = place.find('/');
  const size_t name = owner == std::string::npos ? owner : place.find('/', owner + 1);
  if (name == std::string::npos) return {place, ""};
  return {place.substr(0, name), place.substr(name + 1)};
}

bool IsRepoFolder(const std::string& place) {
  const RepoPlace split = SplitRepoPlace(place);
  const std::vector<std::string> parts = absl::StrSplit(split.folder, '/');
  return IsRepoName(split.repo) && std::ssize(parts) <= kRepoFolderPartsMax &&
         std::all_of(parts.begin(), parts.end(),
                     [](const std::string& part) { return IsRepoName(part); });
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  const auto text = ReadOperatorFile(path, kTokenBytesMax);
  if (!text.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("the token file ", text.status().message()));
  }
  const std::string token(absl::StripAsciiWhitespace(*text));
  if (!IsToken(token) || std::ssize(*text) > kTokenBytesMax) {
    return absl::FailedPreconditionError("the token file must hold one token and nothing else");
  }
  return token;
}

absl::StatusOr<std::unique_ptr<RemoteSource>> MakeHubSource(HubOptions options) {
  absl::StatusOr<Url> endpoint = ParseUrl(options.endpoint);
  if (!endpoint.ok()) return endpoint.status();
  if (absl::StrContains(endpoint->text, '?')) {
    return absl::InvalidArgumentError("the address of a hub has no query");
  }
  if (!options.token_file.empty()) {
    if (!MayHoldToken(*endpoint)) {
      return absl::InvalidArgumentError(
          "the token would be sent unencrypted: use an https address, or no token");
    }
    if (auto token = ReadTokenFile(options.token_file); !token.ok()) return token.status();
  }
  while (absl::EndsWith(endpoint->text, "/")) endpoint->text.pop_back();
  return std::make_unique<HubSource>(std::move(options), *std::move(endpoint));
}

}  // namespace lorica
