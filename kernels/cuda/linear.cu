// y = W x for a few rows: weights stream from memory straight to the matrix registers.
//
// A block takes 16 output features; its warps split the inputs evenly, in order, so the
// sums depend on the weight's shape alone. Weights are the left operand, rows of x the
// right. Lane (g, t) reads inputs [8t, 8t + 8) of each 32 of features g and g + 8: the order
// of k inside a product is free as long as x follows it.
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kFeatures = 16;
constexpr int kStepInputs = 32;
constexpr int kBatch = 4;  // steps whose loads are in flight together

struct Steps {
  uint4 low[kBatch];   // feature g
  uint4 high[kBatch];  // feature g + 8
};

__device__ __forceinline__ void LoadWeights(Steps& w, const bf16* low, const bf16* high, int step,
                                            int end, int inputs) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int k = (step + i) * kStepInputs + 8 * t;
    const bool inside = step + i < end && k < inputs;
    w.low[i] = inside && low ? LoadStream(low + k) : make_uint4(0, 0, 0, 0);
    w.high[i] = inside && high ? LoadStream(high + k) : make_uint4(0, 0, 0, 0);
  }
}

__device__ __forceinline__ void Multiply(float (&d)[2][4], const Steps& w, const bf16* x, int step,
                                         int end, int inputs) {
  const int t = threadIdx.x % 4;
  uint4 b[kBatch];
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int k = (step + i) * kStepInputs + 8 * t;
    const bool inside = x && step + i < end && k < inputs;
    b[i] = inside ? *reinterpret_cast<const uint4*>(x + k) : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    Mma(d[0], w.low[i].x, w.high[i].x, w.low[i].y, w.high[i].y, b[i].x, b[i].y);
    Mma(d[1], w.low[i].z, w.high[i].z, w.low[i].w, w.high[i].w, b[i].z, b[i].w);
  }
}

__global__ void __launch_bounds__(kWarps * 32, 3)
    SkinnyKernel(bf16* y, const bf16* x, const bf16* weight, int rows, int features, int inputs) {
  __shared__ float sums[kWarps][kFeatures][kSkinnyRowsMax];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int first = blockIdx.x * kFeatures;
  const int steps = (inputs + kStepInputs - 1) / kStepInputs;
  const int begin = steps * warp / kWarps, end = steps * (warp + 1) / kWarps;
  const auto feature = [&](int f) { return f < features ? weight + int64_t{f} * inputs : nullptr; };
  const bf16* low = feature(first + g);
  const bf16* high = feature(first + g + 8);
  ReleaseSuccessor();
  Steps w;
  LoadWeights(w, low, high, begin, end, inputs);
  WaitForPredecessor();
  const bf16* row = g < rows ? x + int64_t{g} * inputs : nullptr;
  float d[2][4] = {};
  for (int step = begin; step < end; step += kBatch) {
    Steps next;
    LoadWeights(next, low, high, step + kBatch, end, inputs);
    Multiply(d, w, row, step, end, inputs);
    w = next;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[warp][g + i / 2 * 8][2 * t + i % 2] = d[0][i] + d[1][i];
  }
  __syncthreads();
  if (threadIdx.x >= kFeatures * kSkinnyRowsMax) return;
  const int f = threadIdx.x % kFeatures, r = threadIdx.x / kFeatures;
  if (r >= rows || first + f >= features) return;
  float sum = 0.0f;
  for (int i = 0; i < kWarps; ++i) sum += sums[i][f][r];
  y[int64_t{r} * features + first + f] = __float2bfloat16(sum);
}

}  // namespace

void LaunchSkinnyLinear(void* y, const void* x, const void* weight, int rows, int64_t out_features,
                        int64_t in_features, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>((out_features + kFeatures - 1) / kFeatures);
  config.blockDim = kWarps * 32;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, SkinnyKernel, static_cast<bf16*>(y), static_cast<const bf16*>(x),
                     static_cast<const bf16*>(weight), rows, static_cast<int>(out_features),
                     static_cast<int>(in_features));
}

}  // namespace lorica::cuda
