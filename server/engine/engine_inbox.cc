#include "server/engine/engine_inbox.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace lorica {

QueueShare ShareOf(const EngineRequest& request) {
  QueueShare share;
  share.requests = 1;
  share.tokens = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  share.bytes = static_cast<int64_t>(
      sizeof(RequestState) + request.tenant.size() +
      sizeof(int32_t) *
          (request.prompt.size() + request.end_tokens.size() + request.stop_token_ids.size()) +
      sizeof(TokenBias) *
          (request.logit_bias.size() + (request.prompt_logprobs >= 0 ? request.prompt.size() : 0)) +
      sizeof(MixTerm) * request.mix.size());
  return share;
}

EngineInbox::EngineInbox(const EngineOptions& options)
    : options_(options),
      queue_({options.queue_requests_max, options.queue_tokens_max, options.queue_bytes_max},
             options.queue_tenant_parts) {}

absl::Status EngineInbox::CheckOpen() const {
  if (!closed_.ok()) return closed_;
  return draining_ ? absl::UnavailableError("the server is shutting down") : absl::OkStatus();
}

absl::Status EngineInbox::Admit(const EngineRequest& request) {
  if (absl::Status s = CheckOpen(); !s.ok()) return s;
  return queue_.Enter(request.tenant, ShareOf(request));
}

absl::StatusOr<RequestId> EngineInbox::Submit(std::unique_ptr<RequestState> request) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = Admit(request->request); !status.ok()) {
    ++refused_;
    return status;
  }
  ++accepted_;
  const RequestId id = next_id_++;
  request->id = id;
  live_.insert(id);
  arrivals_.requests.push_back(std::move(request));
  woken_ = true;
  return id;
}

absl::Status EngineInbox::CheckRoom(const std::string& tenant) const {
  absl::MutexLock lock(&mutex_);
  if (absl::Status s = CheckOpen(); !s.ok()) return s;
  return queue_.Check(tenant, {.requests = 1, .tokens = 1, .bytes = 1});
}

void EngineInbox::CountRefusal() {
  absl::MutexLock lock(&mutex_);
  ++refused_;
}

void EngineInbox::Send(RequestId id, const Wish& wish) {
  absl::MutexLock lock(&mutex_);
  if (!live_.contains(id)) return;
  Wish& kept = arrivals_.wishes[id];
  if (kept.end == Wish::End::kNone) {
    kept.end = wish.end;
    kept.reason = wish.reason;
  }
  if (wish.paused.has_value()) kept.paused = wish.paused;
  woken_ = true;
}

void EngineInbox::Abort(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  arrivals_.abort = status;
  woken_ = true;
}

void EngineInbox::StartDrain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  woken_ = true;
}

void EngineInbox::Close(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  closed_ = status;
}

void EngineInbox::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

Arrivals EngineInbox::Take() {
  absl::MutexLock lock(&mutex_);
  woken_ = false;
  return std::exchange(arrivals_, {});
}

void EngineInbox::EndStep(const LeftQueue& left_queue, const std::vector<RequestId>& ended,
                          const EngineStats& stats, bool steps_in_flight, const StepTimes& times) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [tenant, share] : left_queue) queue_.Leave(tenant, share);
  for (RequestId id : ended) {
    live_.erase(id);
    arrivals_.wishes.erase(id);
  }
  stats_ = stats;
  steps_in_flight_ = steps_in_flight;
  if (times.step_ms < 0) return;
  times_[times_count_++ % times_.size()] = times;
}

void EngineInbox::Wait(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &EngineInbox::Woken), timeout);
}

bool EngineInbox::Spin(absl::Duration timeout) const {
  const absl::Time end = options_.clock() + timeout;
  while (!woken_ && options_.clock() < end) {
  }
  return woken_;
}

bool EngineInbox::idle() const {
  absl::MutexLock lock(&mutex_);
  return live_.empty() && !steps_in_flight_;
}

EngineStats EngineInbox::stats() const {
  EngineStats stats;
  std::vector<double> step_ms, host_ms, launch_ms;
  {
    absl::MutexLock lock(&mutex_);
    stats = stats_;
    stats.accepted = accepted_;
    stats.refused = refused_;
    stats.live = static_cast<int32_t>(live_.size());
    stats.queue_tenants = queue_.tenants();
    stats.queued += static_cast<int32_t>(arrivals_.requests.size());
    const auto kept = std::min<int64_t>(times_count_, times_.size());
    for (const StepTimes& times : absl::MakeConstSpan(times_).first(kept)) {
      step_ms.push_back(times.step_ms);
      host_ms.push_back(times.host_ms);
      launch_ms.push_back(times.launch_ms);
    }
  }
  if (step_ms.empty()) return stats;
  std::sort(step_ms.begin(), step_ms.end());
  std::sort(host_ms.begin(), host_ms.end());
  std::sort(launch_ms.begin(), launch_ms.end());
  stats.step_ms_p50 = step_ms[(step_ms.size() - 1) / 2];
  stats.step_ms_p99 = step_ms[(step_ms.size() - 1) * 99 / 100];
  stats.host_ms_p50 = host_ms[(host_ms.size() - 1) / 2];
  stats.launch_ms_p50 = launch_ms[(launch_ms.size() - 1) / 2];
  return stats;
}

}  // namespace lorica
