// Random weights, made where they stay.
#include "kernels/cuda/element.h"
#include "kernels/cuda/launch.h"
#include "kernels/noise.h"

namespace lorica::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4096;

__global__ void __launch_bounds__(kThreads)
    NoiseKernel(uint16_t* out, int64_t count, uint64_t seed, float bound) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    out[i] = BitsOf(FloatFromBfloat(NoiseBf16(seed, i, bound)));
  }
}

}  // namespace

void LaunchNoise(void* out, int64_t count, uint64_t seed, float bound, cudaStream_t stream) {
  NoiseKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<uint16_t*>(out), count, seed, bound);
}

}  // namespace lorica::cuda
