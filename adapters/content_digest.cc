#include "adapters/content_digest.h"

#include <algorithm>
#include <vector>

#include "absl/types/span.h"
#include "adapters/sha256.h"

namespace lorica {
namespace {

constexpr int64_t kReadBytes = 1 << 20;

absl::StatusOr<std::string> FileDigest(const SourceFile& file) {
  Sha256 hash;
  std::vector<std::byte> buffer(std::min(kReadBytes, file.size_bytes()));
  for (int64_t at = 0; at < file.size_bytes(); at += std::ssize(buffer)) {
    buffer.resize(std::min<int64_t>(std::ssize(buffer), file.size_bytes() - at));
    if (absl::Status s = file.ReadAt(at, absl::MakeSpan(buffer)); !s.ok()) return s;
    hash.Update(buffer);
  }
  return hash.Finish();
}

}  // namespace

absl::StatusOr<std::string> ContentDigest(Source& source, const std::string& location) {
  std::string sums[2];
  const char* const names[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; ++i) {
    const auto file = source.Open(location, names[i]);
    if (!file.ok()) return file.status();
    auto sum = FileDigest(**file);
    if (!sum.ok()) return sum.status();
    sums[i] = *std::move(sum);
  }
  return GenerationDigest(sums[0], sums[1]);
}

}  // namespace lorica
