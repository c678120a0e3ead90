// DoRA's gains from a base weight on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/lora_tiles.h"

namespace lorica::cuda {

// See Backend::DoraGain. Any thread; waits for what `stream` has to do.
absl::StatusOr<std::vector<float>> ComputeDoraGain(const LoraTarget& target,
                                                   absl::Span<const float> a,
                                                   absl::Span<const float> b, int rank, float scale,
                                                   absl::Span<const float> magnitude,
                                                   cudaStream_t stream);

}  // namespace lorica::cuda
