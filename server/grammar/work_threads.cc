#include "server/grammar/work_threads.h"

#include <utility>

namespace lorica {

WorkThreads::Work WorkThreads::Turns::Take() {
  auto next = works_.upper_bound(last_);
  if (next == works_.end()) next = works_.begin();
  last_ = next->first;
  Work work = std::move(next->second.front());
  next->second.pop_front();
  if (next->second.empty()) works_.erase(next);
  return work;
}

WorkThreads::WorkThreads(int threads) : count_(threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { Loop(i); });
}

WorkThreads::~WorkThreads() { Stop(); }

void WorkThreads::Stop() {
  Turns dropped[2];  // what they hold may go back to its owners
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
    dropped[0].Swap(short_);
    dropped[1].Swap(long_);
  }
  woken_.SignalAll();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void WorkThreads::Run(const std::string& whose, Work work) {
  absl::MutexLock lock(&mutex_);
  if (!stop_) short_.Add(whose, std::move(work));
  woken_.SignalAll();
}

void WorkThreads::RunLong(const std::string& whose, Work work) {
  absl::MutexLock lock(&mutex_);
  if (!stop_) long_.Add(whose, std::move(work));
  woken_.SignalAll();
}

void WorkThreads::Loop(int thread) {
  const bool takes_long = thread == count_ - 1;
  while (true) {
    Work work;
    {
      absl::MutexLock lock(&mutex_);
      while (!stop_ && short_.empty() && (long_.empty() || !takes_long)) woken_.Wait(&mutex_);
      if (stop_) return;
      work = takes_long && !long_.empty() ? long_.Take() : short_.Take();
    }
    work(thread);
  }
}

}  // namespace lorica
