// Content of this machine that has to be read and hashed before it is known: one look at a time
// for each name, however many ask.
//
// Whoever asks gets a ticket at once and waits without a thread, so that a call for what is known
// never waits behind it. Nobody is told of a look that began before he asked: the name may have
// moved since. What one tenant looks at takes no more than its part of the threads. Thread-safe;
// nothing but Stop waits.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "adapters/adapter_pool.h"
#include "adapters/remote_adapters.h"
#include "adapters/tenant_turns.h"

namespace lorica {

inline constexpr int kLocalLooksMax = 4096;
inline constexpr int kLocalLookThreads = 2;

struct LookLimits {
  int names_max = kLocalLooksMax;              // looked at, or waiting for it
  int tenant_names_max = kLocalLooksMax;       // ... of one tenant
  int tenant_running_max = kLocalLookThreads;  // of one tenant at a time
};

class LocalLooks {
 public:
  // What a look comes to: the generation, or the ticket of a fetch that brings it.
  using Look = std::function<absl::StatusOr<FoundAdapter>()>;

  // The executor outlives it.
  LocalLooks(const LookLimits& limits, LoaderExecutor* executor);
  ~LocalLooks();

  // A ticket for a look that is yet to begin, shared by all who ask for `name` until it does; all
  // give the same `look`. Unavailable: too many names, altogether or of this tenant. Cancelled:
  // after Stop.
  absl::StatusOr<FoundAdapter> Find(const std::string& tenant, const std::string& name, Look look);
  // Those that are to begin or run.
  int64_t open() const;
  // Ends what is open (its tickets with Cancelled), begins nothing more, and waits for what runs.
  // What looks reach is stopped before, and goes after. Idempotent.
  void Stop();

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, name
  struct Turn {
    std::shared_ptr<FetchTicket> begun;  // null: none
    std::shared_ptr<FetchTicket> next;   // null: nobody has asked since
  };

  bool IsFull(const std::string& tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Start(const Key& key, Look look) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run(const Key& key, const Look& look);
  // Both: null or false after Stop, which has ended what there was.
  std::shared_ptr<FetchTicket> Begin(const Key& key);
  bool Finish(const Key& key, const Look& look);

  const LookLimits limits_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // looks, until all who waited have been told
  absl::btree_map<Key, Turn> open_ ABSL_GUARDED_BY(mutex_);
  TenantTurns turns_;  // last: its end waits for what still runs
};

}  // namespace lorica
