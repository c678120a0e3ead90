#include "adapters/sha256.h"

namespace lorica {

std::string GenerationDigest(std::string_view config_sha256, std::string_view weights_sha256) {
  Sha256 hash;
  hash.Update("adapter_config.json ");
  hash.Update(config_sha256);
  hash.Update("\nadapter_model.safetensors ");
  hash.Update(weights_sha256);
  hash.Update("\n");
  return hash.Finish();
}

}  // namespace lorica
