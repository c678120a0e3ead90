// A few threads that run the tasks of one verb after another.
//
// The caller is worker 0 and works too. Tasks are claimed one by one, so a worker
// that the system has put aside delays nobody unless it holds a task; a region is
// over when its tasks are done, not when all workers have looked at it. Idle
// workers and a waiting caller spin for kSpinNs, then block. Which worker runs a
// task is left to chance: tasks must not depend on it.
//
// Run may be called by one thread at a time; it must not be nested.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace lorica {

class ThreadPool {
 public:
  static constexpr int64_t kSpinNs = 50'000;
  static constexpr int kThreadsMax = 256;
  static constexpr int64_t kTasksMax = (int64_t{1} << 20) - 1;

  // How many CPUs this process may use.
  static int UsableCpus();

  // REQUIRES: 1 <= threads <= kThreadsMax.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(index, worker) once for every index in [0, count) and returns when
  // all have returned. REQUIRES: 0 <= count <= kTasksMax.
  template <typename Task>
  void Run(int64_t count, const Task& task) {
    if (count <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) task(i, 0);
      return;
    }
    RunShared(count, &Call<Task>, &task);
  }

  // Wakes blocked workers, so that they are spinning when work comes.
  void Wake();

 private:
  using TaskCall = void (*)(const void* task, int64_t index, int worker);

  template <typename Task>
  static void Call(const void* task, int64_t index, int worker) {
    (*static_cast<const Task*>(task))(index, worker);
  }

  void RunShared(int64_t count, TaskCall call, const void* task);
  void WaitForTasks(int64_t count);
  void WorkerLoop(int worker);
  bool ClaimAndRun(int worker);
  bool HasWork() const;
  void Block();

  // epoch, task count and next task in one word, so that one compare-and-swap
  // claims a task of exactly the region whose call and task were read.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<TaskCall> call_{nullptr};
  std::atomic<const void*> task_{nullptr};
  std::atomic<int> blocked_workers_{0};
  std::atomic<bool> caller_blocked_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable tasks_done_;
  std::vector<std::thread> workers_;
};

}  // namespace lorica
