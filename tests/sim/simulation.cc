#include "tests/sim/simulation.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "tests/fakes/fake_constraint.h"

namespace lorica {
namespace {

constexpr int32_t kVocabulary = 40;
constexpr int kDrainStepsMax = 20000;

}  // namespace

struct Simulation::Config {
  int depth = 0;
  int arena_blocks = 0;
  int copy_ticks_max = 0;
  int load_steps_max = 0;
  double load_fault = 0;
  bool pins = false;
  double submit = 0;
  double poke_request = 0;
  double poke_adapter = 0;
  double constrained = 0;
  double late_mask = 0;
  double change_content = 0;
  double alike = 0;
  int prompt_max = 0;
  int output_max = 0;
  int mix_max = 0;
  PoolOptions pool;
  EngineOptions engine;
};

// The content of an adapter folder changes; an old generation can then not be loaded.
class Simulation::Loader : public ImageLoader {
 public:
  explicit Loader(Simulation* sim) : sim_(sim) {}
  absl::StatusOr<std::shared_ptr<const LoraImage>> LoadImage(
      const Generation& generation) override {
    if (gone_.contains(generation.digest)) return absl::DataLossError("injected: changed");
    if (sim_->Chance(sim_->config_->load_fault)) {
      return sim_->Chance(0.5) ? absl::UnavailableError("injected: the source is down")
                               : absl::NotFoundError("injected: no such file");
    }
    return fakes::MakeFakeImage(generation);
  }
  void Change(const std::string& digest) { gone_.insert(digest); }

 private:
  Simulation* const sim_;
  std::set<std::string> gone_;
};

// Each load takes its own number of steps.
class Simulation::SlowExecutor : public LoaderExecutor {
 public:
  explicit SlowExecutor(Simulation* sim) : sim_(sim) {}
  void Run(std::function<void()> work) override {
    works_.push_back({sim_->Draw(0, sim_->config_->load_steps_max), std::move(work)});
  }
  void Tick() {
    std::vector<Work> due;
    std::vector<Work> later;
    for (Work& work : works_) (--work.steps < 0 ? due : later).push_back(std::move(work));
    works_ = std::move(later);
    for (Work& work : due) work.run();
  }
  bool empty() const { return works_.empty(); }

 private:
  struct Work {
    int steps = 0;
    std::function<void()> run;
  };
  Simulation* const sim_;
  std::vector<Work> works_;
};

struct Simulation::Tracked {
  RequestId id = 0;
  EngineRequest request;
  bool paused = false;
  bool cancelled = false;
  bool finish_asked = false;
  std::vector<int32_t> tokens;
  std::vector<float> scores;  // of the prompt
  int32_t prompt_reached = 0;  // by launched plans
  int finishes = 0;
  FinishEvent finish;
};

class Simulation::Sink : public TokenSink {
 public:
  explicit Sink(Tracked* tracked) : tracked_(tracked) {}
  void OnTokens(const TokenEvent& event) override {
    LORICA_CHECK(tracked_->finishes == 0, "tokens after the end of", tracked_->id);
    for (const TokenEvent::Token& token : event.tokens) tracked_->tokens.push_back(token.id);
    for (const TokenEvent::Token& token : event.prompt) tracked_->scores.push_back(token.logprob);
  }
  void OnFinish(const FinishEvent& event) override {
    ++tracked_->finishes;
    tracked_->finish = event;
  }

 private:
  Tracked* const tracked_;
};

// --- the world ------------------------------------------------------------------------

int Simulation::Draw(int low, int high) {
  return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1));
}

bool Simulation::Chance(double probability) {
  return static_cast<double>(random_() >> 11) * 0x1.0p-53 < probability;
}

Simulation::Simulation(uint64_t seed)
    : seed_(seed), random_(seed), config_(std::make_unique<Config>()), now_(absl::UnixEpoch()) {
  Config& c = *config_;
  c.depth = Draw(0, 1);
  c.arena_blocks = Chance(0.5) ? Draw(4, 16) : Draw(16, 80);
  c.copy_ticks_max = Draw(0, 5);
  c.load_steps_max = Chance(0.5) ? 3 : Draw(0, 60);
  c.load_fault = Chance(0.5) ? 0.0 : 0.2;
  c.pins = Chance(0.3);
  c.submit = 0.05 * Draw(1, 16);
  c.poke_request = 0.02 * Draw(0, 10);
  c.poke_adapter = 0.02 * Draw(0, 5);
  c.constrained = Chance(0.5) ? 0.0 : 0.4;
  c.late_mask = Chance(0.5) ? 0.0 : 0.3;
  c.change_content = Chance(0.5) ? 0.0 : 0.01;
  c.prompt_max = Draw(1, 100);
  c.output_max = Draw(1, 80);
  c.mix_max = Chance(0.5) ? 1 : Draw(1, 4);
  c.pool.host_bytes_max = fakes::kFakeBlockBytes * (Chance(0.2) ? 0 : Draw(1, 40));
  c.pool.loads_max = Draw(1, 4);
  c.pool.failures_max = Draw(1, 8);
  c.pool.failure_ttl = absl::Milliseconds(Draw(1, 100));
  c.pool.failure_seed = seed;
  c.engine.rows_max = Chance(0.3) ? Draw(1, 8) : Draw(8, 64);
  c.engine.chunk_tokens = Draw(1, 40);
  c.engine.running_max = Chance(0.3) ? Draw(1, 3) : Draw(3, 24);
  c.engine.queue_requests_max = Draw(1, 60);
  c.engine.queue_tokens_max = Draw(200, 4000);
  c.engine.overtake_steps_max = Draw(0, 30);
  c.engine.stretch = Chance(0.5) ? 0.0 : Draw(2, 5);
  c.engine.prefix_cache = Chance(0.8);
  c.alike = 0.25 * Draw(0, 4);
  c.engine.context_tokens = 160;
  c.engine.vocabulary = kVocabulary;
  c.engine.queue_ttl = Chance(0.2) ? absl::Milliseconds(200) : absl::InfiniteDuration();
  c.engine.clock = [this] { return now_; };
  const int names = Draw(1, 12);
  for (int name = 0; name < names; ++name) {
    versions_.push_back(0);
    blocks_.push_back(Chance(0.8) ? Draw(1, 4) : Draw(1, c.arena_blocks + 1));
  }

  memory_ = std::make_unique<fakes::FakeMemory>(c.arena_blocks);
  backend_ = std::make_unique<fakes::FakeBackend>(memory_.get());
  loader_ = std::make_unique<Loader>(this);
  loads_ = std::make_unique<SlowExecutor>(this);
  arena_ = std::make_unique<BlockArena>(c.arena_blocks);
  KvCache cache;
  cache.block_bytes = fakes::kFakeBlockBytes;
  pool_ = std::make_unique<AdapterPool>(c.pool, loader_.get(), loads_.get(), backend_.get(), cache,
                                        arena_.get());
  executor_ = std::make_unique<fakes::FakeExecutor>(memory_.get(), c.depth, kVocabulary);
  executor_->rows_max = c.engine.rows_max;
  engine_ = std::make_unique<Engine>(c.engine, executor_.get(), pool_.get(), arena_.get());
}

Simulation::~Simulation() = default;

SimulationTotals Simulation::totals() const {
  SimulationTotals totals = totals_;
  totals.preemptions = engine_->stats().preemptions;
  totals.share_preemptions = engine_->stats().share_preemptions;
  totals.evictions = pool_->stats().device.evictions + pool_->stats().host.evictions;
  totals.failed_loads = pool_->stats().loads_failed;
  totals.cached_tokens = engine_->stats().cached_tokens;
  totals.prefix_evictions = arena_->eviction_count(UnitKind::kPrefix);
  totals.late_masks = engine_->stats().late_masks;
  return totals;
}

// --- what happens -----------------------------------------------------------------------

GenerationPtr Simulation::DrawGeneration() {
  // Low names are popular.
  const int name = Draw(0, Draw(0, static_cast<int>(versions_.size()) - 1));
  return fakes::MakeFakeGeneration(absl::StrCat("adapter", name, "v", versions_[name]),
                                   blocks_[name]);
}

EngineRequest Simulation::DrawRequest() {
  EngineRequest request;
  const int prompt = Draw(1, config_->prompt_max);
  // Prompts begin alike, as those of one application do; some are the same to the end.
  const int alike = Chance(config_->alike) ? (Chance(0.5) ? prompt : Draw(1, prompt)) : 0;
  const int kind = Chance(0.8) ? 0 : 1;
  for (int i = 0; i < prompt; ++i) {
    request.prompt.push_back(i < alike ? (7 * i + kind) % kVocabulary : Draw(0, kVocabulary - 1));
  }
  request.max_tokens = Draw(1, config_->output_max);
  request.params.seed = random_();
  if (Chance(0.2)) request.params.repetition_penalty = 1.5f;
  if (Chance(0.1)) request.logit_bias.push_back({Draw(0, kVocabulary - 1), 1.0f});
  if (Chance(0.7)) request.end_tokens = {0, 1};
  if (Chance(0.2)) request.stop_token_ids = {2};
  request.ignore_end = Chance(0.3);
  if (Chance(0.7)) {
    const int terms = Draw(1, config_->mix_max);
    for (int i = 0; i < terms; ++i) request.mix.push_back({DrawGeneration(), 0.5f * Draw(1, 2)});
  }
  // In every other life three tenants of different weight share the queue.
  if (HasTenants()) {
    const int tenant = static_cast<int>(totals_.requests % 3);
    request.tenant = absl::StrCat("tenant", tenant);
    request.tenant_weight = 1 << tenant;
  }
  if (Chance(0.15)) request.prompt_logprobs = 0;
  if (Chance(0.1)) request.deadline = now_ + absl::Milliseconds(Draw(0, 500));
  if (Chance(config_->constrained)) {
    auto constraint = std::make_shared<fakes::FakeConstraint>(
        random_(), kVocabulary, [this] { return Chance(config_->late_mask) ? Draw(1, 6) : 0; });
    if (Chance(0.1)) constraint->fail_after = Draw(0, 20);
    request.constraint = std::move(constraint);
  }
  return request;
}

void Simulation::Submit() {
  auto tracked = std::make_unique<Tracked>();
  tracked->request = DrawRequest();
  tracked->request.sink = std::make_shared<Sink>(tracked.get());
  absl::StatusOr<RequestId> id = engine_->Submit(tracked->request, now_);
  if (!id.ok()) {
    LORICA_CHECK(absl::IsUnavailable(id.status()) || absl::IsInvalidArgument(id.status()) ||
                     absl::IsDeadlineExceeded(id.status()),
                 id.status().ToString());
    return;
  }
  ++totals_.requests;
  tracked->id = *id;
  live_.emplace(*id, std::move(tracked));
}

void Simulation::PokeRequest() {
  if (live_.empty()) return;
  auto it = live_.lower_bound(random_() % (live_.rbegin()->first + 1));
  if (it == live_.end()) return;
  Tracked& tracked = *it->second;
  switch (Draw(0, 4)) {
    case 0:
      engine_->Cancel(tracked.id);
      tracked.cancelled = true;
      return;
    case 1:
      engine_->Finish(tracked.id, StopReason::kStopString);
      tracked.finish_asked = true;
      return;
    case 2:
      engine_->Pause(tracked.id);
      tracked.paused = true;
      return;
    default:
      engine_->Resume(tracked.id);
      tracked.paused = false;
      return;
  }
}

void Simulation::PokeAdapter() {
  const GenerationPtr generation = DrawGeneration();
  const AdapterTier tier = Chance(0.5) ? AdapterTier::kHost : AdapterTier::kDevice;
  const auto done = [this](absl::Status) { ++commands_answered_; };
  ++commands_sent_;
  const int what = Draw(0, config_->pins ? 3 : 1);
  if (what == 0) pool_->Load(generation, tier, done);
  if (what == 1) {
    const AdapterTier down_to = Chance(0.5) ? AdapterTier::kSource : AdapterTier::kHost;
    pool_->Evict(generation->digest, down_to, Chance(0.5), done);
  }
  if (what == 2) pool_->Pin(generation, tier, done);
  if (what == 3) pool_->Unpin(generation->digest, done);
}

void Simulation::ChangeContent() {
  const int name = Draw(0, static_cast<int>(versions_.size()) - 1);
  loader_->Change(absl::StrCat("adapter", name, "v", versions_[name]));
  ++versions_[name];
}

void Simulation::Act() {
  while (Chance(config_->submit)) Submit();
  while (Chance(config_->poke_request)) PokeRequest();
  while (Chance(config_->poke_adapter)) PokeAdapter();
  if (Chance(config_->change_content)) ChangeContent();
}

void Simulation::StepOnce() {
  now_ += absl::Microseconds(Draw(0, 5000));
  backend_->copy_ticks = Draw(0, config_->copy_ticks_max);
  loads_->Tick();
  backend_->Tick();
  const StepReport report = engine_->Step(now_);
  ++totals_.steps;
  LORICA_CHECK(report.device.ok(), report.device.ToString());
  for (const Span& span : report.plan.spans) {
    Tracked& tracked = *live_.at(span.request);
    const auto prompt = static_cast<int32_t>(tracked.request.prompt.size());
    tracked.prompt_reached =
        std::max(tracked.prompt_reached, std::min(prompt, span.position_begin + span.token_count));
  }
  CheckBooks();
  CheckProgress(report);
  for (auto it = live_.begin(); it != live_.end();) {
    if (it->second->finishes > 0) CheckFinished(*it->second);
    it = it->second->finishes > 0 ? live_.erase(it) : std::next(it);
  }
}

// --- what must hold ----------------------------------------------------------------------

void Simulation::CheckBooks() {
  arena_->CheckInvariants();
  pool_->CheckInvariants();
  engine_->CheckInvariants();
  const PoolStats pool = pool_->stats();
  LORICA_CHECK(pool.host.bytes <= config_->pool.host_bytes_max, pool.host.bytes);
  LORICA_CHECK(pool.device.bytes <= pool.device.byte_limit, pool.device.bytes);
  LORICA_CHECK(pool.transient_images <= config_->pool.loads_max, pool.transient_images);
  LORICA_CHECK(pool.host.misses == pool.loads_started, pool.host.misses, pool.loads_started);
  const EngineStats stats = engine_->stats();
  LORICA_CHECK(stats.running <= config_->engine.running_max, stats.running);
  LORICA_CHECK(HasTenants() || stats.share_preemptions == 0, stats.share_preemptions);
  LORICA_CHECK(stats.accepted == stats.finished + stats.cancelled + stats.failed + stats.invalid +
                                    stats.queued + stats.running,
               stats.accepted);
}

bool Simulation::WaitsForLoad(const Tracked& tracked) const {
  if (loads_->empty()) return false;
  for (const MixTerm& term : tracked.request.mix) {
    if (pool_->Lookup(term.generation->digest).tier == AdapterTier::kSource) return true;
  }
  return false;
}

// The oldest request that is not paused and waits for no load gets rows or tokens within
// a bound: it may be overtaken, then a few are preempted, copied and computed for it.
// With several tenants another one may be due, so somebody has to.
void Simulation::CheckProgress(const StepReport& report) {
  const Tracked* oldest = nullptr;
  for (const auto& [id, tracked] : live_) {
    if (tracked->paused || tracked->finishes > 0) continue;
    oldest = tracked.get();
    break;
  }
  const bool anybody = HasTenants() && !report.plan.spans.empty();
  const bool got_rows =
      anybody || (oldest != nullptr &&
                  std::any_of(report.plan.spans.begin(), report.plan.spans.end(),
                              [&](const Span& span) { return span.request == oldest->id; }));
  if (oldest == nullptr || oldest->id != oldest_ || got_rows) {
    oldest_ = oldest == nullptr ? 0 : oldest->id;
    stalled_steps_ = 0;
    return;
  }
  if (!WaitsForLoad(*oldest)) ++stalled_steps_;
  const int bound = 2 * config_->engine.overtake_steps_max +
                    10 * kMixTermsMax * (config_->copy_ticks_max + 2) + 50;
  LORICA_CHECK(stalled_steps_ <= bound, "request", oldest_, "stalled for", stalled_steps_,
               "steps at step", totals_.steps);
}

void Simulation::CheckFinished(Tracked& tracked) {
  LORICA_CHECK(tracked.finishes == 1, "request", tracked.id, "finished", tracked.finishes);
  LORICA_CHECK(tracked.finish.completion_tokens == static_cast<int32_t>(tracked.tokens.size()));
  const int32_t cached = tracked.finish.cached_tokens;
  const int32_t reached = tracked.prompt_reached;
  LORICA_CHECK(tracked.finish.prompt_tokens == reached, "request", tracked.id, "says",
               tracked.finish.prompt_tokens, "of", reached);
  LORICA_CHECK(cached >= 0 && cached <= std::max(0, reached - 1), "cached", cached);
  LORICA_CHECK(cached == 0 || config_->engine.prefix_cache, "cached", cached);
  const std::vector<int32_t> alone = fakes::TokensAlone(tracked.request, kVocabulary);
  const bool prefix = tracked.tokens.size() <= alone.size() &&
                      std::equal(tracked.tokens.begin(), tracked.tokens.end(), alone.begin());
  LORICA_CHECK(prefix, "request", tracked.id, "got a wrong token among", tracked.tokens.size());
  if (!tracked.tokens.empty()) CheckScores(tracked);
  if (!tracked.finish.status.ok()) {
    CheckError(tracked);
    return;
  }
  if (tracked.finish.reason == StopReason::kStopString) {
    LORICA_CHECK(tracked.finish_asked, "request", tracked.id);
    return;
  }
  LORICA_CHECK(tracked.tokens.size() == alone.size(), "request", tracked.id, "got",
               tracked.tokens.size(), "of", alone.size());
  ++totals_.complete;
}

void Simulation::CheckScores(const Tracked& tracked) const {
  std::vector<float> alone;
  if (tracked.request.prompt_logprobs >= 0) alone = fakes::ScoresAlone(tracked.request);
  const size_t first = tracked.scores.empty() ? 0 : 1;
  LORICA_CHECK(
      std::equal(tracked.scores.begin() + first, tracked.scores.end(), alone.begin(), alone.end()),
      "request", tracked.id, "got wrong scores");
}

void Simulation::CheckError(const Tracked& tracked) const {
  const absl::Status& status = tracked.finish.status;
  const bool injected = status.message().find("injected") != std::string::npos;
  const bool never_fits =
      absl::IsUnavailable(status) && status.message().find("pinned") != std::string::npos;
  const bool queue_ttl = config_->engine.queue_ttl != absl::InfiniteDuration() &&
                         absl::IsUnavailable(status) && tracked.tokens.empty();
  const bool expected = (absl::IsCancelled(status) && tracked.cancelled) ||
                        (absl::IsDeadlineExceeded(status) && tracked.request.deadline <= now_) ||
                        injected || (never_fits && config_->pins) || queue_ttl;
  LORICA_CHECK(expected, "request", tracked.id, status.ToString());
}

void Simulation::Drain() {
  for (auto& [id, tracked] : live_) {
    engine_->Resume(id);
    tracked->paused = false;
  }
  for (size_t name = 0; name < versions_.size(); ++name) {
    for (int version = 0; version <= versions_[name]; ++version) {
      ++commands_sent_;
      pool_->Unpin(absl::StrCat("adapter", name, "v", version),
                   [this](absl::Status) { ++commands_answered_; });
    }
  }
  int steps = 0;
  const auto busy = [&] {
    return !engine_->idle() || commands_sent_ != commands_answered_ || !loads_->empty();
  };
  while (busy()) {
    StepOnce();
    LORICA_CHECK(++steps < kDrainStepsMax, "not idle after", steps, "steps; live", live_.size());
  }
}

void Simulation::Run(int steps) {
  for (int step = 0; step < steps; ++step) {
    Act();
    StepOnce();
  }
  Drain();
  LORICA_CHECK(live_.empty(), live_.size(), "requests never ended");
  LORICA_CHECK(arena_->blocks_of(UnitKind::kKv) == 0, "KV blocks are left");
  for (int i = 0; i < 2 * kAskedPolls; ++i) StepOnce();
  int evicted = 0;
  for (size_t name = 0; name < versions_.size(); ++name) {
    for (int version = 0; version <= versions_[name]; ++version) {
      pool_->Evict(absl::StrCat("adapter", name, "v", version), AdapterTier::kSource, false,
                   [&evicted](absl::Status status) {
                     LORICA_CHECK(status.ok(), status.ToString());
                     ++evicted;
                   });
    }
  }
  StepOnce();
  const int32_t kept = arena_->blocks_of(UnitKind::kPrefix);
  LORICA_CHECK(evicted > 0 && arena_->free_blocks() + kept == arena_->block_count(), "free blocks",
               arena_->free_blocks(), "kept", kept, "of", arena_->block_count());
  LORICA_CHECK(arena_->available_blocks() == arena_->block_count(), "prefixes are held");
  LORICA_CHECK(kept == engine_->stats().prefix_blocks, kept, engine_->stats().prefix_blocks);
  LORICA_CHECK(pool_->stats().host.bytes == 0, "host bytes are left");
}

}  // namespace lorica
