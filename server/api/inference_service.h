// lorica.v1.InferenceService over the gateway, on gRPC's callback API.
//
// Handlers only translate and hand over; no event thread ever blocks. A refusal before
// the first token leaves no headers behind (Trailers-Only), so clients may retry it.
// Thread-safe; gateway and pools outlive it and all its calls.
#pragma once

#include "lorica/v1/inference.pb.h"
#include "server/api/call_pump.h"

namespace lorica {

class InferenceService final {
 public:
  InferenceService(Gateway* gateway, CallPools pools) : gateway_(gateway), pools_(pools) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response);
  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request);
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response);

 private:
  Gateway* const gateway_;
  const CallPools pools_;
};

}  // namespace lorica
