// DoRA's gain, from the base as it is packed here:
//
//   g_i = m_i / || W_i + s (B A)_i ||
//   || . ||^2 = |W_i|^2 + 2 s B_i . (W A^T)_i + s^2 B_i (A A^T) B_i^T
//
// so that B A is never formed. A row where the three terms nearly cancel is computed
// directly. Runs on the calling thread.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/packed_weight.h"

namespace lorica {

struct DoraInput {
  const PackedWeight* weight = nullptr;
  int64_t row_begin = 0;
  int64_t in_features = 0;
  int64_t out_features = 0;
  const float* a = nullptr;  // [rank, in]
  const float* b = nullptr;  // [out, rank]
  int rank = 0;
  float scale = 1.0f;
  const float* magnitude = nullptr;  // [out]
};

// DataLoss when a norm is zero or not finite.
absl::StatusOr<std::vector<float>> ComputeDoraGain(const DoraInput& input);

}  // namespace lorica
