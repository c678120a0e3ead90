// Chooses tokens from logits, in vLLM's order: mask, penalties, bias; temperature;
// top-k; top-p; min-p; choice. Log probabilities come from the raw logits.
//
// Top-k keeps ties with the k-th. Top-p keeps, best first (ties by id), the tokens
// before which less than p of the probability has been seen. The choice takes
// u = Philox(seed, token_index) in [0, 1) and the first kept token, in order of id,
// whose running sum of probabilities exceeds u times their total.
// A row's choice depends on nothing but its own logits and SampleRow.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

// `slots` are the token slots as they were before the step.
void RunSample(Tensor logits, int32_t vocabulary_used, const std::vector<SampleRow>& rows,
               absl::Span<const int32_t> slots, absl::Span<SampleResult> results, ThreadPool& pool);

}  // namespace lorica
