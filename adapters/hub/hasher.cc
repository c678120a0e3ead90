#include "adapters/hub/hasher.h"

#include <openssl/evp.h>

#include <cstdlib>

#include "absl/strings/escaping.h"

namespace lorica {
namespace {

// OpenSSL only fails here without memory.
void Must(bool done) {
  if (!done) std::abort();
}

}  // namespace

void Hasher::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Hasher::Hasher(HashAlgorithm algorithm) : context_(EVP_MD_CTX_new()) {
  Must(context_ != nullptr);
  const EVP_MD* kind = algorithm == HashAlgorithm::kSha256 ? EVP_sha256() : EVP_sha1();
  Must(EVP_DigestInit_ex(context_.get(), kind, nullptr) == 1);
}

void Hasher::Update(absl::Span<const std::byte> bytes) {
  Must(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

void Hasher::Update(std::string_view text) {
  Must(EVP_DigestUpdate(context_.get(), text.data(), text.size()) == 1);
}

std::string Hasher::Finish() {
  char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  auto* out = reinterpret_cast<unsigned char*>(digest);
  Must(EVP_DigestFinal_ex(context_.get(), out, &size) == 1);
  return absl::BytesToHexString(absl::string_view(digest, size));
}

}  // namespace lorica
