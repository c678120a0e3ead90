#include "kernels/block_arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace lorica {
namespace {

UnitId Take(BlockArena& arena, int32_t blocks, std::vector<UnitId>* evicted = nullptr,
            UnitKind kind = UnitKind::kAdapter) {
  BlockArena::EvictCallback note;
  if (evicted != nullptr) note = [evicted](UnitId unit) { evicted->push_back(unit); };
  absl::StatusOr<UnitId> unit = arena.Allocate(kind, blocks, std::move(note));
  EXPECT_TRUE(unit.ok()) << unit.status();
  return unit.value_or(0);
}

TEST(BlockArena, GivesDistinctBlocksUpToItsSizeAndNotOneMore) {
  BlockArena arena(5);
  const UnitId a = Take(arena, 2);
  const UnitId b = Take(arena, 3);
  std::set<BlockId> blocks(arena.blocks(a).begin(), arena.blocks(a).end());
  blocks.insert(arena.blocks(b).begin(), arena.blocks(b).end());
  EXPECT_EQ(blocks.size(), 5u);
  EXPECT_EQ(arena.Allocate(UnitKind::kKv, 1, nullptr).status().code(),
            absl::StatusCode::kResourceExhausted);
  arena.CheckInvariants();
}

TEST(BlockArena, EvictsTheLeastRecentlyUsedIdleUnitsUntilTheRequestFits) {
  BlockArena arena(6);
  std::vector<UnitId> evicted;
  const UnitId a = Take(arena, 2, &evicted);
  const UnitId b = Take(arena, 2, &evicted);
  const UnitId c = Take(arena, 2, &evicted);
  arena.Unlease(b, 1);
  arena.Unlease(a, 2);
  arena.Unlease(c, 3);
  Take(arena, 3);
  EXPECT_EQ(evicted, (std::vector<UnitId>{b, a}));
  EXPECT_EQ(arena.eviction_count(UnitKind::kAdapter), 2);
  arena.CheckInvariants();
}

TEST(BlockArena, OnTiesEvictsWhatHasAHostCopyFirst) {
  BlockArena arena(4);
  std::vector<UnitId> evicted;
  const UnitId a = Take(arena, 2, &evicted);
  const UnitId b = Take(arena, 2, &evicted);
  arena.Unlease(a, 7);
  arena.Unlease(b, 7);
  arena.SetHasHostCopy(b, true);
  Take(arena, 2);
  EXPECT_EQ(evicted, std::vector<UnitId>{b});
}

TEST(BlockArena, NeverEvictsLeasedOrPinnedUnits) {
  BlockArena arena(4);
  std::vector<UnitId> evicted;
  const UnitId leased = Take(arena, 2, &evicted);
  const UnitId pinned = Take(arena, 2, &evicted);
  arena.SetPinned(pinned, true);
  arena.Unlease(pinned, 1);
  EXPECT_EQ(arena.available_blocks(), 0);
  EXPECT_FALSE(arena.Allocate(UnitKind::kKv, 1, nullptr).ok());
  arena.SetPinned(pinned, false);
  arena.Lease(leased);
  arena.Unlease(leased, 2);
  EXPECT_EQ(arena.available_blocks(), 2);
  Take(arena, 2);
  EXPECT_EQ(evicted, std::vector<UnitId>{pinned});
}

TEST(BlockArena, AFailedAllocationChangesNothing) {
  BlockArena arena(4);
  std::vector<UnitId> evicted;
  const UnitId idle = Take(arena, 2, &evicted);
  Take(arena, 1);
  arena.Unlease(idle, 1);
  EXPECT_FALSE(arena.Allocate(UnitKind::kKv, 4, nullptr).ok());
  EXPECT_TRUE(evicted.empty());
  EXPECT_EQ(arena.blocks(idle).size(), 2u);
  EXPECT_EQ(arena.free_blocks(), 1);
}

TEST(BlockArena, AUnitGrowsInPlaceAndKeepsItsBlocksInOrder) {
  BlockArena arena(4);
  const UnitId kv = Take(arena, 1, nullptr, UnitKind::kKv);
  const BlockId first = arena.blocks(kv)[0];
  ASSERT_TRUE(arena.Extend(kv, 2).ok());
  EXPECT_EQ(arena.blocks(kv)[0], first);
  EXPECT_EQ(arena.blocks_of(UnitKind::kKv), 3);
  EXPECT_EQ(arena.Extend(kv, 2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(arena.blocks(kv).size(), 3u);
}

TEST(BlockArena, TheFirstBlockOfAUnitBecomesAUnitOfItsOwn) {
  BlockArena arena(4);
  std::vector<UnitId> evicted;
  const UnitId kv = Take(arena, 3, nullptr, UnitKind::kKv);
  const std::vector<BlockId> blocks(arena.blocks(kv).begin(), arena.blocks(kv).end());
  const UnitId first =
      arena.SplitFirst(kv, UnitKind::kPrefix, [&](UnitId unit) { evicted.push_back(unit); });
  arena.CheckInvariants();
  EXPECT_EQ(std::vector<BlockId>(arena.blocks(first).begin(), arena.blocks(first).end()),
            std::vector<BlockId>{blocks[0]});
  EXPECT_EQ(std::vector<BlockId>(arena.blocks(kv).begin(), arena.blocks(kv).end()),
            (std::vector<BlockId>{blocks[1], blocks[2]}));
  EXPECT_EQ(arena.blocks_of(UnitKind::kKv), 2);
  EXPECT_EQ(arena.blocks_of(UnitKind::kPrefix), 1);
  EXPECT_EQ(arena.lease_count(first), 1);
  EXPECT_EQ(arena.available_blocks(), 1);
  arena.Unlease(first, arena.NextTick());
  EXPECT_EQ(arena.available_blocks(), 2);
  ASSERT_TRUE(arena.Extend(kv, 2).ok());
  EXPECT_EQ(evicted, std::vector<UnitId>{first});
  EXPECT_EQ(arena.eviction_count(UnitKind::kPrefix), 1);
  arena.CheckInvariants();
}

TEST(BlockArena, TicksGrow) {
  BlockArena arena(1);
  const uint64_t first = arena.NextTick();
  EXPECT_GT(arena.NextTick(), first);
}

TEST(BlockArena, FreeTakesAUnitBackWhateverItsLeasesWithoutACallback) {
  BlockArena arena(3);
  std::vector<UnitId> evicted;
  const UnitId unit = Take(arena, 3, &evicted);
  arena.Lease(unit);
  arena.Free(unit);
  EXPECT_TRUE(evicted.empty());
  EXPECT_EQ(arena.free_blocks(), 3);
  arena.CheckInvariants();
}

TEST(BlockArena, ABlockIsOutOfItsUnitBeforeTheCallbackRuns) {
  BlockArena arena(2);
  int32_t kind_blocks = -1;
  auto unit = arena.Allocate(UnitKind::kAdapter, 2,
                             [&](UnitId) { kind_blocks = arena.blocks_of(UnitKind::kAdapter); });
  arena.Unlease(*unit, 1);
  Take(arena, 1, nullptr, UnitKind::kKv);
  EXPECT_EQ(kind_blocks, 0);
}

TEST(BlockArenaDeathTest, EndingALeaseThatIsNotThereAborts) {
  BlockArena arena(1);
  const UnitId unit = Take(arena, 1);
  arena.Unlease(unit, 1);
  EXPECT_DEATH(arena.Unlease(unit, 2), "no lease");
}

// A model of the LRU that scans a list.
struct ModelUnit {
  int32_t blocks = 0;
  int32_t leases = 1;
  bool pinned = false;
  bool host_copy = false;
  uint64_t tick = 0;
};

TEST(BlockArena, AgreesWithAPlainModelOverAMillionRandomOperations) {
  const uint64_t seed = 20240517;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const auto draw = [&](int n) { return static_cast<int>(random() % n); };
  BlockArena arena(40);
  std::map<UnitId, ModelUnit> model;
  const auto evict = [&](UnitId unit) {
    const auto oldest =
        std::min_element(model.begin(), model.end(), [](const auto& a, const auto& b) {
          const auto key = [](const auto& entry) {
            const ModelUnit& unit = entry.second;
            return std::tuple(unit.leases > 0 || unit.pinned, unit.tick, !unit.host_copy,
                              entry.first);
          };
          return key(a) < key(b);
        });
    ASSERT_EQ(oldest->first, unit);
    model.erase(unit);
  };
  constexpr int kOperations = 1'000'000;
  for (int step = 0, operations = 0; operations < kOperations; ++step, ++operations) {
    const int what = draw(8);
    auto it = model.empty() ? model.end() : std::next(model.begin(), draw(model.size()));
    if (what <= 1) {
      const int32_t blocks = 1 + draw(6);
      auto unit = arena.Allocate(UnitKind::kAdapter, blocks, evict);
      if (unit.ok()) model[*unit] = {blocks};
    } else if (it == model.end()) {
      --operations;
      continue;
    } else if (what == 2) {
      arena.Lease(it->first);
      ++it->second.leases;
    } else if (what <= 4 && it->second.leases > 0) {
      it->second.tick = step / 4;  // ties are common
      --it->second.leases;
      arena.Unlease(it->first, step / 4);
    } else if (what == 5) {
      it->second.pinned = draw(4) == 0;
      arena.SetPinned(it->first, it->second.pinned);
    } else if (what == 6) {
      it->second.host_copy = !it->second.host_copy;
      arena.SetHasHostCopy(it->first, it->second.host_copy);
    } else if (what == 7 && draw(4) == 0) {
      arena.Free(it->first);
      model.erase(it);
    } else {
      --operations;
    }
    int32_t held = 0;
    int32_t idle = 0;
    for (const auto& [id, unit] : model) {
      held += unit.blocks;
      if (unit.leases == 0 && !unit.pinned) idle += unit.blocks;
    }
    ASSERT_EQ(arena.free_blocks(), 40 - held) << "step " << step;
    ASSERT_EQ(arena.available_blocks(), 40 - held + idle) << "step " << step;
    if (step % 64 == 0) arena.CheckInvariants();
  }
  EXPECT_GT(arena.eviction_count(UnitKind::kAdapter), 1000);
}

}  // namespace
}  // namespace lorica
