// A few threads and a bounded queue, for work that may block: hashing folders,
// templates, tokenising.
//
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

namespace lorica {

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

 private:
  void Loop();
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_ || !queue_.empty(); }

  const size_t queue_max_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace lorica
