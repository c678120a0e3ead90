#include "server/api/adapter_names.h"

#include <algorithm>

namespace lorica {

void AdapterNames::Note(const std::string& digest, const std::string& adapter_id) {
  absl::MutexLock lock(&mutex_);
  const auto [entry, added] = names_.try_emplace(digest);
  std::vector<std::string>& names = entry->second;
  if (!names.empty() && names.front() == adapter_id) return;
  std::erase(names, adapter_id);
  names.insert(names.begin(), adapter_id);
  if (std::ssize(names) > kNamesOfOneMax) names.pop_back();
  if (!added) return;
  order_.push_back(digest);
  if (std::ssize(order_) <= kNamesMax) return;
  names_.erase(order_.front());
  order_.pop_front();
}

void AdapterNames::Forget(const std::string& digest, const std::string& adapter_id) {
  absl::MutexLock lock(&mutex_);
  const auto entry = names_.find(digest);
  if (entry != names_.end()) std::erase(entry->second, adapter_id);
}

std::vector<std::string> AdapterNames::NamesOf(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  const auto entry = names_.find(digest);
  return entry == names_.end() ? std::vector<std::string>() : entry->second;
}

int64_t AdapterNames::digests() const {
  absl::MutexLock lock(&mutex_);
  return std::ssize(names_);
}

}  // namespace lorica
