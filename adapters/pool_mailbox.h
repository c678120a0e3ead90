// What crosses threads between the adapter pool and its callers: commands and finished
// loads on their way in, published state on its way out.
//
// The pool's own state belongs to the engine's thread and has no lock; everything
// shared is here. Thread-safe. Shared by the pool and the loads in flight, so a load
// that ends after the pool finds a closed mailbox.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "adapters/adapter_pool.h"

namespace lorica {

struct PoolCommand {
  enum class Kind : uint8_t { kLoad, kEvict, kPin, kUnpin };
  Kind kind = Kind::kLoad;
  GenerationPtr generation;  // kLoad, kPin
  std::string digest;
  AdapterTier tier = AdapterTier::kSource;
  bool wait = false;  // kEvict
  std::function<void(absl::Status)> done;
};

struct FinishedLoad {
  int64_t entry = 0;
  absl::StatusOr<std::shared_ptr<const LoraImage>> image;
};

class PoolMailbox {
 public:
  explicit PoolMailbox(int commands_max) : commands_max_(commands_max) {}

  // Answers at once with Unavailable when too many are unanswered.
  void Send(PoolCommand command);
  // Runs `load` unless the mailbox is closed, and delivers what it returns.
  void RunLoad(int64_t entry,
               const std::function<absl::StatusOr<std::shared_ptr<const LoraImage>>()>& load);
  // Waits for the loads that are running; those that have not begun will not.
  void Close();
  void SetWakeCallback(std::function<void()> wake);

  void Take(std::vector<FinishedLoad>* loads, std::vector<PoolCommand>* commands);
  // Commands that the pool has answered.
  void Answered(int count);

  // `gone` entries are forgotten.
  void Publish(std::vector<PoolEntryInfo> changed, const std::vector<std::string>& gone,
               const PoolStats& stats);
  PoolEntryInfo Lookup(const std::string& digest) const;
  std::vector<PoolEntryInfo> InUse() const;
  PoolStats stats() const;

 private:
  void Wake() ABSL_LOCKS_EXCLUDED(mutex_, wake_mutex_);
  bool NoneRunning() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return running_ == 0; }

  const int commands_max_;
  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int unanswered_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<FinishedLoad> loads_ ABSL_GUARDED_BY(mutex_);
  std::vector<PoolCommand> commands_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, PoolEntryInfo> entries_ ABSL_GUARDED_BY(mutex_);
  PoolStats stats_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex wake_mutex_;  // held while the callback runs: it is gone once replaced
  std::function<void()> wake_ ABSL_GUARDED_BY(wake_mutex_);
};

}  // namespace lorica
