// Rows in and out of a step: token embedding, plain norm, rows that need logits, the
// step's tables, stored weights to elements.
#include <cuda_fp16.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kScatterThreads = 256, kScatterBlocks = 4;

// kScatterBlocks blocks a section.
__global__ void ScatterKernel(std::byte* tables, const std::byte* image,
                              const __grid_constant__ ScatterSections sections) {
  const ScatterSection& section = sections.sections[blockIdx.x];
  const auto* from = reinterpret_cast<const uint4*>(image + section.source_bytes);
  auto* to = reinterpret_cast<uint4*>(tables + section.target_bytes);
  // Sections are padded to 16 bytes on both sides.
  const int first = blockIdx.y * kScatterThreads + threadIdx.x;
#pragma unroll 4
  for (int64_t i = first; i < (section.bytes + 15) / 16; i += kScatterBlocks * kScatterThreads) {
    to[i] = from[i];
  }
}

__global__ void EmbedKernel(float* out, const Element* table, int64_t columns, StepTables step) {
  const int row = blockIdx.x;
  if (row >= step.counts->rows) return;
  const int32_t written = step.tokens[row];
  const int64_t token = written >= 0 ? written : step.token_slots[-1 - written];
  for (int64_t i = threadIdx.x * 8; i < columns; i += blockDim.x * 8) {
    const uint4 packed = *reinterpret_cast<const uint4*>(table + token * columns + i);
    auto* to = reinterpret_cast<float4*>(out + row * columns + i);
    to[0] = {LowFloat(packed.x), HighFloat(packed.x), LowFloat(packed.y), HighFloat(packed.y)};
    to[1] = {LowFloat(packed.z), HighFloat(packed.z), LowFloat(packed.w), HighFloat(packed.w)};
  }
}

__device__ float BlockSum(float value) {
  __shared__ float warps[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int i = 0; i < kThreads / 32; ++i) sum += warps[i];
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    RmsNormKernel(Element* out, const float* x, const float* weight, float epsilon,
                  int64_t columns) {
  const float* from = x + blockIdx.x * columns;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
    squares += from[i] * from[i];
  }
  const float scale = rsqrtf(BlockSum(squares) / columns + epsilon);
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
    out[blockIdx.x * columns + i] = Element(from[i] * scale * weight[i]);
  }
}

__global__ void GatherKernel(Element* out, const Element* x, int64_t columns, StepTables step) {
  if (blockIdx.x >= step.counts->samples) return;
  const int64_t row = step.sample_rows[blockIdx.x];
  for (int64_t i = threadIdx.x * 8; i < columns; i += blockDim.x * 8) {
    *reinterpret_cast<uint4*>(out + blockIdx.x * columns + i) =
        *reinterpret_cast<const uint4*>(x + row * columns + i);
  }
}

}  // namespace

void LaunchScatter(std::byte* tables, const std::byte* image, const ScatterSections& sections,
                   cudaStream_t stream) {
  const dim3 blocks(sections.count, kScatterBlocks);
  ScatterKernel<<<blocks, kScatterThreads, 0, stream>>>(tables, image, sections);
}

void LaunchEmbed(void* out, const void* table, int64_t columns, const StepTables& step, int rows,
                 cudaStream_t stream) {
  EmbedKernel<<<rows, kThreads, 0, stream>>>(static_cast<float*>(out),
                                             static_cast<const Element*>(table), columns, step);
}

void LaunchRmsNorm(void* out, const void* x, const float* weight, float epsilon, int64_t columns,
                   int rows, cudaStream_t stream) {
  RmsNormKernel<<<rows, kThreads, 0, stream>>>(
      static_cast<Element*>(out), static_cast<const float*>(x), weight, epsilon, columns);
}

void LaunchGatherRows(void* out, const void* x, int64_t columns, const StepTables& step,
                      int samples, cudaStream_t stream) {
  GatherKernel<<<samples, kThreads, 0, stream>>>(static_cast<Element*>(out),
                                                 static_cast<const Element*>(x), columns, step);
}

}  // namespace lorica::cuda
