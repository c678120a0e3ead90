// Hashes of streams, as hubs and generations are named by them.
//
// A Hasher belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/types/span.h"

struct evp_md_ctx_st;

namespace lorica {

enum class HashAlgorithm : uint8_t { kSha256, kSha1 };

class Hasher {
 public:
  explicit Hasher(HashAlgorithm algorithm = HashAlgorithm::kSha256);
  void Update(absl::Span<const std::byte> bytes);
  void Update(std::string_view text);
  // Lower-case hex: 64 digits of SHA-256, 40 of SHA-1. Ends the stream.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace lorica
