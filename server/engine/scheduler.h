// Decides each step: who is admitted, who gives way, which tokens of whom are rows.
//
// Running requests with one token to feed come first, then prompt chunks, then admissions: fair
// among tenants (FairQueue), by arrival within each. Of the tokens that prompts get, half are the
// oldest prompt's; the others go to whoever has least to come, so that a short prompt does not
// wait for a long one and equal ones end in turn. Beside rows that
// decode, prompts get as many tokens as StepPace allows. A request whose adapter is loading is
// overtaken, and so is one whose constraint is being made. One that waits for room is overtaken for
// overtake_steps_max steps at most: by all when its adapter has no room; when KV is missing, by
// small ones that are the first of a tenant that runs nothing (FairQueue::MayPass), which take what
// is free beyond a block for each that runs; when a slot is missing, by nobody. After as many steps
// more recent requests are preempted for it. Whoever is preempted keeps its tokens and computes its
// KV again later. Within a tenant a request gives way to older ones alone (a paused one to all), so
// the oldest that can run always does.
//
// What a tenant holds beyond its share is another's who waits (FairShares): its youngest requests
// give way to the one that is next by FairQueue and has waited for kShareWaitSteps. So a tenant
// that runs nothing and is next gets a slot within two more steps, however long the others'
// answers are, if any tenant runs two requests; one tenant after the other, a step each. Where all
// run one, with more tenants than slots, the next waits until one ends or, if it is older than
// the youngest, for overtake_steps_max. With one tenant nothing of this happens.
//
// KV in whole blocks that an earlier request of the same tenant and tile list computed is not
// computed again (PrefixCache), but for the last token, which gives the logits. A request that
// has begun its prompt goes on behind what another has computed meanwhile.
//
// A request whose prompt is to be scored shares no earlier KV until it has been, since every
// position must be a row; its chunks are as long as the step has room for such rows.
//
// What a request holds is released when the last launched step that names it has been
// collected. One thread, the engine's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "adapters/adapter_pool.h"
#include "kernels/block_arena.h"
#include "server/engine/fair_queue.h"
#include "server/engine/fair_shares.h"
#include "server/engine/request_state.h"
#include "server/engine/step_pace.h"
#include "server/engine/step_plan.h"
#include "server/engine/tile_keys.h"

namespace lorica {

struct SchedulerOptions {
  int rows_max = 512;
  int chunk_tokens = 256;
  int running_max = 64;
  int overtake_steps_max = 256;
  double stretch = 0.0;  // of StepPace
  bool prefix_cache = true;
};

class Scheduler {
 public:
  struct Failure {
    RequestId id = 0;
    absl::Status status;
  };

  Scheduler(SchedulerOptions options, AdapterPool* pool, BlockArena* arena);
  ~Scheduler();

  void Add(std::unique_ptr<RequestState> request);
  RequestState* Find(RequestId id) const;
  // The requests of the last plan's spans, one each in the same order. Until the next Schedule
  // or Remove of one of them.
  absl::Span<RequestState* const> planned() const { return planned_; }
  // Takes a request out; what it holds is released in time, and so is the state itself,
  // which sample rows borrow from.
  void Remove(RequestId id);

  // Has the adapters of those that have come brought to the device, where each has a place to
  // run. Once each: who may stay there is decided by admission.
  void PrepareAdapters(absl::Time now);
  // The plan of step `step`; empty spans when nothing can run. `failures` gets the
  // requests that can never run; the caller removes them.
  StepPlan Schedule(uint64_t step, absl::Time now, std::vector<Failure>* failures);
  // The plan's batch was launched / its results have been read.
  void Launched(const StepPlan& plan);
  // Its sample of the step launched last came to nothing: the row is to be computed again.
  void Repeat(RequestState& request);
  void Collected(uint64_t step);
  StepPace& pace() { return pace_; }
  // The logits of its newest token were finite, so the KV of all its tokens may serve others.
  void Verified(RequestState& request);

  const absl::btree_map<RequestId, std::unique_ptr<RequestState>>& requests() const {
    return requests_;
  }
  // What a tenant was served, as FairQueue counts it.
  double served(const std::string& tenant) const { return queue_.counter(tenant); }
  int lanes() const { return queue_.lanes(); }
  // A token slot that no request has.
  int32_t spare_slot() const { return options_.running_max; }
  int32_t running_count() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting_for_adapter() const { return waiting_for_adapter_; }
  int64_t preemptions() const { return preemptions_; }
  // Of those, who gave way though the youngest would not have had to: for a tenant's share.
  int64_t share_preemptions() const { return share_preemptions_; }
  const PrefixCache& prefix() const { return prefix_; }
  // Prompt tokens that launched steps have reached, each once, whatever was preempted; of them,
  // those whose KV was there when the request came to them.
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t cached_tokens() const { return cached_tokens_; }
  void CheckInvariants() const;

 private:
  enum class Admission : uint8_t {
    kAdmitted,
    kPreparing,
    kLoading,
    kAdapterRoom,
    kNoRoom,
    kFailed
  };
  enum class Room : uint8_t { kYes, kLater, kNever };
  struct Budget {
    int rows = 0;
    int chunk = 0;
    int scores = 0;
  };
  // What a launched step still reads: of a preempted or of a removed request.
  struct Grave {
    uint64_t step = 0;
    PrefixChain prefix;
    UnitId kv = 0;
    int32_t slot = -1;
    int32_t blocks = 0;  // at most so many become available
    std::vector<AdapterLease> leases;
    std::unique_ptr<RequestState> removed;
  };
  using RequestMap = absl::btree_map<RequestId, RequestState*>;

  void ForEachRunnable(const std::function<void(RequestState&)>& visit);
  void PlaceDecodeRows(Budget& budget, StepPlan& plan);
  void PlaceChunks(Budget& budget, StepPlan& plan);
  int32_t ChunkOf(const RequestState& request, const Budget& budget) const;
  void CountPrompt(RequestState& request, const Span& span);
  void PlaceSpan(RequestState& request, int32_t tokens, StepPlan& plan);
  void OrderSpans(StepPlan& plan);
  static void AddTileList(const RequestState& request, StepPlan& plan);

  void Admit(absl::Time now);
  Admission TryAdmit(RequestState& request, absl::Time now);
  Admission CheckConstraint(RequestState& request);
  Admission AcquireAdapters(RequestState& request, absl::Time now);
  Admission TakeRoom(RequestState& request, absl::Time now);
  bool TakeKv(RequestState& request);
  void HoldOnly(RequestId holder);

  Room Grow(RequestState& request);
  void MakeRoom();
  void MakeRoomByAge(const RequestState& senior);
  void MakeRoomByShare(RequestState& senior, int32_t reserve);
  bool WaitedEnough(const RequestState& request) const;
  bool HasRoomMade(const RequestState& request) const;
  FairShares::Need NeedOf(const RequestState& request, int32_t reserve) const;
  RequestState* PausedBeside(RequestId id) const;
  FairShares Shares(bool with_blocks) const;
  bool CanEverHave(const RequestState& request, int32_t blocks) const;
  void Fail(const RequestState& request, absl::Status status);

  int32_t Reach(const RequestState& request, const PrefixChain& chain) const;
  void Adopt(RequestState& request);
  void ShareNextBlock(RequestState& request);

  bool InFlight(const RequestState& request) const { return request.last_step > collected_; }
  void Preempt(RequestState& request);
  // Takes what a request holds, and with `removed` its state, when nothing in flight
  // names it any more.
  void Bury(RequestState& request, std::unique_ptr<RequestState> removed = nullptr);
  void Put(Grave grave);
  void CheckPages(const RequestState& request) const;
  void Release(Grave& grave);

  const SchedulerOptions options_;
  AdapterPool* const pool_;
  BlockArena* const arena_;

  absl::btree_map<RequestId, std::unique_ptr<RequestState>> requests_;
  absl::flat_hash_map<RequestId, RequestState*> index_;  // of requests_, for Find
  TileKeys tile_keys_;
  FairQueue queue_;  // who waits
  StepPace pace_;
  PrefixCache prefix_;
  RequestMap running_;
  std::vector<RequestState*> visited_;  // by ForEachRunnable
  std::vector<RequestState*> planned_;
  std::vector<int32_t> free_slots_;
  std::vector<Grave> graves_;
  int32_t grave_blocks_ = 0;
  uint64_t collected_ = 0;
  // The one waiting request that may hold leases before it has all it needs: the first
  // that is blocked. 0 = none.
  RequestId holder_ = 0;
  RequestId senior_ = 0;         // the first that waited for room in the last step; 0 = none
  bool senior_loads_ = false;    // its adapter has got room and is on its way
  RequestId made_room_for_ = 0;  // the senior for which others gave way for its share; 0 = none
  int32_t waiting_for_adapter_ = 0;
  int64_t preemptions_ = 0;
  int64_t share_preemptions_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t cached_tokens_ = 0;
  uint64_t step_ = 0;                         // that is being scheduled
  int64_t turn_ = 0;                          // calls of Schedule so far
  std::vector<Failure>* failures_ = nullptr;  // during Schedule
};

}  // namespace lorica
