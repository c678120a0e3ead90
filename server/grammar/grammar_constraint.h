// An answer's grammar as the engine sees it, and the threads that make masks.
//
// Masks are made one after the other: the engine accepts a token only after it has taken the mask
// before. Whatever fails stays failed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/engine/token_constraint.h"
#include "server/grammar/grammar.h"
#include "server/grammar/work_threads.h"

namespace lorica {

// Shared by a store and its constraints; thread-safe. Nothing runs after Stop.
class MaskThreads {
 public:
  struct Stats {
    int64_t masks = 0;
    int64_t slow = 0;
    absl::Duration time;
  };

  explicit MaskThreads(int threads) : threads_(std::make_unique<WorkThreads>(threads)) {}
  // Those who have something waiting take turns. False: it has stopped.
  bool Run(const std::string& whose, std::function<void()> work);
  void Stop();
  void Count(absl::Duration took, bool slow);
  Stats stats() const;

 private:
  mutable absl::Mutex mutex_;
  std::unique_ptr<WorkThreads> threads_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

class GrammarConstraint final : public TokenConstraint,
                                public std::enable_shared_from_this<GrammarConstraint> {
 public:
  GrammarConstraint(std::shared_ptr<MaskThreads> threads, std::string tenant, int mask_words,
                    absl::Duration mask_cpu, std::function<void()> wake,
                    absl::Status (*explain)(const absl::Status&));

  // Its grammar is there, or never will be. Once, from any thread.
  void Begin(const absl::StatusOr<std::shared_ptr<const Grammar>>& made);

  absl::StatusOr<bool> Ready() override;
  void Accept(int32_t token) override;
  absl::StatusOr<bool> TakeMask(absl::Duration patience, absl::Span<int32_t> mask) override;

 private:
  void Start(int32_t token);
  void MakeMask(int32_t token);
  absl::Status Advance(int32_t token);
  absl::Status TooSlow() const;
  void Fail(const absl::Status& status);
  bool Settled() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ready_ || !failure_.ok(); }

  const std::shared_ptr<MaskThreads> threads_;
  const std::string tenant_;
  const absl::Duration mask_cpu_;
  const std::function<void()> wake_;
  absl::Status (*const explain_)(const absl::Status&);

  // Of the thread that makes a mask.
  std::shared_ptr<const Grammar> grammar_;
  std::unique_ptr<GrammarWalk> walk_;
  std::vector<int32_t> next_;

  absl::Mutex mutex_;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool missed_ ABSL_GUARDED_BY(mutex_) = false;  // somebody asked in vain, and is to be woken
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<int32_t> mask_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
