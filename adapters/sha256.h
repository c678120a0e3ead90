// SHA-256 of streams and the digest that names a generation.
//
// A Sha256 belongs to one thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/types/span.h"

struct evp_md_ctx_st;

namespace lorica {

class Sha256 {
 public:
  Sha256();
  void Update(absl::Span<const std::byte> bytes);
  void Update(std::string_view text);
  // 64 lower-case hex digits. Ends the stream.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// Digest of a generation: SHA-256 over "<name> <hex>\n" of both files, by name.
std::string GenerationDigest(std::string_view config_sha256, std::string_view weights_sha256);

}  // namespace lorica
