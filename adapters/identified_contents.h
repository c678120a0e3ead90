// What was found in files that have not changed since, so that they are not hashed again.
//
// Remembers generations without the source that holds their files, so that nothing is kept in
// use by it. Bounded; thread-safe; Identify may read and hash files.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "adapters/adapter.h"
#include "adapters/peft_loader.h"

namespace lorica {

inline constexpr int kIdentifiedContentsMax = 16'384;

class IdentifiedContents {
 public:
  // `loader` outlives it. More than `contents_max` make room for themselves.
  IdentifiedContents(const PeftLoader* loader, int contents_max)
      : loader_(loader), contents_max_(contents_max) {}

  // As PeftLoader::Identify. Equal keys mean equal files as long as their stamps are equal.
  absl::StatusOr<GenerationPtr> Identify(const std::string& key, std::shared_ptr<Source> source,
                                         const std::string& location);
  // What Identify found last, with no source and so not to be loaded; null: not remembered.
  GenerationPtr Last(const std::string& key) const;

 private:
  const PeftLoader* const loader_;
  const int contents_max_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, GenerationPtr> contents_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
