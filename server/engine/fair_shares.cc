#include "server/engine/fair_shares.h"

#include <cmath>

namespace lorica {
namespace {

constexpr double kRounding = 1e-6;  // sums of weights are not exact

}  // namespace

FairShares::FairShares(double weights, int32_t slots, int32_t free_blocks)
    : weights_(weights), slots_(slots), blocks_(free_blocks) {}

void FairShares::Add(RequestState& running, double blocks) {
  const auto [found, is_new] = index_.try_emplace(running.lane, static_cast<int>(tenants_.size()));
  if (is_new) tenants_.push_back({.lane = running.lane});
  Tenant& tenant = tenants_[found->second];
  ++tenant.slots;
  tenant.blocks += blocks;
  tenant.youngest = static_cast<int>(running_.size());
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

int FairShares::Giver(const std::vector<Tenant>& tenants, bool slot, bool first) const {
  const auto level = [slot](const Tenant& tenant) {
    return (slot ? tenant.slots : tenant.blocks) / tenant.lane->weight;
  };
  int most = -1;
  for (int i = 0; i < std::ssize(tenants); ++i) {
    if (!MayGive(tenants[i], slot, first)) continue;
    if (most < 0 || level(tenants[i]) > level(tenants[most])) most = i;
  }
  return most;
}

// Its youngest gives way.
void FairShares::Take(Tenant& tenant) const {
  const Running& gone = running_[tenant.youngest];
  --tenant.slots;
  tenant.blocks -= gone.blocks;
  do {
    --tenant.youngest;
  } while (tenant.youngest >= 0 && running_[tenant.youngest].tenant != gone.tenant);
}

std::vector<RequestState*> FairShares::ForShare(const RequestState& waiting,
                                                const Need& need) const {
  const Tenant own = Of(waiting);
  const bool first = own.slots == 0;
  if (!first && need.slot && own.slots + 1 > SlotShare(own)) return {};
  if (!first && need.blocks > 0 && own.blocks + need.takes > BlockShare(own)) return {};
  std::vector<Tenant> tenants = tenants_;
  std::vector<RequestState*> giving;
  double blocks = need.blocks;
  for (bool slot = need.slot; slot || blocks > 0; slot = false) {
    const int most = Giver(tenants, slot, first);
    if (most < 0 || tenants[most].lane == waiting.lane) return {};
    const Running& gives = running_[tenants[most].youngest];
    const double lost = kPromptTokenCost * gives.request->known() / tenants[most].lane->weight;
    const double lead = tenants[most].lane->counter - waiting.lane->counter;
    if (!first && lead < lost) return {};
    giving.push_back(gives.request);
    blocks -= gives.blocks;
    Take(tenants[most]);
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
  const int most = Giver(tenants_, /*slot=*/false, /*first=*/false);
  const bool by_share = most >= 0 && IsSpared(tenants_[youngest.tenant]);
  RequestState* const gives =
      by_share ? running_[tenants_[most].youngest].request : youngest.request;
  return gives->id > grower.id ? gives : nullptr;
}

}  // namespace lorica
