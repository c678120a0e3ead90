// What follows a linear: LoRA expand, bias, rotation, activation, residual and norm.
//
//   RmsNorm       out = x / sqrt(mean(x^2) + epsilon) * w
//   QkvPost       q, k, v += expand + bias; rotate q and k; store k and v
//   GluPost       out = activation(gate) * up, both after expand
//   ResidualNorm  residual += projection + expand + bias; out = RmsNorm(residual)
//   Expand        y += expand, for what is outside the layers
//
// A sum over a row takes 16 lanes and then halves them, whatever the instruction set;
// rows never meet.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/lora.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

void RunRmsNorm(Tensor out, Tensor x, const float* weight, float epsilon, ThreadPool& pool);

struct QkvPostJob {
  Tensor qkv;
  const float* bias = nullptr;
  const RopeTable* rope = nullptr;
  int layer = 0;
  const KvCache* cache = nullptr;
  const StepBatch* batch = nullptr;
  const std::vector<BlockId>* row_pages = nullptr;  // [rows] block that holds the row's position
};

void RunQkvPost(const QkvPostJob& job, const LoraStep& lora, ThreadPool& pool);

void RunGluPost(Tensor out, Tensor gate_up, Activation activation, int layer, const LoraStep& lora,
                ThreadPool& pool);

struct ResidualNormJob {
  Tensor out;
  Tensor residual;
  Tensor projection;
  const float* bias = nullptr;
  int layer = 0;
  LoraGroup group = LoraGroup::kO;
  const float* next_weight = nullptr;
  float epsilon = 0.0f;
};

// Nothing where the last shrink was of another group or found no adapter.
void RunExpand(Tensor y, LoraGroup group, const LoraStep& lora, ThreadPool& pool);

void RunResidualNorm(const ResidualNormJob& job, const LoraStep& lora, ThreadPool& pool);

}  // namespace lorica
