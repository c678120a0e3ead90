// Merges against those of PEFT's add_weighted_adapter, and what cannot be merged.
#include "adapters/adapter_merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/adapters/peft_matrix.h"
#include "tests/fakes/made_adapter.h"

namespace lorica::peft {
namespace {

using ::testing::HasSubstr;

GenerationPtr Identified(const PeftLoader& loader, std::shared_ptr<Source> source,
                         const std::string& name) {
  auto generation = loader.Identify(std::move(source), name);
  EXPECT_TRUE(generation.ok()) << name << ": " << generation.status();
  return generation.ok() ? *std::move(generation) : nullptr;
}

class PeftMerges : public ::testing::TestWithParam<nlohmann::json> {};

TEST_P(PeftMerges, AndItsLogitsAreServed) {
  const nlohmann::json& entry = GetParam();
  ModelRunner& runner = Runner("untied");
  const auto loader = MakeLoader(runner);
  MergeRecipe recipe;
  recipe.rule.method = *ParseMergeMethod(entry.at("method").get<std::string>());
  if (entry.at("density").is_number()) recipe.rule.density = entry.at("density");
  recipe.rule.majority_sign = *ParseMajoritySign(entry.at("sign").get<std::string>());
  recipe.rule.seed = entry.at("seed");
  for (size_t i = 0; i < entry.at("parts").size(); ++i) {
    recipe.parts.push_back({Identified(*loader, Adapters(), entry.at("parts")[i]),
                            entry.at("weights")[i].get<double>()});
  }
  const auto source = MakeMergedSource(loader.get(), recipe);
  const GenerationPtr merged = Identified(*loader, source, "merge");
  ASSERT_NE(merged, nullptr);
  const auto image = loader->LoadImage(*merged);
  ASSERT_TRUE(image.ok()) << image.status();
  ExpectLogits(runner, **image, entry.at("logits"));
}

INSTANTIATE_TEST_SUITE_P(
    All, PeftMerges,
    ::testing::ValuesIn(Document().at("merges").get<std::vector<nlohmann::json>>()),
    [](const auto& info) { return TestName(info.param.at("name")); });

class AdapterMergeTest : public ::testing::Test {
 protected:
  MergeRecipe RecipeOf(MergeMethod method, const std::vector<MadeAdapter>& adapters) {
    MergeRecipe recipe{{.method = method, .density = 0.5}, {}};
    for (const MadeAdapter& adapter : adapters) {
      const std::string name = absl::StrCat("part-", count_++);
      adapter.WriteTo(folder_, name);
      recipe.parts.push_back({Identified(loader_, source_, name), 0.5});
    }
    return recipe;
  }
  void ExpectRefused(const MergeRecipe& recipe, const std::string& says,
                     int64_t bytes_max = kMergedBytesMax) {
    const absl::Status status = BuildMerge(loader_, recipe, bytes_max).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
  static MadeAdapter OfRank(int rank, uint32_t seed, LoraModule module = LoraModule::kQ) {
    MadeAdapter adapter;
    adapter.seed = seed;
    adapter.config["r"] = absl::StrCat(rank);
    adapter.AddPair(0, module, rank);
    return adapter;
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, 1 << 20};
  std::shared_ptr<Source> source_ = *MakeLocalSource(folder_.path());
  int count_ = 0;
};

TEST_F(AdapterMergeTest, MakesTheSameBytesEachTime) {
  const MergeRecipe recipe = RecipeOf(MergeMethod::kDareTies, {OfRank(4, 1), OfRank(4, 2)});
  const auto one = BuildMerge(loader_, recipe);
  const auto two = BuildMerge(loader_, recipe);
  ASSERT_TRUE(one.ok() && two.ok()) << one.status();
  EXPECT_EQ(one->config, two->config);
  EXPECT_EQ(one->weights, two->weights);
  MergeRecipe other = recipe;
  other.rule.seed = 1;
  EXPECT_NE(BuildMerge(loader_, other)->weights, one->weights);
}

TEST_F(AdapterMergeTest, KeyTellsRecipesApart) {
  const MergeRecipe recipe = RecipeOf(MergeMethod::kTies, {OfRank(4, 1), OfRank(4, 2)});
  std::set<std::string> keys = {MergeKey(recipe)};
  const auto with = [&](auto change) {
    MergeRecipe other = recipe;
    change(other);
    return keys.insert(MergeKey(other)).second;
  };
  EXPECT_TRUE(with([](MergeRecipe& r) { r.rule.density = 0.25; }));
  EXPECT_TRUE(with([](MergeRecipe& r) { r.rule.majority_sign = MajoritySign::kFrequency; }));
  EXPECT_TRUE(with([](MergeRecipe& r) { r.rule.method = MergeMethod::kDareTies; }));
  EXPECT_TRUE(with([](MergeRecipe& r) { r.parts[0].weight = 0.5000000001; }));
  EXPECT_TRUE(with([](MergeRecipe& r) { std::swap(r.parts[0], r.parts[1]); }));
  EXPECT_FALSE(with([](MergeRecipe&) {}));
  MergeRecipe linear = recipe;
  linear.rule.method = MergeMethod::kLinear;
  keys.insert(MergeKey(linear));
  linear.rule.density = 0.1;  // not looked at
  EXPECT_EQ(keys.count(MergeKey(linear)), 1u);
}

TEST_F(AdapterMergeTest, ChecksTheNumberOfPartsAndTheirWeights) {
  MergeRecipe recipe = RecipeOf(MergeMethod::kLinear, {OfRank(4, 1)});
  EXPECT_TRUE(absl::IsInvalidArgument(CheckMergeRecipe(recipe)));
  recipe.parts.resize(2, recipe.parts[0]);
  EXPECT_TRUE(CheckMergeRecipe(recipe).ok());
  recipe.parts.resize(kMergePartsMax, recipe.parts[0]);
  EXPECT_TRUE(CheckMergeRecipe(recipe).ok());
  recipe.parts.push_back(recipe.parts[0]);
  EXPECT_TRUE(absl::IsInvalidArgument(CheckMergeRecipe(recipe)));
  recipe.parts.pop_back();
  for (const double weight : {kMergeWeightMax, -kMergeWeightMax}) {
    recipe.parts[1].weight = weight;
    EXPECT_TRUE(CheckMergeRecipe(recipe).ok()) << weight;
  }
  for (const double weight : {kMergeWeightMax * 1.001, std::nan(""), double{INFINITY}}) {
    recipe.parts[1].weight = weight;
    EXPECT_TRUE(absl::IsInvalidArgument(CheckMergeRecipe(recipe))) << weight;
  }
}

TEST_F(AdapterMergeTest, OnlyCatTakesUnequalRanks) {
  MergeRecipe recipe = RecipeOf(MergeMethod::kTies, {OfRank(4, 1), OfRank(5, 2)});
  ExpectRefused(recipe, "has rank 4 in one adapter and 5 in another: ties needs equal ranks");
  recipe.rule.method = MergeMethod::kCat;
  EXPECT_TRUE(BuildMerge(loader_, recipe).ok());
  // What they do not share may have any rank.
  EXPECT_TRUE(BuildMerge(loader_, RecipeOf(MergeMethod::kLinear,
                                           {OfRank(4, 1), OfRank(5, 2, LoraModule::kV)}))
                  .ok());
}

TEST_F(AdapterMergeTest, RanksOfCatAddUpToTheLargestServed) {
  EXPECT_TRUE(
      BuildMerge(loader_, RecipeOf(MergeMethod::kCat, {OfRank(200, 1), OfRank(56, 2)})).ok());
  ExpectRefused(RecipeOf(MergeMethod::kCat, {OfRank(200, 1), OfRank(57, 2)}),
                "the ranks add up to 257, at most 256");
}

TEST_F(AdapterMergeTest, BoundsTheBytesOfAMerge) {
  const MergeRecipe recipe = RecipeOf(MergeMethod::kLinear, {OfRank(4, 1), OfRank(4, 2)});
  constexpr int64_t kBytes = 2 * 4 * kLittleHidden * 4;
  EXPECT_TRUE(BuildMerge(loader_, recipe, kBytes).ok());
  ExpectRefused(recipe,
                absl::StrCat("the merge would have ", kBytes, " bytes, at most ", kBytes - 1),
                kBytes - 1);
}

TEST_F(AdapterMergeTest, RefusesNormsAndBiases) {
  MadeAdapter dora = OfRank(4, 1);
  dora.config["use_dora"] = "true";
  dora.AddMagnitude(0, LoraModule::kQ);
  ExpectRefused(RecipeOf(MergeMethod::kLinear, {OfRank(4, 2), dora}),
                "part 2 of the merge has DoRA");
  MadeAdapter bias = OfRank(4, 1);
  bias.config["lora_bias"] = "true";
  bias.Add("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "F32", {kLittleHidden});
  ExpectRefused(RecipeOf(MergeMethod::kLinear, {bias, OfRank(4, 2)}),
                "part 1 of the merge has biases of lora_B (lora_bias)");
}

TEST_F(AdapterMergeTest, WhatOverflowsNamesThePartAndItsTensor) {
  MadeAdapter huge = OfRank(4, 1);
  for (TensorToWrite& tensor : huge.tensors) {
    tensor.data = BytesOf(std::vector<float>(tensor.data.size() / sizeof(float), 3e38f));
  }
  for (const MergeMethod method : {MergeMethod::kCat, MergeMethod::kLinear, MergeMethod::kTies,
                                   MergeMethod::kMagnitudePrune}) {
    MergeRecipe recipe = RecipeOf(method, {OfRank(4, 2), huge});  // its scale is 2, its weight 0.5
    EXPECT_TRUE(BuildMerge(loader_, recipe).ok()) << MergeMethodName(method);
    recipe.parts[1].weight = 0.7;
    ExpectRefused(recipe,
                  "part 2 of the merge: model.layers.0.self_attn.q_proj.lora_A times its weight is "
                  "too large for a float: give it a smaller weight, or leave it out");
  }
}

TEST_F(AdapterMergeTest, RefusesACopyOfTheBase) {
  const auto loader = MakeLoader(Runner("untied"));
  const GenerationPtr part = Identified(*loader, Adapters(), "head");
  const absl::Status status =
      BuildMerge(*loader, {{.method = MergeMethod::kLinear}, {{part}, {part}}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("save_embedding_layers=False"));
}

TEST_F(AdapterMergeTest, APartThatChangedIsDataLoss) {
  const MergeRecipe recipe = RecipeOf(MergeMethod::kLinear, {OfRank(4, 1), OfRank(4, 2)});
  const auto source = MakeMergedSource(&loader_, recipe);
  const GenerationPtr merged = Identified(loader_, source, "merge");
  EXPECT_TRUE(loader_.LoadImage(*merged).ok());
  OfRank(4, 3).WriteTo(folder_, "part-1");
  EXPECT_TRUE(absl::IsDataLoss(loader_.LoadImage(*merged).status()));
  OfRank(4, 2).WriteTo(folder_, "part-1");  // the same again, under a new stamp
  EXPECT_TRUE(loader_.LoadImage(*merged).ok());
}

}  // namespace
}  // namespace lorica::peft
