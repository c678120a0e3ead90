// Goal: a decode step that is replayed gives the bits of the same step run verb by verb,
// whichever captured step holds it.
#include <gtest/gtest.h>

#include "kernels/plugin.h"
#include "server/models/model.h"
#include "tests/integration/cuda/gpu.h"

namespace lorica {
namespace {

constexpr int kRowsMax = 40;

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
    cache_.shape = model_->config().attention();
    cache_.block_bytes = backend_->BlockBytesFor(cache_.shape);
    arena_ = *backend_->Allocate((kRowsMax + 1) * cache_.block_bytes);
    cache_.arena = arena_->data();
  }

  // `rows` requests, each in a block of its own, at a position of its own.
  StepBatch Step(int rows) const {
    StepBatch batch;
    for (int row = 0; row < rows; ++row) {
      batch.tokens.push_back(37 * row % 1000);
      batch.positions.push_back(row % kBlockTokens);
      batch.pages.push_back(1 + row);
      batch.spans.push_back({.row_begin = row,
                             .row_count = 1,
                             .position_begin = row % kBlockTokens,
                             .page_begin = row,
                             .page_count = 1});
      batch.samples.push_back({.row = row, .slot = row});
    }
    return batch;
  }
  std::vector<float> Logits(int rows) {
    const StepBatch batch = Step(rows);
    model_->Forward(batch, cache_);
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

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Buffer> arena_;
  KvCache cache_;
};

TEST_F(CapturedSteps, GiveTheBitsOfTheSameStepUncaptured) {
  const std::vector<int> counts = {1, 2, 3, 8, 9, 13, 16, 17, 33, 40};
  std::vector<std::vector<float>> uncaptured;
  for (const int rows : counts) uncaptured.push_back(Logits(rows));
  ASSERT_TRUE(model_->CaptureSteps(cache_, kRowsMax).ok());
  EXPECT_EQ(model_->captured_steps(), 16);
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(Logits(counts[i]), uncaptured[i]) << counts[i] << " rows";
  }
}

// Steps in flight are awaited one by one, in order, each with results of its own.
TEST_F(CapturedSteps, StepsAreAwaitedInTurn) {
  ASSERT_TRUE(model_->CaptureSteps(cache_, kRowsMax).ok());
  const auto vocabulary = static_cast<int32_t>(model_->config().vocabulary);
  constexpr int kSteps = 6;
  std::vector<StepBatch> batches;
  std::vector<std::vector<SampleResult>> results(kSteps);
  for (int step = 0; step < kSteps; ++step) batches.push_back(Step(1 + step));
  for (int step = 0; step < kSteps; ++step) {
    results[step].resize(1 + step);
    model_->Forward(batches[step], cache_);
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
