// A few threads and a bounded queue, for work that may block: templates, tokenising, folders.
//
// What may take long (hashing, copying and checking adapters) has a pool of its own, so that it
// holds up nothing but its like.
// Transports never do such work on their event threads; they hand it in here and get
// `false` when the queue is full, which becomes Unavailable. Thread-safe. Destruction
// runs what is queued and joins.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/api/later.h"

namespace lorica {

inline constexpr int kAdapterWorkThreads = 2;

class WorkPool {
 public:
  // REQUIRES: threads >= 1, queue_max >= 1.
  WorkPool(int threads, int queue_max);
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False: the queue is full and `work` was not taken.
  bool TryRun(std::function<void()> work);
  // Always taken, for the next piece of a call that was admitted before: whoever uses
  // it has at most one piece per call here, so that calls bound the queue.
  void RunAdmitted(std::function<void()> work);
  // The same after a while, for which no thread waits; not at all where the pool ends before.
  void RunAdmittedAfter(absl::Duration wait, std::function<void()> work);

 private:
  void Loop();
  bool Add(std::function<void()> work, size_t queue_max);
  // Whether one more thread is to be woken. A woken one wakes the next, so that whoever adds
  // much at once, as the engine does after a step, pays for a single wake-up.
  bool WantsThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t queue_max_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int idle_ ABSL_GUARDED_BY(mutex_) = 0;         // threads that wait
  bool waking_ ABSL_GUARDED_BY(mutex_) = false;  // one of them is on its way
  absl::CondVar work_there_;
  std::vector<std::thread> threads_;
  Later later_;
};

}  // namespace lorica
