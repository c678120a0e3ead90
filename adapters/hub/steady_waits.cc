// Timed waits that no step of the wall clock makes longer or shorter, of every absl::Mutex,
// absl::CondVar and absl::Notification of the program, gRPC's included.
//
// absl hands the kernel the wall-clock time at which a wait is to end. Set the clock back by a day,
// and every thread that sleeps so sleeps a day longer, gRPC's timers among them. What a wait comes
// down to in the end are two functions, a semaphore of each thread's, which absl lets a program
// define itself. These are ours: they turn the time into one of the monotonic clock when the wait
// begins. So nobody who waits has to remember it, a timed wait costs two more readings of a clock
// and a wake-up nothing, and gRPC's deadlines, pings and alarms keep their time as well, which
// waits of our own beside absl's could not give them. What is left: a step in the microsecond
// between absl's own look at the clock and ours is seen as before. absl's counts of blocked
// threads, which nobody here reads, are not kept.
//
// An object and no part of a library, for nothing asks for it by name: a program that is to have it
// links lorica_steady_waits. Later versions of absl wait by the monotonic clock themselves.
#include <linux/futex.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>

#include "absl/base/config.h"
#include "absl/synchronization/internal/per_thread_sem.h"
#include "absl/synchronization/internal/waiter.h"

namespace lorica {
namespace {

namespace internal = absl::synchronization_internal;
using Count = std::atomic<int32_t>;

static_assert(ABSL_LTS_RELEASE_VERSION == 20220623 &&
                  ABSL_WAITER_MODE == ABSL_WAITER_MODE_FUTEX &&
                  sizeof(internal::Waiter) == sizeof(Count),
              "another absl: see whether its waits still need this, and whether this fits them");

constexpr int64_t kNanosecondsOfSecond = 1'000'000'000;

// What absl has set to zero when the thread first came.
Count& CountOf(absl::base_internal::ThreadIdentity* identity) {
  return *reinterpret_cast<Count*>(identity->waiter_state.data);
}

int64_t Nanoseconds(const timespec& time) {
  int64_t result = 0;
  const bool beyond = __builtin_mul_overflow(time.tv_sec, kNanosecondsOfSecond, &result) ||
                      __builtin_add_overflow(result, time.tv_nsec, &result);
  return beyond ? INT64_MAX : result;
}

int64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return Nanoseconds(now);
}

// When the monotonic clock ends the wait that is to end at `end` of the wall clock. One wait may
// come here several times; the first time counts.
timespec SteadyEnd(int64_t end) {
  thread_local int64_t last_end = 0;
  thread_local int64_t last_steady = 0;
  if (end != last_end) {
    last_end = end;
    if (__builtin_add_overflow(end - Now(CLOCK_REALTIME), Now(CLOCK_MONOTONIC), &last_steady)) {
      last_steady = INT64_MAX;
    }
    last_steady = std::max<int64_t>(last_steady, 0);
  }
  return {last_steady / kNanosecondsOfSecond, last_steady % kNanosecondsOfSecond};
}

bool TryTake(Count& count) {
  int32_t value = count.load(std::memory_order_relaxed);
  while (value > 0) {
    if (count.compare_exchange_weak(value, value - 1, std::memory_order_acquire,
                                    std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

}  // namespace
}  // namespace lorica

extern "C" {

void ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemPost)(
    absl::base_internal::ThreadIdentity* identity) {
  auto& count = lorica::CountOf(identity);
  if (count.fetch_add(1, std::memory_order_release) == 0) lorica::internal::Futex::Wake(&count, 1);
}

bool ABSL_INTERNAL_C_SYMBOL(AbslInternalPerThreadSemWait)(
    absl::synchronization_internal::KernelTimeout timeout) {
  auto& count = lorica::CountOf(lorica::internal::GetOrCreateCurrentThreadIdentity());
  if (lorica::TryTake(count)) return true;
  timespec end{};
  if (timeout.has_timeout()) {
    end = lorica::SteadyEnd(lorica::Nanoseconds(timeout.MakeAbsTimespec()));
  }
  while (!lorica::TryTake(count)) {
    const int result = lorica::internal::Futex::WaitBitsetAbsoluteTimeout(
        &count, 0, FUTEX_BITSET_MATCH_ANY, timeout.has_timeout() ? &end : nullptr);
    if (result == -ETIMEDOUT) return false;
  }
  return true;
}

}  // extern "C"
