#include "adapters/content_digest.h"

#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"
#include "adapters/sha256.h"

namespace lorica {
namespace {

absl::StatusOr<std::string> FileDigest(const SourceFile& file) {
  Sha256 hash;
  if (absl::Status s = HashRest(file, 0, hash); !s.ok()) return s;
  return hash.Finish();
}

}  // namespace

absl::StatusOr<std::string> ContentDigest(const SourceFile& config, const SourceFile& weights) {
  const absl::StatusOr<std::string> config_sha256 = FileDigest(config);
  if (!config_sha256.ok()) return config_sha256.status();
  const absl::StatusOr<std::string> weights_sha256 = FileDigest(weights);
  if (!weights_sha256.ok()) return weights_sha256.status();
  return GenerationDigest(*config_sha256, *weights_sha256);
}

absl::StatusOr<std::string> ContentDigest(Source& source, const std::string& location) {
  const auto config = source.Open(location, "adapter_config.json");
  if (!config.ok()) return config.status();
  const auto weights = source.Open(location, "adapter_model.safetensors");
  if (!weights.ok()) return weights.status();
  return ContentDigest(**config, **weights);
}

absl::Status ContentChanged(const std::string& location) {
  return absl::DataLossError(
      absl::StrCat("the content of ", Quoted(location),
                   " changed while it was read: write a new version into a folder of its own and "
                   "rename that; this one is served again once nobody writes into it"));
}

}  // namespace lorica
