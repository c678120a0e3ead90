// Book-keeping of the one arena: equal blocks for KV and adapter tiles.
//
// The arena knows ids, not memory. Blocks are held in units, the things that can
// be evicted whole: a mounted generation, the KV of one request, a block of KV that
// several requests may share. A unit is either leased (lease count > 0, never evicted) or idle;
// idle units form one LRU, and on ties (equal use time) those with a host copy go
// first. Allocation takes free blocks first, then evicts idle units, oldest first,
// until the request fits; the owner of an evicted unit is told through its callback
// before the blocks are handed out again.
//
// Not thread-safe: one thread, the engine's, owns it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/step_batch.h"

namespace lorica {

enum class UnitKind : uint8_t { kKv, kAdapter, kPrefix };
inline constexpr int kUnitKinds = 3;

using UnitId = int64_t;

class BlockArena {
 public:
  // Called when an idle unit is evicted; the unit and its blocks are gone when it
  // returns. Must not call back into the arena.
  using EvictCallback = std::function<void(UnitId)>;

  explicit BlockArena(int32_t block_count);
  ~BlockArena();

  // A new unit of `block_count` blocks with one lease.
  // ResourceExhausted: not even evicting every idle unit would make room; nothing changed.
  absl::StatusOr<UnitId> Allocate(UnitKind kind, int32_t block_count, EvictCallback on_evict);
  // Adds blocks to a leased unit. ResourceExhausted as above.
  absl::Status Extend(UnitId unit, int32_t more_blocks);
  absl::Span<const BlockId> blocks(UnitId unit) const;
  // Makes the first block of a leased unit a unit of its own with one lease.
  UnitId SplitFirst(UnitId unit, UnitKind kind, EvictCallback on_evict);

  // Larger than any before: for Unlease.
  uint64_t NextTick() { return ++tick_; }
  void Lease(UnitId unit);
  // Ends one lease; at zero the unit is idle as of `use_tick` (larger = later).
  void Unlease(UnitId unit, uint64_t use_tick);
  void SetHasHostCopy(UnitId unit, bool has_host_copy);
  // A pinned unit is not evicted even when idle.
  void SetPinned(UnitId unit, bool pinned);
  // Frees a unit at once, whatever its leases; the callback is not called.
  void Free(UnitId unit);

  int32_t block_count() const;
  int32_t free_blocks() const;
  // Free plus what eviction of idle, unpinned units would give.
  int32_t available_blocks() const;
  int32_t blocks_of(UnitKind kind) const;
  int32_t lease_count(UnitId unit) const;
  int64_t eviction_count(UnitKind kind) const;

  // free + held == total, every block in exactly one place, LRU and leases agree.
  // Aborts with the values otherwise.
  void CheckInvariants() const;

 private:
  struct Unit;
  // Idle, unpinned units in the order they are evicted.
  using LruKey = std::tuple<uint64_t, bool, UnitId>;  // use tick, lacks a host copy, unit

  Unit& Get(UnitId unit);
  const Unit& Get(UnitId unit) const;
  static bool Evictable(const Unit& unit);
  static LruKey KeyOf(const Unit& unit);
  // Takes a unit out of the LRU while `change` runs, as it changes what orders it.
  template <typename Change>
  void Reorder(UnitId unit, Change change);
  absl::Status MakeRoom(int32_t block_count);
  void GiveBlocks(Unit& unit, int32_t count);
  void Release(const Unit& unit);

  const int32_t block_count_;
  std::vector<BlockId> free_;
  UnitId next_unit_ = 1;
  absl::flat_hash_map<UnitId, std::unique_ptr<Unit>> units_;
  std::set<LruKey> idle_;
  int32_t idle_blocks_ = 0;
  uint64_t tick_ = 0;
  std::array<int32_t, kUnitKinds> kind_blocks_ = {};
  std::array<int64_t, kUnitKinds> evictions_ = {};
};

}  // namespace lorica
