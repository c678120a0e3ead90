// The HTTP face: one port with the routes of LoRAX, OpenAI and vLLM, health and metrics.
//
// A second translation of the gateway, beside gRPC: no feature lives here alone. Owns the
// transport and two small work pools. The caller keeps the engine's thread running until Stop
// has returned. All methods may be called from any thread; Start, Stop once each.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "server/api/gateway.h"
#include "server/http/generation.h"
#include "server/http/metrics.h"

namespace lorica {

class ServerTls;

inline constexpr int kSpareConnections = 64;  // beyond those that generate

struct HttpOptions {
  std::string address = "127.0.0.1:8080";  // port 0: any free one
  std::string access_log;                  // a file, "-", or none
  std::string prefix;                      // see TransportOptions
  std::string origins;                     // pages that may call, see AllowedOrigins
  absl::Duration body_time = absl::Seconds(60);
  bool keyless = true;             // nobody has to show a key
  const ServerTls* tls = nullptr;  // null: plain; outlives the service
  HttpFacts facts;
  Metrics* metrics = nullptr;               // shown at /metrics; outlives the service
  std::shared_ptr<grpc::Channel> services;  // the operators' gRPC services; null: not served
};

class HttpService {
 public:
  // The gateway outlives it. Unavailable: the address cannot be listened on.
  // FailedPrecondition: the access log cannot be written. InvalidArgument: `origins`.
  static absl::StatusOr<std::unique_ptr<HttpService>> Start(HttpOptions options, Gateway* gateway);
  ~HttpService();

  int port() const;
  // Health says 503 until told otherwise; the gateway decides what is taken.
  void SetServing(bool serving);
  // Not serving; connections end with their request.
  void StartDrain();
  // No new connections; those still open after `grace` are cut.
  void Stop(absl::Duration grace);

 private:
  struct Parts;
  HttpService();

  std::atomic<bool> serving_{false};
  std::unique_ptr<Parts> parts_;
};

}  // namespace lorica
