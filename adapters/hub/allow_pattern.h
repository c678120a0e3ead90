// What an operator lets be named: patterns, a list for each kind of source.
//
// A pattern is one name, or all that begin so when "*" ends it. It tells the place whole: a
// bucket, or a host with its port, is never a beginning. Patterns of one kind say nothing
// about names of another. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lorica {

enum class AllowKind : uint8_t {
  kRepository,  // "org/name", "org/*", "*": of the hub
  kBucket,      // "s3://BUCKET/path/*"
  kMirror,      // "https://HOST[:PORT]/path/*"; http on this machine alone
};

// InvalidArgument: a pattern that no name of that kind can match, with how it is written.
absl::Status CheckAllowPattern(AllowKind kind, const std::string& pattern);

// REQUIRES: the patterns have been checked, and `name` is a valid name of their kind.
bool IsAllowed(const std::vector<std::string>& patterns, const std::string& name);

}  // namespace lorica
