#include "client/commands/fetch_progress.h"

#include <gtest/gtest.h>

namespace lorica {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(FetchProgress, SaysBytesRateAndWhatIsLeft) {
  FetchProgress progress;
  absl::Time now = absl::UnixEpoch();
  EXPECT_EQ(progress.note(), "");
  EXPECT_LT(progress.fraction(), 0);
  progress.Saw(0, 0, now);
  EXPECT_LT(progress.fraction(), 0);
  now += absl::Seconds(30);
  progress.Saw(4 * kMiB, 40 * kMiB, now);
  EXPECT_EQ(progress.note(), "4.0 MiB of 40.0 MiB") << "no rate of one look";
  progress.Saw(5 * kMiB, 40 * kMiB, now + absl::Milliseconds(999));
  EXPECT_EQ(progress.note(), "5.0 MiB of 40.0 MiB");
  progress.Saw(10 * kMiB, 40 * kMiB, now + absl::Seconds(2));
  EXPECT_EQ(progress.note(), "10.0 MiB of 40.0 MiB, 3.0 MiB/s, 10.0 s left");
  EXPECT_DOUBLE_EQ(progress.fraction(), 0.25);
}

TEST(FetchProgress, BeginsAnewWithAnotherFetch) {
  FetchProgress progress;
  const absl::Time now = absl::UnixEpoch();
  progress.Saw(0, 40 * kMiB, now);
  progress.Saw(40 * kMiB, 40 * kMiB, now + absl::Seconds(4));
  EXPECT_EQ(progress.fraction(), 1.0);
  progress.Saw(kMiB, 8 * kMiB, now + absl::Seconds(5));
  progress.Saw(2 * kMiB, 8 * kMiB, now + absl::Seconds(6));
  EXPECT_EQ(progress.note(), "2.0 MiB of 8.0 MiB, 1.0 MiB/s, 6.0 s left");
  progress.Saw(0, 8 * kMiB, now + absl::Seconds(7));
  EXPECT_EQ(progress.note(), "0 B of 8.0 MiB") << "cut off, and asked for again";
  progress.Saw(0, 0, now + absl::Seconds(8));
  EXPECT_EQ(progress.note(), "");
}

}  // namespace
}  // namespace lorica
