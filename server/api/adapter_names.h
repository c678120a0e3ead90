// By which name each generation was asked for last.
//
// The pool knows digests alone; charts and routers want names. Bounded: beyond kNamesMax
// generations the one noted first is forgotten. Thread-safe.
#pragma once

#include <deque>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace lorica {

class AdapterNames {
 public:
  static constexpr int kNamesMax = 8192;

  void Note(const std::string& digest, const std::string& adapter_id);
  // Empty: nobody has asked for it, or long ago.
  std::string NameOf(const std::string& digest) const;

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::string> names_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> order_ ABSL_GUARDED_BY(mutex_);  // digests, first noted first
};

}  // namespace lorica
