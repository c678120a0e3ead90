#include "adapters/hub/steady_now.h"

#include <time.h>

#include "absl/time/clock.h"

namespace lorica {
namespace {

absl::Duration Monotonic() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace

absl::Time SteadyNow() {
  static const absl::Time base = absl::Now() - Monotonic();
  return base + Monotonic();
}

}  // namespace lorica
