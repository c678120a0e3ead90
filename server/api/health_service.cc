#include "server/api/health_service.h"

#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/steady_now.h"
#include "lorica/v1/adapters.grpc.pb.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "lorica/v1/server.grpc.pb.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/reply.h"

namespace lorica {
namespace {

using Status = HealthService::Response::ServingStatus;

bool IsKnown(absl::string_view service) {
  const absl::string_view known[] = {"", v1::InferenceService::service_full_name(),
                                     v1::AdapterService::service_full_name(),
                                     v1::ServerService::service_full_name()};
  return absl::c_linear_search(known, service);
}

Status StatusOf(absl::string_view service, ServingState state) {
  if (!IsKnown(service)) return HealthService::Response::SERVICE_UNKNOWN;
  return state == ServingState::kServing ? HealthService::Response::SERVING
                                         : HealthService::Response::NOT_SERVING;
}

}  // namespace

// Shared like Reply: gRPC's share ends with OnDone.
class HealthWatch final : public grpc::ServerWriteReactor<HealthService::Response>,
                          public std::enable_shared_from_this<HealthWatch> {
 public:
  HealthWatch(std::string service, std::string peer, const std::atomic<ServingState>* state)
      : service_(std::move(service)), peer_(std::move(peer)), state_(state) {}

  const std::string& peer() const { return peer_; }
  void Start() {
    self_ = shared_from_this();
    Tell();
  }
  // Instead of Start.
  void Refuse(const absl::Status& status) {
    self_ = shared_from_this();
    End(status);
  }
  void Tell() {
    absl::MutexLock lock(&mutex_);
    Next();
  }
  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (end_.ok()) end_ = status;
    Next();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok && end_.ok()) end_ = absl::CancelledError("the client does not read any more");
    Next();
  }
  void OnCancel() override { End(absl::CancelledError("the client cancelled the call")); }
  void OnDone() override { std::exchange(self_, nullptr).reset(); }

 private:
  void Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (!end_.ok()) {
      finished_ = true;
      Finish(ToGrpcStatus(end_));
      return;
    }
    const Status now = StatusOf(service_, state_->load());
    if (told_ == now) return;
    told_ = now;
    message_.set_status(now);
    writing_ = true;
    StartWrite(&message_);
  }

  const std::string service_;
  const std::string peer_;
  const std::atomic<ServingState>* const state_;
  absl::Mutex mutex_;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Status> told_ ABSL_GUARDED_BY(mutex_);
  HealthService::Response message_;  // writes take turns
  std::shared_ptr<HealthWatch> self_;
};

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext*, const Request* request,
                                               Response* response) {
  const auto reply = Reply::Make();
  if (!IsKnown(request->service())) {
    const absl::Status unknown = absl::NotFoundError("there is no such service here");
    LogRefusal("Check", "", unknown, SteadyNow());
    reply->Fail(unknown);
  } else {
    reply->Succeed([&] { response->set_status(StatusOf(request->service(), state_->load())); });
  }
  return reply.get();
}

grpc::ServerWriteReactor<HealthService::Response>* HealthService::Watch(
    grpc::CallbackServerContext* context, const Request* request) {
  auto watch = std::make_shared<HealthWatch>(request->service(), context->peer(), state_);
  absl::Status refused;
  {
    absl::MutexLock lock(&mutex_);
    refused = CheckRoom(watch->peer());
    if (refused.ok()) watches_.push_back(watch);
  }
  if (refused.ok()) {
    watch->Start();
  } else {
    LogRefusal("Watch", "", refused, SteadyNow());
    watch->Refuse(refused);
  }
  return watch.get();
}

absl::Status HealthService::CheckRoom(absl::string_view peer) {
  if (ended_) return GoElsewhere("the server is shutting down; watch another one");
  std::erase_if(watches_, [](const auto& weak) { return weak.expired(); });
  if (watches_.size() >= kHealthWatchersMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", kHealthWatchersMax, " watches of health already"));
  }
  const auto of_peer = [peer](const auto& watch) { return watch->peer() == peer; };
  if (absl::c_count_if(Watches(), of_peer) < kHealthWatchesPerConnectionMax) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat("this connection has ",
                                                   kHealthWatchesPerConnectionMax,
                                                   " watches of health already; end one first"));
}

std::vector<std::shared_ptr<HealthWatch>> HealthService::Watches() {
  std::vector<std::shared_ptr<HealthWatch>> watches;
  for (const auto& weak : watches_) {
    if (auto watch = weak.lock()) watches.push_back(std::move(watch));
  }
  return watches;
}

void HealthService::Tell() {
  std::vector<std::shared_ptr<HealthWatch>> watches;
  {
    absl::MutexLock lock(&mutex_);
    watches = Watches();
  }
  for (const auto& watch : watches) watch->Tell();
}

void HealthService::EndWatches() {
  std::vector<std::shared_ptr<HealthWatch>> watches;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    watches = Watches();
  }
  for (const auto& watch : watches) watch->End(GoElsewhere("the server is shutting down"));
}

}  // namespace lorica
