#include "server/api/reset_guard.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/steady_now.h"
#include "grpcpp/server_context.h"
#include "server/api/go_away.h"
#include "server/api/socket_name.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

using grpc::experimental::InterceptionHookPoints;

absl::Duration TimeLeft(const grpc::ServerContextBase& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteDuration();
  return absl::FromChrono(deadline) - absl::FromChrono(std::chrono::system_clock::now());
}

// Of a call within the process.
bool IsWithin(absl::string_view peer) { return absl::StartsWith(peer, "inproc"); }

ResetLimit& TheResets() {
  static ResetLimit& resets = *new ResetLimit;  // connections may outlive what is static
  return resets;
}

class CallWatch final : public grpc::experimental::Interceptor {
 public:
  explicit CallWatch(grpc::experimental::ServerRpcInfo* info) : info_(info), begun_(SteadyNow()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE)) Closed();
    methods->Proceed();
  }

 private:
  void Closed() const {
    const absl::Time now = SteadyNow();
    const grpc::ServerContextBase& context = *info_->server_context();
    if (!IsEarlyReset(now - begun_, TimeLeft(context)) || !context.IsCancelled()) return;
    const std::string peer = PeerText(context.peer());
    // A call that ended before its head was looked at does not say whose it was.
    const std::string from = peer.substr(0, 2) == "ip" ? peer : TheResets().Likeliest(now);
    if (from.empty() || IsWithin(context.peer()) || !TheResets().Exceeded(from, now)) return;
    if (!AskToGoAway(from, now)) return;
    spdlog::warn("{} has begun and reset {} calls: its connection is asked to go away", from,
                 kEarlyResetsMax);
  }

  grpc::experimental::ServerRpcInfo* const info_;
  const absl::Time begun_;
};

class ResetGuard final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    // Its calls are synchronous: to ask whether such a call is cancelled ends it a second time.
    if (absl::StartsWith(info->method(), "/grpc.reflection.")) return nullptr;
    return new CallWatch(info);
  }
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeResetGuard() {
  return std::make_unique<ResetGuard>();
}

int PeersWithResets() { return TheResets().peers(SteadyNow()); }

bool IsEarlyReset(absl::Duration open, absl::Duration left) {
  const bool by_deadline = open >= kOpenForDeadline && left <= kDeadlineSlack;
  return open < kEarlyReset && !by_deadline;
}

double ResetLimit::Resetter::LeftAt(absl::Time now) const {
  return std::max(0.0, resets - kEarlyResetsPerSecond * absl::ToDoubleSeconds(now - counted));
}

bool ResetLimit::Exceeded(const std::string& peer, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (peers_.size() >= kResettersMax && !peers_.contains(peer)) MakeRoom(now);
  Resetter& resetter = peers_.try_emplace(peer, Resetter{0.0, now}).first->second;
  resetter = {resetter.LeftAt(now) + 1.0, now};
  if (resetter.resets <= kEarlyResetsMax) return false;
  peers_.erase(peer);
  return true;
}

std::string ResetLimit::Likeliest(absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  std::string likeliest;
  double most = kSuspectResets;
  for (const auto& [peer, resetter] : peers_) {
    if (resetter.LeftAt(now) < most) continue;
    most = resetter.LeftAt(now);
    likeliest = peer;
  }
  return likeliest;
}

int ResetLimit::peers(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Forget(now);
  return static_cast<int>(peers_.size());
}

void ResetLimit::Forget(absl::Time now) {
  absl::erase_if(peers_, [now](const auto& entry) { return entry.second.LeftAt(now) == 0.0; });
}

void ResetLimit::MakeRoom(absl::Time now) {
  Forget(now);
  // All of them new: whoever made that many connections paid for them.
  if (peers_.size() >= kResettersMax) peers_.clear();
}

}  // namespace lorica
