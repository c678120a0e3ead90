#include "server/api/later.h"

#include <atomic>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(Later, WorkBeginsAfterItsTime) {
  Later later;
  constexpr absl::Duration kWait = absl::Milliseconds(50);
  constexpr int kPieces = 100;
  absl::BlockingCounter done(kPieces);
  const absl::Time begun = absl::Now();
  for (int i = 0; i < kPieces; ++i) {
    later.Run(kWait, [&] {
      EXPECT_GE(absl::Now() - begun, kWait);
      done.DecrementCount();
    });
  }
  done.Wait();
}

TEST(Later, WorkMayAskForMore) {
  Later later;
  absl::Notification done;
  later.Run(absl::Milliseconds(1),
            [&] { later.Run(absl::Milliseconds(1), [&] { done.Notify(); }); });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST(Later, NothingBeginsAfterTheEnd) {
  Later later;
  std::atomic<bool> begun = false;
  later.Run(absl::Milliseconds(50), [&] { begun = true; });
  later.End();
  later.Run(absl::ZeroDuration(), [&] { begun = true; });
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_FALSE(begun);
}

TEST(Later, NothingBeginsOnceItIsGone) {
  for (int round = 0; round < 200; ++round) {
    std::atomic<bool> gone = false;
    auto held = std::make_shared<int>(0);
    const std::weak_ptr<int> left = held;
    {
      Later later;
      for (const int ms : {0, 1, 2}) {
        later.Run(absl::Milliseconds(ms), [&gone, held] { EXPECT_FALSE(gone); });
      }
      held = nullptr;
      absl::SleepFor(absl::Microseconds(10 * round));
    }
    gone = true;
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (!left.expired() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_TRUE(left.expired()) << "what was dropped holds nothing";
  }
}

}  // namespace
}  // namespace lorica
