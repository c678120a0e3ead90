// One background thread of low priority that copies blocks beside running steps.
//
// Thread-safe. Copies finish in the order they were started; the destructor
// finishes what was started.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/backend.h"

namespace lorica {

class CopyStream {
 public:
  CopyStream();
  ~CopyStream();
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;

  std::unique_ptr<CopyTicket> Start(const KvCache& cache, absl::Span<const BlockCopy> copies);

 private:
  struct Job;
  class Ticket;

  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace lorica
