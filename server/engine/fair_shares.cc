#include "server/engine/fair_shares.h"

#include <cmath>

namespace lorica {
namespace {

constexpr double kRounding = 1e-6;  // sums of weights are not exact
// Of one that decodes: its last block, and what is not yet read.
constexpr int32_t kLostTokensMax = 2 * kBlockTokens;

}  // namespace

FairShares::FairShares(double weights, int32_t slots, int32_t free_blocks)
    : weights_(weights), slots_(slots), blocks_(free_blocks) {}

void FairShares::Add(RequestState& running, double blocks) {
  const auto [found, is_new] = index_.try_emplace(running.lane, static_cast<int>(tenants_.size()));
  if (is_new) tenants_.push_back({.lane = running.lane});
  Tenant& tenant = tenants_[found->second];
  ++tenant.slots;
  tenant.blocks += blocks;
  running_.push_back({&running, found->second, blocks});
  blocks_ += blocks;
}

FairShares::Tenant FairShares::Of(const RequestState& request) const {
  const auto found = index_.find(request.lane);
  return found == index_.end() ? Tenant{.lane = request.lane} : tenants_[found->second];
}

double FairShares::SlotShare(const Tenant& tenant) const {
  return std::ceil(slots_ * tenant.lane->weight / weights_ - kRounding);
}

double FairShares::BlockShare(const Tenant& tenant) const {
  return blocks_ * tenant.lane->weight / weights_ + kRounding;
}

bool FairShares::MayGive(const Tenant& tenant, bool slot, bool first) const {
  if (tenant.slots < 2) return false;
  if (!slot) return tenant.blocks > BlockShare(tenant);
  return first || tenant.slots > SlotShare(tenant);
}

bool FairShares::IsSpared(const Tenant& tenant) const {
  return tenant.slots == 1 || tenant.blocks <= BlockShare(tenant);
}

int FairShares::Giver(bool slot, bool first) const {
  const auto level = [slot](const Tenant& tenant) {
    return (slot ? tenant.slots : tenant.blocks) / tenant.lane->weight;
  };
  int most = -1;
  for (int i = 0; i < std::ssize(tenants_); ++i) {
    if (!MayGive(tenants_[i], slot, first)) continue;
    if (most < 0 || level(tenants_[i]) > level(tenants_[most])) most = i;
  }
  return most;
}

int FairShares::YoungestOf(int tenant) const {
  auto index = static_cast<int>(running_.size()) - 1;
  while (running_[index].tenant != tenant) --index;
  return index;
}

// To give way: the youngest that loses little, and is not the oldest.
int FairShares::NextOf(int tenant) const {
  const int youngest = YoungestOf(tenant);
  int found = -1;
  for (int i = youngest; i >= 0; --i) {
    if (running_[i].tenant != tenant) continue;
    if (found >= 0) return found;
    if (running_[i].request->lost_if_preempted() <= kLostTokensMax) found = i;
  }
  return youngest;
}

void FairShares::Take(int running) {
  Tenant& tenant = tenants_[running_[running].tenant];
  --tenant.slots;
  tenant.blocks -= running_[running].blocks;
  running_.erase(running_.begin() + running);
}

std::vector<RequestState*> FairShares::ForShare(const RequestState& waiting,
                                                const Need& need) const {
  const Tenant own = Of(waiting);
  const bool first = own.slots == 0;
  if (!first && need.slot && own.slots + 1 > SlotShare(own)) return {};
  if (!first && need.blocks > 0 && own.blocks + need.takes > BlockShare(own)) return {};
  FairShares left = *this;
  std::vector<RequestState*> giving;
  double blocks = need.blocks;
  for (bool slot = need.slot; slot || blocks > 0; slot = false) {
    const int giver = left.Giver(slot, first);
    if (giver < 0 || tenants_[giver].lane == waiting.lane) return {};
    const FairLane& lane = *tenants_[giver].lane;
    const int next = left.NextOf(giver);
    const Running gives = left.running_[next];
    const double lost = kPromptTokenCost * gives.request->known() / lane.weight;
    if (!first && lane.counter - waiting.lane->counter < lost) return {};
    giving.push_back(gives.request);
    blocks -= gives.blocks;
    left.Take(next);
  }
  return giving;
}

RequestState* FairShares::ForSenior(const RequestState& waiting, bool slot) const {
  const bool any = Of(waiting).slots == 0;
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    if (it->request->id <= waiting.id) break;
    const bool same = it->request->lane == waiting.lane;
    if (any || same || MayGive(tenants_[it->tenant], slot, /*first=*/false)) return it->request;
  }
  return nullptr;
}

RequestState* FairShares::ForGrowth(const RequestState& grower) const {
  const Running& youngest = running_.back();
  const int most = Giver(/*slot=*/false, /*first=*/false);
  const bool by_share = most >= 0 && IsSpared(tenants_[youngest.tenant]);
  RequestState* const gives = by_share ? running_[YoungestOf(most)].request : youngest.request;
  return gives->id > grower.id ? gives : nullptr;
}

}  // namespace lorica
