// Goal: a timed wait takes as long as was asked for, whatever is done to the wall clock meanwhile,
// gRPC's as well; and nobody who is woken sleeps on.
#include <atomic>
#include <chrono>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "adapters/hub/steady_now.h"
#include "gmock/gmock.h"
#include "grpcpp/alarm.h"
#include "tests/fakes/clock_shim.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

constexpr absl::Duration kWait = absl::Milliseconds(300);
constexpr absl::Duration kUntilStep = absl::Milliseconds(100);
const absl::Duration kLate = kInstrumentationFactor * absl::Seconds(2);

class SteadyWaitsTest : public testing::TestWithParam<absl::Duration> {
 protected:
  // How long `wait` took while the clock was stepped.
  absl::Duration Took(const std::function<void()>& wait) {
    absl::Notification over;
    const absl::Time began = SteadyNow();
    absl::Time ended;
    std::thread waiting([&] {
      wait();
      ended = SteadyNow();
      over.Notify();
    });
    absl::SleepFor(kUntilStep);
    clock_.StepTo(GetParam());
    while (!over.HasBeenNotified() && SteadyNow() < began + kLate) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    const bool slept_on = !over.HasBeenNotified();
    clock_.StepTo(absl::ZeroDuration());  // which ends what slept on
    waiting.join();
    return slept_on ? absl::InfiniteDuration() : ended - began;
  }
  void ExpectAsAsked(const std::function<void()>& wait) {
    const absl::Duration took = Took(wait);
    EXPECT_GE(took, kWait);
    EXPECT_LT(took, kLate);
  }

  fakes::SteppedClock clock_;
};

TEST_P(SteadyWaitsTest, OfAMutex) {
  absl::Mutex mutex;
  const bool never = false;
  ExpectAsAsked([&] {
    absl::MutexLock lock(&mutex);
    EXPECT_FALSE(mutex.AwaitWithTimeout(absl::Condition(&never), kWait));
  });
}

TEST_P(SteadyWaitsTest, OfACondVar) {
  absl::Mutex mutex;
  absl::CondVar condition;
  ExpectAsAsked([&] {
    absl::MutexLock lock(&mutex);
    EXPECT_TRUE(condition.WaitWithTimeout(&mutex, kWait));
  });
}

TEST_P(SteadyWaitsTest, OfANotification) {
  const absl::Notification never;
  ExpectAsAsked([&] { EXPECT_FALSE(never.WaitForNotificationWithTimeout(kWait)); });
}

// Who gives the mutex up finds each time that the condition holds, and wakes the one who waits, who
// finds that it does not: one wait, that begins many times.
TEST_P(SteadyWaitsTest, OfAMutexThatOthersUse) {
  absl::Mutex mutex;
  std::atomic<bool> over = false;
  std::thread other([&] {
    while (!over) {
      { absl::MutexLock lock(&mutex); }
      absl::SleepFor(absl::Milliseconds(1));
    }
  });
  ExpectAsAsked([&] {
    const std::thread::id self = std::this_thread::get_id();
    const auto holds_for_others = [&self] { return std::this_thread::get_id() != self; };
    absl::MutexLock lock(&mutex);
    EXPECT_FALSE(mutex.AwaitWithTimeout(absl::Condition(&holds_for_others), kWait));
  });
  over = true;
  other.join();
}

TEST_P(SteadyWaitsTest, OfGrpcsTimers) {
  ExpectAsAsked([] {
    absl::Notification rang;
    grpc::Alarm alarm;
    alarm.Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kWait) +
                  std::chrono::milliseconds(10),
              [&rang](bool) { rang.Notify(); });
    rang.WaitForNotification();
  });
}

INSTANTIATE_TEST_SUITE_P(Steps, SteadyWaitsTest,
                         testing::Values(absl::ZeroDuration(), absl::Hours(24), -absl::Hours(24),
                                         absl::Hours(1), -absl::Hours(1)),
                         [](const testing::TestParamInfo<absl::Duration>& info) {
                           const int64_t hours = absl::ToInt64Hours(info.param);
                           return absl::StrCat(hours < 0 ? "Back" : "Ahead", std::abs(hours), "h");
                         });

TEST(SteadyWaits, TimesThatAreOverOrNeverCome) {
  absl::Mutex mutex;
  const bool never = false;
  bool set = false;
  absl::MutexLock lock(&mutex);
  for (const absl::Time end : {absl::InfinitePast(), absl::UnixEpoch(), absl::Now()}) {
    EXPECT_FALSE(mutex.AwaitWithDeadline(absl::Condition(&never), end)) << end;
  }
  EXPECT_FALSE(mutex.AwaitWithTimeout(absl::Condition(&never), -absl::InfiniteDuration()));
  for (const absl::Duration wait : {absl::InfiniteDuration(), absl::Hours(24 * 365 * 250),
                                    absl::Hours(24 * 365 * 200)}) {
    set = false;
    std::thread other([&] {
      absl::SleepFor(absl::Milliseconds(20));
      absl::MutexLock locked(&mutex);
      set = true;
    });
    EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&set), wait)) << wait;
    mutex.Unlock();
    other.join();
    mutex.Lock();
  }
}

// A semaphore that lost a post would leave one of them asleep.
TEST(SteadyWaits, WakeUpsAreNeverLost) {
  constexpr int kThreads = 4, kTurns = 20'000;
  absl::Mutex mutex;
  int turn = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      struct Mine {
        const int* turn;
        int self;
        bool Now() const { return *turn % kThreads == self; }
      } mine{&turn, i};
      for (int done = 0; done < kTurns / kThreads;) {
        absl::MutexLock lock(&mutex);
        const absl::Condition now(&mine, &Mine::Now);
        if (random() % 4 != 0) {
          mutex.Await(now);
        } else if (!mutex.AwaitWithTimeout(now, absl::Microseconds(random() % 50))) {
          continue;
        }
        ++turn;
        ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(turn, kTurns);
}

}  // namespace
}  // namespace lorica
