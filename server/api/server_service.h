// lorica.v1.ServerService: what is served, the limits as started, the counters now.
//
// Reads plain facts and the stats of gateway, engine and pool; never waits. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "lorica/v1/server.pb.h"
#include "server/api/gateway.h"

namespace lorica {

enum class ServingState : uint8_t { kStarting, kServing, kDraining, kFailed };

// What does not change while the server runs.
struct ServerFacts {
  std::string version;
  std::string device;
  absl::Time started;
  absl::Time counting_since;  // of the bill
  v1::ModelInfo model;
  v1::Limits limits;
};

class ServerService final {
 public:
  // `state` and `gateway` outlive it. Counters count from here: the warm-up is nobody's request.
  ServerService(ServerFacts facts, const std::atomic<ServingState>* state, Gateway* gateway)
      : facts_(std::move(facts)),
        state_(state),
        gateway_(gateway),
        before_(gateway->engine()->stats()) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response);
  grpc::ServerUnaryReactor* GetUsage(grpc::CallbackServerContext* context,
                                     const v1::GetUsageRequest* request,
                                     v1::GetUsageResponse* response);

 private:
  const ServerFacts facts_;
  const std::atomic<ServingState>* const state_;
  Gateway* const gateway_;
  const EngineStats before_;
};

}  // namespace lorica
