// Work on shared threads of which no tenant has more than its part.
//
// What is over it waits here, in order, while the work of others goes by. Work that several
// tenants want begins in whichever has a place. Thread-safe; never waits.
#pragma once

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "adapters/adapter_pool.h"

namespace lorica {

class TenantTurns {
 public:
  // At most `tenant_max` of one tenant are with the executor, which outlives this.
  TenantTurns(LoaderExecutor* executor, int tenant_max)
      : executor_(executor), tenant_max_(tenant_max) {}
  // Waits for what the executor has.
  ~TenantTurns();

  // `key` names the work for Join.
  void Run(const std::string& key, std::vector<std::string> tenants, std::function<void()> work);
  // Another tenant wants it, too; nothing happens when it has begun or is unknown.
  void Join(const std::string& key, const std::string& tenant);

 private:
  struct Waiting {
    std::string key;
    std::vector<std::string> tenants;
    std::function<void()> work;
  };
  void Begin() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const std::string* WithPlace(const std::vector<std::string>& tenants) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(const std::string& tenant);

  LoaderExecutor* const executor_;
  const int tenant_max_;
  absl::Mutex mutex_;
  std::list<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> begun_ ABSL_GUARDED_BY(mutex_);  // by tenant
};

}  // namespace lorica
