#include "adapters/failure_memory.h"

#include <utility>

namespace lorica {

FailureMemory::FailureMemory(int entries_max, absl::Duration ttl, uint64_t seed)
    : entries_max_(entries_max), ttl_(ttl), random_state_(seed) {}

// splitmix64, to [0.75, 1.25).
double FailureMemory::Jitter() {
  random_state_ += 0x9e3779b97f4a7c15u;
  uint64_t z = random_state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return 0.75 + 0.5 * static_cast<double>(z >> 11) / static_cast<double>(uint64_t{1} << 53);
}

void FailureMemory::Erase(std::multimap<absl::Time, std::string>::iterator place) {
  dropped_.push_back(place->second);
  failures_.erase(place->second);
  by_expiry_.erase(place);
}

void FailureMemory::Remember(const std::string& digest, absl::Status status, absl::Time now) {
  if (entries_max_ <= 0) return;
  if (auto found = failures_.find(digest); found != failures_.end()) Erase(found->second.place);
  while (size() >= entries_max_) Erase(by_expiry_.begin());
  const auto place = by_expiry_.emplace(now + ttl_ * Jitter(), digest);
  failures_.emplace(digest, Failure{std::move(status), place});
}

absl::Status FailureMemory::Find(const std::string& digest, absl::Time now) const {
  auto found = failures_.find(digest);
  if (found == failures_.end() || found->second.place->first <= now) return absl::OkStatus();
  return found->second.status;
}

absl::Status FailureMemory::LastError(const std::string& digest) const {
  auto found = failures_.find(digest);
  return found == failures_.end() ? absl::OkStatus() : found->second.status;
}

std::vector<std::string> FailureMemory::Forget(absl::Time now) {
  while (!by_expiry_.empty() && by_expiry_.begin()->first <= now) Erase(by_expiry_.begin());
  return std::exchange(dropped_, {});
}

}  // namespace lorica
