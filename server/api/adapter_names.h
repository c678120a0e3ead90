// By which names each generation was asked for lately.
//
// The pool knows digests alone; charts and routers want names. Bounded: beyond kNamesMax
// generations the one noted first is forgotten, and of one generation the name noted first
// beyond kNamesOfOneMax. Thread-safe.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace lorica {

class AdapterNames {
 public:
  static constexpr int kNamesMax = 8192;
  static constexpr int kNamesOfOneMax = 8;

  void Note(const std::string& digest, const std::string& adapter_id);
  // The name means this generation no more.
  void Forget(const std::string& digest, const std::string& adapter_id);
  // The one noted last comes first. Empty: nobody has asked for it, or long ago.
  std::vector<std::string> NamesOf(const std::string& digest) const;
  int64_t digests() const;

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::vector<std::string>> names_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> order_ ABSL_GUARDED_BY(mutex_);  // digests, first noted first
};

}  // namespace lorica
