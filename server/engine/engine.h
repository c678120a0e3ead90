// Continuous batching over one model with any mixture of adapters.
//
// All but Step, WaitForWork and CheckInvariants may be called from any thread; these
// are called by one thread, which owns everything else. It reads: take arrivals, drop the
// cancelled, admit and schedule, launch, collect, deliver. Where a row's tokens are
// constrained, the step before is collected between the launch and the sampling, since the mask
// follows from its token. It never waits for a
// network, a disk or a lock held during I/O: an adapter that is not there makes its
// request wait in the queue while others go on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/adapter_pool.h"
#include "adapters/hub/steady_now.h"
#include "kernels/block_arena.h"
#include "server/engine/executor.h"
#include "server/engine/request.h"
#include "server/engine/step_plan.h"

namespace lorica {

struct EngineOptions {
  int rows_max = 512;                  // rows (tokens) of one step
  int chunk_tokens = 256;              // most prompt tokens of a step; decode rows come first
  int running_max = 64;                // requests that hold KV at a time
  int queue_requests_max = 1024;       // waiting ones; more is Unavailable
  int64_t queue_tokens_max = 4 << 20;  // prompt + max_tokens of the waiting ones
  int64_t queue_bytes_max = 256 << 20;
  int queue_tenant_parts = 1;    // one tenant's requests may take one of so many parts of these
  int overtake_steps_max = 256;  // how long a request whose adapter loads may be overtaken
  bool prefix_cache = true;      // KV of earlier requests serves later ones of the same tenant
  // How much longer prompt tokens may make a step while requests decode (StepPace); 0: any.
  double stretch = 0.0;
  int64_t context_tokens = 0;
  int32_t vocabulary = 0;
  // How long a step's sampling may wait for masks; rows whose mask comes later are repeated.
  absl::Duration mask_patience = absl::Milliseconds(10);
  absl::Duration queue_ttl = absl::InfiniteDuration();  // never scheduled by then: Unavailable
  // Hears every end, before the request's own sink; on the engine's thread, must not block.
  std::function<void(const FinishEvent&)> on_end;
  // Share of a step that the launch of the next may wait for arrivals while the device, an
  // asynchronous one, is busy decoding; 0: it is launched at once.
  double linger = 0.0;
  // Sinks hear their events on a thread of their own (EventRelay), else on the engine's.
  bool relay_events = false;
  // For what was measured: step_ms, RequestTimings, StepPace.
  std::function<absl::Time()> clock = SteadyNow;
};

struct EngineStats {
  int32_t queued = 0;
  int32_t waiting_for_adapter = 0;
  int32_t running = 0;
  int32_t paused = 0;
  int32_t live = 0;           // were accepted, and their end has not been told
  int32_t queue_tenants = 0;  // who have something in the queue
  int32_t lanes = 0;          // tenants of whom it is remembered what they were served
  int64_t accepted = 0;
  int64_t finished = 0;  // with an OK status
  int64_t cancelled = 0;
  int64_t failed = 0;
  int64_t refused = 0;
  int64_t invalid = 0;  // were accepted; the form that their client asked for cannot be made
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of them, not computed: PrefixCache had them
  int64_t generated_tokens = 0;
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t preemptions = 0;
  int64_t share_preemptions = 0;  // of them, for another tenant's share (FairShares)
  int64_t late_masks = 0;         // rows that were computed in vain
  int32_t free_blocks = 0;
  int32_t kv_blocks = 0;      // of requests
  int32_t prefix_blocks = 0;  // KV of earlier ones, kept as long as there is room
  int32_t adapter_blocks = 0;
  double step_ms_p50 = 0.0;  // over the last 1,024 steps
  double step_ms_p99 = 0.0;
  double host_ms_p50 = 0.0;    // of those, without the wait in Collect
  double launch_ms_p50 = 0.0;  // of that, in Executor::Launch
};

struct StepReport {
  bool worked = false;  // false: nothing was runnable
  StepPlan plan;        // what was launched; empty when !worked
  absl::Status device;  // not OK: the device is gone, the engine has ended all requests
};

class Engine {
 public:
  // All pointers outlive the engine.
  // REQUIRES: rows_max, chunk_tokens and running_max at least 1.
  Engine(EngineOptions options, Executor* executor, AdapterPool* pool, BlockArena* arena);
  // Ends what is left with Unavailable.
  ~Engine();

  // Unavailable (with the queue's limit in the text): the queue is full in requests,
  // tokens or bytes, the engine drains or the device is gone. DeadlineExceeded: it is
  // over. InvalidArgument: a bad token id or mix, beyond the context, or more blocks
  // (adapters + KV of prompt + max_tokens) than the arena has. After an error the sink
  // hears nothing.
  absl::StatusOr<RequestId> Submit(EngineRequest request, absl::Time now);
  // Unavailable: the queue has no room for any request of this tenant, as Submit would say, so
  // nobody need prepare one. A moment later it may have.
  absl::Status CheckRoom(const std::string& tenant) const;  // any thread
  // Its sink hears OnFinish(Cancelled) by the next step border, unless it has ended. A
  // stop string found in the text ends a request the same way but with `reason`.
  void Cancel(RequestId id);
  void Finish(RequestId id, StopReason reason);
  // A slow reader: a paused request keeps its KV and gets no rows.
  void Pause(RequestId id);
  void Resume(RequestId id);
  // Something that a request waits for may be there.
  void Wake();
  // No new requests are taken; queued and running ones go on.
  void StartDrain();
  // Ends everything that is there with `status`, by the next step border.
  void Abort(const absl::Status& status);

  // One turn. `now` never goes back. REQUIRES: always the same thread.
  StepReport Step(absl::Time now);
  // Waits until Step may have something to do, at most `timeout`. Same thread as Step.
  void WaitForWork(absl::Duration timeout);
  bool idle() const;  // nothing queued or running

  EngineStats stats() const;  // any thread
  // Blocks, leases, slots and requests add up; aborts otherwise. Between steps.
  void CheckInvariants() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorica
