// What the two attention kernels share: scores to weights, where pages lie.
#pragma once

#include "kernels/cuda/attend.h"
#include "kernels/cuda/mma.cuh"

namespace lorica::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

// Without the care for denormals that exp2f takes.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A score as a logarithm to base 2, scaled and capped.
struct ScoreMap {
  float factor;  // of the raw score
  float cap;     // 0: none

  __device__ explicit ScoreMap(const AttentionShape& shape)
      : factor(shape.softcap > 0.0f ? shape.scale / shape.softcap * 2.0f * kLog2E
                                    : shape.scale * kLog2E),
        cap(shape.softcap * kLog2E) {}
  // cap tanh(x) by 2^(2 x log2 e), which `factor` has ready.
  __device__ __forceinline__ float operator()(float score) const {
    const float x = score * factor;
    return cap > 0.0f ? cap - 2.0f * cap / (Exp2(x) + 1.0f) : x;
  }
};

// The least key that a row of `keys` keys sees.
__device__ __forceinline__ int FirstKey(const AttentionShape& shape, int keys) {
  return shape.window == 0 ? 0 : max(0, keys - shape.window);
}

// exp2 of differences to the maximum; a row that has seen nothing has none.
__device__ __forceinline__ float ExpBase(float maximum) {
  return maximum == -INFINITY ? 0.0f : maximum;
}

}  // namespace lorica::cuda
