// Threads of connections come as they are needed and go when nothing comes.
#include "server/http/connection_threads.h"

#include <atomic>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

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
