// y = W x for packed weights, and single rows of W as fp32.
//
//   y[m][n] = sum over k of W[n][k] x[m][k]
//
// Every y element is one chain of fused multiply-adds in order of k, whatever the
// number of rows or threads. One row alone multiplies while it unpacks; more rows
// unpack a panel once into the first-level cache and share it.
// Stateless: any thread may call these with buffers of its own.
#pragma once

#include <cstdint>

#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

// Rows of x and y are in_features and out_features floats apart.
struct LinearJob {
  const PackedWeight* weight = nullptr;
  const float* x = nullptr;  // [rows, in_features]
  int64_t rows = 0;
  float* y = nullptr;  // [rows, out_features]
};

void RunLinear(const LinearJob& job, ThreadPool& pool);

// The same on the calling thread.
void RunLinearAlone(const LinearJob& job);

// out [in_features] = row `row` of W.
void UnpackRow(const PackedWeight& weight, int64_t row, float* out);

// The instruction set in use: "avx2".
const char* SimdTargetName();

}  // namespace lorica
