#include "kernels/cuda/pinned_pool.h"

#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {

RangeAllocator::RangeAllocator(int64_t bytes) {
  const int64_t whole = bytes / kGranularity * kGranularity;
  if (whole > 0) gaps_.emplace(0, whole);
}

int64_t RangeAllocator::Rounded(int64_t bytes) {
  return (bytes + kGranularity - 1) / kGranularity * kGranularity;
}

int64_t RangeAllocator::Take(int64_t bytes) {
  const int64_t wanted = Rounded(bytes);
  for (auto gap = gaps_.begin(); gap != gaps_.end(); ++gap) {
    const auto [offset, size] = *gap;
    if (size < wanted) continue;
    gaps_.erase(gap);
    if (size > wanted) gaps_.emplace(offset + wanted, size - wanted);
    return offset;
  }
  return -1;
}

void RangeAllocator::Give(int64_t offset, int64_t bytes) {
  auto [gap, added] = gaps_.emplace(offset, Rounded(bytes));
  LORICA_CHECK(added, offset);
  const auto after = std::next(gap);
  if (after != gaps_.end() && gap->first + gap->second == after->first) {
    gap->second += after->second;
    gaps_.erase(after);
  }
  if (gap == gaps_.begin()) return;
  const auto before = std::prev(gap);
  if (before->first + before->second == gap->first) {
    before->second += gap->second;
    gaps_.erase(gap);
  }
}

int64_t RangeAllocator::free_bytes() const {
  int64_t bytes = 0;
  for (const auto& [offset, size] : gaps_) bytes += size;
  return bytes;
}

class PinnedPool::Piece : public Buffer {
 public:
  Piece(std::shared_ptr<PinnedPool> pool, int64_t offset, int64_t bytes)
      : pool_(std::move(pool)), offset_(offset), bytes_(bytes) {}
  ~Piece() override {
    absl::MutexLock lock(&pool_->mutex_);
    pool_->ranges_.Give(offset_, bytes_);
  }
  void* data() const override { return static_cast<std::byte*>(pool_->memory_->data()) + offset_; }
  int64_t size_bytes() const override { return bytes_; }

 private:
  const std::shared_ptr<PinnedPool> pool_;
  const int64_t offset_;
  const int64_t bytes_;
};

absl::StatusOr<std::shared_ptr<PinnedPool>> PinnedPool::Make(int64_t bytes) {
  std::shared_ptr<PinnedPool> pool(new PinnedPool(bytes));
  if (bytes == 0) return pool;
  auto memory = AllocatePinned(bytes);
  if (!memory.ok()) return memory.status();
  pool->memory_ = *std::move(memory);
  return pool;
}

absl::StatusOr<std::unique_ptr<Buffer>> PinnedPool::Allocate(int64_t bytes) {
  int64_t offset = -1;
  {
    absl::MutexLock lock(&mutex_);
    offset = ranges_.Take(bytes);
  }
  if (offset < 0) return AllocatePinned(bytes);
  return std::make_unique<Piece>(shared_from_this(), offset, bytes);
}

}  // namespace lorica::cuda
