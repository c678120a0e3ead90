#include "tests/fakes/clock_shim.h"

#include <dlfcn.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>

// Called before the runtime of a sanitizer has begun.
#define LORICA_UNCHECKED __attribute__((no_sanitize_thread, no_sanitize_address))

namespace {

constexpr int64_t kNanosecondsOfSecond = 1'000'000'000;
// How soon a sleeper learns of a step.
constexpr int64_t kSliceNs = 10'000'000;

std::atomic<int64_t> g_offset_ns = 0;

using Syscall = long (*)(long, ...);

LORICA_UNCHECKED Syscall Real() {
  static Syscall real;  // every thread finds the same
  Syscall found = __atomic_load_n(&real, __ATOMIC_RELAXED);
  if (found == nullptr) {
    found = reinterpret_cast<Syscall>(dlsym(RTLD_NEXT, "syscall"));
    __atomic_store_n(&real, found, __ATOMIC_RELAXED);
  }
  return found;
}

int64_t Nanoseconds(const timespec& time) {
  // A year that the kernel would wait for in vain.
  constexpr int64_t kSecondsMax = INT64_MAX / kNanosecondsOfSecond - 1;
  return std::min<int64_t>(time.tv_sec, kSecondsMax) * kNanosecondsOfSecond + time.tv_nsec;
}

timespec Timespec(int64_t ns) { return {ns / kNanosecondsOfSecond, ns % kNanosecondsOfSecond}; }

int64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return Nanoseconds(now);
}

// A wait until `end` of the stepped clock, as a row of short ones by the monotonic clock.
long WaitByWallClock(long word, int operation, long value, const timespec& end, long bits) {
  const int by_monotonic = operation & ~FUTEX_CLOCK_REALTIME;
  while (true) {
    const int64_t left = Nanoseconds(end) - Now(CLOCK_REALTIME);
    const timespec slice =
        Timespec(Now(CLOCK_MONOTONIC) + std::clamp<int64_t>(left, 0, kSliceNs));
    const long result = Real()(SYS_futex, word, by_monotonic, value, &slice, nullptr, bits);
    if (result == 0 || errno != ETIMEDOUT || left <= kSliceNs) return result;
  }
}

}  // namespace

namespace lorica::fakes {

void SetWallOffset(absl::Duration offset) { g_offset_ns = absl::ToInt64Nanoseconds(offset); }
absl::Duration WallOffset() { return absl::Nanoseconds(g_offset_ns.load()); }

}  // namespace lorica::fakes

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const int result = static_cast<int>(Real()(SYS_clock_gettime, clock, now));
  if (clock == CLOCK_REALTIME && result == 0) {
    *now = Timespec(Nanoseconds(*now) + g_offset_ns.load());
  }
  return result;
}

int gettimeofday(timeval* now, void*) noexcept {
  const int64_t ns = Now(CLOCK_REALTIME);
  *now = {ns / kNanosecondsOfSecond, ns % kNanosecondsOfSecond / 1000};
  return 0;
}

time_t time(time_t* now) noexcept {
  const time_t seconds = Now(CLOCK_REALTIME) / kNanosecondsOfSecond;
  if (now != nullptr) *now = seconds;
  return seconds;
}

LORICA_UNCHECKED long syscall(long number, ...) noexcept {
  va_list rest;
  va_start(rest, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(rest, long);
  va_end(rest);
  const auto [word, operation, value, end, unused, bits] = arguments;
  const auto* const time = reinterpret_cast<const timespec*>(end);
  constexpr long kByWallClock = FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME;
  if (number == SYS_futex && (operation & ~FUTEX_PRIVATE_FLAG) == kByWallClock && time != nullptr) {
    return WaitByWallClock(word, static_cast<int>(operation), value, *time, bits);
  }
  return Real()(number, word, operation, value, end, unused, bits);
}

}  // extern "C"
