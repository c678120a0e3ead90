// Goal: resets are counted for each connection alone, to the limit and no further, and what is
// remembered has a bound. That connections end is tested over sockets (grpc_faults_test).
#include "server/api/reset_guard.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

const absl::Time kBegin = absl::FromUnixSeconds(1'000'000);

int CountedUntilExceeded(ResetLimit& limit, const std::string& peer, absl::Time now) {
  int count = 1;
  while (!limit.Exceeded(peer, now)) ++count;
  return count;
}

TEST(ResetLimit, IsExceededByOneMore) {
  ResetLimit limit;
  EXPECT_EQ(CountedUntilExceeded(limit, "ipv4:127.0.0.1:1", kBegin), kEarlyResetsMax + 1);
  EXPECT_EQ(CountedUntilExceeded(limit, "ipv4:127.0.0.1:1", kBegin), kEarlyResetsMax + 1)
      << "and begins anew";
}

TEST(ResetLimit, CountsEachConnectionAlone) {
  ResetLimit limit;
  for (int i = 0; i < kEarlyResetsMax; ++i) {
    EXPECT_FALSE(limit.Exceeded("ipv4:127.0.0.1:1", kBegin));
    EXPECT_FALSE(limit.Exceeded("ipv4:127.0.0.1:2", kBegin));
  }
  EXPECT_TRUE(limit.Exceeded("ipv4:127.0.0.1:1", kBegin));
  EXPECT_EQ(limit.peers(kBegin), 1) << "who is shut down is forgotten";
}

TEST(ResetLimit, TimeTakesResetsOff) {
  ResetLimit limit;
  for (int i = 0; i < kEarlyResetsMax; ++i) limit.Exceeded("a", kBegin);
  const absl::Time later = kBegin + absl::Seconds(2);
  EXPECT_EQ(CountedUntilExceeded(limit, "a", later), 2 * kEarlyResetsPerSecond + 1);
  for (int i = 0; i < 10 * kEarlyResetsMax; ++i) {
    EXPECT_FALSE(limit.Exceeded("b", kBegin + i * absl::Seconds(1) / kEarlyResetsPerSecond)) << i;
  }
}

TEST(ResetLimit, RemembersABoundedNumber) {
  ResetLimit limit;
  for (int i = 0; i < kResettersMax; ++i) limit.Exceeded(absl::StrCat(i), kBegin);
  EXPECT_EQ(limit.peers(kBegin), kResettersMax);
  limit.Exceeded("0", kBegin);
  EXPECT_EQ(limit.peers(kBegin), kResettersMax);
  limit.Exceeded("one more", kBegin);
  EXPECT_EQ(limit.peers(kBegin), 1) << "all of them were new";
  for (int i = 1; i < kResettersMax; ++i) limit.Exceeded(absl::StrCat(i), kBegin);
  const absl::Time later = kBegin + absl::Seconds(1);
  for (int i = 0; i < kEarlyResetsMax; ++i) limit.Exceeded("5", later);
  limit.Exceeded("another", later);
  EXPECT_EQ(limit.peers(later), 2) << "those of long ago go first";
}

TEST(ResetLimit, ForgetsWhoHasNoneLeft) {
  ResetLimit limit;
  for (int i = 0; i < kEarlyResetsPerSecond; ++i) limit.Exceeded("a", kBegin);
  const absl::Time end = kBegin + absl::Seconds(1);
  EXPECT_EQ(limit.peers(end - absl::Milliseconds(1)), 1);
  EXPECT_EQ(limit.peers(end), 0);
}

TEST(ResetLimit, KnowsWhoTakesBackTheMost) {
  ResetLimit limit;
  for (int i = 1; i < kSuspectResets; ++i) limit.Exceeded("often", kBegin);
  EXPECT_EQ(limit.Likeliest(kBegin), "") << "others' calls are no business of who does it at times";
  limit.Exceeded("often", kBegin);
  EXPECT_EQ(limit.Likeliest(kBegin), "often");
  for (int i = 0; i <= kSuspectResets; ++i) limit.Exceeded("more often", kBegin);
  EXPECT_EQ(limit.Likeliest(kBegin), "more often");
  EXPECT_EQ(limit.Likeliest(kBegin + absl::Milliseconds(20)), "") << "that is long ago";
}

TEST(IsEarlyReset, LeavesOutWhatIsOldOrHadItsTime) {
  const absl::Duration tick = absl::Nanoseconds(1);
  const absl::Duration never = absl::InfiniteDuration();
  EXPECT_TRUE(IsEarlyReset(absl::ZeroDuration(), never));
  EXPECT_TRUE(IsEarlyReset(kEarlyReset - tick, never));
  EXPECT_FALSE(IsEarlyReset(kEarlyReset, never));
  EXPECT_FALSE(IsEarlyReset(kOpenForDeadline, kDeadlineSlack));
  EXPECT_TRUE(IsEarlyReset(kOpenForDeadline, kDeadlineSlack + tick)) << "before its deadline";
  EXPECT_FALSE(IsEarlyReset(kEarlyReset - tick, -absl::Seconds(1)));
  EXPECT_TRUE(IsEarlyReset(kOpenForDeadline - tick, absl::ZeroDuration())) << "it names any";
  EXPECT_TRUE(IsEarlyReset(absl::ZeroDuration(), -absl::Seconds(1)));
}

}  // namespace
}  // namespace lorica
