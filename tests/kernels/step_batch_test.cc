#include "kernels/step_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::FieldsAre;
using ::testing::IsEmpty;

TEST(SampleSegments, AreTheRunsOfEachSegmentsSamples) {
  StepBatch batch;
  batch.segments = {{0, 4, 0, 1}, {6, 2, 1, 3}, {8, 5, 4, 1}, {13, 0, 5, 1}, {13, 3, 6, 2}};
  for (const int row : {1, 3, 4, 5, 8, 9, 12, 15}) batch.samples.push_back({.row = row});
  EXPECT_THAT(SampleSegments(batch),
              ElementsAre(FieldsAre(0, 2, 0, 1), FieldsAre(4, 0, 1, 3), FieldsAre(4, 3, 4, 1),
                          FieldsAre(7, 0, 5, 1), FieldsAre(7, 1, 6, 2)));
}

TEST(SampleSegments, WithoutSamplesAreEmptyRuns) {
  StepBatch batch;
  EXPECT_THAT(SampleSegments(batch), IsEmpty());
  batch.segments = {{2, 4, 0, 1}};
  EXPECT_THAT(SampleSegments(batch), ElementsAre(FieldsAre(0, 0, 0, 1)));
}

TEST(HasPenalties, OfEachKindAndNotOfWhatIsOff) {
  EXPECT_FALSE(HasPenalties({}));
  EXPECT_FALSE(HasPenalties(
      {.temperature = 1, .top_k = 5, .top_p = 0.5f, .min_p = 0.1f, .seed = 7, .logprobs = 3}));
  for (const float penalty : {-1.0f, 0.5f, 2.0f}) {
    EXPECT_TRUE(HasPenalties({.repetition_penalty = penalty}));
    EXPECT_TRUE(HasPenalties({.presence_penalty = penalty}));
    EXPECT_TRUE(HasPenalties({.frequency_penalty = penalty}));
  }
}

}  // namespace
}  // namespace lorica
