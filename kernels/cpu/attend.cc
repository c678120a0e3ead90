#include "kernels/cpu/attend.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/kv_layout.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/attend_tile.h"
#include "kernels/cpu/panels-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

static_assert(kStrip == kBlockTokens);

// Scores of one query in one block, of which tokens [begin, end) are visible, to
// probabilities; rescales what the query has summed so far.
HWY_INLINE void UpdateSoftmax(const AttentionShape& shape, int begin, int end, float* scores,
                              float* sums, size_t sums_count, float& max, float& total) {
  V s[kStripVectors];
  const V scale = Splat(shape.scale);
  const V hidden = Splat(-HUGE_VALF);
  for (size_t i = 0; i < kStripVectors; ++i) {
    s[i] = hn::Mul(LoadVector(scores + i * kLanes), scale);
    if (shape.softcap > 0.0f) {
      s[i] = hn::Mul(Splat(shape.softcap), Tanh(hn::Div(s[i], Splat(shape.softcap))));
    }
    const V token = hn::Iota(Floats(), static_cast<float>(i * kLanes));
    const auto outside = hn::Or(hn::Lt(token, Splat(begin)), hn::Ge(token, Splat(end)));
    s[i] = hn::IfThenElse(outside, hidden, s[i]);
  }
  const float block_max = MaxStrip(s);
  if (!(block_max <= max)) {
    const float new_max = block_max;
    const float shrink = hn::GetLane(Exp(Splat(max - new_max)));
    for (size_t c = 0; c < sums_count; c += kLanes) {
      StoreVector(hn::Mul(LoadVector(sums + c), Splat(shrink)), sums + c);
    }
    total *= shrink;
    max = new_max;
  }
  for (size_t i = 0; i < kStripVectors; ++i) {
    s[i] = Exp(hn::Sub(s[i], Splat(max)));
    StoreVector(s[i], scores + i * kLanes);
  }
  total += SumStrip(s);
}

// sums[q] += probabilities[q] V for tokens [begin, end) of a block.
HWY_INLINE void AddValues(const AttendTile& tile, const float* values, size_t first, size_t count,
                          int begin, int end) {
  const size_t width = tile.padded_head_size;
  for (size_t c = 0; c < width; c += kStrip) {
    MultiplyRows(count, tile.scores + first * kStrip + begin, kStrip, values + begin * width + c,
                 width, end - begin, tile.sums + first * width + c, width, false);
  }
}

// Queries are row-major: all heads of a KV head for each row.
HWY_INLINE void AttendBlock(const AttendTile& tile, int64_t block) {
  const AttentionShape& shape = *tile.shape;
  const KvLayout layout(shape);
  const BlockId page = tile.pages[block];
  const float* keys = layout.Keys(*tile.cache, page, tile.layer, tile.kv_head);
  const float* values = layout.Values(*tile.cache, page, tile.layer, tile.kv_head);
  if (block + 1 < tile.block_end) {
    const float* next = layout.Keys(*tile.cache, tile.pages[block + 1], tile.layer, tile.kv_head);
    Prefetch(reinterpret_cast<const std::byte*>(next), 2 * layout.plane_floats() * sizeof(float));
  }
  const size_t group = tile.group;
  const size_t queries = tile.rows * group;
  MultiplyRows(queries, tile.queries, shape.head_size, keys, kStrip, shape.head_size, tile.scores,
               kStrip, true);
  size_t whole_begin = queries;
  for (size_t row = 0; row < static_cast<size_t>(tile.rows); ++row) {
    const int64_t position = tile.position_begin + row;
    const int64_t start = block * kBlockTokens;
    const int end = static_cast<int>(HWY_MIN(position + 1 - start, int64_t{kBlockTokens}));
    const int begin =
        shape.window > 0 ? static_cast<int>(HWY_MAX(position - shape.window + 1 - start, 0)) : 0;
    const size_t first = row * group;
    const bool whole = begin == 0 && end == kBlockTokens;
    if (whole && whole_begin == queries) whole_begin = first;
    if (!whole && whole_begin < first) {
      AddValues(tile, values, whole_begin, first - whole_begin, 0, kBlockTokens);
    }
    if (!whole) whole_begin = queries;
    if (begin >= end) continue;
    for (size_t q = first; q < first + group; ++q) {
      UpdateSoftmax(shape, begin, end, tile.scores + q * kStrip,
                    tile.sums + q * tile.padded_head_size, tile.padded_head_size, tile.max[q],
                    tile.total[q]);
    }
    if (!whole) AddValues(tile, values, first, group, begin, end);
  }
  if (whole_begin < queries) {
    AddValues(tile, values, whole_begin, queries - whole_begin, 0, kBlockTokens);
  }
}

void AttendRows(const AttendTile& tile) {
  const size_t queries = tile.rows * tile.group;
  const size_t width = tile.padded_head_size;
  for (size_t q = 0; q < queries; ++q) {
    tile.max[q] = -HUGE_VALF;
    tile.total[q] = 0.0f;
  }
  memset(tile.sums, 0, queries * width * sizeof(float));
  for (int64_t block = tile.block_begin; block < tile.block_end; ++block) AttendBlock(tile, block);
  for (size_t q = 0; q < queries; ++q) {
    const V share = Splat(1.0f / tile.total[q]);
    for (size_t c = 0; c < width; c += kLanes) {
      float* sums = tile.sums + q * width + c;
      StoreVector(hn::Mul(LoadVector(sums), share), sums);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorica {

HWY_EXPORT(AttendRows);

namespace {

// Queries (rows x heads of one KV head) that share a block's loads.
constexpr int kQueriesAtOnce = 48;

struct RowRange {
  const AttendSpan* span;
  int32_t begin;  // within the span
  int32_t count;
};

std::vector<RowRange> SplitSpans(const StepBatch& batch, int rows_at_once) {
  std::vector<RowRange> ranges;
  for (const AttendSpan& span : batch.spans) {
    for (int32_t begin = 0; begin < span.row_count; begin += rows_at_once) {
      ranges.push_back({&span, begin, std::min(rows_at_once, span.row_count - begin)});
    }
  }
  return ranges;
}

// Copies q in, attends, copies the result out.
void AttendRange(const AttendJob& job, const RowRange& range, int kv_head) {
  const AttentionShape& shape = job.cache->shape;
  const KvLayout layout(shape);
  AttendTile tile;
  tile.shape = &shape;
  tile.cache = job.cache;
  tile.layer = job.layer;
  tile.kv_head = kv_head;
  tile.group = shape.heads / shape.kv_heads;
  tile.rows = range.count;
  tile.position_begin = range.span->position_begin + range.begin;
  tile.padded_head_size = layout.padded_head_size();
  tile.pages = job.batch->pages.data() + range.span->page_begin;
  tile.block_end = (tile.position_begin + range.count - 1) / kBlockTokens + 1;
  tile.block_begin =
      shape.window > 0 ? std::max<int64_t>(0, tile.position_begin - shape.window + 1) / kBlockTokens
                       : 0;

  const int64_t queries = int64_t{range.count} * tile.group;
  thread_local std::vector<float> scratch;
  scratch.resize(queries * (shape.head_size + kBlockTokens + tile.padded_head_size + 2));
  tile.queries = scratch.data();
  tile.scores = tile.queries + queries * shape.head_size;
  tile.sums = tile.scores + queries * kBlockTokens;
  tile.max = tile.sums + queries * tile.padded_head_size;
  tile.total = tile.max + queries;

  const int64_t row_begin = range.span->row_begin + range.begin;
  const int64_t columns = int64_t{tile.group} * shape.head_size;
  for (int64_t row = 0; row < range.count; ++row) {
    const float* q = job.qkv + (row_begin + row) * job.qkv_columns + kv_head * columns;
    std::copy_n(q, columns, tile.queries + row * columns);
  }
  HWY_DYNAMIC_DISPATCH(AttendRows)(tile);
  const int64_t out_columns = int64_t{shape.heads} * shape.head_size;
  for (int64_t q = 0; q < queries; ++q) {
    float* out = job.out + (row_begin + q / tile.group) * out_columns + kv_head * columns +
                 q % tile.group * shape.head_size;
    std::copy_n(tile.sums + q * tile.padded_head_size, shape.head_size, out);
  }
}

}  // namespace

void RunAttend(const AttendJob& job, ThreadPool& pool) {
  const AttentionShape& shape = job.cache->shape;
  const int group = shape.heads / shape.kv_heads;
  const std::vector<RowRange> ranges = SplitSpans(*job.batch, std::max(1, kQueriesAtOnce / group));
  pool.Run(static_cast<int64_t>(ranges.size()) * shape.kv_heads, [&](int64_t index, int) {
    AttendRange(job, ranges[index / shape.kv_heads], static_cast<int>(index % shape.kv_heads));
  });
}

}  // namespace lorica
#endif
