// Norms of the rows of W + s B A, for DoRA. Once an adapter, at load: plain loops.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/lora_tiles.h"

namespace lorica::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    RowNormKernel(float* norms, const Element* weight, int64_t columns, const float* a,
                  const float* b, int rank, float scale) {
  __shared__ float factors[kLoraRankMax];
  __shared__ float warps[kThreads / 32];
  const int64_t row = blockIdx.x;
  for (int r = threadIdx.x; r < rank; r += kThreads) factors[r] = scale * b[row * rank + r];
  __syncthreads();
  float squares = 0.0f;
  for (int64_t k = threadIdx.x; k < columns; k += kThreads) {
    float value = static_cast<float>(weight[row * columns + k]);
    for (int r = 0; r < rank; ++r) value += factors[r] * a[r * columns + k];
    squares += value * value;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    squares += __shfl_xor_sync(~0u, squares, offset);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = squares;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0.0f;
  for (const float part : warps) sum += part;
  norms[row] = sqrtf(sum);
}

}  // namespace

void LaunchRowNorms(float* norms, const DoraArgs& args, int64_t rows, cudaStream_t stream) {
  RowNormKernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      norms, static_cast<const Element*>(args.weight), args.columns, args.a, args.b, args.rank,
      args.scale);
}

}  // namespace lorica::cuda
