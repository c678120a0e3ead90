#include "server/api/adapter_info.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "adapters/hub/quoted.h"
#include "server/api/status_map.h"

namespace lorica {
namespace {

v1::Tier ToTier(AdapterTier tier) {
  switch (tier) {
    case AdapterTier::kHost:
      return v1::TIER_HOST;
    case AdapterTier::kDevice:
      return v1::TIER_DEVICE;
    case AdapterTier::kSource:
      break;
  }
  return v1::TIER_SOURCE;
}

void FillGeneration(const Generation& generation, v1::Adapter* message) {
  message->set_generation(generation.digest);
  message->set_rank_max(generation.rank_max);
  message->set_dora(generation.config.use_dora);
  message->set_module_count(generation.module_count);
  message->set_file_bytes(generation.file_bytes);
}

void FillUse(const PoolEntryInfo& info, absl::Time now, v1::Adapter* message) {
  message->set_hit_count(info.hit_count);
  message->set_load_count(info.load_count);
  message->set_lease_count(info.lease_count);
  message->set_last_load_ms(absl::ToDoubleMilliseconds(info.last_load));
  const bool was_used = info.last_used != absl::InfinitePast();
  message->set_last_used_seconds_ago(
      was_used ? std::max(0.0, absl::ToDoubleSeconds(now - info.last_used)) : -1.0);
}

void FillPool(const PoolEntryInfo& info, v1::Adapter* message) {
  message->set_tier(ToTier(info.tier));
  if (info.pinned != AdapterTier::kSource) message->set_pinned(ToTier(info.pinned));
  message->set_device_bytes(info.device_bytes);
  if (!info.last_error.ok()) message->set_error(CleanErrorText(info.last_error.message()));
}

struct ModuleSummary {
  std::set<int> layers;
  int rank_min = kLoraRankMax;
  int rank_max = 0;
  double scale_min = 0.0;
  double scale_max = 0.0;
  double alpha_min = 0.0;
  double alpha_max = 0.0;
};

double AlphaOf(const PlannedModule& module, bool use_rslora) {
  return module.scale * (use_rslora ? std::sqrt(module.rank) : module.rank);
}

void Add(const PlannedModule& module, bool use_rslora, ModuleSummary* summary) {
  const double alpha = AlphaOf(module, use_rslora);
  const bool first = summary->layers.empty();
  summary->layers.insert(module.target->layer);
  summary->rank_min = std::min(summary->rank_min, module.rank);
  summary->rank_max = std::max(summary->rank_max, module.rank);
  summary->scale_min = first ? module.scale : std::min(summary->scale_min, module.scale);
  summary->scale_max = first ? module.scale : std::max(summary->scale_max, module.scale);
  summary->alpha_min = first ? alpha : std::min(summary->alpha_min, alpha);
  summary->alpha_max = first ? alpha : std::max(summary->alpha_max, alpha);
}

void FillPlan(const AdapterPlan& plan, v1::CheckAdapterResponse* response) {
  for (const std::string& warning : plan.warnings) {
    response->add_warnings(CleanErrorText(warning));
  }
  std::map<LoraModule, ModuleSummary> summaries;
  const bool use_rslora = plan.config.use_rslora;
  for (const PlannedModule& module : plan.modules) {
    Add(module, use_rslora, &summaries[module.target->module]);
  }
  for (const auto& [module, summary] : summaries) {
    v1::CheckedModule* message = response->add_modules();
    message->set_name(std::string(LoraModuleName(module)));
    message->set_layers(static_cast<int32_t>(summary.layers.size()));
    message->set_rank_min(summary.rank_min);
    message->set_rank_max(summary.rank_max);
    message->set_scale_min(summary.scale_min);
    message->set_scale_max(summary.scale_max);
    message->set_alpha_min(summary.alpha_min);
    message->set_alpha_max(summary.alpha_max);
  }
  v1::Adapter* adapter = response->mutable_adapter();
  adapter->set_rank_max(plan.rank_max);
  adapter->set_dora(plan.config.use_dora);
  adapter->set_module_count(static_cast<int32_t>(plan.modules.size()));
  adapter->set_file_bytes(plan.file_bytes);
  response->set_exact_tile_bytes(plan.exact_tile_bytes);
  response->set_blocks(plan.block_count);
  response->set_rslora(use_rslora);
}

}  // namespace

std::string DigestOf(const CatalogEntry& entry) {
  return entry.generation != nullptr ? entry.generation->digest : entry.digest;
}

v1::Adapter DescribeEntry(const CatalogEntry& entry, const AdapterPool& pool, absl::Time now,
                          bool with_use) {
  v1::Adapter message;
  message.set_adapter_id(entry.adapter_id);
  message.set_source(entry.location);
  message.set_commit(entry.commit);
  message.set_alias_of(entry.alias_of);
  message.set_registered(entry.registered);
  message.set_deleted(entry.deleted);
  message.set_tier(v1::TIER_SOURCE);
  message.set_fetched_bytes(entry.fetched_bytes);
  message.set_fetch_bytes_total(entry.fetch_bytes_total);
  bool loading = entry.fetching;
  message.set_generation(entry.digest);
  if (entry.generation != nullptr) FillGeneration(*entry.generation, &message);
  PoolEntryInfo info;
  if (!message.generation().empty()) {
    info = pool.Lookup(message.generation());
    FillPool(info, &message);
    loading = loading || info.loading;
  }
  if (with_use) FillUse(info, now, &message);
  if (entry.on_disk && message.tier() == v1::TIER_SOURCE) message.set_tier(v1::TIER_DISK);
  if (!entry.error.ok()) message.set_error(CleanErrorText(entry.error.message()));
  message.set_state(loading                   ? v1::ADAPTER_STATE_LOADING
                    : message.error().empty() ? v1::ADAPTER_STATE_AVAILABLE
                                              : v1::ADAPTER_STATE_FAILED);
  return message;
}

absl::StatusOr<v1::Adapter> DescribeAdapter(const std::string& tenant,
                                            const std::string& adapter_id, AdapterCatalog* catalog,
                                            const AdapterPool& pool, absl::Time now, bool with_use,
                                            const std::string& hub_token, const GenerationPtr& of) {
  absl::StatusOr<CatalogEntry> entry = catalog->Get(tenant, adapter_id, hub_token);
  if (!entry.ok()) return entry.status();
  if (of != nullptr && DigestOf(*entry) != of->digest) {
    if (!entry->registered) entry->location = of->location;
    entry->generation = of;
    entry->digest = of->digest;
    entry->error = absl::OkStatus();
  }
  return DescribeEntry(*entry, pool, now, with_use);
}

void FillHistory(const RegisteredName& name, v1::GetAdapterResponse* response) {
  for (const NamedGeneration& one : name.generations) {
    v1::RegisteredGeneration* message = response->add_history();
    message->set_number(one.number);
    message->set_generation(one.digest);
    message->set_source(one.location);
    message->set_commit(one.commit);
    message->set_registered_unix_ms(absl::ToUnixMillis(one.registered_at));
    message->set_current(one.number == name.current);
  }
}

absl::StatusOr<v1::CheckAdapterResponse> ExplainAdapter(const std::string& source,
                                                        const absl::StatusOr<AdapterPlan>& plan,
                                                        int64_t block_bytes) {
  v1::CheckAdapterResponse response;
  response.set_block_bytes(block_bytes);
  response.mutable_adapter()->set_adapter_id(source);
  response.mutable_adapter()->set_source(source);
  if (plan.ok()) {
    response.set_servable(true);
    FillPlan(*plan, &response);
    return response;
  }
  if (!absl::IsFailedPrecondition(plan.status()) && !absl::IsDataLoss(plan.status())) {
    return plan.status();
  }
  // The caller knows what it asked about.
  absl::string_view reason = plan.status().message();
  absl::ConsumePrefix(&reason, absl::StrCat("adapter ", Quoted(source), " cannot be served: "));
  response.set_reason(CleanErrorText(reason));
  return response;
}

std::string PinsWarning(const TierStats& stats, const std::string& tier) {
  const auto limit = static_cast<double>(stats.byte_limit);
  if (static_cast<double>(stats.pinned_bytes) <= kPinnedShareWarned * limit) return "";
  return absl::StrCat("pinned adapters keep ", stats.pinned_bytes, " of ", stats.byte_limit,
                      " bytes of ", tier, " memory: all else, prompts too on the device, shares ",
                      stats.byte_limit - stats.pinned_bytes);
}

}  // namespace lorica
