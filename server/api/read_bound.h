// What gRPC reads of a connection at a time is bounded.
//
// gRPC 1.51 doubles what it reads at a time as long as that is filled: whoever sends frames that
// nothing holds back, as PRIORITY, without pause makes it take a gigabyte. Where its memory is full
// then, an assertion of its own may end the process. It takes no more than the frame or message at
// hand needs where memory is short. As in message_bound a function of the program stands before
// the library's that says how short it is: always. Holds for all of gRPC in the process.
#pragma once

#include "absl/status/status.h"

namespace lorica {

// FailedPrecondition: the library that was loaded does not call ours.
absl::Status CheckReadBound();

}  // namespace lorica
