#include "adapters/hub/hub_reply.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr size_t kSha256Digits = 64;
constexpr size_t kSha1Digits = 40;
constexpr int kLengthDigitsMax = 18;
constexpr size_t kRequestIdBytesMax = 80;
constexpr char kBadToken[] = "Invalid credentials in Authorization header";

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); });
}

std::optional<int64_t> ParseDigits(absl::string_view text) {
  int64_t number = 0;
  const bool plain = !text.empty() && text.size() <= kLengthDigitsMax &&
                     std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!plain || !absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

absl::Duration Bounded(absl::Duration delay) {
  return std::clamp(delay, absl::ZeroDuration(), kRetryDelayMax);
}

std::optional<absl::Duration> RetryAfter(const std::string& text, absl::Time now) {
  if (const auto seconds = ParseDigits(text)) return Bounded(absl::Seconds(*seconds));
  absl::Time date;
  if (absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, &date, nullptr)) {
    return Bounded(date - now);
  }
  return std::nullopt;
}

// "api";r=0;t=57
std::optional<absl::Duration> RateLimitDelay(const std::string& text) {
  std::optional<int64_t> remaining;
  std::optional<int64_t> seconds;
  for (absl::string_view part : absl::StrSplit(text, ';')) {
    part = absl::StripAsciiWhitespace(part);
    if (absl::ConsumePrefix(&part, "r=")) remaining = ParseDigits(part);
    if (absl::ConsumePrefix(&part, "t=")) seconds = ParseDigits(part);
  }
  if (remaining != 0 || !seconds) return std::nullopt;
  return Bounded(absl::Seconds(*seconds) + absl::Seconds(1));
}

absl::Status NotNow(const HttpClientReply& reply, const std::string& what, absl::Time now) {
  const std::string text = absl::StrCat("the hub cannot give ", what, " now (HTTP ", reply.status,
                                        reply.status == 429 ? ", too many requests)" : ")");
  const auto delay = RetryDelay(reply, now);
  return delay ? UnavailableFor(text, *delay) : absl::UnavailableError(text);
}

absl::Status Unauthorised(const HttpClientReply& reply, const std::string& what, TokenOwner owner) {
  const bool servers = owner == TokenOwner::kServer;
  if (reply.Header("x-error-code") == "GatedRepo") {
    return absl::PermissionDeniedError(absl::StrCat(
        what, " is gated: its terms must be accepted on the hub by the owner of the token"));
  }
  if (absl::StrContains(reply.Header("x-error-message"), kBadToken)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the hub does not accept ",
        servers ? "this server's token" : "the caller's own token (the call's or its tenant's)",
        ": it may have been revoked"));
  }
  if (reply.status == 403) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the hub does not let ", servers ? "this server" : "the caller", " read ", what));
  }
  return absl::NotFoundError(absl::StrCat("the hub has no ", what, ", or keeps it private"));
}

absl::Status Unlabelled(const HttpClientReply& reply, const std::string& what, TokenOwner owner,
                        absl::Time now) {
  switch (reply.status) {
    case 401:
    case 403:
      return Unauthorised(reply, what, owner);
    case 404:
      if (reply.Header("x-error-code") == "RevisionNotFound") {
        return absl::NotFoundError(absl::StrCat("the hub has no such revision of ", what));
      }
      return absl::NotFoundError(absl::StrCat("the hub has no ", what));
    case 410:
      return absl::NotFoundError(absl::StrCat("the hub has ", what, " no longer"));
    case 408:
    case 429:
      return NotNow(reply, what, now);
    default:
      break;
  }
  if (reply.status >= 500) return NotNow(reply, what, now);
  return absl::FailedPreconditionError(
      absl::StrCat("the hub answers ", what, " with HTTP ", reply.status));
}

// Whole or not at all: of an id that echoes a token no part may be left.
bool IsRequestId(const std::string& text) {
  return !text.empty() && text.size() <= kRequestIdBytesMax &&
         std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

}  // namespace

absl::StatusOr<ContentHash> ParseEntityTag(std::string_view text) {
  absl::string_view tag = View(text);
  absl::ConsumePrefix(&tag, "W/");
  if (tag.size() > 2 && tag.front() == '"' && tag.back() == '"') {
    tag = tag.substr(1, tag.size() - 2);
  }
  if (IsHex(tag) && tag.size() == kSha256Digits) {
    return ContentHash{HashAlgorithm::kSha256, std::string(tag)};
  }
  if (IsHex(tag) && tag.size() == kSha1Digits) {
    return ContentHash{HashAlgorithm::kSha1, std::string(tag)};
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the hub names the file's content ", Quoted(text), ", which is no hash"));
}

absl::StatusOr<std::string> ParseCommit(std::string_view text) {
  if (text.size() == kSha1Digits && IsHex(View(text))) return std::string(text);
  return absl::FailedPreconditionError(
      text.empty() ? "the answer names no commit: is --hub-endpoint a hub?"
                   : absl::StrCat("the hub names ", Quoted(text), ", which is no commit"));
}

std::optional<int64_t> ParseLength(std::string_view text) { return ParseDigits(View(text)); }

std::optional<ContentRange> ParseContentRange(std::string_view text) {
  absl::string_view rest = View(text);
  if (!absl::ConsumePrefix(&rest, "bytes ")) return std::nullopt;
  const std::vector<absl::string_view> parts = absl::StrSplit(rest, '/');
  if (parts.size() != 2) return std::nullopt;
  const std::vector<absl::string_view> ends = absl::StrSplit(parts[0], '-');
  if (ends.size() != 2) return std::nullopt;
  const auto first = ParseDigits(ends[0]);
  const auto last = ParseDigits(ends[1]);
  const auto total = ParseDigits(parts[1]);
  if (!first || !last || !total || *first > *last || *last >= *total) return std::nullopt;
  return ContentRange{*first, *last, *total};
}

std::optional<absl::Duration> RetryDelay(const HttpClientReply& reply, absl::Time now) {
  if (const auto delay = RetryAfter(reply.Header("retry-after"), now)) return delay;
  return RateLimitDelay(reply.Header("ratelimit"));
}

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool IsEntryMissing(const HttpClientReply& reply) {
  return reply.status == 404 && reply.Header("x-error-code") == "EntryNotFound";
}

absl::Status RefusalOf(const HttpClientReply& reply, const std::string& what, TokenOwner owner,
                       absl::Time now) {
  const absl::Status refusal = Unlabelled(reply, what, owner, now);
  const std::string id = reply.Header("x-request-id");
  if (!IsRequestId(id)) return refusal;
  return WithText(refusal, absl::StrCat(refusal.message(), " [the hub's request ", id, "]"));
}

}  // namespace lorica
