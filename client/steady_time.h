// The time for what takes a while and what ends after a while: no step of the wall clock changes
// it. It begins anywhere, so it can be compared with itself alone. Thread-safe.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace lorica {

inline absl::Time SteadyTime() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace lorica
