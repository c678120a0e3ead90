// A unary gRPC reactor that any thread may finish, once.
//
// gRPC calls a reactor until OnDone; our own threads may hold it longer. So it is
// shared: gRPC's share ends with OnDone, work that still runs keeps its own. The
// first Finish counts and the others are ignored, which makes late events harmless.
// The response belongs to gRPC and dies with the call: only `fill` may touch it.
// Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "server/api/status_map.h"

namespace lorica {

class Reply : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<Reply> {
 public:
  // Shared with gRPC from here on: hand get() to it.
  template <typename T = Reply, typename... Arguments>
  static std::shared_ptr<T> Make(Arguments&&... arguments) {
    auto reply = std::make_shared<T>(std::forward<Arguments>(arguments)...);
    static_cast<Reply&>(*reply).self_ = reply;
    return reply;
  }

  void Fail(const absl::Status& status) {
    if (!finished_.exchange(true)) Finish(ToGrpcStatus(status));
  }
  // Runs `fill`, which writes the response, and answers OK.
  template <typename Fill>
  void Succeed(Fill&& fill) {
    if (finished_.exchange(true)) return;
    fill();
    Finish(grpc::Status::OK);
  }
  // True once the client has gone or its deadline has passed.
  bool cancelled() const { return cancelled_.load(); }

  void OnCancel() override { cancelled_.store(true); }
  void OnDone() override { std::exchange(self_, nullptr).reset(); }

 private:
  std::shared_ptr<Reply> self_;
  std::atomic<bool> finished_{false};
  std::atomic<bool> cancelled_{false};
};

}  // namespace lorica
