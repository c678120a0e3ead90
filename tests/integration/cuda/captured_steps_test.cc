// Goal: a decode step that is replayed gives the bits of the same step run verb by verb,
// whichever captured step holds it.
#include <gtest/gtest.h>

#include <list>
#include <random>

#include "kernels/plugin.h"
#include "server/models/model.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/kernels/kernel_test.h"

namespace lorica {
namespace {

using ::lorica::testing::LoraPair;
using ::lorica::testing::MountPairs;
using ::lorica::testing::PoisonedArena;
using ::lorica::testing::RandomPair;
using ::lorica::testing::TestAdapter;

constexpr int kRowsMax = 40;
constexpr int kBlocks = 400;
constexpr int kRank = 9;            // of adapters
constexpr uint64_t kArenaSeed = 1;  // its first pages hold block 0

class CapturedSteps : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
    auto backend = MakeBackend("cuda", {.rows_max = 64});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    auto model =
        Model::Load(std::string(LORICA_TEST_DATA) + "/shapes/tiny", backend_.get(),
                    {.rows_max = 64, .samples_max = kRowsMax, .load_format = LoadFormat::kDummy});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    // Of zeros: rows look back at positions where nobody has written.
    arena_ = std::make_unique<PoisonedArena>(*backend_, model_->config().attention(), kBlocks,
                                             kArenaSeed, std::byte{0});
    pages_ = arena_->Take(kRowsMax + 1);
    ASSERT_EQ(std::erase(pages_, 0), 1u) << "captures write there, so no adapter may have it";
  }

  // `rows` requests, each in a block of its own, at a position of its own.
  StepBatch Step(int rows) const {
    StepBatch batch;
    for (int row = 0; row < rows; ++row) {
      batch.tokens.push_back(37 * row % 1000);
      batch.positions.push_back(row % kBlockTokens);
      batch.pages.push_back(pages_[row]);
      batch.spans.push_back({.row_begin = row,
                             .row_count = 1,
                             .position_begin = row % kBlockTokens,
                             .page_begin = row,
                             .page_count = 1});
      batch.samples.push_back({.row = row, .slot = row});
    }
    return batch;
  }
  std::vector<float> Logits(int rows) { return Logits(Step(rows)); }
  std::vector<float> Logits(const StepBatch& batch) {
    const auto rows = static_cast<int>(batch.rows());
    model_->Forward(batch, arena_->cache());
    std::vector<SampleResult> results(rows);
    backend_->Sample(model_->logits(), static_cast<int32_t>(model_->config().vocabulary),
                     absl::MakeSpan(results));
    backend_->EndStep();
    EXPECT_TRUE(backend_->AwaitStep().ok());
    for (const SampleResult& result : results) EXPECT_TRUE(result.finite && result.token >= 0);
    std::vector<float> logits(rows * model_->config().vocabulary);
    backend_->Download(logits.data(), model_->logits().data,
                       static_cast<int64_t>(logits.size() * sizeof(float)));
    return logits;
  }

  // On the modules that `touches` names, with biases if they are asked for.
  const MountedAdapter* AddAdapter(bool (*touches)(LoraModule), bool biases = false) {
    TestAdapter& adapter = adapters_.emplace_back();
    const DType dtype = backend_->TileDType(DType::kBF16);
    for (const LoraTarget& target : model_->lora_targets()) {
      if (!touches(target.module)) continue;
      LoraPair& pair = adapter.pairs.emplace_back(RandomPair(target, kRank, dtype, random_));
      if (biases) pair.bias.assign(target.out_features, 0.25f);
    }
    MountPairs(*backend_, *arena_, adapter);
    return adapter.mounted.get();
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<PoisonedArena> arena_;
  std::vector<BlockId> pages_;
  std::list<TestAdapter> adapters_;
  std::mt19937_64 random_{20261128};
};

TEST_F(CapturedSteps, GiveTheBitsOfTheSameStepUncaptured) {
  const std::vector<int> counts = {1, 2, 3, 8, 9, 13, 16, 17, 33, 40};
  std::vector<std::vector<float>> uncaptured;
  for (const int rows : counts) uncaptured.push_back(Logits(rows));
  ASSERT_TRUE(model_->CaptureSteps(arena_->cache(), kRowsMax).ok());
  EXPECT_EQ(model_->captured_steps(), 16);
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(Logits(counts[i]), uncaptured[i]) << counts[i] << " rows";
  }
}

// Adapters with biases of lora_B, on the embedding or on the head have no captured steps. Rows
// beside them keep the bits that they have in a captured one.
TEST_F(CapturedSteps, LeaveStepsToTheVerbsWhoseAdaptersHaveMoreThanLinears) {
  const auto linears = [](LoraModule m) { return m < LoraModule::kEmbedding; };
  const MountedAdapter* plain = AddAdapter(linears);
  const MountedAdapter* biased = AddAdapter(linears, true);
  const MountedAdapter* embedding =
      AddAdapter([](LoraModule m) { return m == LoraModule::kEmbedding; });
  const MountedAdapter* head = AddAdapter([](LoraModule m) { return m == LoraModule::kHead; });
  // Row 0 has the base, rows 1 and 2 `plain`; the others what is asked for, with `plain` too.
  constexpr int kRows = 5;
  const auto step = [&](const MountedAdapter* last) {
    StepBatch batch = Step(kRows);
    batch.terms = {{plain, 0.5f}, {plain, 1.0f}, {last, 1.0f}};
    batch.segments = {{1, 2, 0, 1}, {3, 2, 1, 2}};
    return batch;
  };
  const MountedAdapter* const all[] = {plain, biased, embedding, head};
  std::vector<std::vector<float>> uncaptured;
  for (const MountedAdapter* last : all) uncaptured.push_back(Logits(step(last)));
  ASSERT_TRUE(model_->CaptureSteps(arena_->cache(), kRowsMax).ok());
  std::vector<std::vector<float>> captured;
  for (const MountedAdapter* last : all) captured.push_back(Logits(step(last)));
  const int64_t others = 3 * model_->config().vocabulary;
  for (size_t i = 0; i < std::size(all); ++i) {
    EXPECT_EQ(captured[i], uncaptured[i]) << i;
    const auto end = captured[i].begin() + others;
    EXPECT_TRUE(std::equal(captured[i].begin(), end, captured[0].begin())) << i;
    EXPECT_EQ(std::equal(end, captured[i].end(), captured[0].begin() + others), i == 0) << i;
  }
}

// Steps in flight are awaited one by one, in order, each with results of its own.
TEST_F(CapturedSteps, StepsAreAwaitedInTurn) {
  ASSERT_TRUE(model_->CaptureSteps(arena_->cache(), kRowsMax).ok());
  const auto vocabulary = static_cast<int32_t>(model_->config().vocabulary);
  constexpr int kSteps = 6;
  std::vector<StepBatch> batches;
  std::vector<std::vector<SampleResult>> results(kSteps);
  for (int step = 0; step < kSteps; ++step) batches.push_back(Step(1 + step));
  for (int step = 0; step < kSteps; ++step) {
    results[step].resize(1 + step);
    model_->Forward(batches[step], arena_->cache());
    backend_->Sample(model_->logits(), vocabulary, absl::MakeSpan(results[step]));
    backend_->EndStep();
    if (step > 0) {
      ASSERT_TRUE(backend_->AwaitStep().ok());
      for (const SampleResult& result : results[step - 1]) EXPECT_GE(result.token, 0);
    }
  }
  ASSERT_TRUE(backend_->AwaitStep().ok());
  for (int step = 1; step < kSteps; ++step) {
    for (int row = 0; row < step; ++row) {
      EXPECT_EQ(results[step][row].token, results[step - 1][row].token) << step << " " << row;
    }
  }
}

}  // namespace
}  // namespace lorica
