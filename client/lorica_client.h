// A Lorica server as a C++ object: typed calls, deadlines, retries, readable errors.
//
//   lorica::LoricaClient client({.server = "127.0.0.1:50051"});
//   lorica::v1::GenerateRequest request;
//   request.set_adapter_id("ticket-triage");
//   request.set_prompt("My invoice is wrong.");
//   absl::StatusOr<lorica::v1::GenerateResponse> answer = client.Generate(request);
//
// The messages are those of proto/lorica/v1, which is also where every field, its range
// and its default are documented; this header adds what happens around a call.
//
// Sharing: one LoricaClient owns one connection, is thread-safe, and any number of calls
// may run on it at once. Calls block their thread. Nothing connects before the first call.
//
// Errors: the code is the server's (gRPC and Abseil share them); the message is the
// server's sentence with the fields at fault behind it. The google.rpc details stay on
// the status as payloads, keyed by their type URL. Codes that the client itself adds:
//   Unavailable       nobody answers at that address (IsNoServer says so), or the
//                     connection broke and all attempts are used up
//   DeadlineExceeded  CallOptions::timeout passed
//   Cancelled         Cancellation::Cancel was called, or a chunk callback returned false
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "lorica/v1/adapters.grpc.pb.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "lorica/v1/server.grpc.pb.h"

namespace lorica {

inline constexpr char kDefaultServer[] = "127.0.0.1:50051";

// The largest message the client takes in; far above what 4 MiB of prompt can produce.
inline constexpr int kResponseBytesMax = 64 << 20;

// A call is repeated only when the server said Unavailable (or the connection broke)
// before the first token: after that a repetition could say something else. The wait is
// what the server asked for (grpc-retry-pushback-ms, then RetryInfo), else it doubles
// from initial_backoff with +-20 % jitter. A negative push-back means "do not retry".
// RollbackAdapter, DeleteAdapter and WatchAdapters are never repeated.
struct RetryOptions {
  int attempts_max = 5;  // the first one included; 1 switches retries off
  absl::Duration initial_backoff = absl::Milliseconds(100);
  absl::Duration backoff_max = absl::Seconds(5);
};

// PEM texts. With any of them the connection speaks TLS.
struct ClientTls {
  bool use = false;  // TLS though all else is empty: the system's authorities
  std::string ca;    // authorities that may have signed the server's certificate
  std::string cert;  // the client's own chain and key, where the server asks for it
  std::string key;
};

struct ClientOptions {
  std::string server = kDefaultServer;  // HOST:PORT, [IPv6]:PORT or unix:PATH
  std::string api_key;                  // sent with every call; empty: none
  std::string tenant;                   // an operator's: act for this one
  ClientTls tls;
  // How long the first call keeps trying to connect. Zero: one attempt.
  absl::Duration connect_wait = absl::ZeroDuration();
  RetryOptions retry;
};

// Ends calls from another thread, for good. One object may cover many calls, all of
// which end with Cancelled; the server frees their memory after its next step.
// Thread-safe. Must outlive the calls that use it.
class Cancellation {
 public:
  void Cancel();
  bool cancelled() const;

 private:
  friend class LoricaClient;

  // False when already cancelled: the call must not start.
  bool Attach(grpc::ClientContext* context);
  void Detach(grpc::ClientContext* context);
  // Sleeps; false as soon as cancelled.
  bool SleepFor(absl::Duration duration);

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

struct CallOptions {
  // For the whole call, retries and waiting included. Infinite: the server's own limit.
  absl::Duration timeout = absl::InfiniteDuration();
  Cancellation* cancellation = nullptr;  // borrowed; null: cannot be cancelled
};

// True when `status` means that nobody answered at the address at all, as opposed to a
// server that answered Unavailable.
bool IsNoServer(const absl::Status& status);

class LoricaClient {
 public:
  explicit LoricaClient(ClientOptions options = {});
  ~LoricaClient();
  LoricaClient(const LoricaClient&) = delete;
  LoricaClient& operator=(const LoricaClient&) = delete;

  const ClientOptions& options() const { return options_; }

  // Connects now and waits up to `patience` for the server to come up. Optional: calls
  // connect by themselves. Unavailable says what to do when nobody is there.
  absl::Status Connect(absl::Duration patience);

  // --- lorica.v1.InferenceService -------------------------------------------------

  // The id in `adapter_id` is also sent as the x-adapter-id header, so that a balancer
  // in between can send equal adapters to equal replicas.
  absl::StatusOr<v1::GenerateResponse> Generate(const v1::GenerateRequest& request,
                                                const CallOptions& options = {});

  // Runs on the calling thread, once for each chunk in order; the last one has `finish`.
  // Returning false cancels the request.
  using ChunkCallback = std::function<bool(const v1::GenerateStreamResponse& chunk)>;
  absl::Status GenerateStream(const v1::GenerateRequest& request, const ChunkCallback& on_chunk,
                              const CallOptions& options = {});

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {});

  // --- lorica.v1.AdapterService ---------------------------------------------------

  absl::StatusOr<v1::RegisterAdapterResponse> RegisterAdapter(
      const v1::RegisterAdapterRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::MergeAdaptersResponse> MergeAdapters(const v1::MergeAdaptersRequest& request,
                                                          const CallOptions& options = {});
  absl::StatusOr<v1::RollbackAdapterResponse> RollbackAdapter(
      const v1::RollbackAdapterRequest& request, const CallOptions& options = {});
  absl::StatusOr<v1::SetAliasResponse> SetAlias(const v1::SetAliasRequest& request,
                                                const CallOptions& options = {});
  absl::StatusOr<v1::CheckAdapterResponse> CheckAdapter(const v1::CheckAdapterRequest& request,
                                                        const CallOptions& options = {});
  absl::StatusOr<v1::GetAdapterResponse> GetAdapter(const v1::GetAdapterRequest& request,
                                                    const CallOptions& options = {});
  // One page. AllAdapters below follows the pages.
  absl::StatusOr<v1::ListAdaptersResponse> ListAdapters(const v1::ListAdaptersRequest& request,
                                                        const CallOptions& options = {});
  absl::StatusOr<std::vector<v1::Adapter>> AllAdapters(const std::string& prefix = "",
                                                       const CallOptions& options = {},
                                                       bool show_deleted = false);
  absl::StatusOr<v1::LoadAdapterResponse> LoadAdapter(const v1::LoadAdapterRequest& request,
                                                      const CallOptions& options = {});
  absl::StatusOr<v1::EvictAdapterResponse> EvictAdapter(const v1::EvictAdapterRequest& request,
                                                        const CallOptions& options = {});
  absl::StatusOr<v1::PinAdapterResponse> PinAdapter(const v1::PinAdapterRequest& request,
                                                    const CallOptions& options = {});
  absl::StatusOr<v1::UnpinAdapterResponse> UnpinAdapter(const v1::UnpinAdapterRequest& request,
                                                        const CallOptions& options = {});
  absl::Status DeleteAdapter(const v1::DeleteAdapterRequest& request,
                             const CallOptions& options = {});

  // Blocks until the server ends the stream, an error, or the callback returns false
  // (which ends it with OK). The first event is a snapshot of every adapter.
  using WatchCallback = std::function<bool(const v1::WatchAdaptersResponse& event)>;
  absl::Status WatchAdapters(const v1::WatchAdaptersRequest& request, const WatchCallback& on_event,
                             const CallOptions& options = {});

  // --- lorica.v1.ServerService ----------------------------------------------------

  absl::StatusOr<v1::GetStatusResponse> GetStatus(const CallOptions& options = {});
  absl::StatusOr<v1::GetUsageResponse> GetUsage(const v1::GetUsageRequest& request,
                                                const CallOptions& options = {});

 private:
  enum class Repeat { kNever, kWhenUnavailable };
  struct Attempt {
    grpc::Status status;
    bool may_repeat = true;  // false once anything of the answer was delivered
  };
  using AttemptCall = absl::FunctionRef<Attempt(grpc::ClientContext* context)>;

  // way_out: from a deadline that has passed.
  absl::Status Run(const CallOptions& options, Repeat repeat, AttemptCall call,
                   absl::string_view way_out = "allow more time");
  absl::Status RunOnce(const CallOptions& options, absl::Time deadline, AttemptCall call,
                       absl::Duration* server_delay, bool* may_repeat);
  absl::Status EnsureConnected(absl::Time deadline, const Cancellation* cancellation);
  // Waits up to `patience` on an address that refuses, up to `attempt` on a silent one.
  absl::Status ConnectWithin(absl::Duration patience, absl::Duration attempt,
                             const Cancellation* cancellation);

  template <class Response, class Method, class Stub, class Request>
  absl::StatusOr<Response> Unary(Stub* stub, Method method, const Request& request,
                                 const CallOptions& options, Repeat repeat);

  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::InferenceService::Stub> inference_;
  const std::unique_ptr<v1::AdapterService::Stub> adapters_;
  const std::unique_ptr<v1::ServerService::Stub> server_;
  std::atomic<bool> connected_once_ = false;
};

}  // namespace lorica
