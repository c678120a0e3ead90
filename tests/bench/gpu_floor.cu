#include <cuda_bf16.h>

#include <algorithm>
#include <vector>

#include "tests/bench/gpu_floor.h"

namespace lorica::bench {
namespace {

__global__ void SumKernel(const float4* data, int64_t count, float* out) {
  float sum = 0.0f;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    const float4 a = data[i], b = data[i + stride], c = data[i + 2 * stride],
                 d = data[i + 3 * stride];
    sum += a.x + a.y + a.z + a.w + b.x + b.y + b.z + b.w;
    sum += c.x + c.y + c.z + c.w + d.x + d.y + d.z + d.w;
  }
  for (; i < count; i += stride) sum += data[i].x;
  if (sum == 12345.0f) *out = sum;
}

__global__ void NoiseKernel(__nv_bfloat16* data, int64_t count, float scale, uint32_t seed) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u ^ seed;
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    data[i] = __float2bfloat16((static_cast<float>(h) / 4294967296.0f - 0.5f) * 3.46f * scale);
  }
}

}  // namespace

double MeasureReadBandwidth(int64_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) return 0.0;
  FillNoise(memory, bytes, 1.0f, 1, nullptr);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(begin);
    SumKernel<<<132 * 16, 512>>>(static_cast<const float4*>(memory), bytes / 16,
                                 static_cast<float*>(memory));
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 3) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFree(memory);
  std::sort(times.begin(), times.end());
  return bytes / (times[times.size() / 2] * 1e-3);
}

void FillNoise(void* memory, int64_t bytes, float scale, uint32_t seed, cudaStream_t stream) {
  NoiseKernel<<<132 * 8, 512, 0, stream>>>(static_cast<__nv_bfloat16*>(memory), bytes / 2, scale,
                                           seed);
}

}  // namespace lorica::bench
