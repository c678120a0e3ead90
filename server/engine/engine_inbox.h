// Where other threads meet the engine: new requests, wishes about old ones, statistics.
//
// One short lock, never held while anything else runs. The engine's thread takes what
// came once a step. Bounded: requests by the queue's limits, wishes by one a request.
// Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/engine/engine.h"
#include "server/engine/queue_room.h"
#include "server/engine/request_state.h"

namespace lorica {

// What a client wants of a request that is there. The first end counts.
struct Wish {
  enum class End : uint8_t { kNone, kCancel, kFinish };
  End end = End::kNone;
  StopReason reason = StopReason::kNone;
  std::optional<bool> paused;
};

struct Arrivals {
  std::vector<std::unique_ptr<RequestState>> requests;
  absl::flat_hash_map<RequestId, Wish> wishes;
  std::optional<absl::Status> abort;
};

// What a request takes of the queue until it is first scheduled.
QueueShare ShareOf(const EngineRequest& request);
using LeftQueue = std::vector<std::pair<std::string, QueueShare>>;  // tenants, what each took

struct StepTimes {
  double step_ms = -1.0;
  double host_ms = 0.0;    // of that, not spent waiting in Executor::Collect
  double launch_ms = 0.0;  // of that, in Executor::Launch
};

class EngineInbox {
 public:
  explicit EngineInbox(const EngineOptions& options);

  absl::StatusOr<RequestId> Submit(std::unique_ptr<RequestState> request);
  void CountRefusal();
  // Whether the least of requests would find room. Unavailable: see Submit.
  absl::Status CheckRoom(const std::string& tenant) const;
  // Ignored for requests that have ended.
  void Send(RequestId id, const Wish& wish);
  void Abort(const absl::Status& status);
  void StartDrain();
  // From now on every Submit gets this.
  void Close(const absl::Status& status);
  void Wake();

  Arrivals Take();
  // What a step changed, in one go. `times.step_ms` < 0: no step ran.
  void EndStep(const LeftQueue& left_queue, const std::vector<RequestId>& ended,
               const EngineStats& stats, bool steps_in_flight, const StepTimes& times);
  // Until something comes, asleep; the other awake, and false: nothing came.
  void Wait(absl::Duration timeout);
  bool Spin(absl::Duration timeout) const;

  bool idle() const;
  EngineStats stats() const;

 private:
  absl::Status CheckOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Admit(const EngineRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Woken() const { return woken_; }

  const EngineOptions options_;
  mutable absl::Mutex mutex_;
  std::atomic<bool> woken_ = false;  // becomes true under mutex_
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool steps_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  RequestId next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  Arrivals arrivals_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<RequestId> live_ ABSL_GUARDED_BY(mutex_);
  QueueRoom queue_ ABSL_GUARDED_BY(mutex_);
  int64_t accepted_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t refused_ ABSL_GUARDED_BY(mutex_) = 0;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  std::array<StepTimes, 1024> times_ ABSL_GUARDED_BY(mutex_) = {};
  int64_t times_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace lorica
