// Rows picked by index: token rows of the embedding table, rows that need logits.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

// out[i] = table[token of row i]; token -1 - slot means slots[slot].
void RunEmbed(Tensor out, const PackedWeight& table, const StepBatch& batch,
              const std::vector<int32_t>& slots, ThreadPool& pool);

// out[j] = x[samples[j].row].
void RunGatherRows(Tensor out, Tensor x, const StepBatch& batch);

}  // namespace lorica
