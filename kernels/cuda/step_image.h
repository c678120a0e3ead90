// Packs a StepBatch into one image, which the device scatters to tables whose addresses never
// change.
//
// Two pinned images take turns, so that a step may be packed while the one before it is
// still on its way. One thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/stream.h"
#include "kernels/step_batch.h"

namespace lorica::cuda {

inline constexpr int64_t kPagesMax = int64_t{1} << 23;  // page table entries of a step
inline constexpr int64_t kTokenSlotsMax = int64_t{1} << 16;

class StepImage {
 public:
  // Spans of at most `decode_rows_max` rows decode, see AttendPlan.
  static absl::StatusOr<std::unique_ptr<StepImage>> Make(int rows_max, int decode_rows_max,
                                                         int64_t u_floats, int64_t flagged_u_max);

  const StepTables& tables() const { return tables_; }
  // Counts of the last Send.
  const StepCounts& counts() const { return counts_; }
  const AttendPlan& attend() const { return attend_; }
  // `samples`: rows of its samples, or empty. The step's outputs go to `outputs`. `u_flag`: see
  // StepCounts.
  void Send(const StepBatch& batch, absl::Span<const DeviceSample> samples, SampleOutput* outputs,
            uint32_t u_flag, cudaStream_t stream);

 private:
  struct Staging {
    std::unique_ptr<Buffer> memory;
    Event scattered;
  };
  class Packer;

  explicit StepImage(int decode_rows_max) : attend_(decode_rows_max) {}
  void Layout(int rows_max);
  void PackRows(const StepBatch& batch, Packer& packer);
  void PackAdapters(const StepBatch& batch, Packer& packer);
  void TileRows(const StepBatch& batch, absl::Span<const DeviceSegment> segments, RowTile* tiles,
                int32_t* tile_of_row);

  int rows_max_ = 0;
  int64_t u_floats_ = 0;
  int64_t flagged_u_max_ = 0;
  int64_t image_bytes_max_ = 0;
  StepTables tables_{};
  StepCounts counts_{};
  AttendPlan attend_;
  std::unique_ptr<Buffer> device_;  // tables
  std::unique_ptr<Buffer> token_slots_;
  Staging staging_[2];
  uint32_t turn_ = 0;
};

}  // namespace lorica::cuda
