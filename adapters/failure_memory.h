// Failed loads, remembered for a short, jittered time so that a bad id cannot hammer a
// source. Bounded: when full, what would be forgotten first makes room. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lorica {

class FailureMemory {
 public:
  FailureMemory(int entries_max, absl::Duration ttl, uint64_t seed);

  void Remember(const std::string& digest, absl::Status status, absl::Time now);
  // OK when nothing is remembered.
  absl::Status Find(const std::string& digest, absl::Time now) const;
  // The error as operators see it: also after it expired, until it is forgotten.
  absl::Status LastError(const std::string& digest) const;
  // Drops what has expired, and returns the digests dropped since the last call.
  std::vector<std::string> Forget(absl::Time now);
  int size() const { return static_cast<int>(failures_.size()); }

 private:
  struct Failure {
    absl::Status status;
    std::multimap<absl::Time, std::string>::iterator place;
  };
  void Erase(std::multimap<absl::Time, std::string>::iterator place);
  double Jitter();

  const int entries_max_;
  const absl::Duration ttl_;
  uint64_t random_state_;
  absl::flat_hash_map<std::string, Failure> failures_;
  std::multimap<absl::Time, std::string> by_expiry_;
  std::vector<std::string> dropped_;
};

}  // namespace lorica
