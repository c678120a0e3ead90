#include "server/api/adapter_names.h"

namespace lorica {

void AdapterNames::Note(const std::string& digest, const std::string& adapter_id) {
  absl::MutexLock lock(&mutex_);
  const auto [entry, added] = names_.try_emplace(digest, adapter_id);
  if (!added) {
    if (entry->second != adapter_id) entry->second = adapter_id;
    return;
  }
  order_.push_back(digest);
  if (std::ssize(order_) <= kNamesMax) return;
  names_.erase(order_.front());
  order_.pop_front();
}

std::string AdapterNames::NameOf(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  const auto entry = names_.find(digest);
  return entry == names_.end() ? "" : entry->second;
}

}  // namespace lorica
