#include "kernels/cuda/attend_plan.h"

#include <gtest/gtest.h>

#include <numeric>

namespace lorica::cuda {
namespace {

void Add(StepBatch& batch, int position, int rows, std::vector<BlockId> pages) {
  batch.spans.push_back({static_cast<int32_t>(batch.rows()), rows, position,
                         static_cast<int32_t>(batch.pages.size()),
                         static_cast<int32_t>(pages.size())});
  batch.pages.insert(batch.pages.end(), pages.begin(), pages.end());
  batch.tokens.resize(batch.rows() + rows);
}

std::vector<BlockId> Pages(int first, int count) {
  std::vector<BlockId> pages(count);
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

TEST(AttendPlan, ShortContextsAreOnePieceAndNoRowHasMoreThanTheMost) {
  EXPECT_EQ(AttendPieceKeys(1), kAttendPieceKeys);
  const int most = kAttendPieceKeys * kAttendPiecesMax;
  EXPECT_EQ(AttendPieceKeys(most), kAttendPieceKeys);
  EXPECT_EQ(AttendPieceKeys(most + 1), 2 * kAttendPieceKeys);
  for (const int keys : {1, 255, 256, 257, most, most + 1, 5 * most - 3}) {
    StepBatch batch;
    Add(batch, keys - 1, 1, Pages(0, (keys + kBlockTokens - 1) / kBlockTokens));
    AttendPlan plan;
    plan.Make(batch);
    ASSERT_LE(plan.items().size(), size_t{kAttendPiecesMax});
    int at = 0;
    for (const AttendItem& item : plan.items()) {
      EXPECT_EQ(item.key_begin, at);
      EXPECT_EQ(item.key_begin % kBlockTokens, 0);
      EXPECT_EQ(item.pieces, static_cast<int>(plan.items().size()));
      at = item.key_end;
    }
    EXPECT_EQ(at, keys);
  }
}

TEST(AttendPlan, SpansOfMoreRowsThanTheMostThatDecodeAreChunks) {
  StepBatch batch;
  Add(batch, 40, kAttendDecodeRowsMax, Pages(0, 4));
  Add(batch, 40, kAttendDecodeRowsMax + 1, Pages(4, 4));
  AttendPlan plan;
  plan.Make(batch);
  ASSERT_EQ(plan.items().size(), size_t{kAttendDecodeRowsMax});
  EXPECT_EQ(plan.items().back().row, kAttendDecodeRowsMax - 1);
  EXPECT_EQ(plan.items().back().keys, 40 + kAttendDecodeRowsMax);
  ASSERT_EQ(plan.chunks().size(), 1u);
  EXPECT_EQ(plan.chunks()[0].row_count, kAttendDecodeRowsMax + 1);
  EXPECT_EQ(plan.ChunkTiles(4), 3);
}

TEST(AttendPlan, AllRowsDecodeWhereSpansOfAnyLengthMay) {
  constexpr int kRows = 3 * kAttendDecodeRowsMax;
  StepBatch batch;
  Add(batch, 300, kRows, Pages(0, 21));
  AttendPlan plan(kRows);
  plan.Make(batch);
  EXPECT_TRUE(plan.chunks().empty());
  ASSERT_EQ(plan.items().size(), size_t{2 * kRows});
  for (int i = 0; i < 2 * kRows; ++i) {
    EXPECT_EQ(plan.items()[i].row, i / 2);
    EXPECT_EQ(plan.items()[i].keys, 301 + i / 2);
    EXPECT_EQ(plan.items()[i].pieces, 2);
  }
}

TEST(AttendPlan, PagesThatAnotherSpanWritesAreNotSettled) {
  StepBatch batch;
  const std::vector<BlockId> shared = Pages(0, 4);
  Add(batch, 20, 30, shared);  // writes pages 1 to 3
  Add(batch, 50, 1, shared);
  Add(batch, 50, 1, Pages(9, 4));
  AttendPlan plan;
  plan.Make(batch);
  ASSERT_EQ(plan.items().size(), 2u);
  EXPECT_EQ(plan.items()[0].settled, 16);
  EXPECT_EQ(plan.items()[1].settled, 48);
  StepBatch later;
  Add(later, 51, 1, shared);
  plan.Make(later);
  EXPECT_EQ(plan.items()[0].settled, 48);
}

TEST(AttendPlan, SlotsAreDistinctAndPiecesGrowWhereTheyWouldNotBeEnough) {
  const int keys = kAttendPieceKeys * kAttendPiecesMax, rows = kAttendSlotsMax / kAttendPiecesMax;
  for (const int more : {0, 1}) {
    StepBatch batch;
    for (int i = 0; i < rows + more; ++i) Add(batch, keys - 1, 1, Pages(0, keys / kBlockTokens));
    AttendPlan plan;
    plan.Make(batch);
    EXPECT_EQ(plan.items()[0].pieces, kAttendPiecesMax / (1 + more));
    for (size_t i = 0; i < plan.items().size(); ++i) {
      ASSERT_EQ(plan.items()[i].slot, static_cast<int>(i));
    }
  }
}

}  // namespace
}  // namespace lorica::cuda
