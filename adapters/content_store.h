// Copies of registered adapters' files, named by their digest, beneath the data folder.
//
// A folder can change or go at any time; a name that was registered keeps standing for
// the content it was registered with, so that content is copied here first. Copies are
// whole or not there: written aside, verified against the digest, synced, renamed.
// FOLDER/<digest>/ holds the two files; FOLDER/.new-* is a copy that never ended and is
// removed at the next start. Thread-safe; Keep and Remove may take long.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "adapters/adapter.h"
#include "adapters/hub/source.h"

namespace lorica {

class ContentStore {
 public:
  // Makes `folder` if missing and removes unfinished copies. FailedPrecondition: it cannot
  // be written.
  static absl::StatusOr<std::unique_ptr<ContentStore>> Open(const std::string& folder,
                                                            int64_t bytes_max);

  // Returns when a copy is on disk; at once when there is one. ResourceExhausted: beyond
  // bytes_max, or the disk is full. DataLoss: the content changed in the meantime.
  absl::Status Keep(const Generation& generation);
  // Nothing happens when there is none.
  void Remove(const std::string& digest);
  // Removes all that `wanted` lacks.
  void RemoveAllBut(const absl::flat_hash_set<std::string>& wanted);

  bool empty() const;
  bool Has(const std::string& digest) const;
  // Of its files as they were kept, or found at the start; 0: there is no copy.
  int64_t BytesOf(const std::string& digest) const;
  // Whether the copy is what its name says. Reads it once: after that it is not looked at again.
  // Unavailable: it cannot be read now.
  absl::StatusOr<bool> IsWhole(const std::string& digest);
  int64_t bytes() const;
  // Its locations are digests.
  const std::shared_ptr<Source>& source() const { return source_; }

 private:
  ContentStore(std::string folder, int64_t bytes_max, std::shared_ptr<Source> source);
  absl::Status Scan();
  absl::Status Copy(const Generation& generation, const std::string& target);
  absl::Status Publish(const std::string& made, const std::string& digest, int64_t bytes);

  const std::string folder_;
  const int64_t bytes_max_;
  const std::shared_ptr<Source> source_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, int64_t> kept_ ABSL_GUARDED_BY(mutex_);  // digest to bytes
  absl::flat_hash_set<std::string> whole_ ABSL_GUARDED_BY(mutex_);          // of kept_
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t copies_ ABSL_GUARDED_BY(mutex_) = 0;  // names for those under way
};

// ResourceExhausted: the disk of the data folder has no room for a change.
absl::Status DataDiskFull();

}  // namespace lorica
