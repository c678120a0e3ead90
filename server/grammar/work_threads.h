// A few threads that share things to do.
//
// Those who have something waiting take turns; what one of them wants done is done in the order it
// came. Long works are for the last thread alone, so that the others stay with short ones; with a
// single thread all is its affair.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace lorica {

class WorkThreads {
 public:
  explicit WorkThreads(int threads);
  ~WorkThreads();

  // Ends what runs; what has not begun, and what still comes, is dropped. Once.
  void Stop();

  // `work` gets the number of the thread that runs it.
  using Work = std::function<void(int)>;
  void Run(const std::string& whose, Work work);
  void RunLong(const std::string& whose, Work work);
  int count() const { return count_; }

 private:
  class Turns {
   public:
    void Add(const std::string& whose, Work work) { works_[whose].push_back(std::move(work)); }
    bool empty() const { return works_.empty(); }
    Work Take();
    void Swap(Turns& other) { works_.swap(other.works_); }

   private:
    std::map<std::string, std::deque<Work>> works_;
    std::string last_;  // whose turn it was
  };

  void Loop(int thread);

  const int count_;
  absl::Mutex mutex_;
  absl::CondVar woken_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Turns short_ ABSL_GUARDED_BY(mutex_);
  Turns long_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace lorica
