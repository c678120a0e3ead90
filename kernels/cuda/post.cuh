// What the kernels between products have in common, for a row at a time (post.cu) or for tiles of
// rows (post_many.cu): 8 columns of a row are a thread's.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

namespace lorica::cuda {

inline constexpr int kEight = 8;

__device__ __forceinline__ void LoadEight(float (&out)[8], const Element* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = LowFloat(words[i]);
    out[2 * i + 1] = HighFloat(words[i]);
  }
}

__device__ __forceinline__ void LoadEight(float (&out)[8], const float* from) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 v = reinterpret_cast<const float4*>(from)[i];
    out[4 * i] = v.x;
    out[4 * i + 1] = v.y;
    out[4 * i + 2] = v.z;
    out[4 * i + 3] = v.w;
  }
}

__device__ __forceinline__ void StoreEight(float* to, const float (&v)[8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

__device__ __forceinline__ uint4 PackEight(const float (&v)[8]) {
  return make_uint4(PackElements(v[0], v[1]), PackElements(v[2], v[3]), PackElements(v[4], v[5]),
                    PackElements(v[6], v[7]));
}

// sums += s w b over a tile's terms for 8 columns of a module of the group. False: none has a bias.
__device__ __forceinline__ bool AddTermBiases(float (&sums)[8], const StepBiases& step,
                                              const RowTile& tile, int module, int column) {
  bool any = false;
  for (int t = tile.term_begin; t < tile.term_begin + tile.term_count; ++t) {
    const BiasTerm term = step.terms[t];
    const DeviceBias own = term.biases ? term.biases[step.first + module] : DeviceBias{};
    if (!own.bias) continue;
    any = true;
    float bias[8];
    LoadEight(bias, own.bias + column);
#pragma unroll
    for (int k = 0; k < 8; ++k) sums[k] = fmaf(bias[k], own.scale * term.weight, sums[k]);
  }
  return any;
}

__device__ __forceinline__ int PairOf(int layer, LoraGroup group) {
  return layer * 4 + static_cast<int>(group);
}

// v / (1 + exp(-v)): the hardware's power and reciprocal, which need no care for numbers so small
// that they lack bits.
__device__ __forceinline__ float Silu(float v) {
  constexpr float kLog2E = 1.4426950408889634f;
  float power, reciprocal;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-kLog2E * v));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + power));
  return v * reciprocal;
}

__device__ __forceinline__ float Activate(float v, Activation activation) {
  if (activation == Activation::kSilu) return Silu(v);
  const float inner = 0.7978845608028654f * (v + 0.044715f * v * v * v);
  return 0.5f * v * (1.0f + tanhf(inner));
}

struct HeadPlace {
  int module;  // 0 q, 1 k, 2 v
  int head;    // inside the module
};

__device__ __forceinline__ HeadPlace PlaceOf(int head, const AttentionShape& shape) {
  if (head < shape.heads) return {0, head};
  if (head < shape.heads + shape.kv_heads) return {1, head - shape.heads};
  return {2, head - shape.heads - shape.kv_heads};
}

// First element of a token's K or V of one head: [layer][K, V][kv_head][token][head size].
__device__ __forceinline__ Element* CacheRow(const QkvPostArgs& args, int padded, int page,
                                             int position, int value, int head) {
  const int64_t matrix = int64_t{args.layer} * 2 + value;
  const int64_t row =
      (matrix * args.shape.kv_heads + head) * kBlockTokens + position % kBlockTokens;
  return reinterpret_cast<Element*>(static_cast<std::byte*>(args.arena) + page * args.block_bytes) +
         row * padded;
}

// Rotates 8 values of a head from `inside` on, a multiple of 8: pairs (i, i + rotary / 2) of
// `head`, a row of one head.
__device__ __forceinline__ void Rotate(float (&v)[8], const float* head, int inside,
                                       const QkvPostArgs& args, int position) {
  const int pairs = args.rotary_size / 2;
  const int64_t angles = int64_t{position} * pairs;
  if (pairs % 8 == 0) {  // all 8 are alike
    if (inside >= 2 * pairs) return;
    const bool low = inside < pairs;
    float other[8], cos[8], sin[8];
    LoadEight(other, head + (low ? inside + pairs : inside - pairs));
    LoadEight(cos, args.cos + angles + (low ? inside : inside - pairs));
    LoadEight(sin, args.sin + angles + (low ? inside : inside - pairs));
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = v[k] * cos[k] + (low ? -other[k] : other[k]) * sin[k];
    return;
  }
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int d = inside + k;
    if (d >= 2 * pairs) continue;  // not rotated, or past the head's end
    const bool low = d < pairs;
    const int angle = low ? d : d - pairs;
    const float other = head[low ? d + pairs : d - pairs];
    v[k] = v[k] * args.cos[angles + angle] + (low ? -other : other) * args.sin[angles + angle];
  }
}

}  // namespace lorica::cuda
