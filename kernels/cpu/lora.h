// The LoRA contract on the CPU:
//
//   y = g * (W x + sum over terms t of s_t w_t (B_t (A_t x) + b_t)) + bias
//
// Shrink computes u = s w A x (fp32, 8 ranks in lanes, four interleaved chains over k,
// added in a fixed order); expand adds B u and s w b, one chain per output over terms and
// ranks in order, and multiplies by g. Both depend on a weight's shape alone, never on the
// rows beside. Rows of one segment share the loads of tiles.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

inline constexpr int kGroupModulesMax = 3;

// One (layer, module) of an adapter with its tiles as pointers.
struct MountedModule {
  int rank_tiles = 0;
  float scale = 1.0f;
  DType dtype = DType::kF32;
  int32_t in_features = 0;
  int32_t out_features = 0;
  std::vector<const std::byte*> a_tiles;
  std::vector<const std::byte*> b_tiles;
  const float* gain = nullptr;  // [out_features], null without DoRA
  const float* bias = nullptr;  // [out_features], null without lora_bias
};

class CpuMountedAdapter final : public MountedAdapter {
 public:
  // InvalidArgument names the module whose tiles do not fit its shape or blocks.
  static absl::StatusOr<std::unique_ptr<MountedAdapter>> Make(const LoraImage& image,
                                                              const KvCache& cache,
                                                              absl::Span<const BlockId> block_ids);

  // Null when the adapter does not touch it.
  const MountedModule* Find(int layer, LoraModule module) const {
    const size_t key = KeyOf(layer, module);
    return key < index_.size() && index_[key] >= 0 ? &modules_[index_[key]] : nullptr;
  }

 private:
  // What is outside the layers comes first.
  static size_t KeyOf(int layer, LoraModule module) {
    constexpr int kOutside = static_cast<int>(LoraModule::kHead) + 1 - kLoraModuleCount;
    const int m = static_cast<int>(module);
    return m >= kLoraModuleCount ? m - kLoraModuleCount : kOutside + layer * kLoraModuleCount + m;
  }

  std::vector<MountedModule> modules_;
  std::vector<int32_t> index_;  // KeyOf -> modules_, -1 = untouched
};

// One term of one segment for one module of the group at hand.
struct LoraEntry {
  const MountedModule* module = nullptr;
  float scale = 0.0f;        // s_t w_t
  const float* u = nullptr;  // [rows of the segment, padded rank]
};

// A run of at most kRowsAtOnce rows of one segment, or of no segment (index -1).
struct RowBlock {
  static constexpr int kRowsAtOnce = 16;
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t segment = -1;
  int32_t row_in_segment = 0;
};

// What expand reads for some rows and columns of one module.
struct ExpandJob {
  const LoraEntry* entries = nullptr;
  int64_t entry_count = 0;
  int64_t row_in_segment = 0;
  int64_t rows = 0;
  int64_t column_begin = 0;  // in the module
  int64_t columns = 0;
  float* y = nullptr;  // row 0, column column_begin
  int64_t y_stride = 0;
};

// The LoRA state of one step: row blocks, and u of the last shrink.
class LoraStep {
 public:
  // Borrows segments and terms until the next Begin.
  void Begin(int64_t rows, absl::Span<const LoraSegment> segments,
             absl::Span<const LoraTerm> terms);
  // u for all terms of all segments that touch (layer, group).
  void Shrink(const float* x, int64_t columns, int layer, LoraGroup group, ThreadPool& pool);
  // The same for the embedding, whose rows are tokens: [rows].
  void ShrinkTokens(absl::Span<const int32_t> tokens, ThreadPool& pool);
  // Forgets u. Each post verb calls it when it is done.
  void Clear() { active_ = false; }

  const std::vector<RowBlock>& row_blocks() const { return row_blocks_; }
  // True when the last shrink found something for this (layer, group).
  bool Touches(int layer, LoraGroup group) const {
    return active_ && layer == layer_ && group == group_;
  }
  // y += B u and y *= g for rows of `block`, columns [column_begin, + columns) of module
  // `slot` of the group. `y` points at row 0 of the block and that first column.
  void Expand(const RowBlock& block, int slot, int64_t column_begin, int64_t columns, float* y,
              int64_t y_stride) const;

 private:
  struct ShrinkTask {
    const LoraEntry* entry;
    int64_t row_begin;  // of the segment
    int64_t first_row;  // in the segment
    int64_t rows;
    int rank_tile;
  };
  struct SegmentEntries {
    int32_t begin[kGroupModulesMax + 1] = {};
  };

  void CollectEntries(int layer, LoraGroup group);
  void PlaceEntries();
  float* UOf(const ShrinkTask& task) const;

  absl::Span<const LoraSegment> step_segments_;
  absl::Span<const LoraTerm> terms_;
  std::vector<RowBlock> row_blocks_;
  std::vector<SegmentEntries> segments_;
  std::vector<LoraEntry> entries_;
  std::vector<int32_t> entry_segments_;
  std::vector<ShrinkTask> tasks_;
  HostMemory u_;
  bool active_ = false;
  int layer_ = 0;
  LoraGroup group_ = LoraGroup::kQkv;
};

}  // namespace lorica
