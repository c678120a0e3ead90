// Who gives way when there is no slot or no block.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "kernels/check.h"
#include "server/engine/scheduler.h"

namespace lorica {

Scheduler::Room Scheduler::Grow(RequestState& request) {
  const auto has = static_cast<int32_t>(request.pages.size());
  const int32_t more = KvBlocksFor(request.scheduled + 1) - has;
  if (more <= 0) return Room::kYes;
  if (!CanEverHave(request, request.adapter_blocks + has + more)) return Room::kNever;
  while (!arena_->Extend(request.kv, more).ok()) {
    if (arena_->available_blocks() + grave_blocks_ >= more) return Room::kLater;
    RequestState* victim = PausedBeside(request.id);
    if (victim == nullptr) {
      victim = Shares(/*with_blocks=*/true).ForGrowth(request);
      if (victim != nullptr && victim != running_.rbegin()->second) ++share_preemptions_;
    }
    if (victim != nullptr) {
      Preempt(*victim);
    } else if (holder_ != 0) {
      HoldOnly(0);
    } else {
      return Room::kLater;
    }
  }
  const absl::Span<const BlockId> blocks = arena_->blocks(request.kv);
  request.pages.insert(request.pages.end(), blocks.end() - more, blocks.end());
  return Room::kYes;
}

bool Scheduler::WaitedEnough(const RequestState& request) const {
  if (request.room_steps > options_.overtake_steps_max) return true;
  return std::all_of(running_.begin(), running_.end(),
                     [](const auto& entry) { return entry.second->paused; });
}

bool Scheduler::HasRoomMade(const RequestState& request) const {
  return request.id == made_room_for_ || WaitedEnough(request);
}

// Free, or free in a step.
FairShares::Need Scheduler::NeedOf(const RequestState& request, int32_t reserve) const {
  int32_t blocks = KvBlocksFor(std::min(request.known() + 1, request.positions_max()));
  for (const GenerationPtr& generation : request.generations) {
    bool held = false;
    for (size_t i = 0; i < request.leases.size(); ++i) {
      held |= request.leases[i] && request.request.mix[i].generation->digest == generation->digest;
    }
    if (!held) blocks += generation->block_count;
  }
  const int32_t free = arena_->available_blocks() + grave_blocks_;
  return {.slot = running_count() >= options_.running_max,
          .blocks = std::max(0, blocks + reserve - free),
          .takes = blocks};
}

void Scheduler::MakeRoom() {
  RequestState* const senior = queue_.Find(senior_);
  if (senior == nullptr) return;
  const bool by_age = WaitedEnough(*senior);
  if (by_age) MakeRoomByAge(*senior);
  const bool by_share = turn_ - senior->waits_since > kShareWaitSteps;
  if (by_share) MakeRoomByShare(*senior, by_age ? 0 : running_count());
}

void Scheduler::MakeRoomByAge(const RequestState& senior) {
  while (true) {
    const FairShares::Need need = NeedOf(senior, /*reserve=*/0);
    if (!need.slot && need.blocks == 0) return;
    RequestState* victim = PausedBeside(senior.id);
    if (victim == nullptr) victim = Shares(!need.slot).ForSenior(senior, need.slot);
    if (victim != nullptr) {
      Preempt(*victim);
    } else if (holder_ != 0 && holder_ != senior.id) {
      HoldOnly(0);
    } else {
      return;
    }
  }
}

// What blocks come free is an estimate: where it was too high, the rest is looked for as much later
// as the first.
void Scheduler::MakeRoomByShare(RequestState& senior, int32_t reserve) {
  if (senior_loads_ || queue_.tenants() < 2) return;
  FairShares::Need need = NeedOf(senior, reserve);
  if (!need.slot && need.blocks == 0) return;
  made_room_for_ = 0;
  for (RequestState* const victim : Shares(need.blocks > 0).ForShare(senior, need)) {
    Preempt(*victim);
    ++share_preemptions_;
    made_room_for_ = senior.id;
    senior.waits_since = turn_;
    need = NeedOf(senior, reserve);
    if (!need.slot && need.blocks == 0) return;
  }
}

RequestState* Scheduler::PausedBeside(RequestId id) const {
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    if (it->second->paused && it->first != id) return it->second;
  }
  return nullptr;
}

// Of blocks only where they are asked for, which takes longer.
FairShares Scheduler::Shares(bool with_blocks) const {
  FairShares shares(queue_.weights(), options_.running_max,
                    arena_->available_blocks() + grave_blocks_);
  if (!with_blocks) {
    for (const auto& [id, request] : running_) shares.Add(*request, 0.0);
    return shares;
  }
  const int32_t pinned = pool_->PinnedBlocksBesides({});  // nobody's, and never free
  absl::flat_hash_map<const Generation*, int> users;
  for (const auto& [id, request] : running_) {
    for (const GenerationPtr& generation : request->generations) {
      const bool counts = pinned == 0 || pool_->PinnedBlocksBesides({generation}) == pinned;
      if (counts) ++users[generation.get()];
    }
  }
  for (const auto& [id, request] : running_) {
    double blocks = std::ssize(arena_->blocks(request->kv)) + PartOf(request->prefix);
    for (const GenerationPtr& generation : request->generations) {
      const auto among = users.find(generation.get());
      if (among == users.end()) continue;
      blocks += static_cast<double>(generation->block_count) / among->second;
    }
    shares.Add(*request, blocks);
  }
  return shares;
}

}  // namespace lorica
