// What the device can do at best, measured in this process, and shared pieces of the GPU
// benchmarks.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace lorica::bench {

// Bytes a second of a sum over `bytes` of device memory, the median of several runs.
double MeasureReadBandwidth(int64_t bytes = int64_t{4} << 30);

// Fills memory with bf16 noise of about `scale`, a different one for each seed.
void FillNoise(void* memory, int64_t bytes, float scale, uint32_t seed, cudaStream_t stream);

}  // namespace lorica::bench
