#include "server/grammar/work_threads.h"

#include <utility>

namespace lorica {

WorkThreads::WorkThreads(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { Loop(i); });
}

WorkThreads::~WorkThreads() {
  std::deque<std::function<void(int)>> dropped;  // what it holds may go back to its owners
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    dropped.swap(works_);
  }
  for (std::thread& thread : threads_) thread.join();
}

void WorkThreads::Run(std::function<void(int)> work) {
  absl::MutexLock lock(&mutex_);
  if (!stop_) works_.push_back(std::move(work));
}

void WorkThreads::Loop(int thread) {
  while (true) {
    std::function<void(int)> work;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &WorkThreads::Woken));
      if (stop_) return;
      work = std::move(works_.front());
      works_.pop_front();
    }
    work(thread);
  }
}

}  // namespace lorica
