#include "adapters/host_tier.h"

#include "kernels/check.h"

namespace lorica {

int64_t ImageBytes(const LoraImage& image) { return image.block_bytes * image.block_count; }

HostTier::HostTier(int64_t bytes_max, std::function<void(int64_t)> on_evict)
    : bytes_max_(bytes_max), on_evict_(std::move(on_evict)) {}

ImagePtr HostTier::Find(int64_t entry) const {
  auto found = slots_.find(entry);
  return found == slots_.end() ? nullptr : found->second.image;
}

bool HostTier::Insert(int64_t entry, ImagePtr image, bool in_use, bool pinned) {
  LORICA_CHECK(!slots_.contains(entry), "entry", entry);
  const int64_t needed = ImageBytes(*image);
  if (needed > bytes_max_ - bytes_ + idle_bytes_) return false;
  while (bytes_ + needed > bytes_max_) {
    const int64_t oldest = idle_.begin()->second;
    Erase(oldest);
    ++evictions_;
    on_evict_(oldest);
  }
  slots_[entry] = Slot{std::move(image), true, pinned, ++tick_};
  bytes_ += needed;
  ++insertions_;
  SetInUse(entry, in_use);
  return true;
}

void HostTier::Erase(int64_t entry) {
  Reorder(entry, [](Slot& slot) { slot.in_use = true; });
  bytes_ -= ImageBytes(*slots_.at(entry).image);
  slots_.erase(entry);
}

void HostTier::Remove(int64_t entry) {
  Erase(entry);
  ++removals_;
}

template <typename Change>
void HostTier::Reorder(int64_t entry, Change change) {
  Slot& slot = slots_.at(entry);
  const int64_t slot_bytes = ImageBytes(*slot.image);
  if (slot.evictable()) {
    idle_.erase({slot.use_tick, entry});
    idle_bytes_ -= slot_bytes;
  }
  change(slot);
  if (slot.evictable()) {
    idle_.insert({slot.use_tick, entry});
    idle_bytes_ += slot_bytes;
  }
}

void HostTier::Touch(int64_t entry) {
  Reorder(entry, [this](Slot& slot) { slot.use_tick = ++tick_; });
}

void HostTier::SetInUse(int64_t entry, bool in_use) {
  Reorder(entry, [in_use](Slot& slot) { slot.in_use = in_use; });
}

void HostTier::SetPinned(int64_t entry, bool pinned) {
  Reorder(entry, [pinned](Slot& slot) { slot.pinned = pinned; });
}

int64_t HostTier::pinned_bytes() const {
  int64_t total = 0;
  for (const auto& [entry, slot] : slots_) total += slot.pinned ? ImageBytes(*slot.image) : 0;
  return total;
}

void HostTier::CheckInvariants() const {
  int64_t total = 0;
  int64_t idle = 0;
  for (const auto& [entry, slot] : slots_) {
    total += ImageBytes(*slot.image);
    if (!slot.evictable()) continue;
    idle += ImageBytes(*slot.image);
    LORICA_CHECK(idle_.contains({slot.use_tick, entry}), "entry", entry);
  }
  LORICA_CHECK(total == bytes_ && idle == idle_bytes_, "host bytes", total, bytes_, idle,
               idle_bytes_);
  LORICA_CHECK(bytes_ <= bytes_max_, "host bytes", bytes_, "limit", bytes_max_);
  LORICA_CHECK(insertions_ - evictions_ - removals_ == size(), "host images", size());
}

}  // namespace lorica
