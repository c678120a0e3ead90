#include "server/api/server_service.h"

#include <unistd.h>

#include <fstream>

#include "adapters/hub/steady_now.h"
#include "server/api/call_pump.h"
#include "server/api/refusal_log.h"
#include "server/api/reply.h"

namespace lorica {
namespace {

v1::ServingState ToProto(ServingState state) {
  switch (state) {
    case ServingState::kStarting:
      return v1::SERVING_STATE_STARTING;
    case ServingState::kServing:
      return v1::SERVING_STATE_SERVING;
    case ServingState::kDraining:
      return v1::SERVING_STATE_DRAINING;
    case ServingState::kFailed:
      break;
  }
  return v1::SERVING_STATE_FAILED;
}

int64_t ResidentBytes() {
  int64_t pages = 0;
  int64_t resident_pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

void FillCounters(const EngineStats& stats, const EngineStats& before, v1::Counters* counters) {
  counters->set_requests_accepted(stats.accepted - before.accepted);
  counters->set_requests_finished(stats.finished - before.finished);
  counters->set_requests_cancelled(stats.cancelled - before.cancelled);
  counters->set_requests_failed(stats.failed - before.failed);
  counters->set_prompt_tokens(stats.prompt_tokens - before.prompt_tokens);
  counters->set_cached_tokens(stats.cached_tokens - before.cached_tokens);
  counters->set_generated_tokens(stats.generated_tokens - before.generated_tokens);
  counters->set_steps(stats.steps - before.steps);
  counters->set_preemptions(stats.preemptions - before.preemptions);
}

void FillEngine(const EngineStats& stats, v1::GetStatusResponse* response) {
  response->set_running(stats.running);
  response->set_queued(stats.queued);
  response->set_free_blocks(stats.free_blocks);
  response->set_kv_blocks(stats.kv_blocks);
  response->set_adapter_blocks(stats.adapter_blocks);
  response->set_prefix_blocks(stats.prefix_blocks);
  response->set_step_ms_p50(stats.step_ms_p50);
  response->set_step_ms_p99(stats.step_ms_p99);
}

void FillTier(const TierStats& stats, v1::TierCounters* tier) {
  tier->set_bytes(stats.bytes);
  tier->set_byte_limit(stats.byte_limit);
  tier->set_adapters(stats.generations);
  tier->set_hits(stats.hits);
  tier->set_misses(stats.misses);
  tier->set_evictions(stats.evictions);
  tier->set_insertions(stats.insertions);
  tier->set_removals(stats.removals);
}

void FillPool(const PoolStats& stats, v1::GetStatusResponse* response) {
  FillTier(stats.device, response->mutable_device_tier());
  FillTier(stats.host, response->mutable_host_tier());
  response->set_loading_adapters(stats.loading);
  response->mutable_counters()->set_adapter_loads(stats.loads_finished);
  response->mutable_counters()->set_adapter_load_failures(stats.loads_failed);
}

void FillFetches(const RemoteStats& stats, v1::GetStatusResponse* response) {
  FillTier(stats.disk, response->mutable_disk_tier());
  v1::FetchCounters* const fetches = response->mutable_fetches();
  fetches->set_fetched(stats.fetched);
  fetches->set_failed(stats.failed);
  fetches->set_downloaded_bytes(stats.downloaded_bytes);
  fetches->set_refreshes(stats.refreshes);
  fetches->set_under_way(stats.under_way);
}

}  // namespace

grpc::ServerUnaryReactor* ServerService::GetStatus(grpc::CallbackServerContext* context,
                                                   const v1::GetStatusRequest*,
                                                   v1::GetStatusResponse* response) {
  const auto reply = Reply::Make();
  if (const auto tenant = gateway_->Authenticate(CredentialsOf(*context)); !tenant.ok()) {
    LogRefusal("GetStatus", "", tenant.status(), SteadyNow());
    reply->Fail(tenant.status());
    return reply.get();
  }
  response->set_state(ToProto(state_->load()));
  response->set_version(facts_.version);
  response->set_device(facts_.device);
  response->set_uptime_seconds(absl::ToDoubleSeconds(SteadyNow() - facts_.started));
  *response->mutable_model() = facts_.model;
  *response->mutable_limits() = facts_.limits;
  const EngineStats stats = gateway_->engine()->stats();
  FillEngine(stats, response);
  FillCounters(stats, before_, response->mutable_counters());
  FillPool(gateway_->pool()->stats(), response);
  if (const auto fetches = gateway_->catalog()->FetchStats()) FillFetches(*fetches, response);
  response->set_waiting(static_cast<int32_t>(gateway_->waiting_calls()));
  response->mutable_counters()->set_requests_refused(gateway_->refused_count() + stats.invalid);
  response->set_resident_bytes(ResidentBytes());
  reply->Succeed([] {});
  return reply.get();
}

grpc::ServerUnaryReactor* ServerService::GetUsage(grpc::CallbackServerContext* context,
                                                  const v1::GetUsageRequest* request,
                                                  v1::GetUsageResponse* response) {
  const auto reply = Reply::Make();
  const auto tenant = gateway_->Authenticate(CredentialsOf(*context));
  absl::Status refused = tenant.status();
  const bool sees_all = tenant.ok() && CheckRole(**tenant, TenantRole::kOperator).ok();
  if (tenant.ok() && !sees_all && !request->tenant().empty() &&
      request->tenant() != (*tenant)->name) {
    refused = absl::PermissionDeniedError(
        "only an operator may see another tenant's bill: leave tenant out for your own");
  }
  if (!refused.ok()) {
    LogRefusal("GetUsage", "", refused, SteadyNow());
    reply->Fail(refused);
    return reply.get();
  }
  const std::string whose = sees_all ? request->tenant() : (*tenant)->name;
  reply->Succeed([&] {
    for (const UsageRow& row : gateway_->accounts().Bill(whose)) {
      v1::UsageRow* message = response->add_rows();
      message->set_tenant(row.tenant);
      message->set_generation(row.generation);
      message->set_requests(row.usage.requests);
      message->set_prompt_tokens(row.usage.prompt_tokens);
      message->set_completion_tokens(row.usage.completion_tokens);
      message->set_cached_tokens(row.usage.cached_tokens);
    }
    response->set_seconds(absl::ToDoubleSeconds(absl::Now() - facts_.counting_since));
  });
  return reply.get();
}

}  // namespace lorica
