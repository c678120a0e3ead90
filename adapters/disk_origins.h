// Which repositories and commits a content came from, as a small file beside it says.
//
// Plain values and pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr int kOriginsMax = 64;  // of one content; the oldest give way
inline constexpr int64_t kOriginsBytesMax = 1 << 20;

// What was asked for, and what it turned out to be.
struct RemoteOrigin {
  std::string server;  // RemoteSource::name
  std::string repo;
  std::string revision;
  std::string access;  // whose right to read it; "" = the server's own
  std::string commit;  // not part of the question
};

struct DatedOrigin {
  RemoteOrigin origin;
  absl::Time found;  // when the revision led to this commit
};

// Unlike for all that may be told apart.
std::string OriginKey(const RemoteOrigin& origin);

std::string WriteDiskOrigins(const std::vector<DatedOrigin>& origins);
// FailedPrecondition: it is not what WriteDiskOrigins wrote.
absl::StatusOr<std::vector<DatedOrigin>> ParseDiskOrigins(std::string_view json);

}  // namespace lorica
