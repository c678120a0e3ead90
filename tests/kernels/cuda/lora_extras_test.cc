#include "kernels/cuda/lora_extras.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lorica::cuda {
namespace {

using ::testing::ElementsAre;
using ::testing::FieldsAre;
using ::testing::IsEmpty;

struct FakeMounted : MountedAdapter {
  MountedExtras extras;
};

const MountedExtras& ExtrasOf(const MountedAdapter& adapter) {
  return static_cast<const FakeMounted&>(adapter).extras;
}

class PlanExtrasTest : public ::testing::Test {
 protected:
  PlanExtrasTest() {
    biased_.extras.biases = &table_;
    embedding_.extras.embedding.module = {.scale = 2.0f, .rank_tiles = 3};
    head_.extras.head.module = {.scale = 0.5f, .rank_tiles = 1};
    both_.extras.embedding.module = {.scale = 1.0f, .rank_tiles = 2};
    both_.extras.head.module = {.scale = 1.0f, .rank_tiles = 4};
  }

  void Add(int rows, std::vector<LoraTerm> terms) {
    const auto begin = static_cast<int32_t>(batch_.terms.size());
    if (!terms.empty()) {
      batch_.segments.push_back({row_, rows, begin, static_cast<int32_t>(terms.size())});
    }
    batch_.terms.insert(batch_.terms.end(), terms.begin(), terms.end());
    row_ += rows;
  }
  ExtrasPlan Plan() const { return PlanExtras(batch_, ExtrasOf); }

  DeviceBias table_{};
  FakeMounted plain_, biased_, embedding_, head_, both_;
  StepBatch batch_;
  int32_t row_ = 0;
};

TEST_F(PlanExtrasTest, AdaptersOfLinearsAloneWantNothing) {
  Add(20, {{&plain_, 1.0f}});
  batch_.samples.push_back({.row = 3});
  EXPECT_FALSE(plain_.extras.any());
  const ExtrasPlan plan = Plan();
  EXPECT_THAT(plan.biases, IsEmpty());
  EXPECT_THAT(plan.embedding.tiles, IsEmpty());
  EXPECT_THAT(plan.head.tiles, IsEmpty());
}

TEST_F(PlanExtrasTest, AnyOneOfThemIsSomething) {
  for (const FakeMounted* adapter : {&biased_, &embedding_, &head_, &both_}) {
    EXPECT_TRUE(adapter->extras.any());
  }
}

TEST_F(PlanExtrasTest, BiasesAreOfAllTermsInTheirOrder) {
  Add(2, {{&plain_, 0.5f}, {&biased_, -1.0f}});
  Add(3, {});
  Add(1, {{&biased_, 2.0f}});
  EXPECT_THAT(Plan().biases, ElementsAre(FieldsAre(nullptr, 0.5f, 0), FieldsAre(&table_, -1.0f, 0),
                                         FieldsAre(&table_, 2.0f, 0)));
}

TEST_F(PlanExtrasTest, RowsAreCutIntoTilesWithTheTermsThatTouch) {
  Add(1, {});
  Add(kExtraRows + 1, {{&plain_, 1.0f}, {&embedding_, -3.0f}, {&both_, 1.0f}});
  Add(4, {{&head_, 1.0f}});
  Add(0, {{&embedding_, 1.0f}});
  Add(2, {{&both_, 0.5f}});
  const ExtrasPlan plan = Plan();
  // 5 rank tiles of 8 for each of 9 rows come before the last tile.
  EXPECT_THAT(plan.embedding.tiles,
              ElementsAre(FieldsAre(1, kExtraRows, 0, 2, 0),
                          FieldsAre(1 + kExtraRows, 1, 0, 2, 40 * kExtraRows),
                          FieldsAre(6 + kExtraRows, 2, 2, 1, 40 * (kExtraRows + 1))));
  ASSERT_EQ(plan.embedding.terms.size(), 3u);
  EXPECT_EQ(plan.embedding.terms[0].module.scale, -6.0f);
  EXPECT_EQ(plan.embedding.terms[1].module.scale, 1.0f);
  EXPECT_EQ(plan.embedding.terms[2].module.scale, 0.5f);
  EXPECT_EQ(plan.embedding.rank_tiles_max, 5);
  EXPECT_THAT(plan.head.tiles, IsEmpty()) << "no row samples";
}

TEST_F(PlanExtrasTest, TilesOfTheHeadAreOfSamples) {
  Add(3, {{&both_, 1.0f}});
  Add(5, {});
  Add(30, {{&plain_, 1.0f}, {&head_, 4.0f}});
  for (const int row : {2, 4}) batch_.samples.push_back({.row = row});
  for (int row = 20; row < 20 + kExtraRows + 2; ++row) batch_.samples.push_back({.row = row});
  const ExtrasPlan plan = Plan();
  EXPECT_THAT(plan.head.tiles,
              ElementsAre(FieldsAre(0, 1, 0, 1, 0), FieldsAre(2, kExtraRows, 1, 1, 32),
                          FieldsAre(2 + kExtraRows, 2, 1, 1, 32 + 8 * kExtraRows)));
  EXPECT_EQ(plan.head.terms[1].module.scale, 2.0f);
  EXPECT_EQ(plan.head.rank_tiles_max, 4);
}

TEST_F(PlanExtrasTest, DoraInsideAMixIsABug) {
  const float gain = 1.0f;
  head_.extras.head.module.gain = &gain;
  Add(1, {{&head_, 1.0f}});
  batch_.samples.push_back({.row = 0});
  EXPECT_EQ(Plan().head.tiles.size(), 1u);
  batch_.terms.push_back({&plain_, 1.0f});
  batch_.segments[0].term_count = 2;
  EXPECT_DEATH(Plan(), "DoRA inside a mix");
}

}  // namespace
}  // namespace lorica::cuda
