#include "server/engine/fair_queue.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "kernels/check.h"

namespace lorica {

struct FairLane {
  std::string tenant;
  double counter = 0.0;
  int requests = 0;  // waiting and running
  absl::btree_map<RequestId, RequestState*> waiting;
};

FairQueue::FairQueue() = default;
FairQueue::~FairQueue() = default;

void FairQueue::Enter(RequestState& request) {
  LORICA_CHECK(request.request.tenant_weight > 0.0, "tenant", request.request.tenant);
  std::unique_ptr<FairLane>& lane = lanes_[request.request.tenant];
  if (lane == nullptr) {
    lane = std::make_unique<FairLane>();
    lane->tenant = request.request.tenant;
  }
  if (lane->waiting.empty()) Lift(*lane);
  ++lane->requests;
  request.lane = lane.get();
  Wait(request);
}

void FairQueue::Lift(FairLane& lane) {
  double floor = waiting_lanes_.empty() ? last_left_ : waiting_lanes_.begin()->second->counter;
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
  if (!lane.waiting.empty()) return;
  waiting_lanes_.erase(lane.tenant);
  last_left_ = lane.counter;
}

void FairQueue::Leave(RequestState& request) {
  Run(request);
  --std::exchange(request.lane, nullptr)->requests;
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
  request.lane->counter += kPromptTokenCost * static_cast<double>(request.request.prompt.size()) /
                           request.request.tenant_weight;
}

void FairQueue::ChargeToken(const RequestState& request) {
  request.lane->counter += kGeneratedTokenCost / request.request.tenant_weight;
}

void FairQueue::Visit(absl::FunctionRef<bool(RequestState&)> visit) {
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
    if (!visit(*turn.lane->waiting.at(turn.id))) return;
    const auto next = turn.lane->waiting.upper_bound(turn.id);
    if (next != turn.lane->waiting.end()) {
      turns.push({turn.lane->counter, next->first, turn.lane});
    }
  }
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
