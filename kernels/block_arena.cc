#include "kernels/block_arena.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace lorica {

struct BlockArena::Unit {
  UnitId id = 0;
  UnitKind kind = UnitKind::kKv;
  std::vector<BlockId> blocks;
  int32_t leases = 1;
  bool pinned = false;
  bool has_host_copy = false;
  uint64_t use_tick = 0;
  EvictCallback on_evict;
};

BlockArena::BlockArena(int32_t block_count) : block_count_(block_count) {
  LORICA_CHECK(block_count >= 0, "block_count", block_count);
  free_.reserve(block_count);
  for (BlockId id = block_count - 1; id >= 0; --id) free_.push_back(id);
}

BlockArena::~BlockArena() = default;

BlockArena::Unit& BlockArena::Get(UnitId unit) {
  auto found = units_.find(unit);
  LORICA_CHECK(found != units_.end(), "no such unit", unit);
  return *found->second;
}

const BlockArena::Unit& BlockArena::Get(UnitId unit) const {
  auto found = units_.find(unit);
  LORICA_CHECK(found != units_.end(), "no such unit", unit);
  return *found->second;
}

bool BlockArena::Evictable(const Unit& unit) { return unit.leases == 0 && !unit.pinned; }

BlockArena::LruKey BlockArena::KeyOf(const Unit& unit) {
  return {unit.use_tick, !unit.has_host_copy, unit.id};
}

template <typename Change>
void BlockArena::Reorder(UnitId id, Change change) {
  Unit& unit = Get(id);
  if (Evictable(unit)) {
    idle_.erase(KeyOf(unit));
    idle_blocks_ -= static_cast<int32_t>(unit.blocks.size());
  }
  change(unit);
  if (Evictable(unit)) {
    idle_.insert(KeyOf(unit));
    idle_blocks_ += static_cast<int32_t>(unit.blocks.size());
  }
}

absl::StatusOr<UnitId> BlockArena::Allocate(UnitKind kind, int32_t block_count,
                                            EvictCallback on_evict) {
  if (absl::Status room = MakeRoom(block_count); !room.ok()) return room;
  auto unit = std::make_unique<Unit>();
  unit->id = next_unit_++;
  unit->kind = kind;
  unit->on_evict = std::move(on_evict);
  GiveBlocks(*unit, block_count);
  const UnitId id = unit->id;
  units_.emplace(id, std::move(unit));
  return id;
}

absl::Status BlockArena::Extend(UnitId id, int32_t more_blocks) {
  Unit& unit = Get(id);
  LORICA_CHECK(unit.leases > 0, "only leased units grow; unit", id);
  if (absl::Status room = MakeRoom(more_blocks); !room.ok()) return room;
  GiveBlocks(unit, more_blocks);
  return absl::OkStatus();
}

absl::Status BlockArena::MakeRoom(int32_t block_count) {
  LORICA_CHECK(block_count >= 0, "block_count", block_count);
  if (block_count > available_blocks()) {
    return absl::ResourceExhaustedError(absl::StrCat(block_count, " blocks wanted, ",
                                                     available_blocks(), " of ", block_count_,
                                                     " can be had now"));
  }
  while (free_blocks() < block_count) {
    const UnitId oldest = std::get<UnitId>(*idle_.begin());
    std::unique_ptr<Unit> unit = std::move(units_.at(oldest));
    units_.erase(oldest);
    ++evictions_[static_cast<int>(unit->kind)];
    Release(*unit);
    if (unit->on_evict) unit->on_evict(oldest);
  }
  return absl::OkStatus();
}

void BlockArena::GiveBlocks(Unit& unit, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    unit.blocks.push_back(free_.back());
    free_.pop_back();
  }
  kind_blocks_[static_cast<int>(unit.kind)] += count;
}

void BlockArena::Release(const Unit& unit) {
  if (Evictable(unit)) {
    idle_.erase(KeyOf(unit));
    idle_blocks_ -= static_cast<int32_t>(unit.blocks.size());
  }
  free_.insert(free_.end(), unit.blocks.rbegin(), unit.blocks.rend());
  kind_blocks_[static_cast<int>(unit.kind)] -= static_cast<int32_t>(unit.blocks.size());
}

absl::Span<const BlockId> BlockArena::blocks(UnitId unit) const { return Get(unit).blocks; }

UnitId BlockArena::SplitFirst(UnitId id, UnitKind kind, EvictCallback on_evict) {
  Unit& from = Get(id);
  LORICA_CHECK(from.leases > 0 && !from.blocks.empty(), "unit", id, "leases", from.leases);
  auto unit = std::make_unique<Unit>();
  unit->id = next_unit_++;
  unit->kind = kind;
  unit->on_evict = std::move(on_evict);
  unit->blocks.push_back(from.blocks.front());
  from.blocks.erase(from.blocks.begin());
  --kind_blocks_[static_cast<int>(from.kind)];
  ++kind_blocks_[static_cast<int>(kind)];
  const UnitId made = unit->id;
  units_.emplace(made, std::move(unit));
  return made;
}

void BlockArena::Lease(UnitId unit) {
  Reorder(unit, [](Unit& u) { ++u.leases; });
}

void BlockArena::Unlease(UnitId unit, uint64_t use_tick) {
  Reorder(unit, [use_tick](Unit& u) {
    LORICA_CHECK(u.leases > 0, "unit has no lease", u.id);
    --u.leases;
    u.use_tick = use_tick;
  });
}

void BlockArena::SetHasHostCopy(UnitId unit, bool has_host_copy) {
  Reorder(unit, [has_host_copy](Unit& u) { u.has_host_copy = has_host_copy; });
}

void BlockArena::SetPinned(UnitId unit, bool pinned) {
  Reorder(unit, [pinned](Unit& u) { u.pinned = pinned; });
}

void BlockArena::Free(UnitId id) {
  Release(Get(id));
  units_.erase(id);
}

int32_t BlockArena::block_count() const { return block_count_; }
int32_t BlockArena::free_blocks() const { return static_cast<int32_t>(free_.size()); }
int32_t BlockArena::available_blocks() const { return free_blocks() + idle_blocks_; }
int32_t BlockArena::blocks_of(UnitKind kind) const { return kind_blocks_[static_cast<int>(kind)]; }
int32_t BlockArena::lease_count(UnitId unit) const { return Get(unit).leases; }

int64_t BlockArena::eviction_count(UnitKind kind) const {
  return evictions_[static_cast<int>(kind)];
}

void BlockArena::CheckInvariants() const {
  std::vector<int> places(block_count_, 0);
  for (BlockId block : free_) ++places.at(block);
  int32_t idle_blocks = 0;
  size_t idle_units = 0;
  std::array<int32_t, kUnitKinds> kind_blocks = {};
  for (const auto& [id, unit] : units_) {
    LORICA_CHECK(unit->id == id && unit->leases >= 0, "unit", id, "leases", unit->leases);
    for (BlockId block : unit->blocks) ++places.at(block);
    const auto count = static_cast<int32_t>(unit->blocks.size());
    kind_blocks[static_cast<int>(unit->kind)] += count;
    if (!Evictable(*unit)) continue;
    LORICA_CHECK(idle_.contains(KeyOf(*unit)), "idle unit is not in the LRU", id);
    idle_blocks += count;
    ++idle_units;
  }
  for (BlockId block = 0; block < block_count_; ++block) {
    LORICA_CHECK(places[block] == 1, "block", block, "is in", places[block], "places");
  }
  LORICA_CHECK(idle_units == idle_.size(), idle_units, "idle units, in the LRU", idle_.size());
  LORICA_CHECK(idle_blocks == idle_blocks_, idle_blocks, "idle blocks, counted", idle_blocks_);
  for (int kind = 0; kind < kUnitKinds; ++kind) {
    LORICA_CHECK(kind_blocks[kind] == kind_blocks_[kind], "blocks of kind", kind, "are",
                 kind_blocks[kind], "counted", kind_blocks_[kind]);
  }
}

}  // namespace lorica
