// Messages that announce more than kMessageBytesMax are never read.
//
// gRPC 1.51 reads a message as long as it says it is, a gigabyte if need be, and compares that with
// a limit once all of it is here. What remains of a message that is being read one function of the
// library finds out, and the window that the client gets follows from it. A function of the program
// stands before it (before_library.h): where too much is to come, a mark takes the message's place
// at once. So the call can be told, and nothing more of it comes. What of a message came with its
// beginning, a frame of 16 KiB at most, is not counted: one that is larger by no more than that is
// refused when it is whole.
//
// Likewise for a message whose first byte, which says whether it is compressed, says neither: the
// library would pass it on as one without a byte. And for one that is compressed in a way of which
// the library has not said that it is not served: it takes a grpc-encoding that it does not know
// for none, and would pass the bytes on as they are. Holds for all of HTTP/2 in the process.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"

namespace lorica {

inline constexpr int kMessageBytesMax = 4 << 20;

// Whether `bytes` are more than kMessageBytesMax, or stand for a message that says so.
bool IsTooLarge(const grpc::ByteBuffer& bytes);

// Whether `bytes` stand for a message that does not say whether it is compressed.
bool IsMisframed(const grpc::ByteBuffer& bytes);

// Whether `bytes` stand for a message that says that it is compressed.
bool IsCompressed(const grpc::ByteBuffer& bytes);

// FailedPrecondition: the library that was loaded lacks the function, calls its own, or comes
// before the program.
absl::Status CheckMessageBound();

}  // namespace lorica
