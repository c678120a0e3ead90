#include "adapters/hub/retry_pause.h"

#include <algorithm>
#include <random>

#include "absl/time/clock.h"
#include "adapters/hub/retry_delay.h"
#include "adapters/hub/steady_now.h"

namespace lorica {
namespace {

constexpr absl::Duration kStopPoll = absl::Milliseconds(50);

// From 0.5 to 1: what failed together should not come back together.
double Jitter() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(0.5, 1.0)(generator);
}

}  // namespace

RetryPause::RetryPause(const RetryPauses& options, const std::atomic<bool>* stopped)
    : options_(options), stopped_(stopped), begun_(SteadyNow()) {}

absl::Duration RetryPause::NextPause() {
  absl::Duration pause = options_.pause_min;
  for (int i = 1; i < attempts_ && pause < options_.pause_max; ++i) pause *= 2;
  return std::min(pause, options_.pause_max) * Jitter();
}

absl::Status RetryPause::Wait(const absl::Status& failure) {
  ++attempts_;
  if (attempts_ >= options_.attempts_max) return failure;
  absl::Duration pause = NextPause();
  if (const auto asked = RetryDelayIn(failure)) {
    if (*asked > options_.pause_asked_max) return failure;
    pause = std::max(pause, *asked);
  }
  const absl::Time end = SteadyNow() + pause;
  if (end - begun_ > options_.total_max) return failure;
  for (absl::Time now = SteadyNow(); now < end; now = SteadyNow()) {
    if (stopped_ != nullptr && stopped_->load()) {
      return absl::CancelledError("the server is shutting down");
    }
    absl::SleepFor(std::min(kStopPoll, end - now));
  }
  return absl::OkStatus();
}

}  // namespace lorica
