#include "client/commands/bench_load.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace lorica {
namespace {

LoadOptions Over(std::vector<std::string> adapters, Pattern pattern) {
  LoadOptions options;
  options.adapters = std::move(adapters);
  options.pattern = pattern;
  options.vocabulary = 49152;
  options.prompt_tokens = 16;
  return options;
}

std::map<std::string, int> Counts(const LoadPlan& plan, int streams, int rounds) {
  std::map<std::string, int> counts;
  for (int stream = 0; stream < streams; ++stream) {
    for (int i = 0; i < rounds; ++i) ++counts[plan.Request(stream, i).adapter_id()];
  }
  return counts;
}

TEST(ZipfSampler, FollowsItsWeights) {
  const ZipfSampler zipf(4, 1.0);  // 1, 1/2, 1/3, 1/4: sum 25/12
  EXPECT_EQ(zipf.Rank(0), 0);
  EXPECT_EQ(zipf.Rank(12.0 / 25 - 1e-9), 0);
  EXPECT_EQ(zipf.Rank(12.0 / 25 + 1e-9), 1);
  EXPECT_EQ(zipf.Rank(18.0 / 25 + 1e-9), 2);
  EXPECT_EQ(zipf.Rank(22.0 / 25 + 1e-9), 3);
  EXPECT_EQ(zipf.Rank(1 - 1e-16), 3);
}

TEST(ZipfSampler, ExponentZeroIsUniform) {
  const ZipfSampler flat(10, 0);
  for (int k = 0; k < 10; ++k) EXPECT_EQ(flat.Rank((k + 0.5) / 10), k);
}

TEST(LoadPlan, EqualSeedsSendEqualRequests) {
  const LoadPlan a(Over({"x", "y"}, Pattern::kZipf));
  const LoadPlan b(Over({"x", "y"}, Pattern::kZipf));
  EXPECT_EQ(a.Request(3, 7).SerializeAsString(), b.Request(3, 7).SerializeAsString());
  EXPECT_NE(a.Request(3, 7).SerializeAsString(), a.Request(3, 8).SerializeAsString());
  LoadOptions other = Over({"x", "y"}, Pattern::kZipf);
  other.seed = 2;
  EXPECT_NE(a.Request(3, 7).SerializeAsString(), LoadPlan(other).Request(3, 7).SerializeAsString());
}

TEST(LoadPlan, PromptsAreOrdinaryTokensOfTheVocabulary) {
  const LoadPlan plan(Over({}, Pattern::kNone));
  std::set<int> seen;
  for (int i = 0; i < 200; ++i) {
    const v1::GenerateRequest request = plan.Request(0, i);
    ASSERT_EQ(request.token_ids_size(), 16);
    for (const int id : request.token_ids()) {
      EXPECT_GE(id, 256);
      EXPECT_LT(id, 49152);
      seen.insert(id);
    }
  }
  EXPECT_GT(seen.size(), 3000);
}

TEST(LoadPlan, RequestsAreGreedyAndOfFixedLength) {
  const v1::GenerateRequest request = LoadPlan(Over({}, Pattern::kNone)).Request(0, 0);
  EXPECT_TRUE(request.ignore_eos());
  EXPECT_EQ(request.temperature(), 0);
  EXPECT_EQ(request.max_tokens(), 256);
}

TEST(LoadPlan, EverySecondStreamIsHeldToTheSchema) {
  LoadOptions options = Over({}, Pattern::kNone);
  options.json_schema = R"({"type":"integer"})";
  const LoadPlan plan(options);
  EXPECT_FALSE(plan.Request(0, 1).has_response_format());
  EXPECT_TRUE(plan.Request(0, 1).ignore_eos());
  EXPECT_EQ(plan.Request(1, 1).response_format().json_schema(), options.json_schema);
  EXPECT_FALSE(plan.Request(1, 1).ignore_eos());
}

TEST(LoadPlan, PatternsSpreadAsTheySay) {
  const std::vector<std::string> ids = {"a", "b", "c"};
  EXPECT_EQ(Counts(LoadPlan(Over(ids, Pattern::kNone)), 4, 10),
            (std::map<std::string, int>{{"", 40}}));
  EXPECT_EQ(Counts(LoadPlan(Over(ids, Pattern::kIdentical)), 4, 10),
            (std::map<std::string, int>{{"a", 40}}));
  EXPECT_EQ(Counts(LoadPlan(Over(ids, Pattern::kDistinct)), 6, 10),
            (std::map<std::string, int>{{"a", 20}, {"b", 20}, {"c", 20}}));
  auto uniform = Counts(LoadPlan(Over(ids, Pattern::kUniform)), 3, 1000);
  for (const std::string& id : ids) EXPECT_NEAR(uniform[id], 1000, 120);
  auto zipf = Counts(LoadPlan(Over(ids, Pattern::kZipf)), 3, 1000);  // 6/11, 3/11, 2/11
  EXPECT_NEAR(zipf["a"], 1636, 120);
  EXPECT_NEAR(zipf["b"], 818, 120);
  EXPECT_NEAR(zipf["c"], 545, 120);
}

TEST(LoadPlan, ArrivalGapsAreExponential) {
  const LoadPlan plan(Over({}, Pattern::kNone));
  double sum = 0;
  int above_mean = 0;
  constexpr int kGaps = 10000;
  for (int i = 0; i < kGaps; ++i) {
    const double gap = plan.ArrivalGap(i, 5);
    EXPECT_GE(gap, 0);
    sum += gap;
    above_mean += gap > 0.2 ? 1 : 0;
  }
  EXPECT_NEAR(sum / kGaps, 0.2, 0.01);
  EXPECT_NEAR(static_cast<double>(above_mean) / kGaps, 0.3679, 0.02);
}

TEST(ParsePattern, KnowsItsNames) {
  for (const std::string& name : PatternNames()) EXPECT_TRUE(ParsePattern(name).ok());
  EXPECT_EQ(*ParsePattern("zipf"), Pattern::kZipf);
  EXPECT_FALSE(ParsePattern("pareto").ok());
}

}  // namespace
}  // namespace lorica
