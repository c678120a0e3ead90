#include "adapters/merge_formulas.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lorica {
namespace {

using ::testing::ElementsAre;
using Tensors = std::vector<std::vector<float>>;

std::vector<float> Merge(const MergeRule& rule, const std::vector<float>& weights,
                         Tensors tensors) {
  std::vector<uint64_t> streams;
  for (size_t i = 0; i < tensors.size(); ++i)
    streams.push_back(MergeStream(rule.seed, "m", 'A', i));
  MergeTensors(rule, weights, streams, tensors);
  return tensors[0];
}

TEST(MergeFormulas, KnowTheirNames) {
  for (const char* name :
       {"linear", "cat", "ties", "dare_linear", "dare_ties", "magnitude_prune"}) {
    const auto method = ParseMergeMethod(name);
    ASSERT_TRUE(method.ok()) << name;
    EXPECT_EQ(MergeMethodName(*method), name);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(ParseMergeMethod("svd").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseMajoritySign("most").status()));
}

TEST(MergeFormulas, DensityIsAboveNoneAndAtMostAll) {
  for (const MergeMethod method : {MergeMethod::kTies, MergeMethod::kDareLinear}) {
    for (const double density : {1e-9, 0.5, 1.0}) {
      EXPECT_TRUE(CheckMergeRule({.method = method, .density = density}).ok()) << density;
    }
    for (const double density : {0.0, -0.1, 1.000001, std::nan("")}) {
      EXPECT_TRUE(absl::IsInvalidArgument(CheckMergeRule({.method = method, .density = density})))
          << density;
    }
  }
  EXPECT_TRUE(CheckMergeRule({.method = MergeMethod::kLinear, .density = -1}).ok());
}

TEST(MergeFormulas, LinearIsTheWeightedSum) {
  EXPECT_THAT(Merge({}, {0.5f, -2.0f}, {{2, 4, 6}, {1, 0, -1}}), ElementsAre(-1, 2, 5));
}

TEST(MergeFormulas, PruningKeepsTheLargestAndOfEqualsTheFirst) {
  const MergeRule rule{.method = MergeMethod::kMagnitudePrune, .density = 0.5};
  EXPECT_THAT(Merge(rule, {1.0f}, {{-3, 1, 2, 0}}), ElementsAre(-3, 0, 2, 0));
  EXPECT_THAT(Merge(rule, {1.0f}, {{1, -1, 1, -1}}), ElementsAre(1, -1, 0, 0));
  // The number that stays is rounded down.
  EXPECT_THAT(Merge(rule, {1.0f}, {{5, 4, 3}}), ElementsAre(5, 0, 0));
  EXPECT_THAT(Merge({.method = MergeMethod::kMagnitudePrune, .density = 0.1}, {1.0f}, {{5, 4}}),
              ElementsAre(0, 0));
}

TEST(MergeFormulas, TiesAveragesThoseThatAgree) {
  const MergeRule total{.method = MergeMethod::kTies, .density = 1.0};
  const MergeRule frequency{MergeMethod::kTies, 1.0, MajoritySign::kFrequency};
  const Tensors tensors = {{-5, 1, 0}, {2, 2, -1}, {1, 3, 1}};
  EXPECT_THAT(Merge(total, {1, 1, 1}, tensors), ElementsAre(-5, 2, 1));
  EXPECT_THAT(Merge(frequency, {1, 1, 2}, tensors), ElementsAre(2, 3, 2));
}

TEST(MergeFormulas, DareKeepsItsShareAndScalesItUp) {
  const MergeRule rule{.method = MergeMethod::kDareLinear, .density = 0.25, .seed = 9};
  const std::vector<float> merged = Merge(rule, {1.0f}, {std::vector<float>(100'000, 1.0f)});
  int kept = 0;
  for (const float value : merged) {
    EXPECT_TRUE(value == 0.0f || value == 4.0f) << value;
    kept += value != 0.0f;
  }
  EXPECT_NEAR(kept, 25'000, 600);  // some four standard deviations
}

TEST(MergeFormulas, StreamsDifferInEveryPart) {
  const uint64_t stream = MergeStream(1, "q", 'A', 0);
  EXPECT_EQ(stream, MergeStream(1, "q", 'A', 0));
  for (const uint64_t other : {MergeStream(2, "q", 'A', 0), MergeStream(1, "k", 'A', 0),
                               MergeStream(1, "q", 'B', 0), MergeStream(1, "q", 'A', 1)}) {
    EXPECT_NE(stream, other);
  }
}

}  // namespace
}  // namespace lorica
