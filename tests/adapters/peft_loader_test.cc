#include "adapters/peft_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "adapters/sha256.h"
#include "tests/fakes/image_reader.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fakes/meddling_source.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int64_t kBlockBytes = 128 << 10;
const char kPrefix[] = "base_model.model.";

class PeftLoaderTest : public ::testing::Test {
 protected:
  absl::StatusOr<AdapterPlan> Plan(const MadeAdapter& adapter) {
    adapter.WriteTo(folder_, "a");
    return loader_.Plan(*source_, "a");
  }
  absl::StatusOr<std::shared_ptr<const LoraImage>> Load(const MadeAdapter& adapter) {
    adapter.WriteTo(folder_, "a");
    const auto generation = loader_.Identify(source_, "a");
    if (!generation.ok()) return generation.status();
    auto image = loader_.LoadImage(**generation);
    const absl::Status checked = loader_.CheckWeights(**generation);
    EXPECT_EQ(checked.code(), image.status().code());
    EXPECT_TRUE(absl::EndsWith(image.status().message(), checked.message())) << checked;
    return image;
  }
  void ExpectRefused(const MadeAdapter& adapter, const std::string& reason) {
    const absl::Status status = Plan(adapter).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
    EXPECT_LT(status.message().size(), 1024u);
  }
  void ExpectWeightsRefused(const std::string& weights, const std::string& reason) {
    folder_.Write("a/adapter_config.json", SmallestAdapter().ConfigText());
    folder_.Write("a/adapter_model.safetensors", weights);
    const absl::Status status = loader_.Identify(source_, "a").status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  }
  // Rank and scale of the only module.
  std::pair<int, double> Scale(const MadeAdapter& adapter) {
    const auto plan = Plan(adapter);
    EXPECT_TRUE(plan.ok()) << plan.status();
    if (!plan.ok()) return {};
    EXPECT_EQ(plan->layout[0].scale, static_cast<float>(plan->modules[0].scale));
    return {plan->modules[0].rank, plan->modules[0].scale};
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  std::shared_ptr<Source> source_ = *MakeLocalSource(folder_.path());
  PeftLoader loader_{model_.targets(), &backend_, kBlockBytes};
};

// The image holds the file's matrices, bit for bit, and zeros in the ranks above.
void ExpectSame(const LoraImage& image, const MadeAdapter& adapter) {
  size_t pairs = 0;
  for (const ModuleTiles& module : image.modules) {
    const std::string name = kPrefix + LittleModel::Name(module.layer, module.module);
    const std::vector<float>& a = adapter.values.at(name + ".lora_A.weight");
    const std::vector<float>& b = adapter.values.at(name + ".lora_B.weight");
    const std::vector<float> image_a = ReadA(image, module);
    const std::vector<float> image_b = ReadB(image, module);
    for (int rank = 0; rank < module.padded_rank(); ++rank) {
      const bool stored = rank < module.rank;
      for (int i = 0; i < module.in_features; ++i) {
        const int64_t at = int64_t{rank} * module.in_features + i;
        ASSERT_EQ(image_a[at], stored ? a[at] : 0.0f) << name << " A " << rank << " " << i;
      }
      for (int o = 0; o < module.out_features; ++o) {
        ASSERT_EQ(image_b[int64_t{o} * module.padded_rank() + rank],
                  stored ? b[int64_t{o} * module.rank + rank] : 0.0f)
            << name << " B " << rank << " " << o;
      }
    }
    ++pairs;
  }
  EXPECT_EQ(pairs * 2, adapter.tensors.size());
}

TEST_F(PeftLoaderTest, PacksEveryModuleExactly) {
  MadeAdapter adapter;
  adapter.config["r"] = "12";
  for (int layer = 0; layer < kLittleLayers; ++layer) {
    for (int m = 0; m < kLoraModuleCount; ++m) {
      adapter.AddPair(layer, static_cast<LoraModule>(m), 12, "BF16");
    }
  }
  const auto image = Load(adapter);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->modules.size(), 14u);
  EXPECT_EQ((*image)->layer_count, 2);
  EXPECT_EQ((*image)->block_bytes, kBlockBytes);
  EXPECT_FALSE((*image)->dora);
  EXPECT_LT((*image)->block_count * kBlockBytes - (*image)->exact_tile_bytes, kBlockBytes);
  ExpectSame(**image, adapter);
}

TEST_F(PeftLoaderTest, PacksEveryRankAndDtypeExactly) {
  for (const int rank : {1, 4, 7, 8, 9, 31, 64, 256}) {
    for (const char* dtype : {"F32", "F16", "BF16"}) {
      MadeAdapter adapter;
      adapter.config["r"] = absl::StrCat(rank);
      adapter.AddPair(1, LoraModule::kDown, rank, dtype);
      adapter.AddPair(0, LoraModule::kK, rank, dtype);
      const auto image = Load(adapter);
      ASSERT_TRUE(image.ok()) << image.status();
      EXPECT_EQ(DTypeName((*image)->modules[0].dtype), dtype);
      ExpectSame(**image, adapter);
    }
  }
}

TEST_F(PeftLoaderTest, StoresMixedDtypesInTheWiderOne) {
  MadeAdapter adapter;
  adapter.AddPair(0, LoraModule::kQ, 4, "F16", "BF16");
  adapter.AddPair(0, LoraModule::kV, 4, "BF16", "F32");
  const auto image = Load(adapter);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->modules[0].dtype, DType::kF32);
  ExpectSame(**image, adapter);
}

TEST_F(PeftLoaderTest, ConvertsToTheTypeOfTheDevice) {
  backend_.tile_dtype = DType::kBF16;
  MadeAdapter adapter = SmallestAdapter();
  adapter.AddPair(1, LoraModule::kV, 4, "F16");
  const auto image = Load(adapter);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ((*image)->modules[0].dtype, DType::kBF16);
  ExpectSame(**image, adapter);
}

TEST_F(PeftLoaderTest, ValuesTooLargeForTheDeviceAreRefused) {
  MadeAdapter adapter = SmallestAdapter();
  std::vector<float> large(40 * 4, 1e30f);
  adapter.tensors[1].data = BytesOf(large);
  EXPECT_TRUE(Load(adapter).ok());
  backend_.tile_dtype = DType::kF16;
  const absl::Status status = Load(adapter).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("q_proj.lora_B holds a value that is too"));
}

TEST_F(PeftLoaderTest, NanAndInfinityAreDataLoss) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    MadeAdapter adapter = SmallestAdapter();
    std::memcpy(adapter.tensors[0].data.data() + 40, &bad, 4);
    const absl::Status status = Load(adapter).status();
    EXPECT_THAT(status.ToString(), StartsWith("DATA_LOSS: 'a': model.layers.0.self_attn.q_proj"));
    EXPECT_THAT(status.ToString(), HasSubstr("lora_A holds NaN or infinity: save the adapter"));
  }
  MadeAdapter tiny = SmallestAdapter();
  const float denormal = std::numeric_limits<float>::denorm_min();
  std::memcpy(tiny.tensors[0].data.data() + 40, &denormal, 4);
  tiny.values[tiny.tensors[0].name][10] = denormal;
  const auto image = Load(tiny);
  ASSERT_TRUE(image.ok());
  ExpectSame(**image, tiny);
}

TEST_F(PeftLoaderTest, ScaleIsAlphaOverRank) {
  MadeAdapter adapter = SmallestAdapter();  // rank 4
  adapter.config["lora_alpha"] = "10";
  EXPECT_EQ(Scale(adapter), std::pair(4, 2.5));
  adapter.config["use_rslora"] = "true";
  EXPECT_EQ(Scale(adapter), std::pair(4, 5.0));
  adapter.config["alpha_pattern"] = R"({"k_proj":1,"self_attn.q_proj":6})";
  EXPECT_EQ(Scale(adapter), std::pair(4, 3.0));
  adapter.config["r"] = "64";
  adapter.config["rank_pattern"] = R"({"layers.0.*":4,"q_proj":9})";
  EXPECT_EQ(Scale(adapter), std::pair(4, 3.0));
  adapter.config["lora_alpha"] = "0";
  adapter.config.erase("alpha_pattern");
  EXPECT_EQ(Scale(adapter), std::pair(4, 0.0));
  adapter.config["lora_alpha"] = "-16";
  EXPECT_EQ(Scale(adapter), std::pair(4, -8.0));
  adapter.config["lora_alpha"] = "1e308";
  ExpectRefused(adapter, "the scale 5e+307 is too large");
}

TEST_F(PeftLoaderTest, RanksOfModulesFollowThePatterns) {
  MadeAdapter adapter;
  adapter.config["r"] = "8";
  adapter.config["rank_pattern"] = R"({"mlp.down_proj":4,"model.layers.1.self_attn.q_proj":12})";
  adapter.AddPair(0, LoraModule::kQ, 8);
  adapter.AddPair(1, LoraModule::kQ, 12);
  adapter.AddPair(1, LoraModule::kDown, 4);
  const auto plan = Plan(adapter);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->rank_max, 12);
  EXPECT_EQ(plan->modules[0].scale, 1.0);
  EXPECT_EQ(plan->modules[1].scale, 8.0 / 12);
  EXPECT_EQ(plan->modules[2].scale, 2.0);
  adapter.config["rank_pattern"] = "{}";
  ExpectRefused(adapter,
                "layers.1.self_attn.q_proj: the file has rank 12, adapter_config.json "
                "says 8 (r)");
  adapter.config["rank_pattern"] = R"({"q_proj":12,"down_proj":4})";
  ExpectRefused(adapter, "the file has rank 8, adapter_config.json says 12 (rank_pattern)");
}

TEST_F(PeftLoaderTest, ToleratesOtherSaversNames) {
  MadeAdapter plain = SmallestAdapter();
  for (TensorToWrite& tensor : plain.tensors) tensor.name = tensor.name.substr(strlen(kPrefix));
  EXPECT_TRUE(Plan(plain).ok()) << Plan(plain).status();
  MadeAdapter infix = SmallestAdapter();
  infix.tensors[0].name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight";
  EXPECT_TRUE(Plan(infix).ok()) << Plan(infix).status();
  infix.tensors[0].name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.a.b.weight";
  ExpectRefused(infix, "not LoRA tensors");
}

TEST_F(PeftLoaderTest, RefusesTwoTensorsForOnePlace) {
  MadeAdapter adapter = SmallestAdapter();
  TensorToWrite again = adapter.tensors[0];
  again.name = again.name.substr(strlen(kPrefix));
  adapter.tensors.push_back(again);
  ExpectRefused(adapter, "twice");
}

TEST_F(PeftLoaderTest, RefusesIncompletePairs) {
  MadeAdapter no_b = SmallestAdapter();
  no_b.tensors.pop_back();
  ExpectRefused(no_b, "lora_B is missing for 'model.layers.0.self_attn.q_proj'");
  MadeAdapter no_a = SmallestAdapter();
  no_a.tensors.erase(no_a.tensors.begin());
  ExpectRefused(no_a, "lora_A is missing for");
  MadeAdapter nothing;
  ExpectRefused(nothing, "holds no LoRA tensors");
}

TEST_F(PeftLoaderTest, RefusesShapesOfOtherModels) {
  MadeAdapter swapped = SmallestAdapter();
  std::swap(swapped.tensors[0].shape, swapped.tensors[1].shape);
  ExpectRefused(swapped, "lora_A is [40, 4] and lora_B [4, 40], this base model needs [rank, 40]");
  MadeAdapter wide;
  wide.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_A.weight"), "F32", {4, 48});
  wide.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_B.weight"), "F32", {40, 4});
  ExpectRefused(wide, "lora_A is [4, 48]");
  MadeAdapter ranks;
  ranks.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_A.weight"), "F32", {4, 40});
  ranks.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_B.weight"), "F32", {40, 5});
  ExpectRefused(ranks, "lora_A has rank 4, lora_B has rank 5");
  MadeAdapter flat;
  flat.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_A.weight"), "F32", {160});
  flat.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_B.weight"), "F32", {});
  ExpectRefused(flat, "lora_A is [160] and lora_B []");
  MadeAdapter empty;
  empty.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_A.weight"), "F32", {0, 40});
  empty.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_B.weight"), "F32", {40, 0});
  ExpectRefused(empty, "rank 0 is not from 1 to 256");
}

TEST_F(PeftLoaderTest, BoundsTheRankOfTensors) {
  MadeAdapter adapter;
  adapter.config["r"] = "256";
  adapter.AddPair(0, LoraModule::kK, kLoraRankMax);
  EXPECT_TRUE(Plan(adapter).ok());
  adapter.tensors.clear();
  adapter.AddPair(0, LoraModule::kK, kLoraRankMax + 1);
  ExpectRefused(adapter, "rank 257 is not from 1 to 256");
}

TEST_F(PeftLoaderTest, RefusesDtypesThatAreNotServed) {
  for (const auto& [dtype, bytes] :
       std::map<std::string, int>{{"F64", 8}, {"I8", 1}, {"F8_E4M3", 1}, {"I64", 8}}) {
    MadeAdapter adapter = SmallestAdapter();
    adapter.tensors[1].dtype = dtype;
    adapter.tensors[1].data = std::string(160 * bytes, '\0');
    ExpectRefused(adapter, absl::StrCat("has dtype ", dtype, ": F32, F16 and BF16"));
  }
}

TEST_F(PeftLoaderTest, RefusesModulesThatTheBaseLacks) {
  for (const char* module :
       {"model.layers.999.self_attn.q_proj", "model.layers.0.self_attn.qkv_proj", "lm_head",
        "model.layers.0.block_sparse_moe.experts.3.w1", "self_attn.q_proj", ""}) {
    MadeAdapter adapter = SmallestAdapter();
    adapter.Add(absl::StrCat(kPrefix, module, ".lora_A.weight"), "F32", {4, 40});
    adapter.Add(absl::StrCat(kPrefix, module, ".lora_B.weight"), "F32", {40, 4});
    ExpectRefused(adapter, absl::StrCat("the base model has no such linears"));
    ExpectRefused(adapter, absl::StrCat("'", module, "'"));
  }
}

TEST_F(PeftLoaderTest, ListsTenNamesAtMost) {
  MadeAdapter adapter = SmallestAdapter();
  for (int i = 100; i < 115; ++i) {
    adapter.Add(absl::StrCat(kPrefix, "model.layers.", i, ".self_attn.q_proj.lora_A.weight"), "F32",
                {4, 40});
  }
  ExpectRefused(adapter, "layers.109.self_attn.q_proj' and 5 more");
  const std::string message(Plan(adapter).status().message());
  EXPECT_THAT(message, Not(HasSubstr("layers.110")));
}

TEST_F(PeftLoaderTest, RefusesEachForeignTensorWithItsOwnText) {
  const std::pair<const char*, const char*> cases[] = {
      {"model.embed_tokens.weight", "modules_to_save"},
      {"lm_head.weight", "modules_to_save"},
      {"model.layers.0.self_attn.q_proj.base_layer.bias", "trained biases"},
      {"model.layers.0.self_attn.q_proj.lora_B.bias", "lora_bias"},
      {"model.layers.0.self_attn.q_proj.lora_embedding_A", "not LoRA tensors"},
      {"model.layers.0.self_attn.q_proj.lora_diag", "KaSA"},
      {"model.embed_tokens.token_adapter.trainable_tokens_delta", "trainable_token_indices"},
      {"model.layers.0.mlp.experts.base_layer.lora_A.weight", "target_parameters"},
      {"something", "not LoRA tensors"},
      {"model.layers.0.self_attn.q_proj.lora_A", "not LoRA tensors"},
      {"model.layers.0.self_attn.q_proj.lora_C.weight", "not LoRA tensors"},
  };
  for (const auto& [name, reason] : cases) {
    MadeAdapter adapter = SmallestAdapter();
    adapter.Add(absl::StrCat(kPrefix, name), "F32", {4, 40});
    ExpectRefused(adapter, reason);
  }
}

TEST_F(PeftLoaderTest, WarnsWhereLayersToTransformAndTensorsDiffer) {
  MadeAdapter adapter = SmallestAdapter();
  for (const char* right : {"0", "[0]", "[1, 0]", "null"}) {
    adapter.config["layers_to_transform"] = right;
    EXPECT_TRUE(Plan(adapter)->warnings.empty()) << right;
  }
  adapter.config["layers_to_transform"] = "[1]";
  const auto plan = Plan(adapter);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->warnings, ElementsAre(HasSubstr("'model.layers.0.self_attn.q_proj'")));
}

TEST_F(PeftLoaderTest, WarnsWhereTargetModulesAndTensorsDiffer) {
  MadeAdapter adapter = SmallestAdapter();
  adapter.config["target_modules"] = R"(["q_proj"])";
  EXPECT_TRUE(Plan(adapter)->warnings.empty());
  adapter.config["target_modules"] = R"(["v_proj"])";
  const auto plan = Plan(adapter);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->warnings, Contains(HasSubstr("'model.layers.0.self_attn.q_proj'")));
  EXPECT_THAT(plan->warnings, Contains(HasSubstr("no weights for: 'v_proj'")));
  for (const char* targets : {"\"all-linear\"", "\".*nothing\"", "null", "5"}) {
    adapter.config["target_modules"] = targets;
    EXPECT_TRUE(Plan(adapter).ok()) << targets;
  }
}

TEST_F(PeftLoaderTest, ComputesDoraGainsFromTheBase) {
  for (const char* suffix : {"", ".weight", ".default", ".default.weight"}) {
    MadeAdapter adapter;
    adapter.config["use_dora"] = "true";
    adapter.AddMagnitude(1, LoraModule::kV, suffix);
    adapter.AddPair(1, LoraModule::kV, 4);
    const auto image = Load(adapter);
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_TRUE((*image)->dora);
    const ModuleTiles& module = (*image)->modules[0];
    ASSERT_TRUE(module.has_gain);
    const std::string name = absl::StrCat(kPrefix, LittleModel::Name(1, LoraModule::kV));
    const std::vector<float>& a = adapter.values.at(name + ".lora_A.weight");
    const std::vector<float>& b = adapter.values.at(name + ".lora_B.weight");
    const std::vector<float>& m = adapter.values.at(name + ".lora_magnitude_vector" + suffix);
    const std::vector<float> gain = ReadGain(**image, module);
    for (int o = 0; o < kLittleKv; ++o) {
      double square = 0;
      for (int i = 0; i < kLittleHidden; ++i) {
        double value = model_.weight(1, LoraModule::kV).values[o * kLittleHidden + i];
        for (int r = 0; r < 4; ++r) value += 2.0 * b[o * 4 + r] * a[r * kLittleHidden + i];
        square += value * value;
      }
      EXPECT_NEAR(gain[o], m[o] / std::sqrt(square), 1e-6) << o;
    }
  }
}

TEST_F(PeftLoaderTest, RefusesDoraThatIsIncomplete) {
  MadeAdapter without = SmallestAdapter();
  without.config["use_dora"] = "true";
  ExpectRefused(without, "use_dora is true, but lora_magnitude_vector is missing for");
  MadeAdapter surplus = SmallestAdapter();
  surplus.AddMagnitude(0, LoraModule::kQ);
  ExpectRefused(surplus, "use_dora is not true");
  MadeAdapter short_vector = SmallestAdapter();
  short_vector.config["use_dora"] = "true";
  short_vector.Add(absl::StrCat(kPrefix, "model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
                   "F32", {39});
  ExpectRefused(short_vector, "lora_magnitude_vector is [39], this base model needs [40]");
}

TEST_F(PeftLoaderTest, DoraOnARowOfZerosIsDataLoss) {
  MadeAdapter adapter;
  adapter.config["use_dora"] = "true";
  adapter.AddPair(0, LoraModule::kK, 4);
  adapter.AddMagnitude(0, LoraModule::kK);
  adapter.tensors[1].data = std::string(adapter.tensors[1].data.size(), '\0');
  auto& weight = model_.weight(0, LoraModule::kK).values;
  std::fill(weight.begin(), weight.begin() + kLittleHidden, 0.0f);
  EXPECT_TRUE(absl::IsDataLoss(Load(adapter).status()));
}

TEST_F(PeftLoaderTest, RefusesTilesThatNoBlockHolds) {
  MadeAdapter adapter;
  adapter.AddPair(0, LoraModule::kUp, 4);  // tiles of 8 x 2048 fp32
  adapter.WriteTo(folder_, "a");
  PeftLoader fits(model_.targets(), &backend_, 64 << 10);
  PeftLoader small(model_.targets(), &backend_, (64 << 10) - 64);
  EXPECT_TRUE(fits.Plan(*source_, "a").ok());
  const absl::Status status = small.Plan(*source_, "a").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("65536 bytes"));
}

TEST_F(PeftLoaderTest, DigestIsOverBothFilesAndNothingElse) {
  const MadeAdapter adapter = SmallestAdapter();
  adapter.WriteTo(folder_, "a");
  const auto generation = loader_.Identify(source_, "a");
  ASSERT_TRUE(generation.ok()) << generation.status();
  const auto hash = [](const std::string& text) {
    Sha256 sha;
    sha.Update(text);
    return sha.Finish();
  };
  EXPECT_EQ(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ((*generation)->digest,
            hash(absl::StrCat("adapter_config.json ", hash(adapter.ConfigText()),
                              "\nadapter_model.safetensors ", hash(adapter.WeightsText()), "\n")));
  folder_.Write("a/README.md", "other");
  EXPECT_EQ((*loader_.Identify(source_, "a"))->digest, (*generation)->digest);
  adapter.WriteTo(folder_, "b");
  EXPECT_EQ((*loader_.Identify(source_, "b"))->digest, (*generation)->digest);
  SmallestAdapter(2).WriteTo(folder_, "a");
  EXPECT_NE((*loader_.Identify(source_, "a"))->digest, (*generation)->digest);
}

TEST_F(PeftLoaderTest, GenerationSaysWhatItWillTake) {
  const auto plan = Plan(SmallestAdapter());
  const auto generation = loader_.Identify(source_, "a");
  ASSERT_TRUE(plan.ok() && generation.ok());
  EXPECT_EQ((*generation)->block_count, plan->block_count);
  EXPECT_EQ((*generation)->exact_tile_bytes, 2 * 40 * 8 * 4);
  EXPECT_EQ((*generation)->module_count, 1);
  EXPECT_EQ((*generation)->rank_max, 4);
  EXPECT_EQ((*generation)->location, "a");
  EXPECT_EQ((*generation)->file_bytes, std::ssize(SmallestAdapter().WeightsText()));
}

TEST_F(PeftLoaderTest, TheSameContentWrittenAgainIsTheSameGeneration) {
  SmallestAdapter(1).WriteTo(folder_, "a");
  const auto generation = loader_.Identify(source_, "a");
  ASSERT_TRUE(generation.ok());
  SmallestAdapter(1).WriteTo(folder_, "a");
  EXPECT_TRUE(loader_.LoadImage(**generation).ok());
}

TEST_F(PeftLoaderTest, OtherContentWithTheTimeSetBackIsNoticed) {
  SmallestAdapter(1).WriteTo(folder_, "a");
  const auto generation = loader_.Identify(source_, "a");
  ASSERT_TRUE(generation.ok());
  const std::filesystem::path weights =
      std::filesystem::path(folder_.path()) / "a/adapter_model.safetensors";
  const auto before = std::filesystem::last_write_time(weights);
  SmallestAdapter(2).WriteTo(folder_, "a");
  std::filesystem::last_write_time(weights, before);
  EXPECT_TRUE(absl::IsDataLoss(loader_.LoadImage(**generation).status()));
}

TEST_F(PeftLoaderTest, ContentThatChangedSinceIdentifyIsDataLoss) {
  SmallestAdapter(1).WriteTo(folder_, "a");
  const auto generation = loader_.Identify(source_, "a");
  ASSERT_TRUE(generation.ok());
  ASSERT_TRUE(loader_.LoadImage(**generation).ok());
  SmallestAdapter(2).WriteTo(folder_, "a");  // same size, other values
  absl::Status status = loader_.LoadImage(**generation).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("changed while it was read: write a new"));
  MadeAdapter other_config = SmallestAdapter(1);
  other_config.config["lora_alpha"] = "9";
  other_config.WriteTo(folder_, "a");
  EXPECT_TRUE(absl::IsDataLoss(loader_.LoadImage(**generation).status()));
  folder_.Write("a/adapter_config.json", "{}");
  EXPECT_TRUE(absl::IsDataLoss(loader_.LoadImage(**generation).status()));
  folder_.Write("a/adapter_model.safetensors", "short");
  EXPECT_TRUE(absl::IsDataLoss(loader_.LoadImage(**generation).status()));
  fs::remove_all(fs::path(folder_.path()) / "a");
  EXPECT_TRUE(absl::IsNotFound(loader_.LoadImage(**generation).status()));
  SmallestAdapter(1).WriteTo(folder_, "a");
  EXPECT_TRUE(loader_.LoadImage(**generation).ok());
}

// Whatever happens to the file at whatever moment of a read, the answer is either the
// old content, whole, or DataLoss.
TEST_F(PeftLoaderTest, NeverMixesTwoContents) {
  const MadeAdapter adapter = SmallestAdapter();
  const fs::path file = fs::path(folder_.path()) / "a" / "adapter_model.safetensors";
  const std::function<void()> meddlings[] = {
      [&] { fs::resize_file(file, 500); },
      [&] { fs::resize_file(file, 1 << 20); },
      [&] { std::fstream(file, std::ios::in | std::ios::out).seekp(-4, std::ios::end) << "XYZ"; },
      [&] { std::fstream(file, std::ios::in | std::ios::out).seekp(4) << "XYZ"; },
  };
  for (const auto& meddle : meddlings) {
    for (int reads = 1; reads <= 4; ++reads) {
      adapter.WriteTo(folder_, "a");
      const auto known = loader_.Identify(source_, "a");
      ASSERT_TRUE(known.ok()) << known.status();
      auto source = std::make_shared<MeddlingSource>(source_, reads, meddle);
      // Length, header, rest: three reads.
      EXPECT_EQ(loader_.Identify(source, "a").ok(), reads > 3);
      adapter.WriteTo(folder_, "a");
      Generation generation = **known;
      generation.source = std::make_shared<MeddlingSource>(source_, reads, meddle);
      const auto image = loader_.LoadImage(generation);
      if (image.ok()) {
        ExpectSame(**image, adapter);
      } else {
        EXPECT_TRUE(absl::IsDataLoss(image.status())) << image.status();
      }
    }
  }
}

TEST_F(PeftLoaderTest, NamesWhatIsMissingOrOfAnotherFormat) {
  EXPECT_TRUE(absl::IsNotFound(loader_.Plan(*source_, "absent").status()));
  const std::string config = SmallestAdapter().ConfigText();
  const auto reason = [&](const std::string& location) {
    const absl::Status status = loader_.Identify(source_, location).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    return std::string(status.message());
  };
  for (const char* location : {"none", "bin", "pt", "shards"}) {
    folder_.Write(absl::StrCat(location, "/adapter_config.json"), config);
  }
  folder_.Write("bin/adapter_model.bin", "\x80\x02}q");
  folder_.Write("pt/adapter_model.pt", "PK\3\4");
  folder_.Write("shards/adapter_model.safetensors.index.json", "{}");
  EXPECT_THAT(reason("none"), HasSubstr("'none' has no adapter_model.safetensors"));
  EXPECT_THAT(reason("bin"), HasSubstr("only safetensors adapters are served: convert"));
  EXPECT_THAT(reason("pt"), HasSubstr("only safetensors adapters are served: convert"));
  EXPECT_THAT(reason("shards"), HasSubstr("sharded adapters are not served"));
}

TEST_F(PeftLoaderTest, NamesWhatWeightFilesReallyAre) {
  ExpectWeightsRefused("", "too few for a header length");
  ExpectWeightsRefused("1234567", "too few");
  ExpectWeightsRefused(std::string(8, '\0'), "does not begin with '{'");
  ExpectWeightsRefused(std::string("\x01\0\0\0\0\0\0\0x", 9), "does not begin with '{'");
  ExpectWeightsRefused("version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull");
  ExpectWeightsRefused("PK\x03\x04 and a long tail of a zip archive", "zip archive");
  ExpectWeightsRefused("\x80\x02}q and more of a pickle", "pickle");
  ExpectWeightsRefused("<!DOCTYPE html><html><body>404</body></html>", "HTML page");
  ExpectWeightsRefused(SmallestAdapter().WeightsText() + "PK", "tensors end at");
}

TEST_F(PeftLoaderTest, RefusesHugeFilesWithoutReadingThem) {
  SmallestAdapter().WriteTo(folder_, "a");
  const fs::path file = fs::path(folder_.path()) / "a" / "adapter_model.safetensors";
  fs::resize_file(file, kAdapterFileBytesMax + 1);  // sparse
  EXPECT_THAT(std::string(loader_.Identify(source_, "a").status().message()),
              HasSubstr("at most 4294967296 are served"));
  fs::resize_file(file, kAdapterFileBytesMax);
  EXPECT_THAT(std::string(loader_.Identify(source_, "a").status().message()),
              HasSubstr("tensors end at"));
  SmallestAdapter().WriteTo(folder_, "a");
  fs::resize_file(fs::path(folder_.path()) / "a" / "adapter_config.json", int64_t{1} << 30);
  EXPECT_THAT(std::string(loader_.Identify(source_, "a").status().message()),
              HasSubstr("adapter_config.json has 1073741824 bytes"));
}

TEST_F(PeftLoaderTest, OpensRegularFilesOnly) {
  SmallestAdapter().WriteTo(folder_, "a");
  const fs::path file = fs::path(folder_.path()) / "a" / "adapter_model.safetensors";
  fs::remove(file);
  ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(loader_.Identify(source_, "a").status()));
  fs::remove(file);
  fs::create_symlink("/etc/passwd", file);
  EXPECT_TRUE(absl::IsFailedPrecondition(loader_.Identify(source_, "a").status()));
}

}  // namespace
}  // namespace lorica
