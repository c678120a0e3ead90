#include "server/engine/fair_queue.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "kernels/check.h"

namespace lorica {

void FairQueue::Enter(RequestState& request) {
  LORICA_CHECK(request.request.tenant_weight > 0.0, "tenant", request.request.tenant);
  std::unique_ptr<FairLane>& lane = lanes_[request.request.tenant];
  if (lane == nullptr) {
    lane = std::make_unique<FairLane>();
    lane->tenant = request.request.tenant;
  }
  if (lane->waiting.empty()) Lift(*lane);
  const bool is_first = lane->requests++ == 0;
  tenants_ += is_first;
  weights_ += request.request.tenant_weight - (is_first ? 0.0 : lane->weight);
  lane->weight = request.request.tenant_weight;
  request.lane = lane.get();
  Wait(request);
}

void FairQueue::Lift(FairLane& lane) {
  double floor = largest_;
  for (const auto& [tenant, other] : waiting_lanes_) floor = std::min(floor, other->counter);
  lane.counter = std::max(lane.counter, floor);
}

void FairQueue::Wait(RequestState& request) {
  waiting_.emplace(request.id, &request);
  request.lane->waiting.emplace(request.id, &request);
  waiting_lanes_.emplace(request.lane->tenant, request.lane);
}

void FairQueue::Run(RequestState& request) {
  if (waiting_.erase(request.id) == 0) return;
  FairLane& lane = *request.lane;
  lane.waiting.erase(request.id);
  if (lane.waiting.empty()) waiting_lanes_.erase(lane.tenant);
}

void FairQueue::Leave(RequestState& request) {
  Run(request);
  FairLane& lane = *std::exchange(request.lane, nullptr);
  if (--lane.requests > 0) return;
  weights_ = --tenants_ == 0 ? 0.0 : weights_ - lane.weight;  // sums of weights are not exact
  ForgetIdle();
}

void FairQueue::ForgetIdle() {
  if (std::ssize(lanes_) <= kIdleLanesMax) return;
  auto smallest = lanes_.end();
  for (auto it = lanes_.begin(); it != lanes_.end(); ++it) {
    if (it->second->requests > 0) continue;
    const auto key = [](const auto& entry) {
      return std::make_pair(entry->second->counter, entry->first);
    };
    if (smallest == lanes_.end() || key(it) < key(smallest)) smallest = it;
  }
  if (smallest != lanes_.end()) lanes_.erase(smallest);
}

void FairQueue::ChargePrompt(const RequestState& request) {
  Charge(*request.lane, kPromptTokenCost * static_cast<double>(request.request.prompt.size()));
}

void FairQueue::ChargeToken(const RequestState& request) {
  Charge(*request.lane, kGeneratedTokenCost);
}

void FairQueue::Charge(FairLane& lane, double cost) {
  lane.counter += cost / lane.weight;
  largest_ = std::max(largest_, lane.counter);
}

void FairQueue::Visit(absl::FunctionRef<FairVisit(RequestState&)> visit) {
  struct Turn {
    double counter;
    RequestId id;
    FairLane* lane;
    bool operator<(const Turn& other) const {  // the heap's top is the largest
      return std::pair(counter, id) > std::pair(other.counter, other.id);
    }
  };
  std::priority_queue<Turn> turns;
  for (const auto& [tenant, lane] : waiting_lanes_) {
    turns.push({lane->counter, lane->waiting.begin()->first, lane});
  }
  while (!turns.empty()) {
    const Turn turn = turns.top();
    turns.pop();
    const FairVisit then = visit(*turn.lane->waiting.at(turn.id));
    if (then == FairVisit::kEnd) return;
    if (then == FairVisit::kLeaveTenant) continue;
    const auto next = turn.lane->waiting.upper_bound(turn.id);
    if (next != turn.lane->waiting.end()) {
      turns.push({turn.lane->counter, next->first, turn.lane});
    }
  }
}

bool FairQueue::MayPass(const RequestState& request, const RequestState& next) {
  const FairLane& own = *request.lane;
  const FairLane& other = *next.lane;
  if (own.runs() || !other.runs()) return false;
  const double cost = kPromptTokenCost * static_cast<double>(request.request.prompt.size()) +
                      kGeneratedTokenCost * request.request.max_tokens;
  const double prompt = kPromptTokenCost * static_cast<double>(next.request.prompt.size());
  const double lead = next.was_scheduled ? 0.0 : std::min(prompt, kPassLeadMax);
  return own.counter + cost / own.weight <= other.counter + lead / other.weight;
}

RequestState* FairQueue::Find(RequestId id) const {
  const auto found = waiting_.find(id);
  return found == waiting_.end() ? nullptr : found->second;
}

double FairQueue::counter(const std::string& tenant) const {
  const auto found = lanes_.find(tenant);
  return found == lanes_.end() ? 0.0 : found->second->counter;
}

}  // namespace lorica
