// A message from its bytes, and what a client hears whose bytes are none.
//
// That is INVALID_ARGUMENT with the field, where Protobuf names one: a string that is not UTF-8 is
// the usual case. Protobuf would also print a line for each; those lines end here.
#pragma once

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace lorica {

// Lets go of `bytes`. Takes over Protobuf's log, once for the process.
absl::Status ParseMessage(grpc::ByteBuffer* bytes, google::protobuf::Message* message);

}  // namespace lorica
