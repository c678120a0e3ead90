#include "adapters/tenant_turns.h"

#include <algorithm>
#include <utility>

namespace lorica {

TenantTurns::~TenantTurns() {
  absl::MutexLock lock(&mutex_);
  const auto all_ended = [this] {
    mutex_.AssertHeld();
    return begun_.empty();
  };
  mutex_.Await(absl::Condition(&all_ended));
}

void TenantTurns::Run(const std::string& key, std::vector<std::string> tenants,
                      std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  waiting_.push_back({key, std::move(tenants), std::move(work)});
  Begin();
}

void TenantTurns::Join(const std::string& key, const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const Waiting& waiting) { return waiting.key == key; });
  if (found == waiting_.end()) return;
  found->tenants.push_back(tenant);
  Begin();
}

const std::string* TenantTurns::WithPlace(const std::vector<std::string>& tenants) const {
  for (const std::string& tenant : tenants) {
    const auto begun = begun_.find(tenant);
    if (begun == begun_.end() || begun->second < tenant_max_) return &tenant;
  }
  return nullptr;
}

void TenantTurns::Begin() {
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    const std::string* const tenant = WithPlace(waiting->tenants);
    if (tenant == nullptr) {
      ++waiting;
      continue;
    }
    ++begun_[*tenant];
    executor_->Run([this, tenant = *tenant, work = std::move(waiting->work)] {
      work();
      End(tenant);
    });
    waiting = waiting_.erase(waiting);
  }
}

void TenantTurns::End(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  const auto begun = begun_.find(tenant);
  if (--begun->second == 0) begun_.erase(begun);
  Begin();
}

}  // namespace lorica
