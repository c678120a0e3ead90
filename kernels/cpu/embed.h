// Rows picked by index: token rows of the embedding table, rows that need logits.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

// The token of each row; -1 - slot in the batch means slots[slot].
void ResolveTokens(const StepBatch& batch, const std::vector<int32_t>& slots,
                   std::vector<int32_t>& tokens);

// out[i] = table[tokens[i]].
void RunEmbed(Tensor out, const PackedWeight& table, const std::vector<int32_t>& tokens,
              ThreadPool& pool);

// out[j] = x[samples[j].row].
void RunGatherRows(Tensor out, Tensor x, const StepBatch& batch);

}  // namespace lorica
