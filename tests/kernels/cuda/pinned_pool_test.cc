// The book-keeping alone: no GPU is needed.
#include "kernels/cuda/pinned_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace lorica::cuda {
namespace {

constexpr int64_t kPage = RangeAllocator::kGranularity;

TEST(RangeAllocator, GivesWhatIsThereAndNoMore) {
  RangeAllocator ranges(10 * kPage + 7);
  EXPECT_EQ(ranges.Take(11 * kPage), -1);
  EXPECT_EQ(ranges.Take(10 * kPage), 0);
  EXPECT_EQ(ranges.Take(1), -1);
  ranges.Give(0, 10 * kPage);
  EXPECT_EQ(ranges.Take(1), 0);
  EXPECT_EQ(ranges.Take(1), kPage);
  EXPECT_EQ(ranges.free_bytes(), 8 * kPage);
  EXPECT_EQ(RangeAllocator(0).Take(1), -1);
}

TEST(RangeAllocator, NeighbouringGapsBecomeOne) {
  RangeAllocator ranges(3 * kPage);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(ranges.Take(kPage), i * kPage);
  ranges.Give(0, kPage);
  ranges.Give(2 * kPage, kPage);
  EXPECT_EQ(ranges.Take(2 * kPage), -1);
  ranges.Give(kPage, kPage);
  EXPECT_EQ(ranges.Take(3 * kPage), 0);
}

TEST(RangeAllocator, RandomLivesNeverOverlapAndEndEmpty) {
  constexpr int64_t kBytes = 512 * kPage;
  std::mt19937 random(20261127);
  RangeAllocator ranges(kBytes);
  std::map<int64_t, int64_t> taken;
  for (int turn = 0; turn < 5000; ++turn) {
    if (random() % 2 == 0 || taken.empty()) {
      const int64_t bytes = 1 + random() % (40 * kPage);
      const int64_t offset = ranges.Take(bytes);
      if (offset < 0) continue;
      const auto after = taken.lower_bound(offset);
      if (after != taken.end()) {
        ASSERT_LE(offset + bytes, after->first);
      }
      if (after != taken.begin()) {
        const auto before = std::prev(after);
        ASSERT_LE(before->first + before->second, offset);
      }
      ASSERT_LE(offset + bytes, kBytes);
      taken.emplace(offset, bytes);
    } else {
      auto victim = std::next(taken.begin(), random() % taken.size());
      ranges.Give(victim->first, victim->second);
      taken.erase(victim);
    }
  }
  for (const auto& [offset, bytes] : taken) ranges.Give(offset, bytes);
  EXPECT_EQ(ranges.free_bytes(), kBytes);
  EXPECT_EQ(ranges.Take(kBytes), 0);
}

}  // namespace
}  // namespace lorica::cuda
