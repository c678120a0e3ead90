// The host tier: device-ready images bounded in bytes, least recently used out first.
//
// An image that is pinned or in use (its copy to the device runs or is waited for) is
// never evicted. The tier owns the images it holds; entries are named by the pool's
// entry ids. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kernels/lora_tiles.h"

namespace lorica {

using ImagePtr = std::shared_ptr<const LoraImage>;

// Host bytes an image occupies.
int64_t ImageBytes(const LoraImage& image);

class HostTier {
 public:
  // `on_evict` hears which entry lost its image; it must not call back.
  HostTier(int64_t bytes_max, std::function<void(int64_t)> on_evict);

  // Null when it is not here.
  ImagePtr Find(int64_t entry) const;
  bool Contains(int64_t entry) const { return slots_.contains(entry); }
  // Evicts until `image` fits. False, and nothing changed: what is pinned or in use
  // leaves no room. REQUIRES: the entry is not here.
  bool Insert(int64_t entry, ImagePtr image, bool in_use, bool pinned);
  void Remove(int64_t entry);
  void Touch(int64_t entry);
  void SetInUse(int64_t entry, bool in_use);
  void SetPinned(int64_t entry, bool pinned);

  int64_t bytes() const { return bytes_; }
  int64_t bytes_max() const { return bytes_max_; }
  int64_t pinned_bytes() const;
  int32_t size() const { return static_cast<int32_t>(slots_.size()); }
  int64_t insertions() const { return insertions_; }
  int64_t evictions() const { return evictions_; }
  int64_t removals() const { return removals_; }
  void CheckInvariants() const;

 private:
  struct Slot {
    ImagePtr image;
    bool in_use = false;
    bool pinned = false;
    uint64_t use_tick = 0;
    bool evictable() const { return !in_use && !pinned; }
  };
  void Erase(int64_t entry);
  template <typename Change>
  void Reorder(int64_t entry, Change change);

  const int64_t bytes_max_;
  const std::function<void(int64_t)> on_evict_;
  absl::flat_hash_map<int64_t, Slot> slots_;
  std::set<std::pair<uint64_t, int64_t>> idle_;  // use tick, entry
  int64_t bytes_ = 0;
  int64_t idle_bytes_ = 0;
  uint64_t tick_ = 0;
  int64_t insertions_ = 0;
  int64_t evictions_ = 0;
  int64_t removals_ = 0;
};

}  // namespace lorica
