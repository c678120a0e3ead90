// The decoder pass against references: a tiny Hugging Face folder and the real GGUF.
#include "server/models/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/fakes/temporary_folder.h"
#include "tests/fakes/test_paths.h"
#include "tests/server/models/model_runner.h"

namespace lorica {
namespace {

const std::string kReference = std::string(LORICA_TEST_DATA) + "/reference";

float LargestDifference(absl::Span<const float> a, absl::Span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0.0f;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    // Written so that NaN counts as large.
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  return largest;
}

bool SameBits(absl::Span<const float> a, absl::Span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

std::vector<int32_t> Prompt(const std::string& name) {
  return ReadJson(kReference + "/" + name).at("prompt_ids").get<std::vector<int32_t>>();
}

TEST(TinyLlama, LogitsOfEveryPositionEqualTheReference) {
  auto runner = ModelRunner::Open(kReference + "/tiny-llama", 2, 256);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const std::vector<int32_t> prompt = Prompt("tiny-llama.json");
  const std::vector<float> expected = ReadNpy(kReference + "/tiny_llama_logits.npy");
  const std::vector<float> logits = (*runner)->Logits(prompt, {128});
  EXPECT_LE(LargestDifference(logits, expected), 2e-4f);
}

TEST(TinyLlama, AnyChunkingGivesTheSameBits) {
  auto runner = ModelRunner::Open(kReference + "/tiny-llama", 2, 256);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const std::vector<int32_t> prompt = Prompt("tiny-llama.json");
  const std::vector<float> whole = (*runner)->Logits(prompt, {128});
  EXPECT_TRUE(SameBits(whole, (*runner)->Logits(prompt, {1})));
  EXPECT_TRUE(SameBits(whole, (*runner)->Logits(prompt, {16})));
  EXPECT_TRUE(SameBits(whole, (*runner)->Logits(prompt, {3, 17, 40, 1})));
}

TEST(TinyLlama, ThreadCountDoesNotChangeBits) {
  const std::vector<int32_t> prompt = Prompt("tiny-llama.json");
  auto one = ModelRunner::Open(kReference + "/tiny-llama", 1, 256);
  auto three = ModelRunner::Open(kReference + "/tiny-llama", 3, 256);
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_TRUE(SameBits((*one)->Logits(prompt, {50}), (*three)->Logits(prompt, {50})));
}

TEST(TinyLlama, TakesTextAndEndTokensFromTheFolder) {
  auto runner = ModelRunner::Open(kReference + "/tiny-llama", 1, 256);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const Model& model = (*runner)->model();
  EXPECT_EQ(model.config().end_tokens, (std::vector<int32_t>{257, 258}));
  EXPECT_EQ(model.config().bos_token, 256);
  EXPECT_EQ(model.text().bos_token, "<s>");
  EXPECT_EQ(model.text().eos_token, "</s>");
  EXPECT_NE(model.text().chat_template.find("bos_token"), std::string::npos);
  EXPECT_FALSE(model.text().tokenizer_json.empty());
  EXPECT_EQ(model.weight_format(), "safetensors BF16");
  EXPECT_EQ(model.lora_targets().size(), 2u * kLoraModuleCount + 2u);
}

TEST(TinyLlama, ContextBeyondTheModelsOwnIsRefused) {
  auto runner = ModelRunner::Open(kReference + "/tiny-llama", 1, 513);
  EXPECT_EQ(runner.status().code(), absl::StatusCode::kInvalidArgument) << runner.status();
  EXPECT_TRUE(ModelRunner::Open(kReference + "/tiny-llama", 1, 512).ok());
}

TEST(TinyLlama, AContextWithoutBoundIsServedUpToTheLimit) {
  TemporaryFolder folder;
  std::filesystem::copy(
      kReference + "/tiny-llama", folder.path(),
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  auto config = ReadJson(folder.path() + "/config.json");
  config["max_position_embeddings"] = 1 << 24;
  folder.Write("config.json", config.dump());
  auto backend = MakeCpuBackend({.threads = 1, .rows_max = 8});
  ASSERT_TRUE(backend.ok()) << backend.status();
  Model::Options options;
  options.rows_max = 8;
  options.samples_max = 8;
  auto model = Model::Load(folder.path(), backend->get(), options);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->context_tokens(), kContextTokensMax);
}

class SmolLm : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto runner = ModelRunner::Open(SmolLmPath(), 2, 1024);
    ASSERT_TRUE(runner.ok()) << runner.status();
    runner_ = std::move(*runner).release();
  }
  static void TearDownTestSuite() { delete runner_; }

  static ModelRunner::Adapter LoadAdapter(const std::string& root, const std::string& name) {
    auto adapter = runner_->Load(root, name);
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    return *std::move(adapter);
  }

  static std::vector<float> LastLogits(absl::Span<const int32_t> prompt,
                                       absl::Span<const LoraTerm> terms) {
    const std::vector<float> all = runner_->Logits(prompt, {100}, terms);
    const int64_t vocabulary = runner_->model().config().vocabulary;
    return std::vector<float>(all.end() - vocabulary, all.end());
  }

  static std::vector<int32_t> GoldenPrompt(const std::string& adapter) {
    for (const auto& entry : ReadJson(std::string(LORICA_TEST_DATA) + "/goldens.json")) {
      if (entry.at("adapter") == adapter) return entry.at("prompt_ids");
    }
    ADD_FAILURE() << "no golden of " << adapter;
    return {};
  }

  static ModelRunner* runner_;
};

ModelRunner* SmolLm::runner_ = nullptr;

TEST_F(SmolLm, BaseLogitsAreWithinTwoThousandthsOfTheGolden) {
  const std::vector<float> expected =
      ReadNpy(std::string(LORICA_TEST_DATA) + "/logits/logits_base_0.npy");
  EXPECT_LE(LargestDifference(LastLogits(GoldenPrompt("base"), {}), expected), 2e-3f);
}

TEST_F(SmolLm, EveryDemoAdapterIsWithinTwoThousandthsOfItsGolden) {
  for (const char* name :
       {"ticket-triage", "ticket-triage-dora", "text-to-sql", "intent", "headline"}) {
    const ModelRunner::Adapter adapter = LoadAdapter(DemoAdaptersPath(), name);
    const std::vector<float> expected =
        ReadNpy(std::string(LORICA_TEST_DATA) + "/logits/logits_" + name + "_0.npy");
    const LoraTerm term{adapter.mounted.get(), 1.0f};
    EXPECT_LE(LargestDifference(LastLogits(GoldenPrompt(name), {term}), expected), 2e-3f) << name;
  }
}

TEST_F(SmolLm, NerJsonIsWithinTwoThousandthsOfItsGolden) {
  const std::string root = FixtureAdaptersPath();
  if (root.empty()) GTEST_SKIP() << "LORICA_FIXTURES is not set: ner-json is not tested";
  const ModelRunner::Adapter adapter = LoadAdapter(root, "ner-json");
  const std::vector<float> expected =
      ReadNpy(std::string(LORICA_TEST_DATA) + "/logits/logits_ner-json_0.npy");
  const LoraTerm term{adapter.mounted.get(), 1.0f};
  EXPECT_LE(LargestDifference(LastLogits(GoldenPrompt("ner-json"), {term}), expected), 2e-3f);
}

TEST_F(SmolLm, RankStabilisedAdapterWithPatternsEqualsItsReference) {
  const ModelRunner::Adapter adapter = LoadAdapter(kReference, "rslora-mini");
  const LoraTerm term{adapter.mounted.get(), 1.0f};
  const auto entries = ReadJson(kReference + "/rslora-mini.json");
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto prompt = entries[i].at("prompt_ids").get<std::vector<int32_t>>();
    const std::vector<float> expected =
        ReadNpy(kReference + "/rslora_logits_" + std::to_string(i) + ".npy");
    EXPECT_LE(LargestDifference(LastLogits(prompt, {term}), expected), 2e-3f) << i;
    // The adapter must matter, or this test could not fail.
    EXPECT_GE(LargestDifference(LastLogits(prompt, {}), expected), 1.0f) << i;
  }
}

TEST_F(SmolLm, ChunkingUnderAnAdapterDoesNotChangeBits) {
  const ModelRunner::Adapter adapter = LoadAdapter(DemoAdaptersPath(), "ticket-triage-dora");
  const LoraTerm term{adapter.mounted.get(), 1.0f};
  const std::vector<int32_t> prompt = GoldenPrompt("ticket-triage-dora");
  const std::vector<float> whole = runner_->Logits(prompt, {100}, {term});
  EXPECT_TRUE(SameBits(whole, runner_->Logits(prompt, {1}, {term})));
  EXPECT_TRUE(SameBits(whole, runner_->Logits(prompt, {7, 16, 5}, {term})));
}

}  // namespace
}  // namespace lorica
