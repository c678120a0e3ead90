// Merges on their way: one each, however many ask.
//
// Find answers at once: with the generation, an error, or a ticket for a merge that is
// being made, or waits for a part that is being fetched. A merge is known by its parts'
// digests and its rule, so who may ask for what is settled before it comes here: whoever
// could resolve the parts may have their merge. While somebody uses a merge it is found
// again; forgotten, it is made anew, to the same bytes. What failed is remembered for a
// short, jittered time. Thread-safe; nothing but Stop waits.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter_merge.h"
#include "adapters/adapter_pool.h"
#include "adapters/failure_memory.h"
#include "adapters/hub/steady_now.h"
#include "adapters/remote_adapters.h"

namespace lorica {

struct MergeLimits {
  int running_max = 16;  // being made at a time
  int known_max = 8192;  // remembered while they are used
  int failures_max = 1024;
  absl::Duration failure_ttl = absl::Seconds(10);  // each lives 0.75 to 1.25 times this
  std::function<absl::Time()> clock = SteadyNow;
};

class MergedAdapters {
 public:
  // Both outlive it.
  MergedAdapters(MergeLimits limits, const PeftLoader* loader, LoaderExecutor* executor);
  ~MergedAdapters();

  // A part as it was found, and its weight.
  struct Part {
    FoundAdapter adapter;
    double weight = 1.0;
  };
  // InvalidArgument: the rule or the weights. Unavailable: too many merges. Otherwise the
  // error of a merge that failed just before. Whoever fetches the parts is stopped first.
  absl::StatusOr<FoundAdapter> Find(const MergeRule& rule, const std::vector<Part>& parts);
  // Lets what is being made end, its tickets included, and starts nothing more. Idempotent.
  void Stop();

  int64_t under_way() const;
  int64_t known() const;  // of which some may be in use no more
  int64_t made() const { return made_.load(std::memory_order_relaxed); }

 private:
  struct Gathering;

  absl::StatusOr<FoundAdapter> FindHere(const MergeRecipe& recipe);
  FoundAdapter Gather(const std::shared_ptr<Gathering>& gathering, const std::vector<Part>& parts);
  void Gathered(const std::shared_ptr<Gathering>& gathering);
  void Run(const MergeRecipe& recipe, const std::string& key);
  void Remember(const std::string& key, const absl::StatusOr<GenerationPtr>& result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const MergeLimits limits_;
  const PeftLoader* const loader_;
  LoaderExecutor* const executor_;
  std::atomic<int64_t> made_{0};

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, std::shared_ptr<FetchTicket>> under_way_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::weak_ptr<const Generation>> known_ ABSL_GUARDED_BY(mutex_);
  FailureMemory failures_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
