// What a tensor of an adapter file is, by its name.
//
// PEFT writes base_model.model.<module>.lora_A.weight, on embeddings
// <module>.lora_embedding_A; other savers leave the prefix out or put an adapter name
// before "weight". Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace lorica {

// kBaseCopy: the base's own matrix, which PEFT saves beside an adapter on the embedding or
// the head. kTrainingState: of no use to a server.
enum class TensorRole { kA, kB, kBias, kMagnitude, kBaseCopy, kTrainingState, kRefused };

struct TensorName {
  TensorRole role = TensorRole::kRefused;
  std::string module;        // "model.layers.7.mlp.up_proj"
  const char* refusal = "";  // a sentence for kRefused
  bool embedding = false;    // A and B as PEFT names them on embeddings
};

TensorName ParseTensorName(std::string_view name);

}  // namespace lorica
