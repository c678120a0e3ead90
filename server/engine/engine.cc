#include "server/engine/engine.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "kernels/check.h"
#include "server/engine/batch_builder.h"
#include "server/engine/engine_inbox.h"
#include "server/engine/event_relay.h"
#include "server/engine/no_token.h"
#include "server/engine/request_check.h"
#include "server/engine/scheduler.h"

namespace lorica {
namespace {

// From the launch of a step to its start on the device, at most.
constexpr absl::Duration kLaunchLead = absl::Milliseconds(1);
constexpr int kLingerWakesMax = 16;  // far below kAskedPolls
constexpr RequestId kNobody = 0;

constexpr size_t kCacheLineBytes = 64;

void Fetch(const void* begin, size_t bytes) {
  const char* from = static_cast<const char*>(begin);
  for (size_t at = 0; at < bytes; at += kCacheLineBytes) __builtin_prefetch(from + at, 1);
}

absl::Status Gone(const absl::Status& device) {
  return absl::UnavailableError(absl::StrCat("the device is gone: ", device.message()));
}

}  // namespace

struct Engine::Impl {
  struct Sampled {
    RequestId request = 0;
    bool scores = false;  // a token of the prompt
  };
  // A step on the device and whose tokens it samples, in order.
  struct Flight {
    uint64_t step = 0;
    int32_t prompt_tokens = 0;
    absl::Time launched;
    std::vector<Sampled> samples;
  };

  Impl(EngineOptions options, Executor* executor, AdapterPool* pool, BlockArena* arena);
  ~Impl();

  StepReport Step(absl::Time now);
  void TakeArrivals();
  void Linger();
  void Warm(const Flight& flight) const;
  void Apply(RequestId id, const Wish& wish);
  void DropExpired(absl::Time now);
  StepPlan PlanStep(absl::Time now);
  void Launch(const StepPlan& plan);
  void TakeMasks();
  bool TakeMask(RequestState& request, absl::Time end);
  bool CollectDue(bool launched);
  void Deliver(const Flight& flight, const std::vector<SampleResult>& results);
  void DeliverScore(RequestState& request, const SampleResult& result);
  void DeliverToken(RequestState& request, const SampleResult& result);
  StopReason ReasonToStop(const RequestState& request, int32_t token) const;
  void End(RequestId id, absl::Status status, StopReason reason);
  void EndAll(const absl::Status& status);
  void LoseDevice(const absl::Status& status);
  void LeaveQueue(RequestState& request);
  void EndStep(bool worked, absl::Time began);
  void TellFinishes();
  EngineStats Stats() const;

  const EngineOptions options;
  Executor* const executor;
  AdapterPool* const pool;
  BlockArena* const arena;
  EngineInbox inbox;
  Scheduler scheduler;

  uint64_t last_step = 0;
  std::deque<Flight> flights;
  absl::Status device;
  absl::Time now;
  absl::Time next_expiry = absl::InfiniteFuture();
  bool worked = false;
  absl::Time last_collected = absl::InfinitePast();
  absl::Duration waited;     // for the device, in this step
  absl::Duration launching;  // this step

  // Since the last EndStep.
  LeftQueue left_queue;
  std::vector<RequestId> ended;
  // Whose last token came in this step: told once the statistics have counted it.
  std::vector<std::pair<std::shared_ptr<TokenSink>, FinishEvent>> finishes;
  bool delivering = false;
  const std::unique_ptr<EventRelay> relay;  // null: sinks hear at once
  EngineStats totals;                       // the counters among them
};

Engine::Impl::Impl(EngineOptions options, Executor* executor, AdapterPool* pool, BlockArena* arena)
    : options(options),
      executor(executor),
      pool(pool),
      arena(arena),
      inbox(options),
      scheduler({.rows_max = options.rows_max,
                 .chunk_tokens = options.chunk_tokens,
                 .running_max = options.running_max,
                 .overtake_steps_max = options.overtake_steps_max,
                 .stretch = options.stretch,
                 .prefix_cache = options.prefix_cache},
                pool, arena),
      relay(options.relay_events ? std::make_unique<EventRelay>() : nullptr) {
  LORICA_CHECK(options.rows_max > 0 && options.chunk_tokens > 0 && options.running_max > 0,
               options.rows_max, options.chunk_tokens, options.running_max);
  LORICA_CHECK(executor->depth() == 0 || executor->depth() == 1, "depth", executor->depth());
  pool->SetWakeCallback([this] { inbox.Wake(); });
}

Engine::Impl::~Impl() {
  pool->SetWakeCallback(nullptr);
  const absl::Status status = absl::UnavailableError("the server is shutting down");
  inbox.Close(status);
  TakeArrivals();
  EndAll(status);
  while (!flights.empty() && device.ok()) CollectDue(false);
  TellFinishes();
}

// --- the turn ------------------------------------------------------------------------

StepReport Engine::Impl::Step(absl::Time time) {
  now = time;
  const absl::Time began = options.clock();
  waited = launching = absl::ZeroDuration();
  TakeArrivals();
  pool->Poll(now);
  if (device.ok() && !pool->device().ok()) LoseDevice(pool->device());
  Linger();
  DropExpired(now);
  StepReport report;
  report.plan = PlanStep(now);
  const bool launched = !report.plan.spans.empty();
  if (launched) Launch(report.plan);
  const bool collected = CollectDue(launched);
  report.worked = launched || collected || !ended.empty();
  report.device = device;
  EndStep(report.worked, began);
  return report;
}

void Engine::Impl::TakeArrivals() {
  Arrivals arrivals = inbox.Take();
  for (std::unique_ptr<RequestState>& request : arrivals.requests) {
    next_expiry =
        std::min({next_expiry, request->request.deadline, request->submitted + options.queue_ttl});
    scheduler.Add(std::move(request));
  }
  for (const auto& [id, wish] : arrivals.wishes) Apply(id, wish);
  if (arrivals.abort.has_value()) EndAll(*arrivals.abort);
  if (!device.ok()) EndAll(device);
}

// The device decodes and needs the next step only when it has ended: who comes until shortly
// before is in it, and adapters are copied meanwhile. Not asleep: a thread that slept wakes on a
// core whose caches are cold, and a step's host work takes several times as long.
void Engine::Impl::Linger() {
  if (options.linger == 0.0 || flights.empty() || flights.back().prompt_tokens > 0) return;
  const absl::Duration step = scheduler.pace().decode_step();
  const absl::Time until = std::max(flights.back().launched, last_collected) +
                           std::min(options.linger * step, step - kLaunchLead);
  const absl::Time began = options.clock();
  for (int wakes = 0; wakes < kLingerWakesMax; ++wakes) {
    now = std::max(now, options.clock());
    scheduler.PrepareAdapters(now);
    if (now >= until || !inbox.Spin(until - now)) break;
    TakeArrivals();
    pool->Poll(now);
  }
  Warm(flights.back());
  const absl::Time ended_at = options.clock();
  now = std::max(now, ended_at);
  waited += ended_at - began;
}

// Brings what the host work behind the step reads of its requests into the processor's caches while
// the device computes: a step later others have pushed it out. First all requests, then what each
// points to, so that no fetch waits for another.
void Engine::Impl::Warm(const Flight& flight) const {
  std::vector<const RequestState*> requests;
  requests.reserve(flight.samples.size());
  for (const Sampled& sampled : flight.samples) {
    const RequestState* const request = scheduler.Find(sampled.request);
    if (request == nullptr) continue;
    requests.push_back(request);
    Fetch(request, sizeof(*request));
  }
  for (const RequestState* const request : requests) {
    Fetch(request->request.sink.get(), kCacheLineBytes);
    Fetch(request->output.data() + request->output.size(), 1);
    Fetch(request->pages.data(), request->pages.size() * sizeof(BlockId));
    Fetch(request->lane, kCacheLineBytes);
  }
}

void Engine::Impl::Apply(RequestId id, const Wish& wish) {
  RequestState* request = scheduler.Find(id);
  if (request == nullptr) return;
  if (wish.paused.has_value()) request->paused = *wish.paused;
  if (wish.end == Wish::End::kCancel) {
    End(id, absl::CancelledError("the request was cancelled"), StopReason::kNone);
  } else if (wish.end == Wish::End::kFinish) {
    End(id, absl::OkStatus(), wish.reason);
  }
}

void Engine::Impl::DropExpired(absl::Time now) {
  if (now < next_expiry) return;
  next_expiry = absl::InfiniteFuture();
  std::vector<std::pair<RequestId, absl::Status>> expired;
  for (const auto& [id, request] : scheduler.requests()) {
    const absl::Time queue_end =
        request->was_scheduled ? absl::InfiniteFuture() : request->submitted + options.queue_ttl;
    if (request->request.deadline <= now) {
      expired.emplace_back(id, absl::DeadlineExceededError("the request's deadline has passed"));
    } else if (queue_end <= now) {
      expired.emplace_back(id, absl::UnavailableError(absl::StrCat(
                                   "the request waited in the queue for ",
                                   absl::FormatDuration(options.queue_ttl), "; try again later")));
    } else {
      next_expiry = std::min({next_expiry, request->request.deadline, queue_end});
    }
  }
  for (auto& [id, status] : expired) End(id, std::move(status), StopReason::kNone);
}

StepPlan Engine::Impl::PlanStep(absl::Time now) {
  std::vector<Scheduler::Failure> failures;
  StepPlan plan = scheduler.Schedule(last_step + 1, now, &failures);
  for (Scheduler::Failure& failure : failures) {
    if (!pool->device().ok()) failure.status = Gone(pool->device());
    End(failure.id, std::move(failure.status), StopReason::kNone);
  }
  for (RequestState* const request : scheduler.planned()) LeaveQueue(*request);
  return plan;
}

void Engine::Impl::Launch(const StepPlan& plan) {
  std::unique_ptr<StepBatch> batch = BuildBatch(plan, scheduler);
  scheduler.Launched(plan);
  last_step = plan.step;
  Flight& flight = flights.emplace_back();
  flight.step = plan.step;
  flight.prompt_tokens = plan.rows - plan.decode_rows;
  for (const Span& span : plan.spans) {
    flight.samples.insert(flight.samples.end(), span.score_count, {span.request, true});
    if (span.samples) flight.samples.push_back({span.request});
  }
  ++totals.steps;
  totals.rows += plan.rows;
  flight.launched = options.clock();
  executor->Launch(std::move(batch));
  launching = options.clock() - flight.launched;
  if (plan.masked) TakeMasks();
  if (!device.ok()) return;
  const absl::Time sampling = options.clock();
  executor->Sample();
  launching += options.clock() - sampling;
}

// Fills the masks of the step launched last while its rows are computed. They follow from the
// tokens of the step before, which is collected first.
void Engine::Impl::TakeMasks() {
  if (flights.size() > 1) CollectDue(/*launched=*/true);
  if (!device.ok()) return;
  const absl::Time end = SteadyNow() + options.mask_patience;
  for (Sampled& sampled : flights.back().samples) {
    RequestState* request = scheduler.Find(sampled.request);
    if (sampled.scores || request == nullptr || request->request.constraint == nullptr) continue;
    if (!TakeMask(*request, end)) sampled.request = kNobody;
  }
}

// False: what the row samples is nobody's.
bool Engine::Impl::TakeMask(RequestState& request, absl::Time end) {
  const absl::Duration patience = std::max(absl::ZeroDuration(), end - SteadyNow());
  const absl::StatusOr<bool> taken =
      request.request.constraint->TakeMask(patience, absl::MakeSpan(request.mask));
  if (!taken.ok()) {
    End(request.id, taken.status(), StopReason::kNone);
    return false;
  }
  request.mask_late = !*taken;
  if (!request.mask_late) return true;
  ++totals.late_masks;
  scheduler.Repeat(request);
  return false;
}

bool Engine::Impl::CollectDue(bool launched) {
  const size_t may_stay = launched ? executor->depth() : 0;
  if (flights.size() <= may_stay) return false;
  const Flight flight = std::move(flights.front());
  flights.pop_front();
  const absl::Time began = options.clock();
  if (executor->depth() > 0) Warm(flight);
  absl::StatusOr<std::vector<SampleResult>> results = executor->Collect();
  const absl::Time ended_at = options.clock();
  waited += ended_at - began;
  scheduler.pace().Measured(flight.prompt_tokens,
                            ended_at - std::max(flight.launched, last_collected));
  last_collected = ended_at;
  if (!results.ok()) {
    LoseDevice(results.status());
    return true;
  }
  LORICA_CHECK(results->size() == flight.samples.size(), "step", flight.step, "results",
               results->size(), "samples", flight.samples.size());
  scheduler.Collected(flight.step);
  Deliver(flight, *results);
  return true;
}

void Engine::Impl::Deliver(const Flight& flight, const std::vector<SampleResult>& results) {
  delivering = true;
  for (size_t i = 0; i < results.size(); ++i) {
    // Who ended since the launch gets nothing: its last token was surplus.
    RequestState* request = scheduler.Find(flight.samples[i].request);
    if (request == nullptr) continue;
    if (flight.samples[i].scores) {
      DeliverScore(*request, results[i]);
    } else {
      DeliverToken(*request, results[i]);
    }
  }
  delivering = false;
  if (relay != nullptr) relay->HandOver();
}

// --- one request -----------------------------------------------------------------------

void Engine::Impl::DeliverScore(RequestState& request, const SampleResult& result) {
  if (!result.finite) return End(request.id, NoScore(request, result), StopReason::kNone);
  const int32_t token = request.request.prompt[request.scored++];
  // Only a logit of minus infinity is chosen by no bias.
  const float logprob =
      result.token == token ? result.logprob : -std::numeric_limits<float>::infinity();
  request.scores.push_back({token, logprob, result.top});
}

void Engine::Impl::DeliverToken(RequestState& request, const SampleResult& result) {
  --request.pending;
  if (!result.finite) {
    return End(request.id, NoToken(request, result, options.vocabulary), StopReason::kNone);
  }
  scheduler.Verified(request);
  request.output.push_back(result.token);
  ++totals.generated_tokens;
  const StopReason reason = ReasonToStop(request, result.token);
  TokenConstraint* const constraint = request.request.constraint.get();
  if (constraint != nullptr && reason == StopReason::kNone) constraint->Accept(result.token);
  TokenEvent event;
  if (!std::exchange(request.has_first_token, true)) {
    request.timings.first_token = options.clock() - request.submitted;
    event.prompt = std::move(request.scores);
  }
  event.tokens.push_back({result.token, result.logprob, result.top});
  if (relay != nullptr) {
    relay->Add(request.request.sink, std::move(event));
  } else {
    request.request.sink->OnTokens(event);
  }
  if (reason != StopReason::kNone) End(request.id, absl::OkStatus(), reason);
}

StopReason Engine::Impl::ReasonToStop(const RequestState& request, int32_t token) const {
  const auto has = [token](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  const EngineRequest& asked = request.request;
  if (has(asked.stop_token_ids)) return StopReason::kEndToken;
  if (!asked.ignore_end && has(asked.end_tokens)) return StopReason::kEndToken;
  const bool full = static_cast<int32_t>(request.output.size()) >= asked.max_tokens;
  return full ? StopReason::kLength : StopReason::kNone;
}

void Engine::Impl::End(RequestId id, absl::Status status, StopReason reason) {
  RequestState& request = *scheduler.Find(id);
  LeaveQueue(request);
  ended.push_back(id);
  if (status.ok()) {
    ++totals.finished;
  } else if (absl::IsInvalidArgument(status)) {
    ++totals.invalid;
  } else {
    ++(absl::IsCancelled(status) ? totals.cancelled : totals.failed);
  }
  FinishEvent event;
  event.status = std::move(status);
  event.reason = reason;
  event.prompt_tokens = request.prompt_reached;
  event.completion_tokens = static_cast<int32_t>(request.output.size());
  event.cached_tokens = request.cached_tokens;
  event.timings = request.timings;
  event.timings.total = options.clock() - request.submitted;
  if (!request.was_scheduled) event.timings.queue = event.timings.total;
  if (options.on_end) options.on_end(event);
  std::shared_ptr<TokenSink> sink = std::move(request.request.sink);
  scheduler.Remove(id);
  if (delivering || relay != nullptr) {
    finishes.emplace_back(std::move(sink), std::move(event));
  } else {
    sink->OnFinish(event);
  }
}

void Engine::Impl::EndAll(const absl::Status& status) {
  std::vector<RequestId> ids;
  for (const auto& [id, request] : scheduler.requests()) ids.push_back(id);
  for (RequestId id : ids) End(id, status, StopReason::kNone);
}

void Engine::Impl::LoseDevice(const absl::Status& status) {
  device = Gone(status);
  inbox.Close(device);
  flights.clear();
  scheduler.Collected(last_step);
  EndAll(device);
}

void Engine::Impl::LeaveQueue(RequestState& request) {
  if (!request.in_queue) return;
  request.in_queue = false;
  left_queue.emplace_back(request.request.tenant, ShareOf(request.request));
}

// --- books -------------------------------------------------------------------------------

void Engine::Impl::EndStep(bool step_worked, absl::Time began) {
  worked = step_worked;
  StepTimes times;
  if (worked) {
    const absl::Duration took = options.clock() - began;
    times = {absl::ToDoubleMilliseconds(took), absl::ToDoubleMilliseconds(took - waited),
             absl::ToDoubleMilliseconds(launching)};
  }
  inbox.EndStep(left_queue, ended, Stats(), !flights.empty(), times);
  left_queue.clear();
  ended.clear();
  TellFinishes();
}

void Engine::Impl::TellFinishes() {
  for (auto& [sink, event] : finishes) {
    if (relay != nullptr) {
      relay->Add(std::move(sink), std::move(event));
    } else {
      sink->OnFinish(event);
    }
  }
  finishes.clear();
  if (relay != nullptr) relay->HandOver();
}

EngineStats Engine::Impl::Stats() const {
  EngineStats stats = totals;
  stats.running = scheduler.running_count();
  stats.queued = static_cast<int32_t>(scheduler.requests().size()) - stats.running;
  stats.waiting_for_adapter = scheduler.waiting_for_adapter();
  stats.preemptions = scheduler.preemptions();
  stats.share_preemptions = scheduler.share_preemptions();
  stats.lanes = scheduler.lanes();
  for (const auto& [id, request] : scheduler.requests()) stats.paused += request->paused;
  stats.free_blocks = arena->free_blocks();
  stats.prompt_tokens = scheduler.prompt_tokens();
  stats.cached_tokens = scheduler.cached_tokens();
  stats.kv_blocks = arena->blocks_of(UnitKind::kKv) + scheduler.prefix().held_blocks();
  stats.prefix_blocks = scheduler.prefix().idle_blocks();
  stats.adapter_blocks = arena->blocks_of(UnitKind::kAdapter);
  return stats;
}

// --- Engine --------------------------------------------------------------------------------

Engine::Engine(EngineOptions options, Executor* executor, AdapterPool* pool, BlockArena* arena)
    : impl_(std::make_unique<Impl>(std::move(options), executor, pool, arena)) {}

Engine::~Engine() = default;

absl::StatusOr<RequestId> Engine::Submit(EngineRequest request, absl::Time now) {
  auto state = CheckRequest(std::move(request), impl_->options, impl_->arena->block_count(), now);
  if (!state.ok()) {
    impl_->inbox.CountRefusal();
    return state.status();
  }
  return impl_->inbox.Submit(*std::move(state));
}

absl::Status Engine::CheckRoom(const std::string& tenant) const {
  return impl_->inbox.CheckRoom(tenant);
}

void Engine::Cancel(RequestId id) { impl_->inbox.Send(id, {.end = Wish::End::kCancel}); }

void Engine::Finish(RequestId id, StopReason reason) {
  impl_->inbox.Send(id, {.end = Wish::End::kFinish, .reason = reason});
}

void Engine::Pause(RequestId id) { impl_->inbox.Send(id, {.paused = true}); }
void Engine::Resume(RequestId id) { impl_->inbox.Send(id, {.paused = false}); }
void Engine::Wake() { impl_->inbox.Wake(); }
void Engine::StartDrain() { impl_->inbox.StartDrain(); }
void Engine::Abort(const absl::Status& status) { impl_->inbox.Abort(status); }
StepReport Engine::Step(absl::Time now) { return impl_->Step(now); }

void Engine::WaitForWork(absl::Duration timeout) {
  if (impl_->worked) return;
  timeout = std::min(timeout, impl_->next_expiry - impl_->now);
  if (impl_->pool->copies_in_flight() > 0) timeout = std::min(timeout, absl::Milliseconds(1));
  impl_->inbox.Wait(std::max(timeout, absl::ZeroDuration()));
}

bool Engine::idle() const { return impl_->inbox.idle(); }
EngineStats Engine::stats() const { return impl_->inbox.stats(); }
void Engine::CheckInvariants() const { impl_->scheduler.CheckInvariants(); }

}  // namespace lorica
