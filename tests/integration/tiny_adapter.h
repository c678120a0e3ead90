// Random adapters for the model of tests/data/shapes/tiny.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {

enum class TinyParts { kLinears, kLinearsWithBiases, kEmbeddingAndHead };

// An adapter for shapes/tiny, on all seven linears if no other parts are asked for. With
// kTinyAdapterScale its change is about as large as what it changes.
inline constexpr double kTinyAdapterScale = 1.0 / 64;
inline void WriteTinyAdapter(const TemporaryFolder& folder, const std::string& id, int rank,
                             double scale = kTinyAdapterScale,
                             TinyParts parts = TinyParts::kLinears) {
  static constexpr int kHidden = 256, kFfn = 512, kQ = 512, kKv = 128, kLayers = 2;
  static constexpr int kVocabulary = 1000;
  const bool biases = parts == TinyParts::kLinearsWithBiases;
  const auto shape = [](LoraModule module) -> std::pair<int, int> {  // out, in
    switch (module) {
      case LoraModule::kQ:
        return {kQ, kHidden};
      case LoraModule::kK:
      case LoraModule::kV:
        return {kKv, kHidden};
      case LoraModule::kO:
        return {kHidden, kQ};
      case LoraModule::kDown:
        return {kHidden, kFfn};
      default:
        return {kFfn, kHidden};
    }
  };
  uint32_t seed = 100 * rank;
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, int rows, int columns) {
    tensors.push_back(
        {name, "BF16", {rows, columns}, Encoded("BF16", RandomValues(rows * columns, ++seed))});
  };
  const std::string root = "base_model.model.";
  if (parts == TinyParts::kEmbeddingAndHead) {
    add(root + "model.embed_tokens.lora_embedding_A", rank, kVocabulary);
    add(root + "model.embed_tokens.lora_embedding_B", kHidden, rank);
    add(root + "lm_head.lora_A.weight", rank, kHidden);
    add(root + "lm_head.lora_B.weight", kVocabulary, rank);
  }
  for (int layer = 0; layer < kLayers && parts != TinyParts::kEmbeddingAndHead; ++layer) {
    for (int m = 0; m < kLoraModuleCount; ++m) {
      const auto module = static_cast<LoraModule>(m);
      const auto [out, in] = shape(module);
      const std::string stem = absl::StrCat(root, "model.layers.", layer, ".",
                                            std::string(LoraModuleName(module)), ".lora_");
      add(stem + "A.weight", rank, in);
      add(stem + "B.weight", out, rank);
      if (!biases) continue;
      std::vector<float> bias = RandomValues(out, ++seed);
      for (float& value : bias) value *= 16;
      tensors.push_back({stem + "B.bias", "F32", {out}, Encoded("F32", bias)});
    }
  }
  folder.Write(id + "/adapter_config.json",
               absl::StrCat(R"({"peft_type": "LORA", "r": )", rank, R"(, "lora_alpha": )",
                            rank * scale / std::sqrt(rank), R"(, "lora_bias": )",
                            biases ? "true" : "false", "}"));
  folder.Write(id + "/adapter_model.safetensors", SafetensorsFile(tensors));
}

}  // namespace lorica
