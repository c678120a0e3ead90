#include "server/api/health_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
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

namespace {

// Of the connection that has the most of them, if those are more than `most`; else null.
std::shared_ptr<HealthWatch> NewestOfMost(const std::vector<std::shared_ptr<HealthWatch>>& watches,
                                          int64_t most) {
  absl::flat_hash_map<absl::string_view, int64_t> counts;
  for (const auto& watch : watches) ++counts[watch->peer()];
  std::shared_ptr<HealthWatch> newest;
  for (const auto& watch : watches) {  // in the order in which they came
    const int64_t count = counts[watch->peer()];
    const bool same = newest != nullptr && newest->peer() == watch->peer();
    if (count > most || same) newest = watch;
    most = std::max(most, count);
  }
  return newest;
}

}  // namespace

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
  std::shared_ptr<HealthWatch> displaced;
  {
    absl::MutexLock lock(&mutex_);
    refused = MakeRoom(watch->peer(), &displaced);
    if (refused.ok()) watches_.push_back(watch);
  }
  if (displaced != nullptr) {
    const absl::Status gave_way = TryLater(
        "all watches of health are taken, and this connection had the most; keep fewer, or try "
        "again later");
    LogFailure("Watch", "", gave_way, SteadyNow());
    displaced->End(gave_way);
  }
  if (refused.ok()) {
    watch->Start();
  } else {
    LogRefusal("Watch", "", refused, SteadyNow());
    watch->Refuse(refused);
  }
  return watch.get();
}

absl::Status HealthService::MakeRoom(absl::string_view peer,
                                     std::shared_ptr<HealthWatch>* displaced) {
  if (ended_) return GoElsewhere("the server is shutting down; watch another one");
  std::erase_if(watches_, [](const auto& weak) { return weak.expired(); });
  const std::vector<std::shared_ptr<HealthWatch>> watches = Watches();
  const auto of_peer = [peer](const auto& watch) { return watch->peer() == peer; };
  const auto of_this = absl::c_count_if(watches, of_peer);
  if (of_this >= kHealthWatchesPerConnectionMax) {
    return absl::ResourceExhaustedError(absl::StrCat("this connection has ",
                                                     kHealthWatchesPerConnectionMax,
                                                     " watches of health already; end one first"));
  }
  if (std::ssize(watches) < kHealthWatchersMax) return absl::OkStatus();
  std::shared_ptr<HealthWatch> newest = NewestOfMost(watches, of_this + 1);
  if (newest == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", kHealthWatchersMax, " watches of health already"));
  }
  std::erase_if(watches_, [&newest](const auto& weak) { return weak.lock() == newest; });
  *displaced = std::move(newest);
  return absl::OkStatus();
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
