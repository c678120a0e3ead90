// An adapter whose tiles lie in the arena, as the kernels find it: a table of modules and
// the lists of tile references behind it, in one piece of device memory.
#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/lora_extras.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tables.h"

namespace lorica::cuda {

class CudaMounted : public MountedAdapter {
 public:
  // `stream` is the one that steps run on: it orders allocation, upload and release, and
  // nobody waits for it.
  static absl::StatusOr<std::unique_ptr<MountedAdapter>> Make(const LoraImage& image,
                                                              const KvCache& cache,
                                                              absl::Span<const BlockId> block_ids,
                                                              cudaStream_t stream);

  const DeviceModule* modules() const { return static_cast<const DeviceModule*>(memory_->data()); }
  const std::byte* arena() const { return arena_; }
  int layers() const { return layers_; }
  // Most ranks that a row's u holds in any (layer, group).
  int group_ranks_max() const { return group_ranks_max_; }
  // Most tiles that a rank tile of A is wide. Of linears, as the ranks.
  int wide_tiles_max() const { return wide_tiles_max_; }
  const MountedExtras& extras() const { return extras_; }

 private:
  CudaMounted() = default;

  std::unique_ptr<Buffer> memory_;
  const std::byte* arena_ = nullptr;
  int layers_ = 0;
  int group_ranks_max_ = 0;
  int wide_tiles_max_ = 0;
  MountedExtras extras_;
};

}  // namespace lorica::cuda
