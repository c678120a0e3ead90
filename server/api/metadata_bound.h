// Metadata of more than kTransportMetadataBytesMax end their connection before they are whole.
//
// gRPC 1.51 looks at a header when all of it is here, reads what is there of it anew with every
// frame, counts each frame for itself, and holds to a limit only once the client has acknowledged
// it. So whoever shows no key could fill memory with heads that never end. As in message_bound,
// functions of the program stand before the library's: they count what is there of a head, and end
// the connection that it comes on. Holds for all of HTTP/2 in the process.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace lorica {

// Metadata beyond this end their connection, those beyond kMetadataBytesMax their call.
inline constexpr int kTransportMetadataBytesMax = 64 << 10;
// That a head may be cut into; a frame has at most 16 KiB.
inline constexpr int kHeadFramesMax = 16;

// Whether the connection of `peer`, as gRPC names it, its escapes undone, ends for such a head. The
// log has a line for that already, and the call that the head began needs none.
bool EndsForAHead(const std::string& peer);

// FailedPrecondition: the library that was loaded calls none of ours.
absl::Status CheckMetadataBound();

}  // namespace lorica
