// Files that an operator names: keys, tokens, certificates, tenants.
//
// They are read while a server runs, by threads that others wait for: when it is told to read them
// again, by the one that takes signals. So nothing is opened that could make its reader wait, as a
// FIFO without a writer does. Stateless and thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace lorica {

// The file's bytes; where it has more than `bytes_max`, so many and one more. FailedPrecondition:
// "cannot be read: " and why, without the path.
absl::StatusOr<std::string> ReadOperatorFile(const std::string& path, int64_t bytes_max);

}  // namespace lorica
