// The time, for time-outs and deadlines: no step of the wall clock changes it.
//
// The wall clock as it was when the process first asked, moved on by the monotonic clock since
// then. So it can be compared with itself alone: what a client or a file says in wall-clock time
// is turned into a duration first. Thread-safe.
#pragma once

#include "absl/time/time.h"

namespace lorica {

absl::Time SteadyNow();

}  // namespace lorica
