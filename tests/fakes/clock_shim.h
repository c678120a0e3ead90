// A wall clock that a test can step, in place of the C library's and, for who waits by it, of the
// kernel's.
//
// What is emulated: CLOCK_REALTIME is off by as much as SetWallOffset says, for every library of
// the process, and a futex wait that is to end at a time of that clock (FUTEX_CLOCK_REALTIME, which
// is how absl waits unless told otherwise) ends when the stepped clock is there, also when the step
// comes while it sleeps: at once after a step ahead, and as much later after a step back. All
// other clocks and waits are the real ones. The C library's own waits by the wall clock
// (pthread_cond_timedwait and its like) are not covered; nothing here uses them.
#pragma once

#include "absl/time/time.h"

namespace lorica::fakes {

// Thread-safe, as what reads it.
void SetWallOffset(absl::Duration offset);
absl::Duration WallOffset();

// Puts the clock right at the end of a test.
class SteppedClock {
 public:
  ~SteppedClock() { SetWallOffset(absl::ZeroDuration()); }
  void StepTo(absl::Duration offset) { SetWallOffset(offset); }
  absl::Duration offset() const { return WallOffset(); }
};

}  // namespace lorica::fakes
