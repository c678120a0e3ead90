#include "adapters/identified_contents.h"

#include <utility>

namespace lorica {
namespace {

std::shared_ptr<Generation> With(const Generation& generation, std::shared_ptr<Source> source,
                                 const std::string& location) {
  auto copy = std::make_shared<Generation>(generation);
  copy->source = std::move(source);
  copy->location = location;
  return copy;
}

bool HasStamps(Source& source, const std::string& location, const Generation& generation) {
  const auto config = source.Open(location, "adapter_config.json");
  if (!config.ok() || !((*config)->stamp() == generation.config_stamp)) return false;
  const auto weights = source.Open(location, "adapter_model.safetensors");
  return weights.ok() && (*weights)->stamp() == generation.weights_stamp;
}

}  // namespace

absl::StatusOr<GenerationPtr> IdentifiedContents::Identify(const std::string& key,
                                                           std::shared_ptr<Source> source,
                                                           const std::string& location) {
  if (const GenerationPtr last = Last(key)) {
    if (HasStamps(*source, location, *last)) return With(*last, std::move(source), location);
  }
  absl::StatusOr<GenerationPtr> identified = loader_->Identify(std::move(source), location);
  absl::MutexLock lock(&mutex_);
  if (!identified.ok()) {
    contents_.erase(key);
    return identified;
  }
  if (std::ssize(contents_) >= contents_max_ && !contents_.contains(key)) {
    contents_.erase(contents_.begin());
  }
  contents_[key] = With(**identified, nullptr, location);
  return identified;
}

GenerationPtr IdentifiedContents::Last(const std::string& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = contents_.find(key);
  return found == contents_.end() ? nullptr : found->second;
}

}  // namespace lorica
