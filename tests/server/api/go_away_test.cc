// Goal: a peer has its time to hear that it is asked to go away, and no more; what is remembered of
// peers has a bound. That calls end whole is tested over sockets (grpc_faults_test, proxies_test).
#include "server/api/go_away.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

const absl::Time kBegin = absl::FromUnixSeconds(1'000'000);

constexpr absl::Duration kMoment = absl::Milliseconds(1);
const char kConnection = 'c';
const char kAnother = 'd';

AskedToGoAway::Next HeadAt(AskedToGoAway& asked, absl::Time now, bool skipped = false) {
  return asked.AtHead("peer", &kConnection, skipped, now);
}

// Returns when it heard the second time.
absl::Time AskTwice(AskedToGoAway& asked) {
  EXPECT_TRUE(asked.Ask("peer", kBegin));
  EXPECT_EQ(HeadAt(asked, kBegin).tell, 1);
  EXPECT_FALSE(asked.Ask("peer", kBegin + kGoAwayTime));
  const absl::Time second = kBegin + kGoAwayTime + kMoment;
  EXPECT_TRUE(asked.Ask("peer", second));
  EXPECT_EQ(HeadAt(asked, second).tell, 2);
  return second;
}

TEST(AskedToGoAway, HearsTwiceAndEndsWhenItsTimeIsOver) {
  AskedToGoAway asked;
  EXPECT_FALSE(asked.any());
  const absl::Time second = AskTwice(asked);
  EXPECT_TRUE(asked.any());
  EXPECT_FALSE(asked.Ask("peer", second + 2 * kGoAwayTime));
  EXPECT_EQ(HeadAt(asked, second + kGoAwayTime).tell, 0);
  EXPECT_FALSE(HeadAt(asked, second + kGoAwayTime).end);
  EXPECT_FALSE(HeadAt(asked, second + kGoAwayTime + kMoment, /*skipped=*/true).end);
  EXPECT_TRUE(HeadAt(asked, second + kGoAwayTime + kMoment).end);
}

TEST(AskedToGoAway, WhoHasHeardAndBeginsMoreCallsEnds) {
  AskedToGoAway asked;
  const absl::Time second = AskTwice(asked);
  EXPECT_FALSE(HeadAt(asked, second + kGoAwayHeard, /*skipped=*/true).end);
  EXPECT_TRUE(HeadAt(asked, second + kGoAwayHeard + kMoment, /*skipped=*/true).end);
}

TEST(AskedToGoAway, HearsItOnceAndItAlone) {
  AskedToGoAway asked;
  EXPECT_TRUE(asked.Ask("peer", kBegin));
  EXPECT_FALSE(asked.Ask("peer", kBegin + 2 * kGoAwayTime)) << "it has not heard of the first";
  EXPECT_EQ(asked.AtHead("another", &kAnother, false, kBegin).tell, 0);
  EXPECT_EQ(HeadAt(asked, kBegin).tell, 1);
  EXPECT_EQ(HeadAt(asked, kBegin).tell, 0);
  EXPECT_FALSE(HeadAt(asked, kBegin + 2 * kGoAwayTime).end) << "it was asked once";
}

TEST(AskedToGoAway, ItsPortMayBecomeAnothers) {
  AskedToGoAway asked;
  const absl::Time second = AskTwice(asked);
  const AskedToGoAway::Next next = asked.AtHead("peer", &kAnother, false, second + 2 * kGoAwayTime);
  EXPECT_EQ(next.tell, 0);
  EXPECT_FALSE(next.end);
  EXPECT_EQ(asked.peers(second), 0);
}

TEST(AskedToGoAway, IsForgotten) {
  AskedToGoAway asked;
  asked.Ask("peer", kBegin);
  EXPECT_EQ(asked.peers(kBegin + kGoAwayForgotten), 1);
  EXPECT_EQ(asked.peers(kBegin + kGoAwayForgotten + kMoment), 0);
  EXPECT_FALSE(asked.any());
}

TEST(AskedToGoAway, RemembersABoundedNumber) {
  AskedToGoAway asked;
  for (int i = 0; i < kGoAwaysMax; ++i) asked.Ask(absl::StrCat(i), kBegin);
  asked.Ask("0", kBegin);
  EXPECT_EQ(asked.peers(kBegin), kGoAwaysMax);
  asked.Ask("one more", kBegin);
  EXPECT_EQ(asked.peers(kBegin), 1) << "all of them were new, so all are forgotten";
}

}  // namespace
}  // namespace lorica
