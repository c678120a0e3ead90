#include "server/http/operator_routes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "server/http/json.h"
#include "server/http/metrics_json.h"

namespace lorica {
namespace {

void SendUnhealthy(int status, const char* text, const char* type, HttpReply& reply) {
  OrderedJson body;
  body["error"] = text;
  body["error_type"] = type;
  body["status"] = "UNAVAILABLE";
  reply.notes().code = "UNAVAILABLE";
  reply.Send(status, Dump(body));
}

// Names of adapters are other tenants' business where there are keys.
bool MayReadNames(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  return tenant.ok() && CheckRole(**tenant, TenantRole::kOperator).ok();
}

MetricsFacts FactsFor(const HttpContext& context) {
  const HttpFacts& facts = context.facts();
  return {facts.version,
          facts.model,
          facts.device,
          facts.block_bytes,
          facts.arena_blocks,
          facts.running_max,
          [&context] { return context.generation_tenants(); }};
}

// LoRAX's client reads numbers so.
bool WantsJson(const HttpRequest& http) {
  const std::vector<std::string> accepted = http.Values("accept");
  return std::any_of(accepted.begin(), accepted.end(),
                     [](const std::string& value) { return absl::StrContains(value, kJsonType); });
}

}  // namespace

void AddOperatorRoutes(const HttpContext* context, Metrics* metrics, HttpRoutes* routes) {
  const HttpHandler health = [context](const HttpRequest&, HttpReply& reply) {
    if (context->serving()) return reply.Send(200, "");
    SendUnhealthy(503, "unhealthy: the server starts, drains or has failed", "healthcheck", reply);
  };
  for (const char* path : {"/", "/health", "/ping"}) (*routes)[path]["GET"] = health;
  (*routes)["/metrics"]["GET"] = [context, metrics, facts = FactsFor(*context)](
                                     const HttpRequest& http, HttpReply& reply) {
    const bool names = MayReadNames(*context, http, reply);
    std::string text = metrics->Text(facts, *context->gateway(), context->serving(), names);
    reply.SetHeader("Vary", "Accept");
    if (WantsJson(http)) return reply.Send(200, MetricsJson(text));
    reply.Send(200, std::move(text), "text/plain; version=0.0.4; charset=utf-8");
  };
  (*routes)["/version"]["GET"] = [context](const HttpRequest&, HttpReply& reply) {
    OrderedJson version;
    version["version"] = context->facts().version;
    reply.Send(200, Dump(version));
  };
  // It generates before it serves, so serving is the proof.
  (*routes)["/startup"]["GET"] = [context](const HttpRequest&, HttpReply& reply) {
    if (context->serving()) return reply.Send(200, "");
    SendUnhealthy(500, "the first generation has not been made", "failed healthcheck", reply);
  };
}

}  // namespace lorica
