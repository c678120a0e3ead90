// Goal: a step has the same bits whenever it is run again, whatever ran in between: prompts of
// more rows than our own products take, chunks of them, and rows that decode beside them.
#include <gtest/gtest.h>

#include <list>
#include <random>

#include "kernels/plugin.h"
#include "server/models/model.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/kernels/kernel_test.h"

namespace lorica {
namespace {

using ::lorica::testing::AddSpan;
using ::lorica::testing::LoraPair;
using ::lorica::testing::MountPairs;
using ::lorica::testing::PoisonedArena;
using ::lorica::testing::RandomMatrix;
using ::lorica::testing::SameBits;
using ::lorica::testing::TestAdapter;

constexpr int kRowsMax = 700;
constexpr int kBlocks = 1000;
// Two layers of Mistral 7B: products that the library may split along their inputs.
constexpr char kShape[] = R"({"architectures": ["MistralForCausalLM"], "model_type": "mistral",
  "hidden_act": "silu", "torch_dtype": "bfloat16", "tie_word_embeddings": false,
  "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 2,
  "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
  "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
  "bos_token_id": 1, "eos_token_id": 2})";

class EqualSteps : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
    auto backend = MakeBackend(GetParam(), {.rows_max = kRowsMax});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    folder_.Write("config.json", kShape);
    auto model =
        Model::Load(folder_.path(), backend_.get(),
                    {.rows_max = kRowsMax, .samples_max = 8, .load_format = LoadFormat::kDummy});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    ASSERT_TRUE(model_->ChooseProducts().ok());
    arena_ = std::make_unique<PoisonedArena>(*backend_, model_->config().attention(), kBlocks);
    for (const int rank : {7, 16, 64}) AddAdapter(rank);
  }

  void AddAdapter(int rank) {
    TestAdapter& adapter = adapters_.emplace_back();
    const DType dtype = backend_->TileDType(DType::kBF16);
    for (const LoraTarget& target : model_->lora_targets()) {
      if (target.module >= LoraModule::kEmbedding) continue;
      LoraPair& pair = adapter.pairs.emplace_back();
      pair.layer = target.layer;
      pair.module = target.module;
      pair.rank = rank;
      pair.a = RandomMatrix(dtype, rank, target.in_features, random_, 0.02f);
      pair.b = RandomMatrix(dtype, target.out_features, rank, random_, 0.02f);
    }
    MountPairs(*backend_, *arena_, adapter);
  }

  struct Request {
    int length;
    int adapter;  // -1: the base
    std::vector<BlockId> pages;
  };
  Request MakeRequest(int length, int adapter) {
    return {length, adapter, arena_->Take(length / kBlockTokens + 1)};
  }

  // Rows [begin, end) of each request, a sample at the end of each.
  struct Part {
    const Request* request;
    int begin, end;
  };
  std::vector<float> Logits(const std::vector<Part>& parts) {
    StepBatch batch;
    for (const auto& [request, begin, end] : parts) {
      const auto row = static_cast<int32_t>(batch.rows());
      AddSpan(batch, begin, end - begin, request->pages);
      for (int i = begin; i < end; ++i) {
        batch.tokens[row + i - begin] = (i * 7919 + request->length) % 32000;
      }
      const auto slot = static_cast<int32_t>(batch.samples.size());
      batch.samples.push_back({.row = row + end - begin - 1, .slot = slot});
      if (request->adapter < 0) continue;
      batch.segments.push_back({row, end - begin, static_cast<int32_t>(batch.terms.size()), 1});
      const auto adapter = std::next(adapters_.begin(), request->adapter);
      batch.terms.push_back({adapter->mounted.get(), 1.0f});
    }
    model_->Forward(batch, arena_->cache());
    const int64_t samples = std::ssize(batch.samples), columns = model_->config().vocabulary;
    std::vector<SampleResult> results(samples);
    backend_->Sample(model_->logits(), static_cast<int32_t>(columns), absl::MakeSpan(results));
    backend_->EndStep();
    EXPECT_TRUE(backend_->AwaitStep().ok());
    for (const SampleResult& result : results) EXPECT_TRUE(result.finite);
    std::vector<float> logits(samples * columns);
    backend_->Download(logits.data(), model_->logits().data,
                       static_cast<int64_t>(logits.size() * sizeof(float)));
    return logits;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<PoisonedArena> arena_;
  std::list<TestAdapter> adapters_;
  std::mt19937_64 random_{20261128};
};

TEST_P(EqualSteps, HaveEqualBitsWhateverRanInBetween) {
  const Request base = MakeRequest(300, -1), one = MakeRequest(200, 0), two = MakeRequest(400, 1);
  const Request three = MakeRequest(60, 2), other = MakeRequest(650, 2);
  const std::vector<std::vector<Part>> steps = {
      {{&base, 0, 300}, {&one, 0, 200}, {&three, 0, 59}},  // prompts, base and adapters
      {{&base, 299, 300}, {&two, 0, 399}},                 // one beside a row that decodes
      {{&base, 299, 300}, {&one, 199, 200}, {&two, 399, 400}, {&three, 59, 60}}};
  std::vector<std::vector<float>> first;
  for (const auto& step : steps) first.push_back(Logits(step));
  for (int round = 0; round < 3; ++round) {
    Logits({{&other, 0, 600 + round}});
    for (size_t i = 0; i < steps.size(); ++i) {
      const std::vector<float> again = Logits(steps[i]);
      ASSERT_EQ(again.size(), first[i].size());
      EXPECT_TRUE(SameBits(again.data(), first[i].data(), std::ssize(again)))
          << "step " << i << ", round " << round;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EqualSteps, ::testing::Values("cuda", "cuda_f16"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace lorica
