#include "server/api/work_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(WorkPool, RefusesBeyondItsQueue) {
  absl::Notification started;
  absl::Notification go;
  std::atomic<int> ran = 0;
  {
    WorkPool pool(1, 2);
    ASSERT_TRUE(pool.TryRun([&] {
      started.Notify();
      go.WaitForNotification();
    }));
    started.WaitForNotification();
    EXPECT_TRUE(pool.TryRun([&] { ++ran; }));
    EXPECT_TRUE(pool.TryRun([&] { ++ran; }));
    EXPECT_FALSE(pool.TryRun([&] { ++ran; }));
    pool.RunAdmitted([&] { ++ran; });
    go.Notify();
  }
  EXPECT_EQ(ran, 3) << "what was taken runs before the pool is gone";
}

TEST(WorkPool, RunsOnSeveralThreads) {
  absl::Notification first;
  absl::Notification second;
  WorkPool pool(2, 2);
  pool.RunAdmitted([&] {
    second.WaitForNotification();
    first.Notify();
  });
  pool.RunAdmitted([&] { second.Notify(); });
  first.WaitForNotification();
}

TEST(WorkPool, WhatIsForLaterHoldsNoThread) {
  absl::Notification first, second;
  WorkPool pool(1, 1);
  pool.RunAdmittedAfter(absl::Milliseconds(100), [&] {
    EXPECT_TRUE(first.HasBeenNotified());
    second.Notify();
  });
  pool.RunAdmitted([&] { first.Notify(); });
  EXPECT_TRUE(second.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST(WorkPool, WhatIsForLaterEndsWithThePool) {
  std::atomic<bool> ran = false;
  {
    WorkPool pool(1, 1);
    pool.RunAdmittedAfter(absl::Milliseconds(50), [&] { ran = true; });
  }
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_FALSE(ran);
}

// Bursts from several threads, with pauses in which all workers fall asleep.
TEST(WorkPool, RunsEverythingHoweverItComes) {
  constexpr int kProducers = 3, kBursts = 200, kBurst = 40;
  std::atomic<int> ran = 0;
  WorkPool pool(4, 1);
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&] {
      for (int burst = 0; burst < kBursts; ++burst) {
        absl::Notification last;
        for (int i = 0; i < kBurst; ++i) {
          pool.RunAdmitted([&, i] {
            ++ran;
            if (i + 1 == kBurst) last.Notify();
          });
        }
        last.WaitForNotification();
      }
    });
  }
  for (std::thread& producer : producers) producer.join();
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (ran < kProducers * kBursts * kBurst && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(ran, kProducers * kBursts * kBurst);
}

}  // namespace
}  // namespace lorica
