// What a client hears whose message cannot be parsed.
//
// gRPC answers such a call itself, with UNIMPLEMENTED and no text. An interceptor makes of it
// INVALID_ARGUMENT with the field, where Protobuf names one: a string that is not UTF-8 is the
// usual case. Protobuf would also print a line for each; those lines end here.
#pragma once

#include <memory>

#include "grpcpp/support/server_interceptor.h"

namespace lorica {

// Give it to one grpc::ServerBuilder. Takes over Protobuf's log, once for the process.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeParseRefusals();

}  // namespace lorica
