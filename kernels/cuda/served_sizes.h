// Sizes of a model that the CUDA kernels serve.
#pragma once

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace lorica::cuda {

inline constexpr int kServedHeadSizeMax = 256;
inline constexpr int kServedGroupMax = 32;                // query heads a KV head
inline constexpr int64_t kServedHiddenMax = 8192;         // a row of the residual is one block's
inline constexpr int64_t kServedFfnMax = 1 << 16;         // gate and up are sums of a group
inline constexpr int64_t kServedVocabularyMax = 1 << 18;  // counts of a history are this long
inline constexpr int kServedLayersMax = 256;              // four LoRA groups each
inline constexpr int64_t kServedPagesMax = 1 << 23;       // a step's table has a fixed place

// InvalidArgument names what is not served.
absl::Status CheckServedSizes(const AttentionShape& shape, const ModelSizes& sizes);

}  // namespace lorica::cuda
