#include "adapters/tensor_name.h"

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace lorica {
namespace {

constexpr char kPrefix[] = "base_model.model.";

TensorName Refused(const char* refusal) { return {TensorRole::kRefused, "", refusal}; }

TensorName Of(TensorRole role, absl::string_view module, bool embedding = false) {
  return {role, std::string(module), "", embedding};
}

// What may stand behind lora_A or lora_B: "weight" or "<adapter name>.weight".
bool IsWeightTail(absl::string_view tail) {
  if (tail == "weight") return true;
  return absl::ConsumeSuffix(&tail, ".weight") && !tail.empty() && !absl::StrContains(tail, '.');
}

// "bias" or "<adapter name>.bias".
bool IsBiasTail(absl::string_view tail) {
  if (tail == "bias") return true;
  return absl::ConsumeSuffix(&tail, ".bias") && !tail.empty() && !absl::StrContains(tail, '.');
}

// "", "weight", "<adapter name>" or "<adapter name>.weight".
bool IsMagnitudeTail(absl::string_view tail) {
  return tail.empty() || IsWeightTail(tail) || !absl::StrContains(tail, '.');
}

TensorName NameOf(absl::string_view module, absl::string_view kind, absl::string_view tail) {
  if (absl::StrContains(module, ".base_layer")) {
    return Refused("LoRA on bare parameters (target_parameters) is not supported");
  }
  if (kind == "lora_A" && IsWeightTail(tail)) return Of(TensorRole::kA, module);
  if (kind == "lora_B" && IsWeightTail(tail)) return Of(TensorRole::kB, module);
  if (kind == "lora_B" && IsBiasTail(tail)) return Of(TensorRole::kBias, module);
  if (kind == "lora_embedding_A" && IsMagnitudeTail(tail)) return Of(TensorRole::kA, module, true);
  if (kind == "lora_embedding_B" && IsMagnitudeTail(tail)) return Of(TensorRole::kB, module, true);
  if (kind == "lora_magnitude_vector" && IsMagnitudeTail(tail)) {
    return Of(TensorRole::kMagnitude, module);
  }
  if (kind == "lora_velora_embed" || kind == "lora_monteclora_sampler") {
    return Of(TensorRole::kTrainingState, module);
  }
  if (kind == "lora_diag") return Refused("KaSA (lora_diag) is not supported");
  return Refused("these are not LoRA tensors that PEFT writes");
}

}  // namespace

TensorName ParseTensorName(std::string_view full_name) {
  absl::string_view name(full_name.data(), full_name.size());
  absl::ConsumePrefix(&name, kPrefix);
  const size_t dot = name.find(".lora_");
  if (dot != absl::string_view::npos) {
    const absl::string_view rest = name.substr(dot + 1);
    const std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(rest, absl::MaxSplits('.', 1));
    return NameOf(name.substr(0, dot), halves.first, halves.second);
  }
  if (absl::StrContains(name, "trainable_tokens_delta")) {
    return Refused("replaced embedding rows (trainable_token_indices) are not supported");
  }
  if (absl::string_view module = name; absl::ConsumeSuffix(&module, ".base_layer.weight")) {
    return Of(TensorRole::kBaseCopy, module);
  }
  if (absl::EndsWith(name, ".bias")) return Refused("trained biases (bias) are not supported");
  if (absl::EndsWith(name, ".weight")) {
    return Refused("copies of whole modules (modules_to_save, saved embeddings) are not supported");
  }
  return Refused("these are not LoRA tensors that PEFT writes");
}

}  // namespace lorica
