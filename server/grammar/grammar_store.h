// Compiled grammars, each made once and shared by all answers that ask for it.
//
// Constrain answers at once; compiling happens on threads of the store's own, in a child process
// first (GrammarTrial), and the masks of answers are made on others. The least recently used
// grammars are forgotten beyond a bound in entries and one in bytes; what could not be compiled is
// remembered the same way, so that it is not tried again and again. Thread-safe. Constraints
// may outlive the store; they get no more masks then.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/engine/token_constraint.h"
#include "server/grammar/grammar.h"
#include "server/grammar/response_format.h"
#include "server/grammar/trial.h"
#include "server/grammar/work_threads.h"

namespace lorica {

inline constexpr int kGrammarEntriesMax = 256;                   // that are remembered
inline constexpr int64_t kGrammarBytesMax = int64_t{256} << 20;  // of those, together
inline constexpr int kCompilesWaitingMax = 64;                   // more are Unavailable
inline constexpr int kTenantCompilesWaitingMax = 16;             // of one among several tenants
inline constexpr int kCompileThreads = 2;
// Computing that all threads but the last give a grammar; the last one takes those that need more.
inline constexpr absl::Duration kShortCompileCpu = absl::Seconds(1);
inline constexpr int kMaskThreadsMax = 8;
// Computing for one mask. A grammar that takes longer ends its answer, and begins no other.
inline constexpr absl::Duration kMaskCpuMax = absl::Seconds(1);

// How many threads make masks on a machine with so many cores: half as many, within the bound.
int MaskThreadsFor(int cores);

struct GrammarLimits {
  int entries = kGrammarEntriesMax;
  int64_t bytes = kGrammarBytesMax;
  int compiles_waiting = kCompilesWaitingMax;
  int tenant_compiles_waiting = kCompilesWaitingMax;  // that one tenant was the first to want
  absl::Duration mask_cpu = kMaskCpuMax;
  TrialBounds trial;
};

struct GrammarStats {
  int32_t entries = 0;
  int64_t bytes = 0;
  int32_t waiting = 0;  // to be compiled, or being compiled
  int64_t hits = 0;
  int64_t misses = 0;
  int64_t evictions = 0;
  int64_t compiled = 0;
  int64_t refused = 0;   // what is no grammar, or is not served
  int64_t exceeded = 0;  // what takes too long or too much memory to compile
  int64_t masks = 0;
  int64_t slow_masks = 0;  // each ended its answer
  absl::Duration compile_time;
  absl::Duration mask_time;
};

class GrammarConstraint;
class MaskThreads;

class GrammarStore {
 public:
  // `trial_program`: lorica-grammar. `mask_threads`: 0 takes MaskThreadsFor this machine.
  static absl::StatusOr<std::unique_ptr<GrammarStore>> Make(const GrammarVocabulary& vocabulary,
                                                            std::string trial_program,
                                                            GrammarLimits limits = {},
                                                            int mask_threads = 0);
  ~GrammarStore();

  // A constraint of one answer. Grammars of several tenants are compiled in turns. It is ready once
  // its grammar is compiled and its first mask is made. `wake` is called on another thread when
  // there is a mask that was asked for in vain; it must not block. The constraint's errors are what
  // `explain` makes of InvalidArgument: no grammar, not served, beyond the bounds, or it led to
  // where nothing fits. Unavailable: too many wait to be compiled, altogether or of
  // this tenant. What nobody waits for any more is not compiled. REQUIRES: CheckSchema passed.
  using Explain = absl::Status (*)(const absl::Status&);
  absl::StatusOr<std::shared_ptr<TokenConstraint>> Constrain(const std::string& tenant,
                                                             const ResponseFormat& format,
                                                             std::function<void()> wake,
                                                             Explain explain);
  GrammarStats stats() const;

 private:
  struct Entry;
  using EntryPtr = std::shared_ptr<Entry>;
  using GrammarOr = absl::StatusOr<std::shared_ptr<const Grammar>>;

  GrammarStore(const GrammarVocabulary& vocabulary, std::string trial_program,
               std::shared_ptr<const SharedVocabulary> shared_vocabulary, GrammarLimits limits,
               int mask_threads);
  // The entry when it is finished; null: the constraint will hear of it.
  absl::StatusOr<EntryPtr> Join(const std::string& tenant, const ResponseFormat& format,
                                const std::shared_ptr<GrammarConstraint>& constraint);
  absl::Status CheckRoom(const std::string& tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Compile(const EntryPtr& entry, const ResponseFormat& format, int thread);
  // Whether nobody wants it any more; then it is forgotten.
  bool Dropped(const EntryPtr& entry);
  void Leave(const EntryPtr& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  GrammarOr TryAndMake(const ResponseFormat& format, int thread);
  static GrammarOr AsFault(GrammarOr made);
  void Remember(const EntryPtr& entry, GrammarOr made, absl::Duration took)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Count(const absl::Status& outcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GrammarLimits limits_;
  const GrammarMaker maker_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, EntryPtr> entries_ ABSL_GUARDED_BY(mutex_);
  std::list<EntryPtr> used_ ABSL_GUARDED_BY(mutex_);  // finished ones, the last used in front
  absl::flat_hash_map<std::string, int> waiting_of_ ABSL_GUARDED_BY(mutex_);  // by tenant
  GrammarStats stats_ ABSL_GUARDED_BY(mutex_);
  const std::shared_ptr<MaskThreads> mask_threads_;    // constraints have it, too
  std::vector<std::unique_ptr<GrammarTrial>> trials_;  // one a compile thread
  std::unique_ptr<WorkThreads> compile_threads_;       // the first to end
};

}  // namespace lorica
