// How long to wait between attempts, and when to give up.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lorica {

struct RetryPauses {
  int attempts_max = 5;                         // in a row without progress
  absl::Duration pause_min = absl::Seconds(1);  // doubled each time, and jittered
  absl::Duration pause_max = absl::Seconds(8);
  absl::Duration pause_asked_max = absl::Seconds(30);  // when the server asks for a longer one
  absl::Duration total_max = absl::Minutes(30);
};

class RetryPause {
 public:
  // Both outlive it; `stopped` may be null.
  RetryPause(const RetryPauses& options, const std::atomic<bool>* stopped);
  // After a failed attempt: waits and returns OK, or returns `failure` because it is time
  // to give up; Cancelled when `stopped`.
  absl::Status Wait(const absl::Status& failure);
  // Something came: the next failure is the first one again.
  void Progress() { attempts_ = 0; }

 private:
  absl::Duration NextPause();

  const RetryPauses& options_;
  const std::atomic<bool>* const stopped_;
  const absl::Time begun_;
  int attempts_ = 0;
};

}  // namespace lorica
