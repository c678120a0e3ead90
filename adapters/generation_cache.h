// Which generation a folder holds now, without hashing what has not changed.
//
// Remembers for each folder the stamps of its two files and what was found behind
// them: a generation, or the reason why it cannot be served. Unchanged stamps cost two
// opened files; changed ones are hashed once, however many callers ask, and all of
// them get the same answer. A folder that does not exist leaves nothing behind.
// Thread-safe; Look may read and hash files.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "adapters/adapter.h"
#include "adapters/peft_loader.h"

namespace lorica {

class GenerationCache {
 public:
  // `loader` outlives the cache. At most `folders_max` folders are remembered.
  GenerationCache(std::shared_ptr<Source> source, const PeftLoader* loader, int folders_max);

  // Errors as PeftLoader::Identify. Unavailable: the folder keeps changing.
  absl::StatusOr<GenerationPtr> Look(const std::string& location);
  // What Look would say without hashing anything, nor waiting for who does; nullopt: it would have
  // to.
  std::optional<absl::StatusOr<GenerationPtr>> TryLook(const std::string& location);
  // What Look said last; OK and null when it is not remembered. Touches no file.
  absl::StatusOr<GenerationPtr> Last(const std::string& location) const;
  void Forget(const std::string& location);
  int folders() const;

 private:
  struct Stamps {
    FileStamp config;
    FileStamp weights;
    friend bool operator==(const Stamps&, const Stamps&) = default;
  };
  struct Known {
    Stamps stamps;
    absl::StatusOr<GenerationPtr> result;
  };
  struct Flight;

  absl::StatusOr<Stamps> StampsOf(const std::string& location) const;
  absl::StatusOr<GenerationPtr> LookUnstamped(const std::string& location);
  void Publish(const std::string& location, Flight& flight,
               const absl::StatusOr<GenerationPtr>& result);

  const std::shared_ptr<Source> source_;
  const PeftLoader* const loader_;
  const int folders_max_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Known> known_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::shared_ptr<Flight>> flights_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
