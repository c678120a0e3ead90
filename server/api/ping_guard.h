// A connection that pings without end ends while it is read.
//
// gRPC 1.51 asks who pings too often to go away, and to close his connection waits for what it is
// writing. Until then each further ping of what it has read costs it another farewell and ten
// kilobytes: a few thousand take 100 MiB. As in message_bound functions of the program stand before
// the library's. Holds for all of HTTP/2 in the process.
#pragma once

#include "absl/status/status.h"

namespace lorica {

// Pings too many, one after the other; from the third on the library ends the connection itself.
inline constexpr int kPingStrikesMax = 16;

// FailedPrecondition: the library that was loaded calls none of ours.
absl::Status CheckPingGuard();

}  // namespace lorica
