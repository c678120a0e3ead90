// Pinned host memory that is taken once and handed out in pieces: pinning anew takes tens of
// milliseconds, in which the driver launches nothing.
//
// What does not fit is pinned on its own. Thread-safe.
#pragma once

#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/tensor.h"

namespace lorica::cuda {

// First fit over a range of bytes, for one thread. Offsets and sizes are multiples of 4 KiB.
class RangeAllocator {
 public:
  static constexpr int64_t kGranularity = 4096;

  explicit RangeAllocator(int64_t bytes);
  // -1: no gap is large enough.
  int64_t Take(int64_t bytes);
  void Give(int64_t offset, int64_t bytes);
  int64_t free_bytes() const;

 private:
  static int64_t Rounded(int64_t bytes);

  std::map<int64_t, int64_t> gaps_;  // offset, size
};

class PinnedPool : public std::enable_shared_from_this<PinnedPool> {
 public:
  static absl::StatusOr<std::shared_ptr<PinnedPool>> Make(int64_t bytes);
  // It holds anything. The pool lives as long as its buffers.
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes);

 private:
  class Piece;

  explicit PinnedPool(int64_t bytes) : ranges_(bytes) {}

  std::unique_ptr<Buffer> memory_;  // null: everything is pinned on its own
  absl::Mutex mutex_;
  RangeAllocator ranges_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica::cuda
