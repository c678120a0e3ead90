// A few threads that share a list of things to do, in the order they came.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace lorica {

class WorkThreads {
 public:
  explicit WorkThreads(int threads);
  // Ends what runs; what has not begun is dropped.
  ~WorkThreads();

  // `work` gets the number of the thread that runs it.
  void Run(std::function<void(int)> work);

 private:
  void Loop(int thread);
  bool Woken() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stop_ || !works_.empty(); }

  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::function<void(int)>> works_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace lorica
