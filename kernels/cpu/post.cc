#include "kernels/cpu/post.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/kv_layout.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/post.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

// Calls each(index, count) for whole vectors, then once for the rest if there is one.
#define LORICA_FOR_VECTORS(index, some, size)                       \
  for (size_t index = 0, some = 0; index < (size); index += kLanes) \
    if (some = HWY_MIN(kLanes, (size)-index); true)

HWY_INLINE V LoadUpTo(const float* from, size_t some) {
  return some == kLanes ? LoadVector(from) : LoadSome(from, some);
}

HWY_INLINE void StoreUpTo(V v, float* to, size_t some) {
  if (some == kLanes) {
    StoreVector(v, to);
  } else {
    StoreSome(v, to, some);
  }
}

HWY_INLINE float MeanSquare(const float* x, size_t columns) {
  V sum[kStripVectors];
  for (V& s : sum) s = hn::Zero(Floats());
  size_t c = 0;
  for (; c + kStrip <= columns; c += kStrip) {
    for (size_t i = 0; i < kStripVectors; ++i) {
      const V v = LoadVector(x + c + i * kLanes);
      sum[i] = hn::MulAdd(v, v, sum[i]);
    }
  }
  if (c < columns) {
    float rest[kStrip] = {};
    memcpy(rest, x + c, (columns - c) * sizeof(float));
    for (size_t i = 0; i < kStripVectors; ++i) {
      const V v = LoadVector(rest + i * kLanes);
      sum[i] = hn::MulAdd(v, v, sum[i]);
    }
  }
  return SumStrip(sum) / static_cast<float>(columns);
}

void NormRow(float* out, const float* x, const float* weight, size_t columns, float epsilon) {
  const V scale = Splat(1.0f / sqrtf(MeanSquare(x, columns) + epsilon));
  LORICA_FOR_VECTORS(c, some, columns) {
    const V normed = hn::Mul(LoadUpTo(x + c, some), scale);
    StoreUpTo(hn::Mul(normed, LoadUpTo(weight + c, some)), out + c, some);
  }
}

void AddRow(float* to, const float* from, size_t columns) {
  LORICA_FOR_VECTORS(c, some, columns) {
    StoreUpTo(hn::Add(LoadUpTo(to + c, some), LoadUpTo(from + c, some)), to + c, some);
  }
}

// Pairs (i, i + half) of one head.
void RotateHead(float* head, const float* cosines, const float* sines, size_t half) {
  LORICA_FOR_VECTORS(i, some, half) {
    const V low = LoadUpTo(head + i, some);
    const V high = LoadUpTo(head + half + i, some);
    const V c = LoadUpTo(cosines + i, some);
    const V s = LoadUpTo(sines + i, some);
    StoreUpTo(hn::NegMulAdd(high, s, hn::Mul(low, c)), head + i, some);
    StoreUpTo(hn::MulAdd(low, s, hn::Mul(high, c)), head + half + i, some);
  }
}

// x / (1 + exp(-x)); the tanh form of gelu is x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))).
HWY_INLINE V Activate(V x, Activation activation) {
  V z = x;
  if (activation == Activation::kGeluTanh) {
    const V cubic = hn::MulAdd(hn::Mul(hn::Mul(x, x), x), Splat(0.044715f), x);
    z = hn::Mul(cubic, Splat(1.59576912f));
  }
  const V one = Splat(1.0f);
  return hn::Div(x, hn::Add(one, Exp(hn::Sub(hn::Zero(Floats()), z))));
}

void GluRow(float* out, const float* gate, const float* up, size_t columns, Activation activation) {
  LORICA_FOR_VECTORS(c, some, columns) {
    const V activated = Activate(LoadUpTo(gate + c, some), activation);
    StoreUpTo(hn::Mul(activated, LoadUpTo(up + c, some)), out + c, some);
  }
}

#undef LORICA_FOR_VECTORS

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorica {

HWY_EXPORT(NormRow);
HWY_EXPORT(AddRow);
HWY_EXPORT(RotateHead);
HWY_EXPORT(GluRow);

namespace {

// Elements whose handling costs about as much as handing a task over.
constexpr int64_t kTaskElements = 16 * 1024;

int64_t RowsPerTask(int64_t columns) { return std::max<int64_t>(1, kTaskElements / columns); }

void AddBias(float* y, const float* bias, int64_t columns) {
  if (bias != nullptr) HWY_DYNAMIC_DISPATCH(AddRow)(y, bias, columns);
}

// Runs task(block, part) for every row block and column part; small work without LoRA stays on the
// calling thread.
template <typename Task>
void RunRowBlocks(const LoraStep& lora, bool expands, int64_t parts, int64_t elements,
                  ThreadPool& pool, const Task& task) {
  const std::vector<RowBlock>& blocks = lora.row_blocks();
  const int64_t count = static_cast<int64_t>(blocks.size()) * parts;
  const auto run = [&](int64_t index, int) { task(blocks[index / parts], index % parts); };
  if (expands || elements > kTaskElements) return pool.Run(count, run);
  for (int64_t i = 0; i < count; ++i) run(i, 0);
}

struct HeadPlace {
  int slot = 0;  // 0 q, 1 k, 2 v
  int head = 0;  // among the heads of that slot
};

HeadPlace PlaceOfHead(const AttentionShape& shape, int index) {
  if (index < shape.heads) return {0, index};
  index -= shape.heads;
  return index < shape.kv_heads ? HeadPlace{1, index} : HeadPlace{2, index - shape.kv_heads};
}

void StoreKey(float* keys, const float* head, int head_size, int token) {
  for (int i = 0; i < head_size; ++i) keys[i * kBlockTokens + token] = head[i];
}

void FinishHead(const QkvPostJob& job, int64_t row, int64_t column, HeadPlace place) {
  const AttentionShape& shape = job.cache->shape;
  const KvLayout layout(shape);
  float* head = job.qkv.f32() + row * job.qkv.columns + column;
  if (job.bias != nullptr) AddBias(head, job.bias + column, shape.head_size);
  const int32_t position = job.batch->positions[row];
  if (place.slot < 2 && job.rope->rotary_size > 0) {
    LORICA_CHECK(position >= 0 && position < job.rope->positions, position, job.rope->positions);
    const int64_t half = job.rope->rotary_size / 2;
    HWY_DYNAMIC_DISPATCH(RotateHead)
    (head, job.rope->cos.data() + position * half, job.rope->sin.data() + position * half, half);
  }
  const BlockId page = (*job.row_pages)[row];
  const int token = position % kBlockTokens;
  if (place.slot == 1) {
    StoreKey(layout.Keys(*job.cache, page, job.layer, place.head), head, shape.head_size, token);
  } else if (place.slot == 2) {
    std::copy_n(
        head, shape.head_size,
        layout.Values(*job.cache, page, job.layer, place.head) + token * layout.padded_head_size());
  }
}

}  // namespace

void RunRmsNorm(Tensor out, Tensor x, const float* weight, float epsilon, ThreadPool& pool) {
  const int64_t rows_per_task = RowsPerTask(x.columns);
  pool.Run((x.rows + rows_per_task - 1) / rows_per_task, [&](int64_t index, int) {
    const int64_t end = std::min(x.rows, (index + 1) * rows_per_task);
    for (int64_t row = index * rows_per_task; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(NormRow)
      (out.f32() + row * x.columns, x.f32() + row * x.columns, weight, x.columns, epsilon);
    }
  });
}

void RunQkvPost(const QkvPostJob& job, const LoraStep& lora, ThreadPool& pool) {
  constexpr int kHeadsPerTask = 4;
  const AttentionShape& shape = job.cache->shape;
  const int heads = shape.heads + 2 * shape.kv_heads;
  LORICA_CHECK(job.qkv.columns == int64_t{heads} * shape.head_size, job.qkv.columns, heads,
               shape.head_size);
  const bool expands = lora.Touches(job.layer, LoraGroup::kQkv);
  const auto finish = [&](const RowBlock& block, int index) {
    const HeadPlace place = PlaceOfHead(shape, index);
    const int64_t column = int64_t{index} * shape.head_size;
    if (expands) {
      float* head = job.qkv.f32() + block.row_begin * job.qkv.columns + column;
      lora.Expand(block, place.slot, int64_t{place.head} * shape.head_size, shape.head_size, head,
                  job.qkv.columns);
    }
    for (int32_t i = 0; i < block.row_count; ++i) {
      FinishHead(job, block.row_begin + i, column, place);
    }
  };
  RunRowBlocks(lora, expands, (heads + kHeadsPerTask - 1) / kHeadsPerTask,
               job.qkv.rows * job.qkv.columns, pool, [&](const RowBlock& block, int64_t part) {
                 const int begin = static_cast<int>(part) * kHeadsPerTask;
                 const int end = std::min(heads, begin + kHeadsPerTask);
                 for (int index = begin; index < end; ++index) finish(block, index);
               });
}

void RunGluPost(Tensor out, Tensor gate_up, Activation activation, int layer, const LoraStep& lora,
                ThreadPool& pool) {
  constexpr int64_t kPartColumns = 512;
  const int64_t ffn = out.columns;
  const int64_t parts = (ffn + kPartColumns - 1) / kPartColumns;
  const bool expands = lora.Touches(layer, LoraGroup::kGateUp);
  RunRowBlocks(
      lora, expands, parts, out.rows * ffn, pool, [&](const RowBlock& block, int64_t part) {
        const int64_t begin = part * kPartColumns;
        const int64_t columns = std::min(kPartColumns, ffn - begin);
        float* gate = gate_up.f32() + block.row_begin * gate_up.columns + begin;
        if (expands) {
          lora.Expand(block, 0, begin, columns, gate, gate_up.columns);
          lora.Expand(block, 1, begin, columns, gate + ffn, gate_up.columns);
        }
        for (int32_t i = 0; i < block.row_count; ++i, gate += gate_up.columns) {
          HWY_DYNAMIC_DISPATCH(GluRow)
          (out.f32() + (block.row_begin + i) * ffn + begin, gate, gate + ffn, columns, activation);
        }
      });
}

void RunExpand(Tensor y, LoraGroup group, const LoraStep& lora, ThreadPool& pool) {
  constexpr int64_t kPartColumns = 2048;
  if (!lora.Touches(kOutsideLayers, group)) return;
  const int64_t parts = (y.columns + kPartColumns - 1) / kPartColumns;
  RunRowBlocks(lora, true, parts, y.rows * y.columns, pool,
               [&](const RowBlock& block, int64_t part) {
                 const int64_t begin = part * kPartColumns;
                 const int64_t columns = std::min(kPartColumns, y.columns - begin);
                 lora.Expand(block, 0, begin, columns,
                             y.f32() + block.row_begin * y.columns + begin, y.columns);
               });
}

void RunResidualNorm(const ResidualNormJob& job, const LoraStep& lora, ThreadPool& pool) {
  const int64_t columns = job.residual.columns;
  const bool expands = lora.Touches(job.layer, job.group);
  RunRowBlocks(lora, expands, 1, job.residual.rows * columns, pool,
               [&](const RowBlock& block, int64_t) {
                 float* projection = job.projection.f32() + block.row_begin * columns;
                 float* residual = job.residual.f32() + block.row_begin * columns;
                 float* out = job.out.f32() + block.row_begin * columns;
                 if (expands) lora.Expand(block, 0, 0, columns, projection, columns);
                 for (int32_t i = 0; i < block.row_count; ++i) {
                   AddBias(projection, job.bias, columns);
                   HWY_DYNAMIC_DISPATCH(AddRow)(residual, projection, columns);
                   if (job.next_weight != nullptr) {
                     HWY_DYNAMIC_DISPATCH(NormRow)
                     (out, residual, job.next_weight, columns, job.epsilon);
                   }
                   projection += columns;
                   residual += columns;
                   out += columns;
                 }
               });
}

}  // namespace lorica
#endif
