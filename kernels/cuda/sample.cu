// Choosing tokens. Greedy: the largest logit, the lowest id on ties.
#include <cuda_bf16.h>

#include "kernels/cuda/launch.h"

namespace lorica::cuda {
namespace {

constexpr int kThreads = 1024;

struct Best {
  float value;
  int32_t token;
};

__device__ Best Better(Best a, Best b) {
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.token < b.token ? a : b;
}

__device__ Best ShuffleBest(Best mine, int offset) {
  const Best other = {__shfl_xor_sync(~0u, mine.value, offset),
                      __shfl_xor_sync(~0u, mine.token, offset)};
  return Better(mine, other);
}

__global__ void __launch_bounds__(kThreads)
    GreedyKernel(const __nv_bfloat16* logits, int64_t columns, int32_t vocabulary, StepTables step,
                 GreedyResult* results) {
  __shared__ Best warps[kThreads / 32];
  const int sample = blockIdx.x;
  if (sample >= step.counts->samples) return;
  Best best = {-INFINITY, INT32_MAX};
  bool nan = false;
  for (int32_t token = threadIdx.x; token < vocabulary; token += kThreads) {
    const float value = __bfloat162float(logits[sample * columns + token]);
    nan |= isnan(value);
    best = Better(best, {value, token});
  }
  const bool broken = __syncthreads_or(nan);
  for (int offset = 16; offset > 0; offset /= 2) best = ShuffleBest(best, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = warps[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) best = ShuffleBest(best, offset);
  if (threadIdx.x != 0) return;
  const bool finite = !broken && best.value > -INFINITY;
  results[sample] = {finite ? best.token : -1, finite};
  step.token_slots[step.sample_slots[sample]] = finite ? best.token : 0;
}

}  // namespace

void LaunchGreedy(const void* logits, int64_t columns, int32_t vocabulary, const StepTables& step,
                  GreedyResult* results, int samples, cudaStream_t stream) {
  GreedyKernel<<<samples, kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(logits), columns,
                                                 vocabulary, step, results);
}

}  // namespace lorica::cuda
