#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <chrono>

#include "kernels/check.h"

namespace lorica {
namespace {

constexpr int kTaskBits = 20;
constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;
constexpr int kPausesPerLook = 32;

uint64_t NextTask(uint64_t ticket) { return ticket & kTaskMask; }
uint64_t TaskCount(uint64_t ticket) { return (ticket >> kTaskBits) & kTaskMask; }
bool HasTask(uint64_t ticket) { return NextTask(ticket) < TaskCount(ticket); }

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `ready` or until kSpinNs have passed; true when ready.
template <typename Ready>
bool SpinUntil(const Ready& ready) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::nanoseconds(ThreadPool::kSpinNs);
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (ready()) return true;
      Pause();
    }
  } while (Clock::now() < deadline);
  return ready();
}

}  // namespace

int ThreadPool::UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const int count = CPU_COUNT(&set);
  return count < 1 ? 1 : count > kThreadsMax ? kThreadsMax : count;
}

ThreadPool::ThreadPool(int threads) {
  LORICA_CHECK(threads >= 1 && threads <= kThreadsMax, threads);
  workers_.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Wake() {
  if (blocked_workers_.load() == 0) return;
  // The lock orders this after a worker that has counted itself but not yet begun to wait.
  { std::lock_guard lock(mutex_); }
  work_ready_.notify_all();
}

void ThreadPool::RunShared(int64_t count, TaskCall call, const void* task) {
  LORICA_CHECK(count <= kTasksMax, count);
  const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> (2 * kTaskBits)) + 1;
  done_.store(0, std::memory_order_relaxed);
  call_.store(call, std::memory_order_relaxed);
  task_.store(task, std::memory_order_relaxed);
  ticket_.store(epoch << (2 * kTaskBits) | static_cast<uint64_t>(count) << kTaskBits);
  Wake();
  while (ClaimAndRun(0)) {
  }
  WaitForTasks(count);
}

void ThreadPool::WaitForTasks(int64_t count) {
  const auto finished = [&] { return done_.load() == count; };
  if (finished() || SpinUntil(finished)) return;
  std::unique_lock lock(mutex_);
  caller_blocked_ = true;
  tasks_done_.wait(lock, finished);
  caller_blocked_ = false;
}

bool ThreadPool::HasWork() const { return HasTask(ticket_.load()); }

// Takes one task of the current region and runs it; false when none is left.
bool ThreadPool::ClaimAndRun(int worker) {
  uint64_t ticket = ticket_.load();
  while (HasTask(ticket)) {
    const TaskCall call = call_.load(std::memory_order_relaxed);
    const void* task = task_.load(std::memory_order_relaxed);
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
    const auto count = static_cast<int64_t>(TaskCount(ticket));
    call(task, static_cast<int64_t>(NextTask(ticket)), worker);
    if (done_.fetch_add(1) + 1 == count && caller_blocked_.load()) {
      std::lock_guard lock(mutex_);
      tasks_done_.notify_one();
    }
    return true;
  }
  return false;
}

void ThreadPool::Block() {
  std::unique_lock lock(mutex_);
  blocked_workers_.fetch_add(1);
  if (!HasWork() && !stopping_) work_ready_.wait(lock);
  blocked_workers_.fetch_sub(1);
}

void ThreadPool::WorkerLoop(int worker) {
  const auto ready = [this] { return HasWork() || stopping_.load(std::memory_order_relaxed); };
  while (!stopping_) {
    if (ClaimAndRun(worker)) continue;
    if (!SpinUntil(ready)) Block();
  }
}

}  // namespace lorica
