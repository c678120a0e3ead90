#include "adapters/generation_reader.h"

#include "absl/strings/str_cat.h"
#include "adapters/content_digest.h"
#include "adapters/element_convert.h"
#include "adapters/hub/quoted.h"

namespace lorica {
absl::StatusOr<std::unique_ptr<GenerationReader>> GenerationReader::Open(
    const PeftLoader& loader, const Generation& generation) {
  std::unique_ptr<GenerationReader> reader(new GenerationReader);
  reader->location_ = generation.location;
  auto config = generation.source->Open(generation.location, "adapter_config.json");
  if (!config.ok()) return config.status();
  auto weights = generation.source->Open(generation.location, "adapter_model.safetensors");
  if (!weights.ok()) return weights.status();
  reader->config_ = *std::move(config);
  reader->weights_ = *std::move(weights);
  reader->config_stamp_ = reader->config_->stamp();
  reader->weights_stamp_ = reader->weights_->stamp();
  if (reader->config_stamp_ != generation.config_stamp ||
      reader->weights_stamp_ != generation.weights_stamp) {
    const auto digest = ContentDigest(*reader->config_, *reader->weights_);
    if (!digest.ok()) return digest.status();
    if (*digest != generation.digest) return ContentChanged(generation.location);
  }
  absl::StatusOr<AdapterPlan> plan = loader.Plan(*generation.source, generation.location);
  if (!plan.ok()) return plan.status();
  reader->plan_ = *std::move(plan);
  // The plan read the files by their names: they must still be these.
  auto again = generation.source->Open(generation.location, "adapter_model.safetensors");
  if (!again.ok()) return again.status();
  if ((*again)->stamp() != reader->weights_stamp_) return ContentChanged(generation.location);
  if (absl::Status s = reader->CheckUnchanged(); !s.ok()) return s;
  return reader;
}

absl::StatusOr<std::vector<float>> GenerationReader::Read(int64_t begin, int64_t count,
                                                          DType dtype) const {
  std::vector<std::byte> bytes(RowBytes(dtype, count));
  if (absl::Status s = weights_->ReadAt(begin, absl::MakeSpan(bytes)); !s.ok()) return s;
  if (!AllFinite(dtype, bytes)) {
    return absl::DataLossError(absl::StrCat(Quoted(location_), kNotFinite));
  }
  std::vector<float> values(count);
  Dequantize(dtype, bytes.data(), count, values.data());
  return values;
}

absl::StatusOr<std::vector<float>> GenerationReader::ReadA(int index) const {
  const PlannedModule& module = plan_.modules[index];
  return Read(module.a_begin, module.rank * module.target->in_features, module.a_dtype);
}

absl::StatusOr<std::vector<float>> GenerationReader::ReadB(int index) const {
  const PlannedModule& module = plan_.modules[index];
  return Read(module.b_begin, module.rank * module.target->out_features, module.b_dtype);
}

// Files that were replaced by others keep what they held: only those written to change.
absl::Status GenerationReader::CheckUnchanged() const {
  if (config_->stamp() == config_stamp_ && weights_->stamp() == weights_stamp_) {
    return absl::OkStatus();
  }
  return ContentChanged(location_);
}

}  // namespace lorica
