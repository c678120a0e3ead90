#include "server/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_fault.h"
#include "kernels/check.h"

namespace lorica {

Scheduler::Scheduler(SchedulerOptions options, AdapterPool* pool, BlockArena* arena)
    : options_(options), pool_(pool), arena_(arena), pace_(options.stretch), prefix_(arena) {
  for (int32_t slot = options_.running_max - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Scheduler::~Scheduler() {
  for (auto& [id, request] : requests_) {
    queue_.Leave(*request);
    Bury(*request);
  }
  for (Grave& grave : graves_) Release(grave);
}

void Scheduler::Add(std::unique_ptr<RequestState> request) {
  const RequestId id = request->id;
  queue_.Enter(*request);
  request->waits_since = turn_;
  request->tile_number = tile_keys_.Take(request->tile_key);
  index_.emplace(id, request.get());
  requests_.emplace(id, std::move(request));
}

RequestState* Scheduler::Find(RequestId id) const {
  const auto found = index_.find(id);
  return found == index_.end() ? nullptr : found->second;
}

void Scheduler::Remove(RequestId id) {
  auto found = requests_.find(id);
  LORICA_CHECK(found != requests_.end(), "request", id);
  std::unique_ptr<RequestState> request = std::move(found->second);
  requests_.erase(found);
  index_.erase(id);
  tile_keys_.GiveBack(request->tile_key);
  queue_.Leave(*request);
  running_.erase(id);
  RequestState& state = *request;
  Bury(state, std::move(request));
}

void Scheduler::PrepareAdapters(absl::Time now) {
  if (queue_.waiting() == 0 || queue_.waiting() > std::ssize(free_slots_)) return;
  queue_.Visit([&](RequestState& request) {
    if (request.paused || std::exchange(request.prepared, true)) return FairVisit::kGoOn;
    for (const GenerationPtr& generation : request.generations) pool_->Prepare(generation, now);
    return FairVisit::kGoOn;
  });
}

// --- one step ------------------------------------------------------------------------

StepPlan Scheduler::Schedule(uint64_t step, absl::Time now, std::vector<Failure>* failures) {
  failures_ = failures;
  ++turn_;
  StepPlan plan;
  plan.step = step_ = step;
  Budget budget{.rows = options_.rows_max, .chunk = options_.chunk_tokens};
  MakeRoom();
  PlaceDecodeRows(budget, plan);
  plan.decode_rows = plan.rows;
  if (plan.decode_rows > 0) budget.chunk = std::min(budget.chunk, pace_.TokensBeside());
  Admit(now);
  budget.scores = options_.running_max + kScoredRowsMax - running_count();
  PlaceChunks(budget, plan);
  pace_.Planned(plan.decode_rows, plan.rows - plan.decode_rows);
  OrderSpans(plan);
  failures_ = nullptr;
  return plan;
}

void Scheduler::ForEachRunnable(const std::function<void(RequestState&)>& visit) {
  visited_.clear();
  for (const auto& [id, request] : running_) visited_.push_back(request);
  for (RequestState* const request : visited_) {
    // A visit may preempt requests that are further on.
    if (request->running && request->runnable()) visit(*request);
  }
}

void Scheduler::PlaceDecodeRows(Budget& budget, StepPlan& plan) {
  ForEachRunnable([&](RequestState& request) {
    if (!request.feeds_one() || budget.rows == 0) return;
    const Room room = Grow(request);
    if (room == Room::kYes) {
      PlaceSpan(request, 1, plan);
      --budget.rows;
    } else if (room == Room::kNever) {
      Fail(request, absl::UnavailableError(
                        "pinned adapters leave too few blocks for this request to go on"));
    }
  });
}

void Scheduler::PlaceChunks(Budget& budget, StepPlan& plan) {
  std::vector<RequestState*> prompts;
  ForEachRunnable([&](RequestState& request) {
    const bool decodes = request.feeds_one() && request.admitted_step != step_;
    if (decodes) return;
    Adopt(request);
    prompts.push_back(&request);
  });
  if (prompts.empty()) return;
  const RequestState* const oldest = prompts.front();
  std::stable_sort(prompts.begin(), prompts.end(),
                   [](const auto* a, const auto* b) { return a->remaining() < b->remaining(); });
  budget.chunk = std::min(budget.chunk, budget.rows);
  int32_t kept = std::min((budget.chunk + 1) / 2, oldest->remaining());  // for the oldest
  for (RequestState* const request : prompts) {
    if (request == oldest) kept = 0;
    Budget part = budget;
    part.chunk -= kept;
    const int32_t tokens = ChunkOf(*request, part);
    if (tokens == 0) continue;
    budget.scores -= request->ScoredAmong(tokens).count;
    PlaceSpan(*request, tokens, plan);
    budget.rows -= tokens;
    budget.chunk -= tokens;
  }
}

// As many of its next tokens as the step has room for, and for their scores.
int32_t Scheduler::ChunkOf(const RequestState& request, const Budget& budget) const {
  const int32_t tokens = std::min({request.remaining(), budget.rows, budget.chunk});
  const ScoredRows scores = request.ScoredAmong(tokens);
  if (scores.count <= budget.scores) return tokens;
  return scores.begin + budget.scores - request.scheduled;
}

void Scheduler::PlaceSpan(RequestState& request, int32_t tokens, StepPlan& plan) {
  const ScoredRows scores = request.ScoredAmong(tokens);
  plan.spans.push_back({.request = request.id,
                        .position_begin = request.scheduled,
                        .token_count = tokens,
                        .samples = tokens == request.remaining(),
                        .score_begin = scores.begin,
                        .score_count = scores.count});
  plan.rows += tokens;
}

// Base spans first, then those of one tile list after those of another.
void Scheduler::OrderSpans(StepPlan& plan) {
  struct Placed {
    Span span;
    RequestState* request;
  };
  std::vector<Placed> placed;
  placed.reserve(plan.spans.size());
  for (const Span& span : plan.spans) placed.push_back({span, Find(span.request)});
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.request->tile_number, a.span.request) <
           std::pair(b.request->tile_number, b.span.request);
  });
  planned_.clear();
  uint64_t before = 0;
  for (size_t i = 0; i < placed.size(); ++i) {
    const RequestState& request = *placed[i].request;
    if (request.tile_number != before) AddTileList(request, plan);
    before = request.tile_number;
    placed[i].span.tile_list = before == 0 ? -1 : static_cast<int32_t>(plan.tile_lists.size()) - 1;
    plan.spans[i] = placed[i].span;
    planned_.push_back(placed[i].request);
    plan.masked |= placed[i].span.samples && request.request.constraint != nullptr;
  }
}

void Scheduler::AddTileList(const RequestState& request, StepPlan& plan) {
  std::vector<LoraTerm>& terms = plan.tile_lists.emplace_back();
  for (size_t i = 0; i < request.leases.size(); ++i) {
    terms.push_back({request.leases[i].mounted(), request.request.mix[i].weight});
  }
}

void Scheduler::Launched(const StepPlan& plan) {
  for (size_t i = 0; i < plan.spans.size(); ++i) {
    const Span& span = plan.spans[i];
    RequestState& request = *planned_[i];
    CountPrompt(request, span);
    request.scheduled += span.token_count;
    request.pending += span.samples ? 1 : 0;
    if (span.samples) queue_.ChargeToken(request);
    request.last_step = plan.step;
  }
}

// What lies between what it had reached and the span was there already.
void Scheduler::CountPrompt(RequestState& request, const Span& span) {
  const auto prompt = static_cast<int32_t>(request.request.prompt.size());
  const int32_t end = std::min(span.position_begin + span.token_count, prompt);
  if (end <= request.prompt_reached) return;
  const int32_t cached = std::max(0, span.position_begin - request.prompt_reached);
  prompt_tokens_ += end - request.prompt_reached;
  cached_tokens_ += cached;
  request.cached_tokens += cached;
  request.prompt_reached = end;
}

void Scheduler::Repeat(RequestState& request) {
  --request.scheduled;
  --request.pending;
}

void Scheduler::Collected(uint64_t step) {
  collected_ = step;
  std::vector<Grave> later;
  for (Grave& grave : graves_) {
    if (grave.step > collected_) {
      later.push_back(std::move(grave));
    } else {
      grave_blocks_ -= grave.blocks;
      Release(grave);
    }
  }
  graves_ = std::move(later);
}

// --- admission -------------------------------------------------------------------------

void Scheduler::Admit(absl::Time now) {
  // Room was made for it. Who is due by fairness would take that and be preempted again,
  // for ever.
  RequestState* const due = queue_.Find(senior_);
  const bool senior_first = due != nullptr && HasRoomMade(*due);
  RequestId first_blocked = 0;
  senior_ = 0;
  senior_loads_ = false;
  waiting_for_adapter_ = 0;
  const RequestState* next = nullptr;  // by fairness, and finds no KV
  const auto visit = [&](RequestState& request) {
    if (request.paused || InFlight(request)) return FairVisit::kGoOn;
    if (next != nullptr && !FairQueue::MayPass(request, *next)) return FairVisit::kLeaveTenant;
    const Admission admission = TryAdmit(request, now);
    if (admission == Admission::kAdmitted || admission == Admission::kFailed) {
      return FairVisit::kGoOn;
    }
    if (admission == Admission::kPreparing) return FairVisit::kGoOn;
    if (first_blocked == 0) first_blocked = request.id;
    if (request.id != first_blocked) request.leases.clear();
    if (admission != Admission::kNoRoom) ++waiting_for_adapter_;
    // What it gave room for is on its way: were another senior meanwhile, that one would have it
    // evicted again before it is used, and so on in turns.
    if (admission == Admission::kLoading) {
      senior_loads_ = senior_loads_ || (senior_first && &request == due);
      if (senior_loads_) senior_ = due->id;
      return FairVisit::kGoOn;
    }
    if (senior_ == 0) senior_ = request.id;
    ++request.room_steps;
    if (HasRoomMade(request)) return FairVisit::kEnd;
    if (admission != Admission::kNoRoom) return FairVisit::kGoOn;
    if (next == nullptr) next = &request;
    // There is no room for anybody else either, or nobody may pass.
    if (free_slots_.empty() || !next->lane->runs()) return FairVisit::kEnd;
    return FairVisit::kLeaveTenant;
  };
  if (!senior_first || visit(*due) != FairVisit::kEnd) {
    queue_.Visit([&](RequestState& request) {
      return senior_first && &request == due ? FairVisit::kGoOn : visit(request);
    });
  }
  if (senior_ != made_room_for_) made_room_for_ = 0;
  HoldOnly(first_blocked);
}

void Scheduler::HoldOnly(RequestId holder) {
  if (holder_ != holder) {
    if (RequestState* before = queue_.Find(holder_)) before->leases.clear();
  }
  holder_ = holder;
}

Scheduler::Admission Scheduler::TryAdmit(RequestState& request, absl::Time now) {
  if (!CanEverHave(request, request.blocks_max())) {
    Fail(request, absl::UnavailableError(absl::StrCat(
                      "the request needs up to ", request.blocks_max(),
                      " blocks, pinned adapters leave too few of ", arena_->block_count(),
                      ": ask for fewer max_tokens, or try again once one is unpinned")));
    return Admission::kFailed;
  }
  const Admission constraint = CheckConstraint(request);
  if (constraint != Admission::kAdmitted) return constraint;
  const Admission adapters = AcquireAdapters(request, now);
  if (adapters == Admission::kLoading || adapters == Admission::kAdapterRoom) {
    request.load_wait_began = std::min(request.load_wait_began, now);
  }
  if (adapters != Admission::kAdmitted) return adapters;
  if (request.load_wait_began < now) request.timings.load += now - request.load_wait_began;
  request.load_wait_began = absl::InfiniteFuture();
  return TakeRoom(request, now);
}

Scheduler::Admission Scheduler::CheckConstraint(RequestState& request) {
  if (request.request.constraint == nullptr) return Admission::kAdmitted;
  const absl::StatusOr<bool> ready = request.request.constraint->Ready();
  if (ready.ok()) return *ready ? Admission::kAdmitted : Admission::kPreparing;
  Fail(request, ready.status());
  return Admission::kFailed;
}

Scheduler::Admission Scheduler::AcquireAdapters(RequestState& request, absl::Time now) {
  const std::vector<MixTerm>& mix = request.request.mix;
  request.leases.resize(mix.size());
  bool on_its_way = false;
  bool lacks_room = false;
  bool complete = true;
  for (size_t i = 0; i < mix.size(); ++i) {
    if (request.leases[i]) continue;
    absl::StatusOr<AdapterLease> lease = pool_->TryAcquire(mix[i].generation, now);
    if (lease.ok()) {
      request.leases[i] = *std::move(lease);
      continue;
    }
    const AdapterWait wait =
        absl::IsUnavailable(lease.status()) ? pool_->WaitOf(mix[i].generation) : AdapterWait::kNone;
    if (wait == AdapterWait::kNone) {
      Fail(request, AdapterFault(lease.status()));
      return Admission::kFailed;
    }
    complete = false;
    on_its_way |= wait == AdapterWait::kLoading;
    lacks_room |= wait == AdapterWait::kRoom;
  }
  if (complete) return Admission::kAdmitted;
  // Of a mix, one may lack room while it keeps another from being loaded.
  return lacks_room && !on_its_way ? Admission::kAdapterRoom : Admission::kLoading;
}

Scheduler::Admission Scheduler::TakeRoom(RequestState& request, absl::Time now) {
  if (free_slots_.empty()) return Admission::kNoRoom;
  if (!TakeKv(request)) return Admission::kNoRoom;
  request.slot = free_slots_.back();
  free_slots_.pop_back();
  request.admitted_step = step_;
  request.room_steps = 0;
  request.running = true;
  // Steps in flight borrow it while it grows.
  if (request.needs_history()) request.output.reserve(request.request.max_tokens);
  if (!std::exchange(request.was_scheduled, true)) {
    request.timings.queue = now - request.submitted;
    queue_.ChargePrompt(request);
  }
  queue_.Run(request);
  running_.emplace(request.id, &request);
  return Admission::kAdmitted;
}

bool Scheduler::TakeKv(RequestState& request) {
  PrefixChain chain;
  if (options_.prefix_cache) chain = prefix_.Begin(request.request.tenant, request.tile_key);
  const int32_t shared = Reach(request, chain);
  // One block a running request is left, so that a newcomer does not cause preemption
  // at once.
  const int32_t reserve = HasRoomMade(request) ? 0 : running_count();
  const int32_t own = KvBlocksFor(std::min(request.known() + 1, request.positions_max())) - shared;
  const auto fits = [&] { return arena_->available_blocks() >= own + reserve; };
  for (int32_t i = 0; fits() && i < shared; ++i) {
    chain.push_back(prefix_.Find(chain.back(), request.BlockTokensAt(i)));
    prefix_.Hold(chain.back());
  }
  if (!fits()) {
    prefix_.Release(chain);
    return false;
  }
  absl::StatusOr<UnitId> unit = arena_->Allocate(UnitKind::kKv, own, nullptr);
  LORICA_CHECK(unit.ok(), unit.status().ToString());
  request.kv = *unit;
  request.prefix = std::move(chain);
  for (int32_t i = 0; i < shared; ++i) request.pages.push_back(request.prefix[i + 1]->block);
  const absl::Span<const BlockId> blocks = arena_->blocks(request.kv);
  request.pages.insert(request.pages.end(), blocks.begin(), blocks.end());
  request.scheduled = shared * kBlockTokens;
  return true;
}

bool Scheduler::CanEverHave(const RequestState& request, int32_t blocks) const {
  return blocks <= arena_->block_count() - pool_->PinnedBlocksBesides(request.generations);
}

void Scheduler::Fail(const RequestState& request, absl::Status status) {
  failures_->push_back({request.id, std::move(status)});
}

// --- prefixes ----------------------------------------------------------------------------

// How many of its first blocks are in the cache, going on at the end of `chain`. The last
// token is not asked for: it is computed for its logits, and so is a prompt that is scored.
int32_t Scheduler::Reach(const RequestState& request, const PrefixChain& chain) const {
  if (chain.empty()) return 0;
  auto blocks = static_cast<int32_t>(chain.size()) - 1;
  if (request.wants_scores()) return blocks;
  const int32_t most = (request.known() - 1) / kBlockTokens;
  const PrefixNode* node = chain.back();
  for (; blocks < most; ++blocks) {
    node = prefix_.Find(node, request.BlockTokensAt(blocks));
    if (node == nullptr) break;
  }
  return blocks;
}

void Scheduler::Adopt(RequestState& request) {
  const int32_t blocks = Reach(request, request.prefix);
  if (blocks * kBlockTokens <= request.scheduled) return;
  while (std::ssize(request.prefix) <= blocks) ShareNextBlock(request);
  request.scheduled = blocks * kBlockTokens;
}

void Scheduler::Verified(RequestState& request) {
  if (!request.running || request.prefix.empty()) return;
  const int32_t whole = request.known() / kBlockTokens;
  while (std::ssize(request.prefix) <= whole) ShareNextBlock(request);
}

// The first of its own blocks goes into the cache, or makes way for the one that is there.
void Scheduler::ShareNextBlock(RequestState& request) {
  const auto index = static_cast<int32_t>(request.prefix.size()) - 1;
  const BlockTokenIds tokens = request.BlockTokensAt(index);
  PrefixNode* const found = prefix_.Find(request.prefix.back(), tokens);
  if (found == nullptr) return prefix_.Add(request.prefix, tokens, request.kv);
  prefix_.Hold(found);
  request.prefix.push_back(found);
  request.pages[index] = found->block;
  Grave own;
  own.step = request.last_step;
  own.kv = arena_->SplitFirst(request.kv, UnitKind::kKv, nullptr);
  own.blocks = 1;
  Put(std::move(own));
}

// --- what is held ------------------------------------------------------------------------

void Scheduler::Preempt(RequestState& request) {
  Bury(request);
  request.running = false;
  request.scheduled = 0;
  ++request.timings.preemptions;
  ++preemptions_;
  running_.erase(request.id);
  request.waits_since = turn_;
  queue_.Wait(request);
}

void Scheduler::Bury(RequestState& request, std::unique_ptr<RequestState> removed) {
  Grave grave;
  grave.step = request.last_step;
  grave.kv = std::exchange(request.kv, 0);
  grave.slot = std::exchange(request.slot, -1);
  grave.leases = std::exchange(request.leases, {});
  grave.prefix = std::exchange(request.prefix, {});
  grave.removed = std::move(removed);
  if (grave.kv != 0) {
    grave.blocks = static_cast<int32_t>(request.pages.size()) + request.adapter_blocks;
  }
  request.pages.clear();
  Put(std::move(grave));
}

void Scheduler::Put(Grave grave) {
  if (grave.step <= collected_) return Release(grave);
  grave_blocks_ += grave.blocks;
  graves_.push_back(std::move(grave));
}

void Scheduler::Release(Grave& grave) {
  prefix_.Release(grave.prefix);
  if (grave.kv != 0) arena_->Free(grave.kv);
  if (grave.slot >= 0) free_slots_.push_back(grave.slot);
  grave.leases.clear();
}

// --- books -------------------------------------------------------------------------------

void Scheduler::CheckPages(const RequestState& request) const {
  std::vector<BlockId> pages;
  for (size_t i = 1; i < request.prefix.size(); ++i) pages.push_back(request.prefix[i]->block);
  if (request.kv != 0) {
    const absl::Span<const BlockId> own = arena_->blocks(request.kv);
    pages.insert(pages.end(), own.begin(), own.end());
  }
  LORICA_CHECK(pages == request.pages, "request", request.id, "pages", request.pages.size());
}

void Scheduler::CheckInvariants() const {
  int32_t kv_blocks = 0;
  size_t slots = free_slots_.size() + running_.size();
  std::vector<const PrefixChain*> chains;
  const auto count_unit = [&](UnitId unit) {
    kv_blocks += static_cast<int32_t>(arena_->blocks(unit).size());
  };
  for (const auto& [id, request] : requests_) {
    LORICA_CHECK(request->running == running_.contains(id), "request", id);
    LORICA_CHECK(request->running != queue_.Waits(id), "request", id);
    LORICA_CHECK(request->running == (request->kv != 0), "request", id);
    LORICA_CHECK(request->pending >= 0 && request->pending <= 1, "request", id);
    chains.push_back(&request->prefix);
    if (request->running) count_unit(request->kv);
    CheckPages(*request);
    const bool holds = std::any_of(request->leases.begin(), request->leases.end(),
                                   [](const AdapterLease& lease) { return bool{lease}; });
    LORICA_CHECK(!holds || request->running || id == holder_, "waiting request holds", id);
  }
  for (const Grave& grave : graves_) {
    LORICA_CHECK(grave.step > collected_, grave.step, collected_);
    LORICA_CHECK(grave.kv != 0 || grave.slot < 0, grave.kv, grave.slot);
    chains.push_back(&grave.prefix);
    if (grave.kv != 0) count_unit(grave.kv);
    slots += grave.slot >= 0;
  }
  prefix_.CheckInvariants(chains);
  LORICA_CHECK(kv_blocks == arena_->blocks_of(UnitKind::kKv), "KV blocks", kv_blocks);
  LORICA_CHECK(slots == static_cast<size_t>(options_.running_max), "slots", slots);
}

}  // namespace lorica
