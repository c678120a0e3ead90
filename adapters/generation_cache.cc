#include "adapters/generation_cache.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr int kChangesMax = 8;  // that one Look follows before it gives up

}  // namespace

// One hashing of a folder; the others wait for it.
struct GenerationCache::Flight {
  explicit Flight(const Stamps& begun_with) : stamps(begun_with) {}
  const Stamps stamps;
  absl::StatusOr<GenerationPtr> result;  // written before `done`
  absl::Notification done;
};

GenerationCache::GenerationCache(std::shared_ptr<Source> source, const PeftLoader* loader,
                                 int folders_max)
    : source_(std::move(source)), loader_(loader), folders_max_(folders_max) {}

absl::StatusOr<GenerationCache::Stamps> GenerationCache::StampsOf(
    const std::string& location) const {
  auto config = source_->Open(location, "adapter_config.json");
  if (!config.ok()) return config.status();
  auto weights = source_->Open(location, "adapter_model.safetensors");
  if (!weights.ok()) return weights.status();
  return Stamps{(*config)->stamp(), (*weights)->stamp()};
}

// A folder without both files: the loader says what is wrong with it, and there is
// nothing to remember the answer by.
absl::StatusOr<GenerationPtr> GenerationCache::LookUnstamped(const std::string& location) {
  Forget(location);
  return loader_->Identify(source_, location);
}

std::optional<absl::StatusOr<GenerationPtr>> GenerationCache::TryLook(const std::string& location) {
  const absl::StatusOr<Stamps> stamps = StampsOf(location);
  if (!stamps.ok()) {
    // A plan says what Identify would; where the files have come meanwhile, they are to be hashed.
    const absl::Status wrong = loader_->Plan(*source_, location).status();
    if (wrong.ok()) return std::nullopt;
    Forget(location);
    return wrong;
  }
  absl::MutexLock lock(&mutex_);
  const auto known = known_.find(location);
  if (known == known_.end() || known->second.stamps != *stamps) return std::nullopt;
  return known->second.result;
}

absl::StatusOr<GenerationPtr> GenerationCache::Look(const std::string& location) {
  for (int change = 0; change < kChangesMax; ++change) {
    const absl::StatusOr<Stamps> stamps = StampsOf(location);
    if (!stamps.ok()) return LookUnstamped(location);
    std::shared_ptr<Flight> flight;
    bool is_ours = false;
    {
      absl::MutexLock lock(&mutex_);
      const auto known = known_.find(location);
      if (known != known_.end() && known->second.stamps == *stamps) return known->second.result;
      std::shared_ptr<Flight>& slot = flights_[location];
      is_ours = slot == nullptr;
      if (is_ours) slot = std::make_shared<Flight>(*stamps);
      flight = slot;
    }
    if (is_ours) {
      absl::StatusOr<GenerationPtr> result = loader_->Identify(source_, location);
      Publish(location, *flight, result);
      return result;
    }
    flight->done.WaitForNotification();
    if (flight->stamps == *stamps) return flight->result;
  }
  return absl::UnavailableError(
      absl::StrCat("the content of ", Quoted(location), " keeps changing: try again later"));
}

void GenerationCache::Publish(const std::string& location, Flight& flight,
                              const absl::StatusOr<GenerationPtr>& result) {
  flight.result = result;
  {
    absl::MutexLock lock(&mutex_);
    flights_.erase(location);
    // Other errors, such as an I/O error, may be gone at the next look.
    if (result.ok() || absl::IsFailedPrecondition(result.status())) {
      const Stamps stamps =
          result.ok() ? Stamps{(*result)->config_stamp, (*result)->weights_stamp} : flight.stamps;
      if (!known_.contains(location) && std::ssize(known_) >= folders_max_) {
        known_.erase(known_.begin());
      }
      known_.insert_or_assign(location, Known{stamps, result});
    }
  }
  flight.done.Notify();
}

absl::StatusOr<GenerationPtr> GenerationCache::Last(const std::string& location) const {
  absl::MutexLock lock(&mutex_);
  const auto known = known_.find(location);
  if (known == known_.end()) return GenerationPtr();
  return known->second.result;
}

void GenerationCache::Forget(const std::string& location) {
  absl::MutexLock lock(&mutex_);
  known_.erase(location);
}

int GenerationCache::folders() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(known_.size());
}

}  // namespace lorica
