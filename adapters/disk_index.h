// What a disk tier holds, in memory: sizes, order of use, origins, counters.
//
// Touches no file and no clock. One thread at a time.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "adapters/adapter_pool.h"
#include "adapters/disk_origins.h"

namespace lorica {

class DiskIndex {
 public:
  explicit DiskIndex(int64_t bytes_max) { stats_.byte_limit = bytes_max; }

  bool Has(const std::string& digest) const { return contents_.contains(digest); }
  // REQUIRES: it is not there. It is the most recently used.
  void Add(const std::string& digest, int64_t bytes);
  // An origin leads to one content at a time: the one that was found last.
  void AddOrigin(const std::string& digest, const DatedOrigin& dated);
  const std::vector<DatedOrigin>& Origins(const std::string& digest) const;
  bool HasOtherAccess(const std::string& digest, const std::string& access) const;
  // All of that access.
  void RemoveOrigins(const std::string& digest, const std::string& access);
  // Digest and commit.
  std::optional<std::pair<std::string, std::string>> Find(const RemoteOrigin& origin) const;
  // Of all contents, in no order.
  std::vector<std::pair<std::string, DatedOrigin>> AllOrigins() const;
  void CountLookUp(bool hit) { ++(hit ? stats_.hits : stats_.misses); }
  void CountInsertion() { ++stats_.insertions; }
  // Makes it the most recently used.
  void Use(const std::string& digest);
  // When its use was last written down; the caller may say that it is now.
  absl::Time& written_down(const std::string& digest) { return contents_.at(digest).written_down; }
  std::shared_ptr<void> Hold(const std::string& digest) const;
  bool IsHeld(const std::string& digest) const;
  // The least recently used that nobody holds.
  std::optional<std::string> Evictable() const;
  enum class Reason { kEvicted, kRemoved };
  void Remove(const std::string& digest, Reason reason);
  const TierStats& stats() const { return stats_; }

 private:
  struct Content {
    int64_t bytes = 0;
    std::vector<DatedOrigin> origins;
    std::shared_ptr<void> hold = std::make_shared<char>();
    std::list<std::string>::iterator place;
    absl::Time written_down = absl::InfinitePast();
  };

  absl::flat_hash_map<std::string, Content> contents_;
  absl::flat_hash_map<std::string, std::string> by_origin_;  // OriginKey to digest
  std::list<std::string> by_use_;                            // least recently used first
  TierStats stats_;
};

}  // namespace lorica
