#include "kernels/cuda/lora_memory.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/served_sizes.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kSumBytes = int64_t{kStreamRowsMax} * kLoraColumnsMax * kLoraSumBytes;

int64_t DownPartBytes(int rows) {
  return int64_t{rows} * (kServedFfnMax / kDownColumns) * kDownRanks * sizeof(float);
}

// Most row tiles of a step: a segment's and those of the rows between two end before they are full.
int TilesMax(int rows, int segments) {
  const int64_t of_many = 2 * int64_t{segments} + 1 + rows / kManyRows;
  return static_cast<int>(std::min<int64_t>(rows, std::max<int64_t>(of_many, kStreamRowsMax)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoraMemory>> LoraMemory::Make(const Sizes& sizes) {
  std::unique_ptr<LoraMemory> memory(new LoraMemory(sizes));
  LoraPlan& plan = memory->plan_;
  plan.terms_max = sizes.terms;
  plan.blocks = MultiprocessorCount();
  plan.tile_stride = TilesMax(sizes.rows, sizes.requests);
  plan.row_stride = sizes.rows;
  auto flagged_u = AllocateDevice(sizes.flagged_u * sizeof(FlaggedU));
  if (!flagged_u.ok()) return flagged_u.status();
  memory->flagged_u_ = *std::move(flagged_u);
  plan.flagged_u = static_cast<FlaggedU*>(memory->flagged_u_->data());
  auto shared = AllocateDevice(kSumBytes + DownPartBytes(sizes.rows) + sizes.u_floats * 4);
  if (!shared.ok()) return shared.status();
  memory->shared_ = *std::move(shared);
  memory->Place();
  return memory;
}

void LoraMemory::Place() {
  auto* base = static_cast<std::byte*>(shared_->data());
  sums_ = base;
  plan_.down_parts = reinterpret_cast<float*>(base + kSumBytes);
  plan_.u = reinterpret_cast<SplitPairU*>(base + kSumBytes + DownPartBytes(sizes_.rows));
}

absl::Status LoraMemory::MakeTables(int layers) {
  const int64_t pairs = int64_t{layers} * 4;
  LORICA_CHECK(pairs <= kPairsMax, pairs);
  const int64_t entries = int64_t{layers} * kLoraModuleCount * plan_.terms_max;
  const int64_t entry_bytes = entries * sizeof(PlanEntry), begin_bytes = (entries + pairs) * 4;
  auto plan_memory = AllocateDevice(entry_bytes + 2 * begin_bytes);
  if (!plan_memory.ok()) return plan_memory.status();
  auto starts =
      AllocateDevice(pairs * (plan_.blocks * sizeof(ShrinkStart) +
                              plan_.tile_stride * (sizeof(TileStart) + sizeof(RunCosts))));
  if (!starts.ok()) return starts.status();
  entries_ = *std::move(plan_memory);
  starts_ = *std::move(starts);
  layers_ = layers;
  auto* memory = static_cast<std::byte*>(entries_->data());
  plan_.entries = reinterpret_cast<PlanEntry*>(memory);
  plan_.unit_begin = reinterpret_cast<int32_t*>(memory + entry_bytes);
  plan_.rank_begin = reinterpret_cast<int32_t*>(memory + entry_bytes + begin_bytes);
  plan_.tile_starts = static_cast<TileStart*>(starts_->data());
  plan_.shrink_starts =
      reinterpret_cast<ShrinkStart*>(plan_.tile_starts + pairs * plan_.tile_stride);
  plan_.run_costs = reinterpret_cast<RunCosts*>(plan_.shrink_starts + pairs * plan_.blocks);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Buffer>> LoraMemory::Share(int64_t bytes, bool may_move) {
  if (bytes <= shared_->size_bytes()) return shared_;
  auto larger = AllocateDevice(bytes);  // waits for all that was launched
  if (!larger.ok()) return larger.status();
  std::shared_ptr<Buffer> shared = *std::move(larger);
  if (may_move) {
    shared_ = shared;
    Place();
  }
  return shared;
}

void LoraMemory::ClearFlaggedU(cudaStream_t stream) {
  cudaMemsetAsync(flagged_u_->data(), 0, flagged_u_->size_bytes(), stream);
}

}  // namespace lorica::cuda
