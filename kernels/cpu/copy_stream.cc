#include "kernels/cpu/copy_stream.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace lorica {
namespace {

constexpr int kCopyNiceness = 10;

// Linux keeps a niceness for each thread; a refusal only costs politeness.
void LowerOwnPriority() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kCopyNiceness);
}

}  // namespace

struct CopyStream::Job {
  std::byte* arena = nullptr;
  int64_t block_bytes = 0;
  std::vector<BlockCopy> copies;
  std::atomic<bool> done{false};
};

class CopyStream::Ticket final : public CopyTicket {
 public:
  explicit Ticket(std::shared_ptr<Job> job) : job_(std::move(job)) {}
  bool Done() const override { return job_->done.load(std::memory_order_acquire); }
  absl::Status status() const override { return absl::OkStatus(); }

 private:
  std::shared_ptr<Job> job_;
};

CopyStream::CopyStream() : thread_([this] { Loop(); }) {}

CopyStream::~CopyStream() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::unique_ptr<CopyTicket> CopyStream::Start(const KvCache& cache,
                                              absl::Span<const BlockCopy> copies) {
  auto job = std::make_shared<Job>();
  job->arena = static_cast<std::byte*>(cache.arena);
  job->block_bytes = cache.block_bytes;
  job->copies.assign(copies.begin(), copies.end());
  {
    std::lock_guard lock(mutex_);
    jobs_.push_back(job);
  }
  changed_.notify_one();
  return std::make_unique<Ticket>(std::move(job));
}

void CopyStream::Loop() {
  LowerOwnPriority();
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const std::shared_ptr<Job> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    for (const BlockCopy& copy : job->copies) {
      std::memcpy(job->arena + copy.target * job->block_bytes, copy.source, job->block_bytes);
    }
    job->done.store(true, std::memory_order_release);
    lock.lock();
  }
}

}  // namespace lorica
