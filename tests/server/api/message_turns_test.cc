#include "server/api/message_turns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;

constexpr absl::Duration kSlow = absl::Milliseconds(30);
constexpr absl::Duration kLong = absl::Seconds(10);

class Call final : public MessageTurns::Turn {
 public:
  Call(std::string name, std::vector<std::string>* begun) : name_(std::move(name)), begun_(begun) {}

  absl::Status why() const {
    absl::MutexLock lock(&mutex_);
    return why_;
  }
  // Once it was told to; false after ten seconds.
  bool WaitUntilItGivesWay() const {
    absl::MutexLock lock(&mutex_);
    const auto told = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !why_.ok(); };
    return mutex_.AwaitWithTimeout(absl::Condition(&told), kLong);
  }

 private:
  void StartReading() override { begun_->push_back(name_); }
  void GiveWay(const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    why_ = why;
  }
  void TurnAway(const absl::Status& why) override { GiveWay(why); }

  const std::string name_;
  std::vector<std::string>* const begun_;
  mutable absl::Mutex mutex_;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
};

class MessageTurnsTest : public ::testing::Test {
 protected:
  std::unique_ptr<Call> Named(const std::string& name) {
    return std::make_unique<Call>(name, &begun_);
  }
  std::vector<std::string> begun_;
};

TEST_F(MessageTurnsTest, AreTakenInOrderUpToTheBound) {
  MessageTurns turns({.reading_max = 2, .waiting_max = 2});
  const auto a = Named("a");
  const auto b = Named("b");
  const auto c = Named("c");
  const auto d = Named("d");
  const auto e = Named("e");
  for (Call* call : {a.get(), b.get(), c.get(), d.get()}) EXPECT_TRUE(turns.Enter(call, "t").ok());
  EXPECT_THAT(begun_, ElementsAre("a", "b"));
  const absl::Status full = turns.Enter(e.get(), "t");
  EXPECT_TRUE(absl::IsUnavailable(full)) << full;
  EXPECT_TRUE(RetryDelayOf(full).has_value());
  EXPECT_TRUE(turns.Leave(b.get()));
  EXPECT_TRUE(turns.Leave(a.get()));
  EXPECT_THAT(begun_, ElementsAre("a", "b", "c", "d"));
  EXPECT_TRUE(turns.Enter(e.get(), "t").ok()) << "there is room to wait again";
  EXPECT_TRUE(turns.Leave(c.get()));
  EXPECT_TRUE(turns.Leave(d.get()));
  EXPECT_TRUE(turns.Leave(e.get()));
  EXPECT_THAT(begun_, ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_EQ(turns.reading() + turns.waiting(), 0);
}

TEST_F(MessageTurnsTest, OneLaneLeavesRoomForOthers) {
  MessageTurns turns({.reading_max = 4, .waiting_max = 4, .lane_parts = 2});
  std::vector<std::unique_ptr<Call>> calls;
  const auto enter = [&](const std::string& lane) {
    calls.push_back(Named(lane));
    return turns.Enter(calls.back().get(), lane).ok();
  };
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(enter("greedy")) << i;
  EXPECT_FALSE(enter("greedy")) << "two are read and two wait";
  EXPECT_EQ(turns.reading(), 2);
  EXPECT_TRUE(enter("other"));
  EXPECT_THAT(begun_, ElementsAre("greedy", "greedy", "other"));
  EXPECT_TRUE(turns.Leave(calls.back().get()));
  EXPECT_THAT(begun_, ElementsAre("greedy", "greedy", "other")) << "its place is not theirs";
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(turns.Leave(calls[i].get()));
  EXPECT_EQ(turns.reading() + turns.waiting(), 0);
}

TEST_F(MessageTurnsTest, TheLaneThatWaitsWithTheMostGivesAPlaceUp) {
  MessageTurns turns({.reading_max = 1, .waiting_max = 4, .time_max = kLong});
  std::vector<std::unique_ptr<Call>> calls;
  const auto enter = [&](const std::string& lane) {
    calls.push_back(Named(lane));
    const absl::Status status = turns.Enter(calls.back().get(), lane);
    if (!status.ok()) calls.pop_back();
    return status;
  };
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(enter("greedy").ok()) << i;
  EXPECT_TRUE(absl::IsUnavailable(enter("greedy")));
  for (const int newest : {4, 3}) {
    EXPECT_TRUE(calls[newest]->why().ok());
    EXPECT_TRUE(enter("other").ok());
    EXPECT_TRUE(absl::IsUnavailable(calls[newest]->why())) << calls[newest]->why();
    EXPECT_TRUE(RetryDelayOf(calls[newest]->why()).has_value());
    EXPECT_FALSE(turns.GiveUp(calls[newest].get())) << "it waits no longer";
    EXPECT_EQ(turns.waiting(), 4);
  }
  EXPECT_TRUE(absl::IsUnavailable(enter("other"))) << "both wait with two";
  for (const char* lane : {"third", "fourth"}) EXPECT_TRUE(enter(lane).ok()) << lane;
  EXPECT_TRUE(absl::IsUnavailable(enter("fifth"))) << "each waits with one";
  EXPECT_EQ(turns.waiting(), 4);
  for (const auto& call : calls) {
    if (!call->why().ok()) continue;
    EXPECT_TRUE(turns.GiveUp(call.get()) || turns.Leave(call.get()));
  }
  EXPECT_EQ(turns.reading() + turns.waiting(), 0);
}

// However many of the other came before.
TEST_F(MessageTurnsTest, TheLaneThatReadsTheFewestIsNext) {
  MessageTurns turns({.reading_max = 2, .waiting_max = 8});
  std::vector<std::unique_ptr<Call>> calls;
  for (const char* lane : {"greedy", "greedy", "greedy", "greedy", "other", "third"}) {
    calls.push_back(Named(lane));
    ASSERT_TRUE(turns.Enter(calls.back().get(), lane).ok());
  }
  EXPECT_TRUE(turns.Leave(calls[0].get()));
  EXPECT_THAT(begun_, ElementsAre("greedy", "greedy", "other"));
  EXPECT_TRUE(turns.Leave(calls[4].get()));
  EXPECT_THAT(begun_, ElementsAre("greedy", "greedy", "other", "third"));
  EXPECT_TRUE(turns.Leave(calls[1].get()));
  EXPECT_TRUE(turns.Leave(calls[2].get()));
  EXPECT_THAT(begun_, ElementsAre("greedy", "greedy", "other", "third", "greedy", "greedy"));
  EXPECT_TRUE(turns.Leave(calls[5].get()));
  EXPECT_TRUE(turns.Leave(calls[3].get()));
}

TEST_F(MessageTurnsTest, WhoIsGoneDoesNotWait) {
  MessageTurns turns({.reading_max = 1, .waiting_max = 2});
  const auto a = Named("a");
  const auto b = Named("b");
  const auto c = Named("c");
  for (Call* call : {a.get(), b.get(), c.get()}) ASSERT_TRUE(turns.Enter(call, "t").ok());
  EXPECT_FALSE(turns.GiveUp(a.get())) << "it is read";
  EXPECT_TRUE(turns.GiveUp(b.get()));
  EXPECT_FALSE(turns.GiveUp(b.get()));
  EXPECT_TRUE(turns.Leave(a.get()));
  EXPECT_THAT(begun_, ElementsAre("a", "c"));
  EXPECT_TRUE(turns.Leave(c.get()));
}

// Whoever is alone may be slow.
TEST_F(MessageTurnsTest, SlowOnesGiveWayOnlyToWhoWaits) {
  MessageTurns turns({.reading_max = 1, .waiting_max = 2, .crowded_time = kSlow});
  const auto slow = Named("slow");
  const auto next = Named("next");
  ASSERT_TRUE(turns.Enter(slow.get(), "t").ok());
  absl::SleepFor(3 * kSlow);
  EXPECT_TRUE(slow->why().ok());
  ASSERT_TRUE(turns.Enter(next.get(), "t").ok());
  ASSERT_TRUE(slow->WaitUntilItGivesWay());
  EXPECT_TRUE(absl::IsUnavailable(slow->why())) << slow->why();
  EXPECT_THAT(begun_, ElementsAre("slow")) << "what it has read is still there";
  EXPECT_FALSE(turns.Leave(slow.get()));
  EXPECT_THAT(begun_, ElementsAre("slow", "next"));
  EXPECT_TRUE(turns.Leave(next.get()));
}

TEST_F(MessageTurnsTest, WhoReadsMostGivesWayAndOfThoseTheFirst) {
  MessageTurns turns(
      {.reading_max = 3, .waiting_max = 4, .crowded_time = kSlow, .time_max = kLong});
  const auto lonely = Named("lonely");
  const auto first = Named("first");
  const auto second = Named("second");
  const auto next = Named("next");
  ASSERT_TRUE(turns.Enter(lonely.get(), "small").ok());
  ASSERT_TRUE(turns.Enter(first.get(), "greedy").ok());
  ASSERT_TRUE(turns.Enter(second.get(), "greedy").ok());
  ASSERT_TRUE(turns.Enter(next.get(), "third").ok());
  ASSERT_TRUE(first->WaitUntilItGivesWay());
  EXPECT_FALSE(turns.Leave(first.get()));
  EXPECT_TRUE(turns.Leave(next.get()));
  EXPECT_TRUE(turns.Leave(second.get()));
  EXPECT_TRUE(turns.Leave(lonely.get()));
}

// Nobody else has to make room for a lane that is at its own bound.
TEST_F(MessageTurnsTest, ALaneAtItsBoundWaitsForItsOwn) {
  MessageTurns turns({.reading_max = 4, .waiting_max = 4, .lane_parts = 4, .crowded_time = kSlow});
  const auto other = Named("other");
  const auto slow = Named("slow");
  const auto next = Named("next");
  ASSERT_TRUE(turns.Enter(other.get(), "other").ok());
  ASSERT_TRUE(turns.Enter(slow.get(), "own").ok());
  ASSERT_TRUE(turns.Enter(next.get(), "own").ok());
  ASSERT_TRUE(slow->WaitUntilItGivesWay());
  EXPECT_FALSE(turns.Leave(slow.get()));
  EXPECT_TRUE(turns.Leave(next.get()));
  EXPECT_TRUE(turns.Leave(other.get()));
}

TEST_F(MessageTurnsTest, NoneIsReadForever) {
  MessageTurns turns(
      {.reading_max = 2, .waiting_max = 1, .crowded_time = kSlow, .time_max = 4 * kSlow});
  const auto slow = Named("slow");
  ASSERT_TRUE(turns.Enter(slow.get(), "t").ok());
  absl::SleepFor(2 * kSlow);
  EXPECT_TRUE(slow->why().ok());
  ASSERT_TRUE(slow->WaitUntilItGivesWay());
  EXPECT_TRUE(absl::IsDeadlineExceeded(slow->why())) << slow->why();
  EXPECT_FALSE(turns.Leave(slow.get()));
}

// A call that many threads drive: it begins, gives way or is turned away whenever others want it.
class Driven final : public MessageTurns::Turn {
 public:
  enum State { kWaits, kReads, kGaveWay, kTurnedAway };
  // Reads it, or is turned away.
  void AwaitStart() const { state_.wait(kWaits); }
  void AwaitGiveWay() const {
    for (int state = state_; state != kGaveWay; state = state_) state_.wait(state);
  }
  int state() const { return state_; }

 private:
  void StartReading() override { Become(kWaits, kReads); }
  void GiveWay(const absl::Status&) override {
    AwaitStart();  // which may be told only now
    Become(kReads, kGaveWay);
  }
  void TurnAway(const absl::Status&) override { Become(kWaits, kTurnedAway); }
  void Become(int from, int to) {
    EXPECT_EQ(state_.exchange(to), from);
    state_.notify_all();
  }
  std::atomic<int> state_{kWaits};
};

TEST(MessageTurns, EachCallEndsOnceWhateverOthersDoMeanwhile) {
  constexpr int kThreads = 8, kCalls = 300;
  MessageTurns turns(
      {.reading_max = 2, .waiting_max = 4, .lane_parts = 1, .crowded_time = absl::Milliseconds(2)});
  std::atomic<int> ends[4] = {};  // refused, read, gave way or turned away, taken back
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int i = 0; i < kCalls; ++i) {
        auto call = std::make_unique<Driven>();
        if (!turns.Enter(call.get(), absl::StrCat(random() % 3)).ok()) {
          ++ends[0];
          continue;
        }
        if (random() % 4 == 0 && turns.GiveUp(call.get())) {
          ++ends[3];
          continue;
        }
        call->AwaitStart();
        if (call->state() == Driven::kTurnedAway) {
          ++ends[2];
          continue;
        }
        absl::SleepFor(absl::Microseconds(random() % 4000));
        const bool read = turns.Leave(call.get());
        if (!read) call->AwaitGiveWay();
        ++ends[read ? 1 : 2];
      }
    });
  }
  for (std::thread& one : threads) one.join();
  EXPECT_EQ(turns.reading() + turns.waiting(), 0);
  EXPECT_EQ(ends[0] + ends[1] + ends[2] + ends[3], kThreads * kCalls);
  for (const std::atomic<int>& end : ends) EXPECT_GT(end, 0);
}

}  // namespace
}  // namespace lorica
