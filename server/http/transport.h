// The HTTP server proper: connections, limits, request ids, the access log, dispatch.
//
// cpp-httplib parses heads and bodies and writes replies; everything that bounds what a
// peer may cost is ours: threads, bytes and time of heads, bodies and writes. Each
// connection has a thread, on which its routes run. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/api/body_room.h"
#include "server/http/access_log.h"
#include "server/http/exchange.h"
#include "server/http/origins.h"

struct ssl_ctx_st;

namespace lorica {

inline constexpr int64_t kHttpBodyBytesMax = 8 << 20;  // 4 MiB of text, escaped
inline constexpr absl::Duration kHttpKeepAlive = absl::Seconds(75);

struct TransportOptions {
  std::string address;
  std::string prefix;  // "/tenant/x": paths beneath it are served as if they stood at the root
  // Pages of other names than localhost may not send bodies: without keys, a page whose name is
  // made to mean this machine would be as good as its user.
  bool local_pages_only = false;
  AllowedOrigins origins;  // of pages that may send them all the same, and read the answers
  int connections_max = 320;
  int64_t body_bytes = kHttpBodyBytesMax;
  int64_t bodies_bytes = kBodiesBytesMax;  // held at a time
  int tenant_parts = 1;                    // one tenant's may be one of so many parts of these
  absl::Duration keep_alive = kHttpKeepAlive;
  absl::Duration head_time = absl::Seconds(10);
  absl::Duration body_time = absl::Seconds(60);
  absl::Duration write_time = absl::Seconds(30);
  // Asked before a body is read; false: it has answered, and the connection ends. Notes whose
  // the body is. Null: everybody's is read.
  std::function<bool(const HttpRequest&, HttpReply&)> door;
  // Asked for each connection; null, or returning null: plain.
  std::function<std::shared_ptr<ssl_ctx_st>()> tls;
};

// Path to method to handler. A path that ends in "*" serves all that begin so. HEAD is
// answered by GET.
using HttpRoutes = std::map<std::string, std::map<std::string, HttpHandler>>;

class HttpTransport {
 public:
  // `log` may be null and outlives it. Unavailable: the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<HttpTransport>> Start(const TransportOptions& options,
                                                              HttpRoutes routes, AccessLog* log);
  ~HttpTransport();

  int port() const;
  // Connections end with the request they have.
  void StartDrain();
  // No new connections; what is open ends within `grace` or is cut.
  void Stop(absl::Duration grace);

 private:
  class Library;
  HttpTransport();

  std::unique_ptr<Library> library_;
  std::thread accept_thread_;
};

}  // namespace lorica
