// Which names keep their adapter in memory.
//
// The pool pins content. A pin is meant for a name: it goes along when the name moves to other
// content (a registration, a rollback, a folder whose files changed, a branch that was looked at
// anew), and ends with the name. Otherwise what nobody can name any more would keep its blocks
// until a restart. Names are looked at every kPinLookInterval, by a thread of the book's own; it
// may hash a folder.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter_catalog.h"
#include "adapters/adapter_pool.h"

namespace lorica {

inline constexpr absl::Duration kPinLookInterval = absl::Seconds(1);

// Thread-safe.
class PinBook {
 public:
  using Done = std::function<void(absl::Status)>;
  struct Name {
    std::string tenant;
    std::string adapter_id;
    std::string token;  // to look at its repository with; never logged
  };

  // Both outlive the book, and may answer what it asked for after it has gone.
  PinBook(AdapterCatalog* catalog, AdapterPool* pool);
  ~PinBook();

  // As AdapterPool::Pin; `generation` is what the name stands for.
  void Pin(const Name& name, const GenerationPtr& generation, AdapterTier tier, Done done);
  // Lets go of what the name pinned, else of `digest`, what it stands for; also for other names of
  // that content. "" pins nothing.
  void Unpin(const Name& name, const std::string& digest, Done done);

 private:
  struct Held {
    std::string token;
    std::string digest;
    AdapterTier tier = AdapterTier::kDevice;
  };
  using Key = std::pair<std::string, std::string>;  // tenant, adapter id
  // What pins that are answered late still need.
  struct Names {
    absl::Mutex mutex;
    std::map<Key, Held> held ABSL_GUARDED_BY(mutex);
    bool stopping ABSL_GUARDED_BY(mutex) = false;

    bool Holds(const std::string& digest) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
    // Of a pin that failed, unless another came since.
    void TakeBack(const Key& key, const Held& failed, const std::optional<Held>& before)
        ABSL_LOCKS_EXCLUDED(mutex);
  };

  // What is on its way for a name, once it has come.
  struct Arrival {
    absl::Mutex mutex;
    GenerationPtr generation ABSL_GUARDED_BY(mutex);
    bool ended ABSL_GUARDED_BY(mutex) = false;
  };

  void Loop();
  // Moves each pin to what its name stands for now.
  void Follow();
  void FollowOne(const Key& key, const Held& held);
  // What the name stands for now; null: it is not here yet, or cannot be had.
  GenerationPtr Look(const Key& key, const Held& held);
  void Move(const Key& key, const Held& held, const GenerationPtr& now);
  // False: it is not held so any more.
  bool Drop(const Key& key, const Held& held) ABSL_EXCLUSIVE_LOCKS_REQUIRED(order_);
  void PinNow(const Name& name, const GenerationPtr& generation, AdapterTier tier, Done done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(order_);

  AdapterCatalog* const catalog_;
  AdapterPool* const pool_;
  // A change of the book and what the pool is asked for it go together: a pin and the end of one
  // that crossed would leave pinned what no name holds. Taken before Names::mutex.
  absl::Mutex order_;
  const std::shared_ptr<Names> names_ = std::make_shared<Names>();
  std::map<Key, std::shared_ptr<Arrival>> arrivals_;  // the thread's
  std::thread thread_;
};

}  // namespace lorica
