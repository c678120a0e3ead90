// The packed weights of a decoder. Private to server/models.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/models/families/family.h"
#include "server/models/model.h"

namespace lorica {

struct LayerWeights {
  std::unique_ptr<Weight> qkv;             // [(heads + 2 kv_heads) head_size, hidden]
  std::unique_ptr<Weight> o;               // [hidden, heads head_size]
  std::unique_ptr<Weight> gate_up;         // [2 ffn, hidden]
  std::unique_ptr<Weight> down;            // [hidden, ffn]
  std::unique_ptr<Buffer> attention_norm;  // fp32 [hidden]
  std::unique_ptr<Buffer> mlp_norm;        // fp32 [hidden]
  std::unique_ptr<Buffer> qkv_bias;        // fp32, null without
};

struct Model::Weights {
  std::unique_ptr<Weight> embedding;
  std::unique_ptr<Weight> head;        // null when tied
  std::unique_ptr<Buffer> final_norm;  // fp32 [hidden]
  std::vector<LayerWeights> layers;
  RopeTable rope;

  const Weight& output() const { return head ? *head : *embedding; }
  int64_t resident_bytes() const;
};

// Activations of one step. What is never wanted at the same time shares a place: normed with
// activated; qkv, attended and projected, which follow each other, with gate_up and the logits.
struct Model::Buffers {
  std::unique_ptr<Buffer> memory;
  void* residual = nullptr;   // [rows, hidden], fp32
  void* normed = nullptr;     // [rows, hidden]
  void* qkv = nullptr;        // [rows, (heads + 2 kv_heads) head_size]
  void* attended = nullptr;   // [rows, heads head_size]
  void* projected = nullptr;  // [rows, hidden]
  void* gate_up = nullptr;    // [rows, 2 ffn]
  void* activated = nullptr;  // [rows, ffn]
  void* gathered = nullptr;   // [samples, hidden]
  void* logits = nullptr;     // [samples, vocabulary], fp32
  int64_t rows_max = 0;
  int64_t samples_max = 0;
  int64_t samples = 0;  // of the last Forward
};

// Packs an opened model's matrices on the backend.
absl::StatusOr<std::unique_ptr<Model::Weights>> PackWeights(const OpenedModel& opened,
                                                            int64_t positions, Backend& backend);

// The weights of a shape, random.
absl::StatusOr<std::unique_ptr<Model::Weights>> MakeRandomWeights(const ModelConfig& config,
                                                                  int64_t positions,
                                                                  Backend& backend);

// Every (layer, module) where LoRA may attach, then the embedding and the head.
std::vector<LoraTarget> MakeLoraTargets(const ModelConfig& config, const Model::Weights& weights);

}  // namespace lorica
