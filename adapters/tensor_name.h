// What a tensor of an adapter file is, by its name.
//
// PEFT writes base_model.model.<module>.lora_A.weight; other savers leave the prefix
// out or put an adapter name before "weight". Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace lorica {

enum class TensorRole { kA, kB, kMagnitude, kRefused };

struct TensorName {
  TensorRole role = TensorRole::kRefused;
  std::string module;        // "model.layers.7.mlp.up_proj"
  const char* refusal = "";  // a sentence for kRefused
};

TensorName ParseTensorName(std::string_view name);

}  // namespace lorica
