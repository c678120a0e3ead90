// Threads of connections come as they are needed and go when nothing comes.
#include "server/http/connection_threads.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "server/api/refusal_log.h"

namespace lorica {
namespace {

TEST(ConnectionThreads, EndWhenNothingHasComeForAWhileAndComeAgain) {
  constexpr int kThreads = 8;
  ConnectionThreads threads(kThreads, "", absl::Milliseconds(20));
  for (int round = 0; round < 5; ++round) {
    absl::Notification go_on;
    std::atomic<int> running{0};
    for (int i = 0; i < kThreads; ++i) {
      ASSERT_TRUE(threads.TryRun([&] {
        running.fetch_add(1);
        go_on.WaitForNotification();
        running.fetch_sub(1);
      }));
    }
    while (running.load() < kThreads) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(threads.threads(), kThreads);
    go_on.Notify();
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (threads.threads() > 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(threads.threads(), 0);
  }
}

TEST(ConnectionThreads, OnlyACrowdHurriesWhoeverSendsNothing) {
  constexpr int kNoSocket = -1;
  constexpr absl::Duration kPatience = absl::Seconds(75);
  for (const bool crowd : {false, true}) {
    std::atomic<int> others{0};
    absl::Notification done;
    ConnectionThreads threads(crowd ? 1 : 8, "");
    ASSERT_TRUE(threads.TryRun([&] {
      ConnectionThreads::Place place(&threads, kNoSocket);
      for (int i = 1; i <= (crowd ? 1 : 200); ++i) {
        EXPECT_TRUE(threads.TryRun([&] { others.fetch_add(1); }));  // may still have no thread
        EXPECT_EQ(place.SetIdle(kPatience), crowd ? kCrowdedWait : kPatience);
        while (!crowd && others.load() < i) absl::SleepFor(absl::Microseconds(10));
      }
      done.Notify();
    }));
    done.WaitForNotification();
    threads.Stop();
  }
}

// A socket of whose other end nothing comes.
class SilentSocket {
 public:
  SilentSocket() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_.data()), 0); }
  ~SilentSocket() {
    for (const int end : ends_) ::close(end);
  }
  int socket() const { return ends_[0]; }

 private:
  std::array<int, 2> ends_{};
};

TEST(ConnectionThreads, BodiesGiveWayOneForEachThatWaitsOfWhoHasMostOfThem) {
  constexpr int kReaders = 4;  // the oldest is alone of its tenant
  const std::array<SilentSocket, kReaders> sockets;
  ConnectionThreads threads(kReaders, "");
  std::array<std::atomic<bool>, kReaders> gave_way{};
  std::atomic<int> reading{0};
  absl::Notification end;
  for (int i = 0; i < kReaders; ++i) {
    ASSERT_TRUE(threads.TryRun([&, i] {
      ConnectionThreads::Place place(&threads, sockets[i].socket());
      place.SetReading(i == 0 ? "alone" : "many");
      reading.fetch_add(1);
      while (!gave_way[i].load() && !end.HasBeenNotified()) {
        absl::SleepFor(absl::Milliseconds(5));
        gave_way[i].store(place.MustGiveWay());
      }
      EXPECT_NE(place.SetBusy(), gave_way[i].load());
    }));
    while (reading.load() <= i) absl::SleepFor(absl::Milliseconds(1));
  }
  absl::SleepFor(2 * kCrowdedBodyTime);
  for (const auto& gave : gave_way) EXPECT_FALSE(gave.load()) << "nobody waits";
  std::atomic<int> served{0};
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(threads.TryRun([&] {
      served.fetch_add(1);
      end.WaitForNotification();
    }));
  }
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (served.load() < 2 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(served.load(), 2);
  absl::SleepFor(2 * kCrowdedBodyTime);
  EXPECT_FALSE(gave_way[0].load());
  EXPECT_TRUE(gave_way[1].load());
  EXPECT_TRUE(gave_way[2].load());
  EXPECT_FALSE(gave_way[3].load());
  end.Notify();
  threads.Stop();
}

// While it exists no thread can be made: a stack would be larger than all addresses.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    EXPECT_EQ(::pthread_getattr_default_np(&before_), 0);
    pthread_attr_t huge = before_;
    EXPECT_EQ(::pthread_attr_setstacksize(&huge, size_t{1} << 47), 0);
    EXPECT_EQ(::pthread_setattr_default_np(&huge), 0);
  }
  NoMoreThreads(const NoMoreThreads&) = delete;
  ~NoMoreThreads() {
    EXPECT_EQ(::pthread_setattr_default_np(&before_), 0);
    ::pthread_attr_destroy(&before_);
  }

 private:
  pthread_attr_t before_;
};

TEST(ConnectionThreads, WhoFindsNoThreadIsTurnedAwayAndAnIdleOneMakesRoom) {
  const SilentSocket socket;
  absl::Notification idle;
  std::atomic<bool> ended{false};
  ConnectionThreads threads(8, "");
  ASSERT_TRUE(threads.TryRun([&] {
    ConnectionThreads::Place place(&threads, socket.socket());
    place.SetIdle(absl::Seconds(75));
    idle.Notify();
    char byte = 0;
    ended.store(::recv(socket.socket(), &byte, 1, 0) == 0);
  }));
  idle.WaitForNotification();
  const int64_t logged = RefusalsLogged();
  {
    const NoMoreThreads none;
    EXPECT_FALSE(threads.TryRun([] { ADD_FAILURE() << "it was turned away"; }));
    EXPECT_EQ(RefusalsLogged(), logged + 1);
    EXPECT_EQ(threads.threads(), 1);
    std::atomic<bool> served{false};  // by the thread that is free now
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!served.load() && absl::Now() < end) {
      threads.TryRun([&] { served.store(true); });
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_TRUE(ended.load());
    EXPECT_TRUE(served.load());
    threads.Stop();
  }
}

TEST(ConnectionThreads, WithoutAnyThreadTheNextOneMayBeServed) {
  ConnectionThreads threads(8, "");
  {
    const NoMoreThreads none;
    EXPECT_FALSE(threads.TryRun([] {}));
  }
  EXPECT_EQ(threads.threads(), 0);
  absl::Notification served;
  EXPECT_TRUE(threads.TryRun([&] { served.Notify(); }));
  EXPECT_TRUE(served.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

TEST(ConnectionThreads, WhatComesWhileTheyEndIsRun) {
  std::atomic<int> done{0};
  constexpr int kWork = 2000;
  ConnectionThreads threads(4, "", absl::Microseconds(50));
  for (int i = 0; i < kWork; ++i) {
    while (!threads.TryRun([&] { done.fetch_add(1); })) absl::SleepFor(absl::Microseconds(20));
    if (i % 16 == 0) absl::SleepFor(absl::Microseconds(60));
  }
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (done.load() < kWork && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(done.load(), kWork);
}

}  // namespace
}  // namespace lorica
