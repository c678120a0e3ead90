// Goal: a connection has too many calls from the limit on, open ones of its own, closed ones of its
// own or of all, and until they have ended; what is remembered ends with the calls. That floods
// take bounded memory is tested over sockets (grpc_floods_test).
#include "server/api/call_backlog.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace lorica {
namespace {

constexpr int kEach = 100;
constexpr int kConnections = kCallsTogetherMax / kEach;
constexpr int kClosing = kClosedCallsTogetherMax / kEach;  // connections whose closed calls are all
static_assert(kEach > kClosedCallsShare && kEach < kClosedCallsMax);

class CallBacklogTest : public ::testing::Test {
 protected:
  void Begin(int connection, int count) {
    for (int i = 0; i < count; ++i) backlog_.Begin(&connections_[connection], &calls_[begun_++]);
  }
  void Close(int call) { backlog_.Close(&calls_[call], /*reads=*/true, /*writes=*/true); }
  void BeginAndClose(int connection, int count) {
    Begin(connection, count);
    for (int i = begun_ - count; i < begun_; ++i) Close(i);
  }
  void EndFirst(int count) {
    for (int i = 0; i < count; ++i) backlog_.End(&calls_[ended_++]);
  }
  bool HasTooMany(int connection) const { return backlog_.HasTooMany(&connections_[connection]); }
  bool MustWait(int connection) const {
    return backlog_.MustWait(&connections_[connection], absl::ZeroDuration());
  }

  CallBacklog backlog_;
  char connections_[kConnections + 1] = {};
  std::vector<char> calls_ = std::vector<char>(2 * kCallsTogetherMax);
  int begun_ = 0;
  int ended_ = 0;
};

TEST_F(CallBacklogTest, CallsAreOpenUntilTheyAreClosedForReadsAndWrites) {
  Begin(0, kStreamsUntoldMax);
  EXPECT_FALSE(HasTooMany(0));
  Begin(0, 1);
  EXPECT_TRUE(HasTooMany(0));
  EXPECT_FALSE(HasTooMany(1));
  backlog_.Close(&calls_[0], /*reads=*/true, /*writes=*/false);
  backlog_.Close(&calls_[1], /*reads=*/false, /*writes=*/true);
  EXPECT_TRUE(HasTooMany(0));
  backlog_.Close(&calls_[1], /*reads=*/true, /*writes=*/false);
  EXPECT_FALSE(HasTooMany(0));
  Begin(0, 1);
  EXPECT_TRUE(HasTooMany(0));
  EndFirst(1);
  EXPECT_FALSE(HasTooMany(0)) << "the first ended without being closed";
}

TEST_F(CallBacklogTest, WhereAllHaveTooManyThoseEndThatHaveMoreThanWhoKeepsToTheLimits) {
  Begin(0, kCallsShare - 1);
  BeginAndClose(0, 1);
  Begin(1, kCallsShare + 1);
  for (int i = 2; begun_ < kCallsTogetherMax; ++i) {
    Begin(i, std::min(kEach, kCallsTogetherMax - begun_));
  }
  EXPECT_FALSE(HasTooMany(1)) << "as many as may be";
  Begin(kConnections, 1);
  EXPECT_TRUE(HasTooMany(1));
  EXPECT_FALSE(HasTooMany(0)) << "it has a share";
  BeginAndClose(0, 1);
  EXPECT_TRUE(HasTooMany(0)) << "closed ones count";
  EXPECT_FALSE(HasTooMany(2));
}

TEST_F(CallBacklogTest, AConnectionWaitsBeyondItsLimitUntilACallHasEnded) {
  EXPECT_FALSE(MustWait(0));
  BeginAndClose(0, kClosedCallsMax);
  EXPECT_FALSE(MustWait(0));
  Begin(0, 1);
  EXPECT_FALSE(MustWait(0));
  Close(kClosedCallsMax);
  EXPECT_TRUE(MustWait(0));
  EXPECT_FALSE(MustWait(1));
  EndFirst(1);
  EXPECT_FALSE(MustWait(0));
}

TEST_F(CallBacklogTest, WhenAllHaveTooManyThoseWaitThatHaveMoreThanAShare) {
  for (int i = 0; i < kClosing - 1; ++i) BeginAndClose(i, kEach);
  BeginAndClose(kClosing - 1, kEach - kClosedCallsShare);
  BeginAndClose(kClosing, kClosedCallsShare);
  EXPECT_FALSE(MustWait(0)) << "as many as may be";
  BeginAndClose(1, 1);
  EXPECT_TRUE(MustWait(0));
  EXPECT_TRUE(MustWait(1));
  EXPECT_FALSE(MustWait(kClosing)) << "it has a share";
  BeginAndClose(kClosing, 1);
  EXPECT_TRUE(MustWait(kClosing));
  EndFirst(2);
  EXPECT_FALSE(MustWait(kClosing));
}

// So that who keeps to the limits is never among those that end.
TEST_F(CallBacklogTest, FromHalfOfWhatAllMayHaveAConnectionWaitsSooner) {
  static_assert(kStreamsPerConnectionMax + kClosedCallsCrowdedMax < kCallsShare);
  BeginAndClose(0, kClosedCallsCrowdedMax + 1);
  for (int i = 1; begun_ < kCallsTogetherMax / 2; ++i) {
    Begin(i, std::min(kEach, kCallsTogetherMax / 2 - begun_));
  }
  EXPECT_FALSE(MustWait(0)) << "as many as may be";
  Begin(kConnections, 2);
  EXPECT_TRUE(MustWait(0));
  EXPECT_FALSE(MustWait(1));
  EndFirst(1);
  EXPECT_FALSE(MustWait(0)) << "it has so many and no more";
}

TEST_F(CallBacklogTest, AReadWaitsSoLongAndNoLonger) {
  BeginAndClose(0, kClosedCallsMax + 1);
  const absl::Duration tick = absl::Nanoseconds(1);
  EXPECT_TRUE(backlog_.MustWait(&connections_[0], kReadPauseMax - tick));
  EXPECT_FALSE(backlog_.MustWait(&connections_[0], kReadPauseMax));
}

TEST_F(CallBacklogTest, CallsCountOnce) {
  Begin(0, 1);
  for (int i = 0; i < 2 * kClosedCallsMax; ++i) Close(0);
  EXPECT_FALSE(MustWait(0));
  backlog_.End(&calls_[0]);
  backlog_.End(&calls_[0]);
  backlog_.End(&calls_[1]);
  Close(1);
  BeginAndClose(0, kClosedCallsMax + 1);
  EXPECT_TRUE(MustWait(0)) << "those that ended took nothing off the others";
  EXPECT_EQ(backlog_.calls(), kClosedCallsMax + 1);
  for (int i = 0; i < begun_; ++i) backlog_.End(&calls_[i]);
  EXPECT_EQ(backlog_.calls(), 0);
}

}  // namespace
}  // namespace lorica
