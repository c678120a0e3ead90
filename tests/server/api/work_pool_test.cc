#include "server/api/work_pool.h"

#include <atomic>

#include "absl/synchronization/notification.h"
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

}  // namespace
}  // namespace lorica
