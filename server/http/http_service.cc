#include "server/http/http_service.h"

#include <utility>

#include "server/api/server_tls.h"
#include "server/http/access_log.h"
#include "server/http/admin_routes.h"
#include "server/http/errors.h"
#include "server/http/lifecycle_routes.h"
#include "server/http/lorax_routes.h"
#include "server/http/openai_routes.h"
#include "server/http/operator_routes.h"
#include "server/http/pages.h"
#include "server/http/token_routes.h"
#include "server/http/transport.h"

namespace lorica {
namespace {

// Whoever shows no key that is known is told so before its body is read.
bool Admits(const HttpContext& context, const HttpRequest& request, HttpReply& reply) {
  const absl::Status known = context.Authenticate(request, reply).status();
  if (!known.ok()) SendError(DoorError(known, request.path), known, reply);
  return known.ok();
}

}  // namespace

// In order of construction: the transport, last, goes first.
struct HttpService::Parts {
  Parts(HttpFacts facts, Gateway* gateway, const std::atomic<bool>* serving)
      : work(kHttpWorkThreads, kHttpWorkQueue),
        adapter_work(kAdapterWorkThreads, kHttpWorkQueue),
        context(std::move(facts), gateway, &work, &adapter_work, serving) {}

  WorkPool work;
  WorkPool adapter_work;
  HttpContext context;
  std::unique_ptr<AccessLog> log;
  std::unique_ptr<HttpTransport> transport;
};

HttpService::HttpService() = default;

HttpService::~HttpService() { Stop(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<HttpService>> HttpService::Start(HttpOptions options,
                                                                Gateway* gateway) {
  std::unique_ptr<HttpService> service(new HttpService);
  TransportOptions transport_options;
  transport_options.address = options.address;
  transport_options.prefix = options.prefix;
  auto origins = AllowedOrigins::Parse(options.origins);
  if (!origins.ok()) return origins.status();
  transport_options.origins = *std::move(origins);
  transport_options.local_pages_only = options.keyless;
  transport_options.body_time = options.body_time;
  transport_options.tenant_parts = options.facts.generation_parts;
  transport_options.connections_max = options.facts.generations_max + kSpareConnections;
  if (options.tls != nullptr) {
    transport_options.tls = [tls = options.tls] { return tls->context(); };
  }
  service->parts_ = std::make_unique<Parts>(std::move(options.facts), gateway, &service->serving_);
  Parts& parts = *service->parts_;
  transport_options.door = [context = &parts.context](const HttpRequest& request,
                                                      HttpReply& reply) {
    return Admits(*context, request, reply);
  };
  if (!options.access_log.empty()) {
    auto log = AccessLog::Open(options.access_log);
    if (!log.ok()) return log.status();
    parts.log = *std::move(log);
  }
  HttpRoutes routes;
  if (options.services != nullptr) {
    AddAdminRoutes(&parts.context, std::move(options.services), &routes);
  }
  AddLifecycleRoutes(&parts.context, &routes);
  AddLoraxRoutes(&parts.context, &routes);
  AddOpenAiRoutes(&parts.context, &routes);
  AddOperatorRoutes(&parts.context, options.metrics, &routes);
  AddPageRoutes(&routes);
  AddTokenRoutes(&parts.context, &routes);
  auto transport = HttpTransport::Start(transport_options, std::move(routes), parts.log.get());
  if (!transport.ok()) return transport.status();
  parts.transport = *std::move(transport);
  return service;
}

int HttpService::port() const { return parts_->transport->port(); }

void HttpService::SetServing(bool serving) { serving_.store(serving); }

void HttpService::StartDrain() {
  SetServing(false);
  parts_->transport->StartDrain();
}

void HttpService::Stop(absl::Duration grace) {
  if (parts_ == nullptr || parts_->transport == nullptr) return;
  parts_->transport->Stop(grace);
}

}  // namespace lorica
