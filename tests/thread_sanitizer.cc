// What the thread sanitizer has to know of absl's mutexes. Debian's library is not built with it,
// so that without these every hand-over under a mutex would look like a race. Each function here
// stands before the library's of the same name, calls it, and says what it ordered.
#include <dlfcn.h>

#include <cstdlib>
#include <type_traits>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}

namespace {

template <typename Function>
Function Real(const char* name) {
  void* const found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) std::abort();  // another version of the library: its names differ
  return reinterpret_cast<Function>(found);
}

void Acquire(const void* address) { __tsan_acquire(const_cast<void*>(address)); }
void Release(const void* address) { __tsan_release(const_cast<void*>(address)); }

// A condition of one thread that others evaluate too, when they give the mutex up.
struct Shared {
  absl::Mutex* mutex;
  const absl::Condition* condition;

  static bool Evaluate(const Shared* self) {
    Acquire(self->mutex);
    const bool holds = self->condition->Eval();
    Release(self->mutex);
    return holds;
  }
};

// Waits by `wait`, which gives the mutex up in between.
template <typename Wait>
auto Around(absl::Mutex* mutex, const absl::Condition& condition, Wait wait) {
  Release(mutex);
  const Shared shared{mutex, &condition};
  const absl::Condition evaluated(&Shared::Evaluate, &shared);
  if constexpr (std::is_void_v<decltype(wait(evaluated))>) {
    wait(evaluated);
    Acquire(mutex);
  } else {
    const auto result = wait(evaluated);
    Acquire(mutex);
    return result;
  }
}

}  // namespace

#define LORICA_REAL(type, name) static const auto real = Real<type>("_ZN4absl7debian3" name)

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  LORICA_REAL(void (*)(Mutex*), "5Mutex4LockEv");
  real(this);
  Acquire(this);
}
void Mutex::Unlock() {
  LORICA_REAL(void (*)(Mutex*), "5Mutex6UnlockEv");
  Acquire(this);  // it may evaluate conditions of those who wait
  Release(this);
  real(this);
}
bool Mutex::TryLock() {
  LORICA_REAL(bool (*)(Mutex*), "5Mutex7TryLockEv");
  const bool locked = real(this);
  if (locked) Acquire(this);
  return locked;
}
void Mutex::ReaderLock() {
  LORICA_REAL(void (*)(Mutex*), "5Mutex10ReaderLockEv");
  real(this);
  Acquire(this);
}
void Mutex::ReaderUnlock() {
  LORICA_REAL(void (*)(Mutex*), "5Mutex12ReaderUnlockEv");
  Release(this);
  real(this);
}
void Mutex::LockWhen(const Condition& condition) {
  LORICA_REAL(void (*)(Mutex*, const Condition&), "5Mutex8LockWhenERKNS0_9ConditionE");
  Around(this, condition, [&](const Condition& evaluated) { real(this, evaluated); });
}
bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  LORICA_REAL(bool (*)(Mutex*, const Condition&, Duration),
              "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Around(this, condition,
                [&](const Condition& evaluated) { return real(this, evaluated, timeout); });
}
bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  LORICA_REAL(bool (*)(Mutex*, const Condition&, Time),
              "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Around(this, condition,
                [&](const Condition& evaluated) { return real(this, evaluated, deadline); });
}
void Mutex::Await(const Condition& condition) {
  LORICA_REAL(void (*)(Mutex*, const Condition&), "5Mutex5AwaitERKNS0_9ConditionE");
  Around(this, condition, [&](const Condition& evaluated) { real(this, evaluated); });
}
bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  LORICA_REAL(bool (*)(Mutex*, const Condition&, Duration),
              "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Around(this, condition,
                [&](const Condition& evaluated) { return real(this, evaluated, timeout); });
}
bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  LORICA_REAL(bool (*)(Mutex*, const Condition&, Time),
              "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Around(this, condition,
                [&](const Condition& evaluated) { return real(this, evaluated, deadline); });
}

void CondVar::Wait(Mutex* mutex) {
  LORICA_REAL(void (*)(CondVar*, Mutex*), "7CondVar4WaitEPNS0_5MutexE");
  Release(mutex);
  real(this, mutex);
  Acquire(mutex);
}
bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  LORICA_REAL(bool (*)(CondVar*, Mutex*, Duration),
              "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  Release(mutex);
  const bool late = real(this, mutex, timeout);
  Acquire(mutex);
  return late;
}
bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  LORICA_REAL(bool (*)(CondVar*, Mutex*, Time),
              "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  Release(mutex);
  const bool late = real(this, mutex, deadline);
  Acquire(mutex);
  return late;
}

void Notification::Notify() {
  LORICA_REAL(void (*)(Notification*), "12Notification6NotifyEv");
  Release(this);
  real(this);
}
void Notification::WaitForNotification() const {
  static const auto real =
      Real<void (*)(const Notification*)>("_ZNK4absl7debian312Notification19WaitForNotificationEv");
  real(this);
  Acquire(this);
}
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static const auto real = Real<bool (*)(const Notification*, Duration)>(
      "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = real(this, timeout);
  if (notified) Acquire(this);
  return notified;
}

bool BlockingCounter::DecrementCount() {
  LORICA_REAL(bool (*)(BlockingCounter*), "15BlockingCounter14DecrementCountEv");
  Release(this);
  return real(this);
}
void BlockingCounter::Wait() {
  LORICA_REAL(void (*)(BlockingCounter*), "15BlockingCounter4WaitEv");
  real(this);
  Acquire(this);
}

ABSL_NAMESPACE_END
}  // namespace absl
