#include "kernels/cpu/lora.h"

#include <algorithm>

#include "kernels/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/lora.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

constexpr size_t kRankVectors = kTileRanks / kLanes;
constexpr size_t kChains = 4;  // over k; a tile's width is a multiple of it except at the end
static_assert(kTileWidth % kChains == 0);

// Eight ranks for kRows rows: u[row][rank] = scale * sum over k of A[k][rank] x[row][k].
template <size_t kRows, typename T>
HWY_INLINE void ShrinkTile(const MountedModule& module, int rank_tile, float scale, const float* x,
                           float* u, size_t u_stride) {
  constexpr size_t kVectors = kChains * kRankVectors;
  V sum[kRows][kVectors];
  for (auto& row : sum) {
    for (V& s : row) s = hn::Zero(Floats());
  }
  const size_t width = module.in_features;
  const size_t wide_tiles = (width + kTileWidth - 1) / kTileWidth;
  for (size_t t = 0; t < wide_tiles; ++t) {
    const T* a = reinterpret_cast<const T*>(module.a_tiles[rank_tile * wide_tiles + t]);
    const size_t first = t * kTileWidth;
    const size_t count = HWY_MIN(size_t{kTileWidth}, width - first);
    Prefetch(reinterpret_cast<const std::byte*>(a), count * kTileRanks * sizeof(T));
    size_t k = 0;
    for (; k + kChains <= count; k += kChains) {
      for (size_t v = 0; v < kVectors; ++v) {
        const V ranks = LoadVector(a + k * kTileRanks + v * kLanes);
        for (size_t r = 0; r < kRows; ++r) {
          sum[r][v] =
              hn::MulAdd(ranks, Splat(x[r * width + first + k + v / kRankVectors]), sum[r][v]);
        }
      }
    }
    for (size_t v = 0; v < (count - k) * kRankVectors; ++v) {
      const V ranks = LoadVector(a + k * kTileRanks + v * kLanes);
      for (size_t r = 0; r < kRows; ++r) {
        sum[r][v] =
            hn::MulAdd(ranks, Splat(x[r * width + first + k + v / kRankVectors]), sum[r][v]);
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kRankVectors; ++v) {
      const V low = hn::Add(sum[r][v], sum[r][v + kRankVectors]);
      const V high = hn::Add(sum[r][v + 2 * kRankVectors], sum[r][v + 3 * kRankVectors]);
      StoreVector(hn::Mul(hn::Add(low, high), Splat(scale)), u + r * u_stride + v * kLanes);
    }
  }
}

template <typename T>
HWY_INLINE void ShrinkRowsOf(const MountedModule& module, int rank_tile, float scale,
                             const float* x, int64_t rows, float* u) {
  const size_t u_stride = module.rank_tiles * kTileRanks;
  const size_t width = module.in_features;
  int64_t row = 0;
  for (; row + 2 <= rows; row += 2) {
    ShrinkTile<2, T>(module, rank_tile, scale, x + row * width, u + row * u_stride, u_stride);
  }
  if (row < rows) {
    ShrinkTile<1, T>(module, rank_tile, scale, x + row * width, u + row * u_stride, u_stride);
  }
}

// u points at the rank tile of row 0.
void ShrinkRows(const MountedModule& module, int rank_tile, float scale, const float* x,
                int64_t rows, float* u) {
  switch (module.dtype) {
    case DType::kF16:
      return ShrinkRowsOf<hwy::float16_t>(module, rank_tile, scale, x, rows, u);
    case DType::kBF16:
      return ShrinkRowsOf<hwy::bfloat16_t>(module, rank_tile, scale, x, rows, u);
    default:
      return ShrinkRowsOf<float>(module, rank_tile, scale, x, rows, u);
  }
}

// Whole vectors, or the first `some` lanes where kPartial.
template <bool kPartial, typename T>
HWY_INLINE V LoadLanes(const T* from, size_t some) {
  if constexpr (kPartial) return LoadSome(from, some);
  return LoadVector(from);
}

// kVectors vectors of outputs for kRows rows: sum += B u over the ranks of one term in order.
template <size_t kRows, size_t kVectors, bool kPartial, typename T>
HWY_INLINE void ExpandTerm(const LoraEntry& entry, size_t row, size_t column, size_t some,
                           V (&sum)[kRows][kVectors]) {
  const MountedModule& module = *entry.module;
  const size_t wide_tiles = (module.out_features + kTileWidth - 1) / kTileWidth;
  const size_t tile = column / kTileWidth;
  const size_t width = HWY_MIN(size_t{kTileWidth}, module.out_features - tile * kTileWidth);
  const size_t u_stride = module.rank_tiles * kTileRanks;
  const float* u = entry.u + row * u_stride;
  for (size_t t = 0; t < static_cast<size_t>(module.rank_tiles); ++t, u += kTileRanks) {
    const T* b =
        reinterpret_cast<const T*>(module.b_tiles[t * wide_tiles + tile]) + column % kTileWidth;
    for (size_t rank = 0; rank < kTileRanks; ++rank, b += width) {
      V outputs[kVectors];
      for (size_t v = 0; v < kVectors; ++v) outputs[v] = LoadLanes<kPartial>(b + v * kLanes, some);
      for (size_t r = 0; r < kRows; ++r) {
        const V a = Splat(u[r * u_stride + rank]);
        for (size_t v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(outputs[v], a, sum[r][v]);
      }
    }
  }
}

template <size_t kRows, size_t kVectors, bool kPartial>
HWY_INLINE void AddTermBias(const LoraEntry& entry, size_t column, size_t some,
                            V (&sum)[kRows][kVectors]) {
  for (size_t v = 0; v < kVectors; ++v) {
    const V bias = LoadLanes<kPartial>(entry.module->bias + column + v * kLanes, some);
    for (size_t r = 0; r < kRows; ++r) {
      sum[r][v] = hn::MulAdd(bias, Splat(entry.scale), sum[r][v]);
    }
  }
}

template <size_t kRows, size_t kVectors, bool kPartial>
HWY_INLINE void ExpandOutputs(const ExpandJob& job, size_t row, size_t offset, size_t some) {
  V sum[kRows][kVectors];
  for (auto& r : sum) {
    for (V& s : r) s = hn::Zero(Floats());
  }
  const size_t column = job.column_begin + offset;
  const size_t first = job.row_in_segment + row;
  for (int64_t e = 0; e < job.entry_count; ++e) {
    const LoraEntry& entry = job.entries[e];
    if (entry.module->bias != nullptr) {
      AddTermBias<kRows, kVectors, kPartial>(entry, column, some, sum);
    }
    if (entry.module->dtype == DType::kF16) {
      ExpandTerm<kRows, kVectors, kPartial, hwy::float16_t>(entry, first, column, some, sum);
    } else if (entry.module->dtype == DType::kBF16) {
      ExpandTerm<kRows, kVectors, kPartial, hwy::bfloat16_t>(entry, first, column, some, sum);
    } else {
      ExpandTerm<kRows, kVectors, kPartial, float>(entry, first, column, some, sum);
    }
  }
  const float* gain = job.entries[0].module->gain;
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      float* y = job.y + (row + r) * job.y_stride + offset + v * kLanes;
      V value = hn::Add(LoadLanes<kPartial>(y, some), sum[r][v]);
      if (gain != nullptr) {
        value = hn::Mul(value, LoadLanes<kPartial>(gain + column + v * kLanes, some));
      }
      if constexpr (kPartial) {
        StoreSome(value, y, some);
      } else {
        StoreVector(value, y);
      }
    }
  }
}

template <size_t kRows>
HWY_INLINE void ExpandRowsAtOnce(const ExpandJob& job, size_t row) {
  constexpr size_t kWide = 4;
  const size_t columns = job.columns;
  size_t c = 0;
  for (; c + kWide * kLanes <= columns; c += kWide * kLanes) {
    ExpandOutputs<kRows, kWide, false>(job, row, c, 0);
  }
  for (; c + kLanes <= columns; c += kLanes) ExpandOutputs<kRows, 1, false>(job, row, c, 0);
  if (c < columns) ExpandOutputs<kRows, 1, true>(job, row, c, columns - c);
}

// Asks for the columns of B that are about to be read: 8 short runs a tile, which the
// hardware does not foresee.
HWY_INLINE void PrefetchColumns(const ExpandJob& job) {
  for (int64_t e = 0; e < job.entry_count; ++e) {
    const MountedModule& module = *job.entries[e].module;
    const size_t bytes = module.dtype == DType::kF32 ? 4 : 2;
    const size_t wide_tiles = (module.out_features + kTileWidth - 1) / kTileWidth;
    const size_t tile = job.column_begin / kTileWidth;
    const size_t width = HWY_MIN(size_t{kTileWidth}, module.out_features - tile * kTileWidth);
    for (size_t t = 0; t < static_cast<size_t>(module.rank_tiles); ++t) {
      const std::byte* b =
          module.b_tiles[t * wide_tiles + tile] + job.column_begin % kTileWidth * bytes;
      for (size_t rank = 0; rank < kTileRanks; ++rank, b += width * bytes) {
        Prefetch(b, job.columns * bytes);
      }
    }
  }
}

void ExpandRows(const ExpandJob& job) {
  PrefetchColumns(job);
  int64_t row = 0;
  for (; row + 2 <= job.rows; row += 2) ExpandRowsAtOnce<2>(job, row);
  if (row < job.rows) ExpandRowsAtOnce<1>(job, row);
}

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorica {

HWY_EXPORT(ShrinkRows);
HWY_EXPORT(ExpandRows);

namespace {

void AppendRowBlocks(int32_t begin, int32_t end, int32_t segment, std::vector<RowBlock>& blocks) {
  for (int32_t row = begin; row < end; row += RowBlock::kRowsAtOnce) {
    blocks.push_back({row, std::min(RowBlock::kRowsAtOnce, end - row), segment, row - begin});
  }
}

// Eight ranks of one token's column of A.
void ScaledRanks(const MountedModule& module, int rank_tile, int32_t token, float scale, float* u) {
  const int64_t wide_tiles = (module.in_features + kTileWidth - 1) / kTileWidth;
  const std::byte* tile = module.a_tiles[rank_tile * wide_tiles + token / kTileWidth];
  const int64_t bytes = RowBytes(module.dtype, kTileRanks);
  Dequantize(module.dtype, tile + token % kTileWidth * bytes, kTileRanks, u);
  for (int rank = 0; rank < kTileRanks; ++rank) u[rank] *= scale;
}

}  // namespace

void LoraStep::Begin(int64_t rows, absl::Span<const LoraSegment> segments,
                     absl::Span<const LoraTerm> terms) {
  step_segments_ = segments;
  terms_ = terms;
  active_ = false;
  row_blocks_.clear();
  int32_t row = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const LoraSegment& segment = segments[i];
    LORICA_CHECK(segment.row_begin >= row && segment.row_count >= 0, "segment", i);
    LORICA_CHECK(segment.term_count >= 1 && segment.term_count <= kMixTermsMax, "segment", i);
    AppendRowBlocks(row, segment.row_begin, -1, row_blocks_);
    row = segment.row_begin + segment.row_count;
    AppendRowBlocks(segment.row_begin, row, static_cast<int32_t>(i), row_blocks_);
  }
  LORICA_CHECK(row <= rows, row, rows);
  AppendRowBlocks(row, static_cast<int32_t>(rows), -1, row_blocks_);
}

void LoraStep::CollectEntries(int layer, LoraGroup group) {
  const LoraGroupModules modules = ModulesOf(group);
  entries_.clear();
  entry_segments_.clear();
  segments_.assign(step_segments_.size(), SegmentEntries{});
  for (size_t s = 0; s < step_segments_.size(); ++s) {
    const LoraSegment& segment = step_segments_[s];
    for (int slot = 0; slot < kGroupModulesMax; ++slot) {
      segments_[s].begin[slot] = static_cast<int32_t>(entries_.size());
      if (slot >= modules.count || segment.row_count == 0) continue;
      for (int32_t t = 0; t < segment.term_count; ++t) {
        const LoraTerm& term = terms_[segment.term_begin + t];
        const auto* adapter = static_cast<const CpuMountedAdapter*>(term.adapter);
        const auto* module = adapter->Find(layer, static_cast<LoraModule>(modules.first + slot));
        if (module == nullptr) continue;
        LORICA_CHECK(module->gain == nullptr || segment.term_count == 1, "DoRA inside a mix");
        entries_.push_back({module, module->scale * term.weight, nullptr});
        entry_segments_.push_back(static_cast<int32_t>(s));
      }
    }
    segments_[s].begin[kGroupModulesMax] = static_cast<int32_t>(entries_.size());
  }
}

// Gives every entry its part of u and cuts the work into tasks.
void LoraStep::PlaceEntries() {
  int64_t floats = 0;
  for (size_t e = 0; e < entries_.size(); ++e) {
    const int64_t ranks = int64_t{entries_[e].module->rank_tiles} * kTileRanks;
    floats += ranks * step_segments_[entry_segments_[e]].row_count;
  }
  float* u = EnsureFloats(u_, floats);
  tasks_.clear();
  for (size_t e = 0; e < entries_.size(); ++e) {
    LoraEntry& entry = entries_[e];
    const LoraSegment& segment = step_segments_[entry_segments_[e]];
    entry.u = u;
    for (int64_t row = 0; row < segment.row_count; row += RowBlock::kRowsAtOnce) {
      const int64_t rows = std::min<int64_t>(RowBlock::kRowsAtOnce, segment.row_count - row);
      for (int tile = 0; tile < entry.module->rank_tiles; ++tile) {
        tasks_.push_back({&entry, segment.row_begin, row, rows, tile});
      }
    }
    u += int64_t{entry.module->rank_tiles} * kTileRanks * segment.row_count;
  }
}

float* LoraStep::UOf(const ShrinkTask& task) const {
  const int64_t u_stride = int64_t{task.entry->module->rank_tiles} * kTileRanks;
  return const_cast<float*>(task.entry->u) + task.first_row * u_stride +
         task.rank_tile * kTileRanks;
}

void LoraStep::Shrink(const float* x, int64_t columns, int layer, LoraGroup group,
                      ThreadPool& pool) {
  active_ = false;
  if (step_segments_.empty()) return;
  CollectEntries(layer, group);
  if (entries_.empty()) return;
  PlaceEntries();
  pool.Run(static_cast<int64_t>(tasks_.size()), [&](int64_t index, int) {
    const ShrinkTask& task = tasks_[index];
    const MountedModule& module = *task.entry->module;
    LORICA_CHECK(module.in_features == columns, module.in_features, columns);
    HWY_DYNAMIC_DISPATCH(ShrinkRows)
    (module, task.rank_tile, task.entry->scale, x + (task.row_begin + task.first_row) * columns,
     task.rows, UOf(task));
  });
  active_ = true;
  layer_ = layer;
  group_ = group;
}

void LoraStep::ShrinkTokens(absl::Span<const int32_t> tokens, ThreadPool& pool) {
  active_ = false;
  if (step_segments_.empty()) return;
  CollectEntries(kOutsideLayers, LoraGroup::kEmbedding);
  if (entries_.empty()) return;
  PlaceEntries();
  pool.Run(static_cast<int64_t>(tasks_.size()), [&](int64_t index, int) {
    const ShrinkTask& task = tasks_[index];
    const MountedModule& module = *task.entry->module;
    float* u = UOf(task);
    for (int64_t row = 0; row < task.rows; ++row, u += module.rank_tiles * kTileRanks) {
      const int32_t token = tokens[task.row_begin + task.first_row + row];
      LORICA_CHECK(token < module.in_features, token, module.in_features);
      ScaledRanks(module, task.rank_tile, token, task.entry->scale, u);
    }
  });
  active_ = true;
  layer_ = kOutsideLayers;
  group_ = LoraGroup::kEmbedding;
}

void LoraStep::Expand(const RowBlock& block, int slot, int64_t column_begin, int64_t columns,
                      float* y, int64_t y_stride) const {
  if (block.segment < 0) return;
  const SegmentEntries& segment = segments_[block.segment];
  ExpandJob job;
  job.entries = entries_.data() + segment.begin[slot];
  job.entry_count = segment.begin[slot + 1] - segment.begin[slot];
  if (job.entry_count == 0) return;
  job.row_in_segment = block.row_in_segment;
  job.rows = block.row_count;
  job.y_stride = y_stride;
  // No vector may straddle two wide tiles.
  for (const int64_t end = column_begin + columns; column_begin < end;) {
    const int64_t tile_end = (column_begin / kTileWidth + 1) * kTileWidth;
    job.column_begin = column_begin;
    job.columns = std::min(end, tile_end) - column_begin;
    job.y = y;
    HWY_DYNAMIC_DISPATCH(ExpandRows)(job);
    y += job.columns;
    column_begin += job.columns;
  }
}

}  // namespace lorica
#endif
