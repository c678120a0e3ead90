// The first generation, before anybody may call: it touches all weights, so that the first client
// does not wait, and proves that the server generates.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/api/gateway.h"

namespace lorica {

inline constexpr absl::Duration kWarmUpLimit = absl::Minutes(2);

// Generates two tokens after `token`; below 0 counts as 0. Blocks until they are there; somebody
// else's thread steps the engine.
absl::Status WarmUp(Gateway& gateway, int32_t token);

}  // namespace lorica
