// Models of a shape alone: config.json and nothing else.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/half.h"
#include "kernels/noise.h"
#include "server/models/model.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

const std::string kShapes = std::string(LORICA_TEST_DATA) + "/shapes";

struct Loaded {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
};

absl::StatusOr<Loaded> Load(const std::string& path) {
  Loaded loaded;
  loaded.backend = *MakeCpuBackend({.threads = 1});
  auto model = Model::Load(path, loaded.backend.get(), {.load_format = LoadFormat::kDummy});
  if (!model.ok()) return model.status();
  loaded.model = *std::move(model);
  return loaded;
}

std::vector<float> LogitsOf(Loaded& loaded, const std::vector<int32_t>& tokens) {
  KvCache cache;
  cache.shape = loaded.model->config().attention();
  cache.block_bytes = loaded.backend->BlockBytesFor(cache.shape);
  auto arena = loaded.backend->Allocate(cache.block_bytes);
  cache.arena = (*arena)->data();
  StepBatch batch;
  const auto rows = static_cast<int32_t>(tokens.size());
  batch.tokens = tokens;
  for (int32_t row = 0; row < rows; ++row) batch.positions.push_back(row);
  batch.pages = {0};
  batch.spans = {{.row_count = rows, .page_count = 1}};
  batch.samples = {{.row = rows - 1}};
  loaded.model->Forward(batch, cache);
  std::vector<float> logits(loaded.model->config().vocabulary);
  loaded.backend->Download(logits.data(), loaded.model->logits().data,
                           static_cast<int64_t>(logits.size() * sizeof(float)));
  return logits;
}

TEST(Noise, IsUniformWithinItsBoundAndDependsOnSeedAndPlace) {
  constexpr float kBound = 0.25f;
  constexpr int kCount = 100'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const float value = FloatFromBfloat(NoiseBf16(7, i, kBound));
    ASSERT_LE(std::abs(value), kBound);
    sum += value;
    squares += value * value;
  }
  // A uniform distribution's deviation is bound / sqrt(3); the mean's is that / sqrt(count).
  const double deviation = kBound / std::sqrt(3.0);
  EXPECT_NEAR(sum / kCount, 0.0, 5 * deviation / std::sqrt(kCount));
  EXPECT_NEAR(std::sqrt(squares / kCount), deviation, 0.01 * deviation);
  EXPECT_NE(NoiseBf16(7, 0, kBound), NoiseBf16(8, 0, kBound));
  EXPECT_EQ(NoiseBf16(7, 5, kBound), NoiseBf16(7, 5, kBound));
}

TEST(RandomWeights, AShapeAloneServesAndRepeats) {
  auto first = Load(kShapes + "/tiny"), second = Load(kShapes + "/tiny");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  const Model& model = *first->model;
  EXPECT_EQ(model.config().name, "tiny");
  EXPECT_EQ(model.config().end_tokens, std::vector<int32_t>{2});
  EXPECT_EQ(model.weight_format(), "random BF16");
  EXPECT_EQ(model.lora_targets().size(), 7u * 2 + 2);  // linears of two layers; embedding, head
  EXPECT_TRUE(model.text().tokenizer_json.empty());
  const std::vector<float> logits = LogitsOf(*first, {1, 17, 400});
  double squares = 0;
  for (const float logit : logits) squares += double{logit} * logit;
  const double size = std::sqrt(squares / logits.size());
  EXPECT_GT(size, 0.5);
  EXPECT_LT(size, 2.0);
  EXPECT_EQ(logits, LogitsOf(*second, {1, 17, 400}));
  EXPECT_NE(logits, LogitsOf(*second, {1, 17, 401}));
}

TEST(RandomWeights, TakeATokenizerThatLiesBesideTheShape) {
  const TemporaryFolder folder;
  std::filesystem::copy(kShapes + "/tiny", folder.path());
  folder.Write("tokenizer.json", "{}");
  EXPECT_EQ(Load(folder.path())->model->text().tokenizer_json, "{}");
}

// Serves nothing, and remembers what it was asked.
struct AskedBackend : FakeBackend {
  mutable AttentionShape shape;
  mutable ModelSizes sizes;
  absl::Status CheckSizes(const AttentionShape& asked,
                          const ModelSizes& sizes_asked) const override {
    shape = asked;
    sizes = sizes_asked;
    return absl::InvalidArgumentError("not these");
  }
};

TEST(RandomWeights, TheShapesThatAreThereAreThoseOfTheirNames) {
  struct Case {
    const char* name;
    int layers, heads, kv_heads;
    int64_t hidden, ffn, vocabulary;
  };
  for (const Case& c : {Case{"mistral-7b", 32, 32, 8, 4096, 14336, 32000},
                        Case{"llama-3-8b", 32, 32, 8, 4096, 14336, 128256},
                        Case{"llama-3-70b", 80, 64, 8, 8192, 28672, 128256}}) {
    SCOPED_TRACE(c.name);
    AskedBackend backend;
    const auto model =
        Model::Load(kShapes + "/" + c.name, &backend, {.load_format = LoadFormat::kDummy});
    EXPECT_EQ(model.status(), absl::InvalidArgumentError("not these"));
    EXPECT_EQ(backend.shape.layers, c.layers);
    EXPECT_EQ(backend.shape.heads, c.heads);
    EXPECT_EQ(backend.shape.kv_heads, c.kv_heads);
    EXPECT_EQ(backend.shape.head_size, 128);
    EXPECT_EQ(backend.sizes.hidden, c.hidden);
    EXPECT_EQ(backend.sizes.ffn, c.ffn);
    EXPECT_EQ(backend.sizes.vocabulary, c.vocabulary);
  }
}

// Of a step's pages, too: as many requests as it has rows and samples for, of the whole context.
TEST(RandomWeights, ADeviceIsAskedWhetherItServesTheSizes) {
  AskedBackend backend;
  Model::Options options = {.rows_max = 5, .samples_max = 3, .load_format = LoadFormat::kDummy};
  const auto load = [&] { return Model::Load(kShapes + "/tiny", &backend, options).status(); };
  EXPECT_EQ(load(), absl::InvalidArgumentError("not these"));
  EXPECT_EQ(backend.sizes.hidden, 256);
  EXPECT_EQ(backend.sizes.ffn, 512);
  EXPECT_EQ(backend.sizes.vocabulary, 1000);
  EXPECT_EQ(backend.sizes.pages, 3 * 2048 / kBlockTokens);
  options.context_tokens = 33;
  options.rows_max = 2;
  EXPECT_FALSE(load().ok());
  EXPECT_EQ(backend.sizes.pages, 2 * 3);
}

TEST(RandomWeights, NeedAFolderWithAConfig) {
  const auto file = Load(kShapes + "/tiny/config.json");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << file.status();
  EXPECT_EQ(Load(kShapes).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace lorica
