#include "adapters/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "kernels/check.h"

namespace lorica {

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  LORICA_CHECK(context_ != nullptr);
  LORICA_CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::Update(absl::Span<const std::byte> bytes) {
  LORICA_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

void Sha256::Update(std::string_view text) {
  LORICA_CHECK(EVP_DigestUpdate(context_.get(), text.data(), text.size()) == 1);
}

std::string Sha256::Finish() {
  char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  auto* out = reinterpret_cast<unsigned char*>(digest);
  LORICA_CHECK(EVP_DigestFinal_ex(context_.get(), out, &size) == 1);
  return absl::BytesToHexString(absl::string_view(digest, size));
}

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
