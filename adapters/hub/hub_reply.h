// What a hub's answer says: headers read strictly, refusals as statuses.
//
// All of it is foreign text; an entity tag is used as a name later, so it is a hash or it
// is refused. Pure functions over one reply.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/hub/http_client.h"
#include "adapters/hub/remote_source.h"

namespace lorica {

inline constexpr absl::Duration kRetryDelayMax = absl::Hours(1);

// Both are FailedPrecondition when they are anything else.
absl::StatusOr<ContentHash> ParseEntityTag(std::string_view text);  // 64 or 40 hex digits
absl::StatusOr<std::string> ParseCommit(std::string_view text);     // 40 hex digits

struct ContentRange {
  int64_t first = 0;
  int64_t last = 0;
  int64_t total = 0;
};
// "bytes 5-9/10"; nullopt when it is anything else.
std::optional<ContentRange> ParseContentRange(std::string_view text);
// A count of bytes; nullopt when it is anything else.
std::optional<int64_t> ParseLength(std::string_view text);

// Retry-After (seconds or a date), else RateLimit when nothing is left of it; from 0 to
// kRetryDelayMax. nullopt: nothing that can be read.
std::optional<absl::Duration> RetryDelay(const HttpClientReply& reply, absl::Time now);

bool IsRedirect(int status);
// It exists, and has no file of that name.
bool IsEntryMissing(const HttpClientReply& reply);
// Whose token the hub was shown.
enum class TokenOwner : uint8_t {
  kServer,  // its --hub-token-file
  kCaller,  // the call's own, or its tenant's
};

// Why the answer is a refusal, with the hub's own name for the request, if it gave one, by which
// its people find it. `what` names what was asked for. REQUIRES: it is none of 200, 206.
absl::Status RefusalOf(const HttpClientReply& reply, const std::string& what, TokenOwner owner,
                       absl::Time now);

}  // namespace lorica
