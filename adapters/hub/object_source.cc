#include "adapters/hub/object_source.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "adapters/hub/download_attempts.h"
#include "adapters/hub/hasher.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/operator_file.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr char kS3Scheme[] = "s3://";
constexpr size_t kSha1Digits = 40;
constexpr int64_t kCredentialsBytesMax = 64 << 10;
// What an adapter is; their entity tags together stand for a commit.
constexpr const char* kAdapterFiles[] = {"adapter_config.json", "adapter_model.safetensors"};

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

bool IsPart(absl::string_view part) {
  return !part.empty() && part != "." && part != ".." &&
         std::all_of(part.begin(), part.end(), [](char c) {
           return absl::ascii_isalnum(c) || absl::StrContains("._=+-", c);
         });
}

bool IsBucket(absl::string_view name) {
  const auto edge = [](char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); };
  return name.size() >= 3 && name.size() <= 63 && edge(name.front()) && edge(name.back()) &&
         !absl::StrContains(name, "..") && std::all_of(name.begin(), name.end(), [&](char c) {
           return edge(c) || c == '.' || c == '-';
         });
}

bool AreParts(absl::string_view path) {
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  return std::all_of(parts.begin(), parts.end(), IsPart);
}

// Base64 of a SHA-256 as hex; empty when it is anything else.
std::string HexOfBase64(absl::string_view text) {
  std::string bytes;
  if (!absl::Base64Unescape(text, &bytes) || bytes.size() != 32) return "";
  return absl::BytesToHexString(bytes);
}

// The SHA-256 that the server says its file has, where it says one.
std::string AnnouncedHash(const HttpClientReply& reply) {
  const std::string amazon = HexOfBase64(reply.Header("x-amz-checksum-sha256"));
  if (!amazon.empty()) return amazon;
  for (absl::string_view part : absl::StrSplit(reply.Header("digest"), ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (!absl::StartsWithIgnoreCase(part, "sha-256=")) continue;
    return HexOfBase64(part.substr(part.find('=') + 1));
  }
  return "";
}

// What changes when the file does.
std::string TagOf(const HttpClientReply& reply) {
  const std::string tag = reply.Header("etag");
  return tag.empty() ? reply.Header("last-modified") : tag;
}

absl::Status RefusalOfObject(const HttpClientReply& reply, const std::string& what) {
  const std::string http = absl::StrCat(" (HTTP ", reply.status, ")");
  if (reply.status == 401 || reply.status == 403) {
    return absl::PermissionDeniedError(
        absl::StrCat("this server may not read ", what, http, ": look at its keys"));
  }
  if (reply.status == 404 || reply.status == 410) {
    return absl::NotFoundError(absl::StrCat("there is no ", what));
  }
  if (IsRedirect(reply.status)) {
    const std::string region = reply.Header("x-amz-bucket-region");
    const std::string hint =
        region.empty() ? "" : absl::StrCat("; the bucket is in --s3-region ", Quoted(region));
    return absl::FailedPreconditionError(
        absl::StrCat(what, " is elsewhere, and redirects are not followed", http, hint));
  }
  if (reply.status == 408 || reply.status == 429 || reply.status >= 500) {
    const std::string text = absl::StrCat(what, " cannot be had now", http);
    const auto delay = RetryDelay(reply, absl::Now());
    return delay ? UnavailableFor(text, *delay) : absl::UnavailableError(text);
  }
  return absl::FailedPreconditionError(absl::StrCat(what, " cannot be had", http));
}

class ObjectSession : public RemoteSession {
 public:
  // `base`: the address beneath which the files are.
  ObjectSession(ObjectOptions options, Url base, std::string location, std::optional<AwsKeys> keys)
      : options_(std::move(options)),
        base_(std::move(base)),
        location_(std::move(location)),
        keys_(std::move(keys)),
        client_(options_.http) {}

  absl::StatusOr<std::optional<RemoteFile>> Look(const std::string& file) override {
    if (commit_.empty()) {
      if (absl::Status s = Pin(); !s.ok()) return s;
    }
    if (const auto pinned = pinned_.find(file); pinned != pinned_.end()) return pinned->second;
    return LookNow(file);
  }
  absl::Status Download(const RemoteFile& file, DownloadSink& sink) override {
    return DownloadPart(file, {0, file.size_bytes}, sink);
  }
  absl::Status DownloadPart(const RemoteFile& file, ByteRange part, DownloadSink& sink) override;
  const std::string& commit() const override { return commit_; }

 private:
  absl::Status Pin();
  absl::StatusOr<std::optional<RemoteFile>> LookNow(const std::string& file);
  absl::StatusOr<HttpClientReply> Ask(const std::string& file, HttpBody* body,
                                      std::vector<std::pair<std::string, std::string>> headers);
  absl::Status DownloadOnce(const RemoteFile& file, VerifiedBody& body);
  std::string What(const std::string& file) const {
    return absl::StrCat(file, " beneath ", Quoted(location_));
  }

  const ObjectOptions options_;
  const Url base_;
  const std::string location_;
  const std::optional<AwsKeys> keys_;
  std::string commit_;
  std::map<std::string, std::optional<RemoteFile>> pinned_;
  HttpClient client_;
};

absl::Status ObjectSession::Pin() {
  Hasher hasher(HashAlgorithm::kSha256);
  for (const char* name : kAdapterFiles) {
    auto file = LookNow(name);
    if (!file.ok()) return file.status();
    if (file->has_value()) {
      hasher.Update(absl::StrCat(name, "\n", (*file)->entity_tag, "\n", (*file)->size_bytes, "\n"));
    }
    pinned_[name] = *std::move(file);
  }
  commit_ = hasher.Finish().substr(0, kSha1Digits);
  return absl::OkStatus();
}

// A null body asks for the head alone.
absl::StatusOr<HttpClientReply> ObjectSession::Ask(
    const std::string& file, HttpBody* body,
    std::vector<std::pair<std::string, std::string>> headers) {
  absl::StatusOr<Url> url = ParseUrl(absl::StrCat(base_.text, "/", EscapeSegment(file)));
  if (!url.ok()) return url.status();
  HttpClientRequest request{*std::move(url), body == nullptr, /*any_address=*/true,
                            std::move(headers)};
  if (keys_) request.headers.emplace_back("x-amz-checksum-mode", "ENABLED");
  request.aws = keys_;
  return client_.Send(request, body);
}

absl::StatusOr<std::optional<RemoteFile>> ObjectSession::LookNow(const std::string& file) {
  RetryPause pause(options_.retry, options_.http.stopped);
  while (true) {
    absl::StatusOr<HttpClientReply> reply = Ask(file, nullptr, {});
    absl::Status status = reply.status();
    if (reply.ok() && reply->status == 404) return std::nullopt;
    if (reply.ok() && reply->status == 200) {
      const auto size = ParseLength(reply->Header("content-length"));
      if (!size) {
        return absl::FailedPreconditionError(
            absl::StrCat("the server does not say how long ", What(file), " is"));
      }
      RemoteFile found{file, *size, {HashAlgorithm::kSha256, AnnouncedHash(*reply)}};
      found.entity_tag = TagOf(*reply);
      if (!found.entity_tag.empty()) return found;
      return absl::FailedPreconditionError(
          absl::StrCat("the server gives ", What(file), " neither an ETag nor a Last-Modified"));
    }
    if (reply.ok()) status = RefusalOfObject(*reply, What(file));
    if (!absl::IsUnavailable(status)) return status;
    if (absl::Status s = pause.Wait(status); !s.ok()) return s;
  }
}

absl::Status ObjectSession::DownloadOnce(const RemoteFile& file, VerifiedBody& body) {
  auto headers = body.ResumeHeaders();
  const bool strong = absl::StartsWith(file.entity_tag, "\"");
  const bool asks = std::any_of(headers.begin(), headers.end(),
                                [](const auto& header) { return header.first == "If-Match"; });
  if (strong && !asks) headers.emplace_back("If-Match", file.entity_tag);
  absl::StatusOr<HttpClientReply> reply = Ask(file.name, &body, std::move(headers));
  if (!reply.ok()) return reply.status();
  const bool whole = reply->status == 200 || reply->status == 206;
  if (whole && TagOf(*reply) == file.entity_tag) return body.Finish();
  if (reply->status == 416) return absl::AbortedError("nothing to continue there");
  const bool moved = reply->status == 412 || reply->status == 404 || reply->status / 100 == 2;
  if (!moved) return RefusalOfObject(*reply, What(file.name));
  return absl::FailedPreconditionError(
      absl::StrCat(What(file.name), " was changed while it was being fetched: try again"));
}

absl::Status ObjectSession::DownloadPart(const RemoteFile& file, ByteRange part,
                                         DownloadSink& sink) {
  return DownloadInAttempts(file, part, sink, options_.retry, options_.http.stopped,
                            [&](VerifiedBody& body) { return DownloadOnce(file, body); });
}

absl::Status NoLocation(const std::string& text) {
  return absl::NotFoundError(absl::StrCat(Quoted(text), " cannot be an adapter's location"));
}

class S3Source : public RemoteSource {
 public:
  S3Source(S3Options options, Url endpoint)
      : options_(std::move(options)), endpoint_(std::move(endpoint)) {}

  const std::string& name() const override { return endpoint_.text; }

  absl::StatusOr<std::unique_ptr<RemoteSession>> Begin(const std::string& location,
                                                       const std::string&,
                                                       const std::string&) override {
    absl::string_view rest = location;
    if (!IsObjectLocation(location) || !absl::ConsumePrefix(&rest, kS3Scheme)) {
      return NoLocation(location);
    }
    std::optional<AwsKeys> keys;
    if (!options_.credentials_file.empty()) {
      absl::StatusOr<AwsKeys> read = ReadAwsKeys(options_.credentials_file);
      if (!read.ok()) return read.status();
      keys = *std::move(read);
      keys->region = options_.region;
    }
    absl::string_view root = endpoint_.text;
    absl::ConsumeSuffix(&root, "/");
    absl::StatusOr<Url> base = ParseUrl(absl::StrCat(root, "/", rest));
    if (!base.ok()) return base.status();
    return std::make_unique<ObjectSession>(options_.object, *std::move(base), location,
                                           std::move(keys));
  }

 private:
  const S3Options options_;
  const Url endpoint_;
};

class MirrorSource : public RemoteSource {
 public:
  explicit MirrorSource(ObjectOptions options) : options_(std::move(options)) {}

  const std::string& name() const override { return name_; }

  absl::StatusOr<std::unique_ptr<RemoteSession>> Begin(const std::string& location,
                                                       const std::string&,
                                                       const std::string&) override {
    if (!IsObjectLocation(location) || absl::StartsWith(location, kS3Scheme)) {
      return NoLocation(location);
    }
    absl::StatusOr<Url> base = ParseUrl(location);
    if (!base.ok()) return base.status();
    return std::make_unique<ObjectSession>(options_, *std::move(base), location, std::nullopt);
  }

 private:
  const ObjectOptions options_;
  const std::string name_ = "mirror";
};

}  // namespace

bool IsObjectLocation(std::string_view text) {
  if (text.size() > kLocationBytesMax) return false;
  absl::string_view rest = View(text);
  if (absl::ConsumePrefix(&rest, kS3Scheme)) {
    const size_t slash = rest.find('/');
    return slash != absl::string_view::npos && IsBucket(rest.substr(0, slash)) &&
           AreParts(rest.substr(slash + 1));
  }
  const bool secure = absl::ConsumePrefix(&rest, "https://");
  if (!secure && !absl::ConsumePrefix(&rest, "http://")) return false;
  const size_t slash = rest.find('/');
  if (slash == absl::string_view::npos || !AreParts(rest.substr(slash + 1))) return false;
  const absl::string_view host = rest.substr(0, slash);
  if (std::any_of(host.begin(), host.end(), absl::ascii_isupper)) return false;
  const absl::StatusOr<Url> url = ParseUrl(text);
  return url.ok() && url->text == View(text) && (secure || IsLoopbackHost(url->host));
}

absl::StatusOr<AwsKeys> ReadAwsKeys(const std::string& path) {
  const auto file = ReadOperatorFile(path, kCredentialsBytesMax);
  if (!file.ok() || file->empty() || std::ssize(*file) > kCredentialsBytesMax) {
    return absl::FailedPreconditionError(absl::StrCat(path,
                                                      " cannot be read, or is no file of "
                                                      "credentials"));
  }
  AwsKeys keys;
  bool in_profile = false;
  for (absl::string_view line : absl::StrSplit(*file, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (absl::StartsWith(line, "[")) in_profile = line == "[default]";
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (!in_profile) continue;
    const absl::string_view name = absl::StripAsciiWhitespace(field.first);
    const std::string value(absl::StripAsciiWhitespace(field.second));
    if (name == "aws_access_key_id") keys.access_key = value;
    if (name == "aws_secret_access_key") keys.secret_key = value;
    if (name == "aws_session_token") keys.session_token = value;
  }
  const auto plain = [](const std::string& value) {
    return std::all_of(value.begin(), value.end(), absl::ascii_isgraph);
  };
  if (keys.access_key.empty() || keys.secret_key.empty() || !plain(keys.access_key) ||
      !plain(keys.secret_key) || !plain(keys.session_token) ||
      absl::StrContains(keys.access_key, ':')) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     " has no profile [default] with aws_access_key_id and "
                     "aws_secret_access_key"));
  }
  return keys;
}

absl::StatusOr<std::unique_ptr<RemoteSource>> MakeS3Source(S3Options options) {
  if (options.endpoint.empty()) {
    options.endpoint = absl::StrCat("https://s3.", options.region, ".amazonaws.com");
  }
  absl::StatusOr<Url> endpoint = ParseUrl(options.endpoint);
  if (!endpoint.ok()) return endpoint.status();
  if (!endpoint->secure() && !IsLoopbackHost(endpoint->host)) {
    return absl::InvalidArgumentError("it must begin with https://, unless it is this machine's");
  }
  if (!options.credentials_file.empty()) {
    if (absl::StatusOr<AwsKeys> keys = ReadAwsKeys(options.credentials_file); !keys.ok()) {
      return keys.status();
    }
  }
  options.object.http.called = "the bucket's server";
  return std::make_unique<S3Source>(std::move(options), *std::move(endpoint));
}

std::unique_ptr<RemoteSource> MakeMirrorSource(ObjectOptions options) {
  options.http.called = "the web server";
  return std::make_unique<MirrorSource>(std::move(options));
}

}  // namespace lorica
