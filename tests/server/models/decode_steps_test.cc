#include "server/models/decode_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/fake_backend.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;

struct FakeCaptured : CapturedStep {
  explicit FakeCaptured(const DecodeForm& form) : form(form) {}
  DecodeForm form;
};

class CapturingBackend : public FakeBackend {
 public:
  absl::StatusOr<std::unique_ptr<CapturedStep>> Capture(const DecodeForm& form, const KvCache&,
                                                        absl::FunctionRef<void()> verbs) override {
    verbs();
    return std::make_unique<FakeCaptured>(form);
  }
};

StepBatch DecodeBatch(int rows, bool adapters) {
  StepBatch batch;
  batch.tokens.resize(rows);
  batch.spans.resize(rows);
  batch.samples.resize(rows);
  if (adapters) batch.segments.push_back({.row_count = 1, .term_count = 1});
  return batch;
}

TEST(DecodeSteps, BucketsEndWithTheMost) {
  EXPECT_THAT(DecodeBuckets(1), ElementsAre(1));
  EXPECT_THAT(DecodeBuckets(64), ElementsAre(1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64));
  EXPECT_THAT(DecodeBuckets(17), ElementsAre(1, 2, 4, 8, 16, 17));
  const std::vector<int> many = DecodeBuckets(512);
  EXPECT_EQ(many.size(), 4u + 31 + 8);
  EXPECT_EQ(many[many.size() - 9], 256);
  EXPECT_EQ(many[many.size() - 8], 288);
  EXPECT_EQ(many.back(), 512);
}

TEST(DecodeSteps, TheSmallestThatHoldsTheStepIsFound) {
  CapturingBackend backend;
  DecodeSteps steps;
  std::vector<int> rows_run;
  ASSERT_TRUE(steps.Capture(backend, {}, 40, [&](int rows) { rows_run.push_back(rows); }).ok());
  EXPECT_EQ(steps.count(), 16);
  EXPECT_THAT(rows_run, ElementsAre(1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 24, 24, 32, 32, 40, 40));
  for (int rows = 1; rows <= 40; ++rows) {
    for (const bool adapters : {false, true}) {
      const auto* found = static_cast<const FakeCaptured*>(steps.Find(DecodeBatch(rows, adapters)));
      ASSERT_NE(found, nullptr) << rows;
      EXPECT_GE(found->form.rows, rows);
      EXPECT_TRUE(rows > 8 ? found->form.rows - rows < 8 : found->form.rows < 2 * rows) << rows;
      EXPECT_EQ(found->form.adapters, adapters);
    }
  }
  EXPECT_EQ(steps.Find(DecodeBatch(41, false)), nullptr);
}

TEST(DecodeSteps, PromptsAndRowsWithoutSamplesAreNoDecodeSteps) {
  CapturingBackend backend;
  DecodeSteps steps;
  ASSERT_TRUE(steps.Capture(backend, {}, 8, [](int) {}).ok());
  StepBatch prompt = DecodeBatch(4, false);
  prompt.spans.resize(1);
  EXPECT_EQ(steps.Find(prompt), nullptr);
  StepBatch silent = DecodeBatch(4, false);
  silent.samples.resize(3);
  EXPECT_EQ(steps.Find(silent), nullptr);
}

TEST(DecodeSteps, ADeviceThatCapturesNothingIsLeftAlone) {
  FakeBackend backend;
  DecodeSteps steps;
  ASSERT_TRUE(steps.Capture(backend, {}, 8, [](int) {}).ok());
  EXPECT_EQ(steps.count(), 0);
  EXPECT_EQ(steps.Find(DecodeBatch(1, false)), nullptr);
}

}  // namespace
}  // namespace lorica
