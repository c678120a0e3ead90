// grpc.health.v1.Health: NOT_SERVING until the server serves, and again from drain or failure on.
//
// Knows the server as a whole ("") and each service of lorica/v1. Asks for no key. Thread-safe; its
// calls are over before it goes.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/support/server_callback.h"
#include "server/api/server_service.h"

namespace lorica {

inline constexpr int kHealthWatchersMax = 256;
// Who holds them shows no key, so that one connection must not take all; nor may some together:
// where all are taken, the newest of the connection that has the most gives way to one of a
// connection that would still have fewer.
inline constexpr int kHealthWatchesPerConnectionMax = 16;

class HealthWatch;

class HealthService final {
 public:
  using Request = grpc::health::v1::HealthCheckRequest;
  using Response = grpc::health::v1::HealthCheckResponse;

  // `state` outlives it.
  explicit HealthService(const std::atomic<ServingState>* state) : state_(state) {}

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context, const Request* request,
                                  Response* response);
  grpc::ServerWriteReactor<Response>* Watch(grpc::CallbackServerContext* context,
                                            const Request* request);
  // Whoever watches hears of the state.
  void Tell();
  // Ends the watches; new ones are Unavailable.
  void EndWatches();

 private:
  std::vector<std::shared_ptr<HealthWatch>> Watches() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether one more may begin on the connection of `peer`, and which has to end for it, if any.
  absl::Status MakeRoom(absl::string_view peer, std::shared_ptr<HealthWatch>* displaced)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::atomic<ServingState>* const state_;
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<HealthWatch>> watches_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
