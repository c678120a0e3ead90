#include "kernels/lora_tiles.h"

#include "kernels/check.h"

namespace lorica {

LoraGroupModules ModulesOf(LoraGroup group) {
  switch (group) {
    case LoraGroup::kQkv:
      return {static_cast<int>(LoraModule::kQ), 3};
    case LoraGroup::kO:
      return {static_cast<int>(LoraModule::kO), 1};
    case LoraGroup::kGateUp:
      return {static_cast<int>(LoraModule::kGate), 2};
    case LoraGroup::kDown:
      return {static_cast<int>(LoraModule::kDown), 1};
    case LoraGroup::kEmbedding:
      return {static_cast<int>(LoraModule::kEmbedding), 1};
    case LoraGroup::kHead:
      return {static_cast<int>(LoraModule::kHead), 1};
  }
  LORICA_CHECK(false, "unknown group", static_cast<int>(group));
}

std::string_view LoraModuleName(LoraModule module) {
  switch (module) {
    case LoraModule::kQ:
      return "self_attn.q_proj";
    case LoraModule::kK:
      return "self_attn.k_proj";
    case LoraModule::kV:
      return "self_attn.v_proj";
    case LoraModule::kO:
      return "self_attn.o_proj";
    case LoraModule::kGate:
      return "mlp.gate_proj";
    case LoraModule::kUp:
      return "mlp.up_proj";
    case LoraModule::kDown:
      return "mlp.down_proj";
    case LoraModule::kEmbedding:
      return "model.embed_tokens";
    case LoraModule::kHead:
      return "lm_head";
  }
  return "unknown";
}

}  // namespace lorica
