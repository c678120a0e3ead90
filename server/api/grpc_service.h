// The gRPC face: one port with the three services of lorica/v1, health and reflection.
//
// Owns the transport and the pools for work, for delivery and for adapters. The caller keeps the
// engine's thread running until Stop has returned, so that open calls can end. All
// methods may be called from any thread; Start, Stop once each.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "server/api/call_backlog.h"
#include "server/api/call_intake.h"
#include "server/api/gateway.h"
#include "server/api/message_turns.h"
#include "server/api/server_service.h"

namespace lorica {

inline constexpr int kTransportBytesMax = 256 << 20;  // buffers of all connections
inline constexpr int kTransportThreadsMax = 8;        // those of reflection, a call each

// Messages that are read at a time, and calls that wait for that: those of tenants, or, where
// nobody needs a key, of connections, and those of services that ask for none.
inline constexpr MessageTurnsLimits kTenantTurns = {
    .reading_max = 24, .waiting_max = 1024, .lane_parts = 2};
inline constexpr MessageTurnsLimits kOpenTurns = {
    .reading_max = 4, .waiting_max = 128, .lane_parts = 4};
inline constexpr int64_t kMessagesBytesMax = 256 << 20;  // of calls that are open
inline constexpr int kStreamWindowBytes = 65535;         // of a message that nobody reads yet
static_assert(int64_t{kTenantTurns.reading_max + kOpenTurns.reading_max} * kMessageBytesMax +
                  int64_t{kTenantTurns.waiting_max + kOpenTurns.waiting_max} * kStreamWindowBytes <
              int64_t{kTransportBytesMax} * 3 / 4);
inline constexpr int kDeliveryThreads = 2;
inline constexpr absl::Duration kHandshakeMax = absl::Seconds(10);  // TLS, and HTTP/2's preface
inline constexpr absl::Duration kKeepaliveTime = absl::Seconds(60);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(20);
inline constexpr absl::Duration kClientPingMin = absl::Seconds(10);

// After the longest life of a connection its streams have this much longer to end: a
// generation that has just begun may take all of its time.
inline constexpr absl::Duration kConnectionGrace = absl::Minutes(11);

class ServerTls;

struct GrpcOptions {
  std::string address = "127.0.0.1:50051";  // port 0: any free one
  const ServerTls* tls = nullptr;           // null: plain; only Start looks at it
  bool reflection = true;
  // Then clients are asked to connect anew, here or elsewhere. Infinite: never.
  absl::Duration connection_age = absl::InfiniteDuration();
  absl::Duration keepalive_time = kKeepaliveTime;  // since it was heard, until a peer is asked
  absl::Duration keepalive_timeout = kKeepaliveTimeout;  // for its answer
  int work_threads = 2;
  int work_queue = 1024;    // calls that wait to be looked at
  int64_t block_bytes = 0;  // of the arena, for CheckAdapter
  int64_t messages_bytes = kMessagesBytesMax;
  int tenant_parts = 1;  // one tenant's may be one of so many parts of messages_bytes
};

class GrpcService {
 public:
  // The gateway outlives it. Unavailable: the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<GrpcService>> Start(const GrpcOptions& options,
                                                            ServerFacts facts, Gateway* gateway);
  ~GrpcService();

  int port() const { return port_; }
  ServingState state() const { return state_.load(); }
  void SetState(ServingState state);
  // The services without a socket, for calls from this process.
  std::shared_ptr<grpc::Channel> InProcess();
  // Says NOT_SERVING and ends watches; calls are still taken.
  void StartDrain();
  // Takes no new connection, and asks who is connected to go elsewhere; open calls go on.
  // A call that crosses this on its way is CANCELLED by the library.
  void CloseDoor();
  // Ends the transport as soon as no call is open; those that are after `grace` are cut.
  void Stop(absl::Duration grace);

 private:
  struct Parts;
  GrpcService();
  absl::Status Listen(const GrpcOptions& options);

  std::atomic<ServingState> state_{ServingState::kStarting};
  int port_ = 0;
  std::unique_ptr<Parts> parts_;
};

}  // namespace lorica
