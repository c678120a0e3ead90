#include "server/http/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "prometheus/histogram.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"
#include "server/api/call_backlog.h"
#include "server/api/go_away.h"
#include "server/api/reset_guard.h"

namespace lorica {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;
using Buckets = prometheus::Histogram::BucketBoundaries;

// Each bound is about twice the one before.
Buckets Doubling(double first, int count) {
  Buckets bounds;
  for (double bound = first; std::ssize(bounds) < count; bound *= 2.0) bounds.push_back(bound);
  return bounds;
}

const Buckets kSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,   0.2,  0.5,
                          1.0,   2.0,   5.0,   10.0, 20.0, 60.0, 120.0, 600.0};

}  // namespace

class Metrics::Page {
 public:
  void Gauge(const char* name, const char* help, double value, Labels labels = {}) {
    ClientMetric& metric = Add(name, help, MetricType::Gauge, std::move(labels));
    metric.gauge.value = value;
  }
  void Count(const char* name, const char* help, int64_t value, Labels labels = {}) {
    ClientMetric& metric = Add(name, help, MetricType::Counter, std::move(labels));
    metric.counter.value = static_cast<double>(value);
  }
  void Sum(const char* name, const char* help, int64_t count, double sum) {
    ClientMetric& metric = Add(name, help, MetricType::Summary, {});
    metric.summary.sample_count = count;
    metric.summary.sample_sum = sum;
  }
  void Histogram(const char* name, const char* help, const prometheus::Histogram& histogram) {
    Add(name, help, MetricType::Histogram, {}).histogram = histogram.Collect().histogram;
  }
  std::string Text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  // Series of one family must be added one after the other.
  ClientMetric& Add(const char* name, const char* help, MetricType type, Labels labels) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({name, help, type, {}});
    }
    ClientMetric& metric = families_.back().metric.emplace_back();
    metric.label = std::move(labels);
    return metric;
  }

  std::vector<MetricFamily> families_;
};

namespace {

int64_t ResidentBytes() {
  int64_t pages = 0;
  int64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

void AddName(const std::string& name, std::string* list) {
  if (name.empty() || std::ssize(*list) + std::ssize(name) + 2 > kAdapterNamesBytesMax) return;
  if (!list->empty()) *list += ", ";
  *list += name;
}

struct AdapterLists {
  int32_t resident = 0;
  int64_t resident_blocks = 0;
  std::string running;  // on the device, those in use first
  std::string waiting;  // on their way there
};

AdapterLists ListAdapters(Gateway& gateway, int64_t block_bytes) {
  std::vector<PoolEntryInfo> entries = gateway.pool()->InUse();
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.lease_count, a.last_used) > std::pair(b.lease_count, b.last_used);
  });
  AdapterLists lists;
  for (const PoolEntryInfo& entry : entries) {
    const bool there = entry.tier == AdapterTier::kDevice;
    for (const std::string& name : gateway.names()->NamesOf(entry.digest)) {
      AddName(name, there ? &lists.running : &lists.waiting);
    }
    if (!there) continue;
    ++lists.resident;
    lists.resident_blocks += entry.device_bytes / std::max<int64_t>(1, block_bytes);
  }
  return lists;
}

// How many adapters like those now there the arena could hold.
int64_t AdapterPlaces(const MetricsFacts& facts, const AdapterLists& lists) {
  if (lists.resident_blocks == 0) return facts.running_max;
  return std::max<int64_t>(lists.resident,
                           int64_t{facts.arena_blocks} * lists.resident / lists.resident_blocks);
}

}  // namespace

void Metrics::AddEngine(const EngineStats& stats, Page* page) {
  page->Gauge("lorica_requests_running", "Requests that hold KV", stats.running);
  page->Gauge("lorica_requests_queued", "Requests that wait", stats.queued);
  page->Gauge("lorica_requests_waiting_for_adapter", "Of those, whose adapter is not there",
              stats.waiting_for_adapter);
  page->Gauge("lorica_requests_paused", "Requests whose client reads slowly", stats.paused);
  const char* const kEnds = "Requests that ended, by how";
  page->Count("lorica_requests_total", kEnds, stats.finished, {{"outcome", "finished"}});
  page->Count("lorica_requests_total", kEnds, stats.cancelled, {{"outcome", "cancelled"}});
  page->Count("lorica_requests_total", kEnds, stats.failed, {{"outcome", "failed"}});
  page->Count("lorica_requests_total", kEnds, stats.invalid, {{"outcome", "invalid"}});
  page->Count("lorica_prompt_tokens_total", "Prompt tokens of requests that were started",
              stats.prompt_tokens);
  page->Count("lorica_cached_prompt_tokens_total", "Of those, whose KV was there already",
              stats.cached_tokens);
  page->Count("lorica_generated_tokens_total", "Tokens generated", stats.generated_tokens);
  page->Count("lorica_steps_total", "Steps of the engine", stats.steps);
  page->Count("lorica_rows_total", "Tokens computed in all steps", stats.rows);
  page->Count("lorica_late_masks_total", "Rows computed in vain, for their mask came late",
              stats.late_masks);
  page->Count("lorica_preemptions_total", "Requests that gave way and compute again",
              stats.preemptions);
  page->Count("lorica_share_preemptions_total", "Of those, for the share of another tenant",
              stats.share_preemptions);
  const char* const kBlocks = "Blocks of the arena, by what they hold";
  page->Gauge("lorica_arena_blocks", kBlocks, stats.free_blocks, {{"holds", "nothing"}});
  page->Gauge("lorica_arena_blocks", kBlocks, stats.kv_blocks, {{"holds", "kv"}});
  page->Gauge("lorica_arena_blocks", kBlocks, stats.prefix_blocks, {{"holds", "prefixes"}});
  page->Gauge("lorica_arena_blocks", kBlocks, stats.adapter_blocks, {{"holds", "adapters"}});
}

void Metrics::AddTenants(const Accounts& accounts, Page* page) {
  const std::vector<UsageRow> rows = accounts.Totals();
  for (const UsageRow& row : rows) {
    page->Count("lorica_tenant_requests_total", "Requests of a tenant that were answered",
                row.usage.requests, {{"tenant", row.tenant}});
  }
  const char* const kTokens = "Tokens of a tenant's answered requests, as they are billed";
  for (const UsageRow& row : rows) {
    page->Count("lorica_tenant_tokens_total", kTokens, row.usage.prompt_tokens,
                {{"tenant", row.tenant}, {"kind", "prompt"}});
    page->Count("lorica_tenant_tokens_total", kTokens, row.usage.completion_tokens,
                {{"tenant", row.tenant}, {"kind", "completion"}});
  }
}

void Metrics::AddPool(const PoolStats& stats, const std::optional<RemoteStats>& fetches,
                      Page* page) {
  std::vector<std::pair<const char*, const TierStats*>> tiers = {{"device", &stats.device},
                                                                 {"host", &stats.host}};
  if (fetches) tiers.emplace_back("disk", &fetches->disk);
  const auto each = [&](const char* name, const char* help, bool count, auto value) {
    for (const auto& [tier, of_tier] : tiers) {
      const int64_t number = value(*of_tier);
      count ? page->Count(name, help, number, {{"tier", tier}})
            : page->Gauge(name, help, static_cast<double>(number), {{"tier", tier}});
    }
  };
  each("lorica_tier_bytes", "Bytes of adapters in a tier", false,
       [](const TierStats& tier) { return tier.bytes; });
  each("lorica_tier_limit_bytes", "Most bytes a tier may hold", false,
       [](const TierStats& tier) { return tier.byte_limit; });
  each("lorica_tier_pinned_bytes", "Bytes of a tier that pins keep from all others", false,
       [](const TierStats& tier) { return tier.pinned_bytes; });
  each("lorica_tier_adapters", "Adapters in a tier", false,
       [](const TierStats& tier) { return int64_t{tier.generations}; });
  each("lorica_tier_hits_total", "Look-ups that found the adapter in a tier", true,
       [](const TierStats& tier) { return tier.hits; });
  each("lorica_tier_misses_total", "Look-ups that did not", true,
       [](const TierStats& tier) { return tier.misses; });
  each("lorica_tier_evictions_total", "Adapters that gave way in a tier", true,
       [](const TierStats& tier) { return tier.evictions; });
  page->Gauge("lorica_adapters_loading", "Adapters on their way", stats.loading);
  page->Count("lorica_adapter_load_failures_total", "Loads that failed", stats.loads_failed);
  page->Sum("lorica_adapter_load_seconds", "Loads that finished, until in host memory",
            stats.loads_finished, absl::ToDoubleSeconds(stats.load_time));
}

void Metrics::AddFetches(const RemoteStats& stats, Page* page) {
  const char* const kFetches = "Adapters that were not on this machine, by what became of them";
  page->Count("lorica_fetches_total", kFetches, stats.fetched, {{"outcome", "fetched"}});
  page->Count("lorica_fetches_total", kFetches, stats.failed, {{"outcome", "failed"}});
  page->Count("lorica_fetched_bytes_total", "Bytes of adapters that were downloaded",
              stats.downloaded_bytes);
  page->Count("lorica_fetch_refreshes_total", "Looks at branches that are served already",
              stats.refreshes);
  page->Gauge("lorica_fetches_under_way", "Adapters that are being looked for or fetched",
              stats.under_way);
}

// What must not grow with what is asked for: of requests it goes with them, the rest is bounded.
void Metrics::AddHeld(const MetricsFacts& facts, Gateway& gateway, Page* page) {
  const EngineStats engine = gateway.engine()->stats();
  const Accounts::Held accounts = gateway.accounts().held();
  const AdapterCatalog::Held catalog = gateway.catalog()->held();
  const std::optional<RemoteStats> remote = gateway.catalog()->FetchStats();
  const std::pair<const char*, int64_t> held[] = {
      {"answers", gateway.open_answers()},
      {"waiting_calls", gateway.waiting_calls()},
      {"engine_requests", engine.live},
      {"queue_tenants", engine.queue_tenants},
      {"streams", accounts.streams},
      {"http_tenants", facts.generation_tenants == nullptr ? 0 : facts.generation_tenants()},
      {"grpc_calls", CallsInBacklog()},
      {"peers_with_resets", PeersWithResets()},
      {"peers_asked_to_go", PeersAskedToGoAway()},
      {"looks", catalog.looks},
      {"copies_arriving", catalog.arriving},
      {"merges_under_way", catalog.merges_under_way},
      {"fetches", remote ? remote->under_way : 0},
      {"tenants", accounts.tenants},
      {"lanes", engine.lanes},
      {"bill_rows", accounts.bill_rows},
      {"names", catalog.names},
      {"folders", catalog.folders},
      {"merges", catalog.merges},
      {"revisions", remote ? remote->known : 0},
      {"pool_contents", gateway.pool()->stats().known},
      {"noted_contents", gateway.names()->digests()},
  };
  for (const auto& [of, count] : held) {
    page->Gauge("lorica_held_entries", "Entries of what is kept of requests, tenants and adapters",
                static_cast<double>(count), {{"of", of}});
  }
}

void Metrics::AddGrammars(const GrammarStats& stats, Page* page) {
  page->Gauge("lorica_grammars", "Response formats that are remembered", stats.entries);
  page->Gauge("lorica_grammar_bytes", "Memory of their grammars", stats.bytes);
  page->Gauge("lorica_grammars_waiting", "Response formats that wait to be compiled",
              stats.waiting);
  page->Count("lorica_grammar_hits_total", "Requests whose response format was there", stats.hits);
  page->Count("lorica_grammar_evictions_total", "Response formats that gave way", stats.evictions);
  const char* const kCompiles = "Response formats that were tried, by what became of them";
  page->Count("lorica_grammar_compiles_total", kCompiles, stats.compiled,
              {{"outcome", "compiled"}});
  page->Count("lorica_grammar_compiles_total", kCompiles, stats.refused, {{"outcome", "refused"}});
  page->Count("lorica_grammar_compiles_total", kCompiles, stats.exceeded,
              {{"outcome", "beyond_bounds"}});
  page->Sum("lorica_grammar_compile_seconds", "From its turn to its end",
            stats.compiled + stats.refused + stats.exceeded,
            absl::ToDoubleSeconds(stats.compile_time));
  page->Sum("lorica_grammar_mask_seconds", "Computing for one mask", stats.masks,
            absl::ToDoubleSeconds(stats.mask_time));
  page->Count("lorica_grammar_slow_masks_total", "Of those, that ended their request",
              stats.slow_masks);
}

struct Metrics::Histograms {
  prometheus::Histogram first_token{kSeconds};
  prometheus::Histogram per_token{Doubling(0.0005, 14)};
  prometheus::Histogram queue{kSeconds};
  prometheus::Histogram adapter_wait{kSeconds};
  prometheus::Histogram request{kSeconds};
  prometheus::Histogram step{Doubling(0.0005, 14)};
  prometheus::Histogram step_rows{Doubling(1.0, 12)};
  prometheus::Histogram prompt_tokens{Doubling(16.0, 12)};
  prometheus::Histogram completion_tokens{Doubling(1.0, 15)};
};

Metrics::Metrics() : histograms_(std::make_unique<Histograms>()) {}

Metrics::~Metrics() = default;

void Metrics::Start() { started_ns_.store(absl::ToUnixNanos(SteadyNow())); }

void Metrics::ObserveEnd(const FinishEvent& event) {
  if (started_ns_.load(std::memory_order_relaxed) == std::numeric_limits<int64_t>::max()) return;
  Histograms& all = *histograms_;
  const RequestTimings& times = event.timings;
  all.queue.Observe(absl::ToDoubleSeconds(times.queue));
  if (event.completion_tokens == 0) return;
  all.first_token.Observe(absl::ToDoubleSeconds(times.first_token));
  all.adapter_wait.Observe(absl::ToDoubleSeconds(times.load));
  all.request.Observe(absl::ToDoubleSeconds(times.total));
  all.prompt_tokens.Observe(event.prompt_tokens);
  all.completion_tokens.Observe(event.completion_tokens);
  if (event.completion_tokens == 1) return;
  all.per_token.Observe(absl::ToDoubleSeconds(times.total - times.first_token) /
                        (event.completion_tokens - 1));
}

// The warm-up's last step is still under way when its answer is told.
void Metrics::ObserveStep(absl::Time began, absl::Duration took, int64_t rows) {
  if (absl::ToUnixNanos(began) < started_ns_.load(std::memory_order_relaxed)) return;
  histograms_->step.Observe(absl::ToDoubleSeconds(took));
  histograms_->step_rows.Observe(static_cast<double>(rows));
}

void Metrics::AddForRouters(const MetricsFacts& facts, Gateway& gateway, bool with_names,
                            Page* page) {
  const EngineStats stats = gateway.engine()->stats();
  const auto gauge = [&](const char* name, const char* help, double value) {
    page->Gauge(name, help, value, {{"model_name", facts.model}});
  };
  gauge("vllm:num_requests_running", "Requests that hold KV", stats.running);
  gauge("vllm:num_requests_waiting", "Requests that wait", stats.queued);
  gauge("vllm:kv_cache_usage_perc", "Share of the arena that holds KV, 0 to 1",
        static_cast<double>(stats.kv_blocks) / std::max(1, facts.arena_blocks));
  page->Gauge("vllm:cache_config_info", "Tokens of a block, blocks of the arena", 1,
              {{"block_size", std::to_string(kBlockTokens)},
               {"num_gpu_blocks", std::to_string(facts.arena_blocks)}});
  if (!with_names) return;
  const AdapterLists lists = ListAdapters(gateway, facts.block_bytes);
  // Readers take the newest series, so a step of the clock backwards must not show.
  int64_t last = last_update_ms_.load();
  const int64_t now = std::max(absl::ToUnixMillis(absl::Now()), last + 1);
  last_update_ms_.compare_exchange_strong(last, now);
  page->Gauge("vllm:lora_requests_info", "Adapters on the device and on their way; Unix time",
              static_cast<double>(now) / 1000.0,
              {{"max_lora", std::to_string(AdapterPlaces(facts, lists))},
               {"running_lora_adapters", lists.running},
               {"waiting_lora_adapters", lists.waiting}});
}

void Metrics::AddHistograms(Page* page) const {
  const Histograms& all = *histograms_;
  page->Histogram("lorica_time_to_first_token_seconds", "Accepted to first token", all.first_token);
  page->Histogram("lorica_time_per_output_token_seconds", "Mean of a request, after its first",
                  all.per_token);
  page->Histogram("lorica_queue_seconds", "Accepted to first scheduled", all.queue);
  page->Histogram("lorica_adapter_wait_seconds", "Of that, waiting for an adapter",
                  all.adapter_wait);
  page->Histogram("lorica_request_seconds", "Accepted to last token", all.request);
  page->Histogram("lorica_step_seconds", "One step of the engine", all.step);
  page->Histogram("lorica_step_rows", "Tokens of a step", all.step_rows);
  page->Histogram("lorica_prompt_tokens", "Prompt of a request", all.prompt_tokens);
  page->Histogram("lorica_completion_tokens", "Answer to a request", all.completion_tokens);
}

std::string Metrics::Text(const MetricsFacts& facts, Gateway& gateway, bool serving,
                          bool with_names) {
  Page page;
  AddForRouters(facts, gateway, with_names, &page);
  page.Gauge("lorica_info", "What runs", 1,
             {{"version", facts.version}, {"model", facts.model}, {"device", facts.device}});
  page.Gauge("lorica_serving", "Whether new work is taken", serving ? 1 : 0);
  page.Gauge("lorica_resident_bytes", "Memory of the process", ResidentBytes());
  page.Gauge("lorica_block_bytes", "Size of a block of the arena", facts.block_bytes);
  AddEngine(gateway.engine()->stats(), &page);
  page.Count("lorica_requests_refused_total", "Calls that were refused at the door",
             gateway.refused_count());
  const std::optional<RemoteStats> fetches = gateway.catalog()->FetchStats();
  AddPool(gateway.pool()->stats(), fetches, &page);
  if (fetches) AddFetches(*fetches, &page);
  page.Count("lorica_damaged_copies_total",
             "Copies of registered adapters that were not what they had been, and were dropped",
             gateway.catalog()->damaged_copies());
  AddHeld(facts, gateway, &page);
  if (with_names) AddTenants(gateway.accounts(), &page);
  if (gateway.grammars() != nullptr) AddGrammars(gateway.grammars()->stats(), &page);
  AddHistograms(&page);
  return page.Text();
}

}  // namespace lorica
