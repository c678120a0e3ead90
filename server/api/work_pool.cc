#include "server/api/work_pool.h"

#include <limits>
#include <utility>

namespace lorica {

WorkPool::WorkPool(int threads, int queue_max) : queue_max_(queue_max) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

WorkPool::~WorkPool() {
  later_.End();
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  work_there_.SignalAll();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkPool::TryRun(std::function<void()> work) { return Add(std::move(work), queue_max_); }

void WorkPool::RunAdmitted(std::function<void()> work) {
  Add(std::move(work), std::numeric_limits<size_t>::max());
}

void WorkPool::RunAdmittedAfter(absl::Duration wait, std::function<void()> work) {
  later_.Run(wait, [this, work = std::move(work)] { RunAdmitted(work); });
}

bool WorkPool::Add(std::function<void()> work, size_t queue_max) {
  bool wake = false;
  {
    absl::MutexLock lock(&mutex_);
    if (queue_.size() >= queue_max) return false;
    queue_.push_back(std::move(work));
    wake = WantsThread();
  }
  if (wake) work_there_.Signal();
  return true;
}

bool WorkPool::WantsThread() {
  if (queue_.empty() || idle_ == 0 || waking_) return false;
  waking_ = true;
  return true;
}

void WorkPool::Loop() {
  while (true) {
    std::function<void()> work;
    bool wake = false;
    {
      absl::MutexLock lock(&mutex_);
      while (queue_.empty() && !stopping_) {
        ++idle_;
        work_there_.Wait(&mutex_);
        --idle_;
        waking_ = false;
      }
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
      wake = WantsThread();
    }
    if (wake) work_there_.Signal();
    work();
  }
}

}  // namespace lorica
