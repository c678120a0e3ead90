// Device memory of a step's LoRA plan and of what adapters compute.
//
// u, the sums that a product's LoRA warps leave and the parts of down products are wanted from one
// product until the verb behind it, never while attention runs. So the sums of attention's pieces
// lie in the same place.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tables.h"

namespace lorica::cuda {

class LoraMemory {
 public:
  // Most of a step.
  struct Sizes {
    int rows = 0;
    int requests = 0;  // and so segments
    int terms = 0;
    int64_t u_floats = 0;
    int64_t flagged_u = 0;
  };
  static absl::StatusOr<std::unique_ptr<LoraMemory>> Make(const Sizes& sizes);

  // Its addresses are those of this memory. What concerns one step alone is unset.
  const LoraPlan& plan() const { return plan_; }
  int layers() const { return layers_; }
  void* sums() const { return sums_; }  // LoraArgs::sums

  // Room for the tables of a model with that many layers. The addresses of before are gone.
  absl::Status MakeTables(int layers);
  // `bytes` that hold anything, for who uses them in between. Where it has to be more than there
  // is, the rest moves there too if it `may_move`.
  absl::StatusOr<std::shared_ptr<Buffer>> Share(int64_t bytes, bool may_move);
  // Makes all numbers of flagged u zero.
  void ClearFlaggedU(cudaStream_t stream);

 private:
  explicit LoraMemory(const Sizes& sizes) : sizes_(sizes) {}
  void Place();

  Sizes sizes_;
  LoraPlan plan_{};
  int layers_ = 0;
  void* sums_ = nullptr;
  std::unique_ptr<Buffer> entries_;
  std::unique_ptr<Buffer> starts_;
  std::unique_ptr<Buffer> flagged_u_;
  std::shared_ptr<Buffer> shared_;
};

}  // namespace lorica::cuda
