#include "client/lorica_client.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/rpc_status.h"
#include "client/steady_time.h"
#include "grpcpp/grpcpp.h"

namespace lorica {
namespace {

constexpr char kNoServerUrl[] = "lorica/no-server";
constexpr char kAdapterHeader[] = "x-adapter-id";
constexpr char kPushbackTrailer[] = "grpc-retry-pushback-ms";
// A header value that no rule of HTTP/2 or of a balancer objects to.
constexpr size_t kAdapterHeaderBytesMax = 256;
// How long one attempt to reach an address that neither answers nor refuses may take.
constexpr absl::Duration kConnectAttempt = absl::Seconds(5);
// How soon a cancellation is noticed while connecting.
constexpr absl::Duration kConnectTick = absl::Milliseconds(100);
// A server that asks for more patience than this is treated as gone.
constexpr absl::Duration kServerDelayMax = absl::Seconds(60);
constexpr absl::Duration kNoDelayAsked = absl::Nanoseconds(-1);
constexpr int kListPage = 1000;

bool UsesTls(const ClientTls& tls) { return tls.use || !tls.ca.empty() || !tls.cert.empty(); }

std::shared_ptr<grpc::ChannelCredentials> MakeCredentials(const ClientTls& tls) {
  if (!UsesTls(tls)) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({tls.ca, tls.key, tls.cert});
}

std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kResponseBytesMax);
  arguments.SetMaxSendMessageSize(-1);  // the server's limit decides, with its own sentence
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  // What an attempt may take, greetings of TCP, TLS and HTTP/2 together, before gRPC gives it up.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
                   static_cast<int>(absl::ToInt64Milliseconds(kConnectAttempt)));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Clients of one process must not share a connection behind each other's back: the
  // server bounds streams per connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Retries are ours: they know what was already delivered.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(options.server, MakeCredentials(options.tls), arguments);
}

// What else may be wrong at an address where nobody answers.
absl::string_view OrTls(const ClientTls& tls) {
  if (!UsesTls(tls)) return ". Or it speaks TLS: add --tls, or --tls-ca FILE";
  if (!tls.cert.empty()) {
    return ". Or it does not speak TLS, or not with a certificate of --tls-ca, or it does not know "
           "who signed --tls-cert";
  }
  return ". Or it does not speak TLS, or not with a certificate of --tls-ca, or it asks for one of "
         "yours: add --tls-cert FILE --tls-key FILE";
}

absl::Status NoServer(const ClientOptions& options) {
  const std::string& server = options.server;
  const bool port = absl::StrContains(server, ':');
  absl::Status status = absl::UnavailableError(absl::StrCat(
      "no gRPC server at ", server, port ? "" : ", which names no port",
      ": start one with `loricad --model MODEL --adapters-dir DIR --grpc-address ",
      port ? server : "HOST:PORT", "`, or name another with --server HOST:PORT or LORICA_SERVER",
      OrTls(options.tls)));
  status.SetPayload(kNoServerUrl, absl::Cord());
  return status;
}

absl::Status CancelledByCaller() { return absl::CancelledError("cancelled by the caller"); }

bool FitsHeader(const std::string& adapter_id) {
  return !adapter_id.empty() && adapter_id.size() <= kAdapterHeaderBytesMax &&
         std::all_of(adapter_id.begin(), adapter_id.end(),
                     [](unsigned char c) { return absl::ascii_isgraph(c); });
}

double Jitter() {
  thread_local std::minstd_rand generator(std::random_device{}());
  return std::uniform_real_distribution<double>(-0.2, 0.2)(generator);
}

// Nothing asked: kNoDelayAsked. Asked not to retry: infinite.
absl::Duration ServerDelay(const grpc::ClientContext& context, const absl::Status& status) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto pushback = trailers.find(kPushbackTrailer);
  if (pushback != trailers.end()) {
    int64_t milliseconds = -1;
    const absl::string_view text(pushback->second.data(), pushback->second.size());
    const bool valid = absl::SimpleAtoi(text, &milliseconds) && milliseconds >= 0;
    return valid ? absl::Milliseconds(milliseconds) : absl::InfiniteDuration();
  }
  return RetryInfoDelay(status).value_or(kNoDelayAsked);
}

// When the time is up.
constexpr char kFewerTokens[] = "allow more time or ask for fewer tokens";

bool HasDeadline(absl::Time deadline) { return deadline != absl::InfiniteFuture(); }

// For gRPC, which counts from now by the monotonic clock.
gpr_timespec After(absl::Duration left) {
  return gpr_time_from_nanos(absl::ToInt64Nanoseconds(left), GPR_TIMESPAN);
}

// The plain texts of the transport say nothing about what to do.
absl::Status Explain(absl::Status status, const CallOptions& options, const std::string& server,
                     absl::string_view way_out) {
  std::string message(status.message());
  if (absl::IsDeadlineExceeded(status) && options.timeout != absl::InfiniteDuration()) {
    message = absl::StrCat("no complete answer within ", absl::FormatDuration(options.timeout),
                           ": ", way_out, " [", message, "]");
  } else if (absl::IsCancelled(status) && options.cancellation != nullptr &&
             options.cancellation->cancelled()) {
    message = "cancelled by the caller";
  } else if (message.empty()) {
    message = absl::StrCat(server, " answered ", absl::StatusCodeToString(status.code()),
                           " without a message: its log may say more");
  }
  absl::Status explained(status.code(), message);
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    explained.SetPayload(url, payload);
  });
  return explained;
}

}  // namespace

// --- Cancellation ------------------------------------------------------------------

void Cancellation::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

bool Cancellation::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool Cancellation::Attach(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  if (!cancelled_) contexts_.insert(context);
  return !cancelled_;
}

void Cancellation::Detach(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.erase(context);
}

bool Cancellation::SleepFor(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), duration);
}

bool IsNoServer(const absl::Status& status) { return status.GetPayload(kNoServerUrl).has_value(); }

// --- LoricaClient ------------------------------------------------------------------

LoricaClient::LoricaClient(ClientOptions options)
    : options_(std::move(options)),
      channel_(MakeChannel(options_)),
      inference_(v1::InferenceService::NewStub(channel_)),
      adapters_(v1::AdapterService::NewStub(channel_)),
      server_(v1::ServerService::NewStub(channel_)) {}

LoricaClient::~LoricaClient() = default;

absl::Status LoricaClient::Connect(absl::Duration patience) {
  return ConnectWithin(patience, std::max(patience, kConnectAttempt), /*cancellation=*/nullptr);
}

absl::Status LoricaClient::ConnectWithin(absl::Duration patience, absl::Duration attempt,
                                         const Cancellation* cancellation) {
  const absl::Time start = SteadyTime();
  grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY) {
    const bool refused = state == GRPC_CHANNEL_TRANSIENT_FAILURE;
    const absl::Time end = start + (refused ? patience : attempt);
    if (state == GRPC_CHANNEL_SHUTDOWN || SteadyTime() >= end) return NoServer(options_);
    if (cancellation != nullptr && cancellation->cancelled()) return CancelledByCaller();
    channel_->WaitForStateChange(state, After(std::min(end - SteadyTime(), kConnectTick)));
    state = channel_->GetState(/*try_to_connect=*/true);
  }
  connected_once_ = true;
  return absl::OkStatus();
}

absl::Status LoricaClient::EnsureConnected(absl::Time deadline, const Cancellation* cancellation) {
  const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
  if (state == GRPC_CHANNEL_READY && connected_once_) return absl::OkStatus();
  const absl::Duration left = deadline - SteadyTime();
  return ConnectWithin(std::min(options_.connect_wait, left),
                       std::min(std::max(options_.connect_wait, kConnectAttempt), left),
                       cancellation);
}

absl::Status LoricaClient::RunOnce(const CallOptions& options, absl::Time deadline,
                                   AttemptCall call, absl::Duration* server_delay,
                                   bool* may_repeat) {
  *server_delay = kNoDelayAsked;
  *may_repeat = true;
  if (absl::Status status = EnsureConnected(deadline, options.cancellation); !status.ok()) {
    return status;
  }
  grpc::ClientContext context;
  if (HasDeadline(deadline)) context.set_deadline(After(deadline - SteadyTime()));
  if (!options_.api_key.empty()) {
    context.AddMetadata("authorization", absl::StrCat("Bearer ", options_.api_key));
  }
  if (!options_.tenant.empty()) context.AddMetadata("x-tenant-id", options_.tenant);
  if (options.cancellation != nullptr && !options.cancellation->Attach(&context)) {
    return CancelledByCaller();
  }
  const Attempt attempt = call(&context);
  if (options.cancellation != nullptr) options.cancellation->Detach(&context);
  absl::Status status = ToAbslStatus(attempt.status);
  const bool cancelled_here = options.cancellation != nullptr && options.cancellation->cancelled();
  if (absl::IsCancelled(status) && !cancelled_here && attempt.may_repeat) {
    // gRPC ends a call so when it arrives in the last moments of a server.
    status = absl::UnavailableError("the server ended the call, it is shutting down");
  }
  *server_delay = ServerDelay(context, status);
  *may_repeat = attempt.may_repeat;
  return status;
}

absl::Status LoricaClient::Run(const CallOptions& options, Repeat repeat, AttemptCall call,
                               absl::string_view way_out) {
  const absl::Time deadline = SteadyTime() + options.timeout;
  const int attempts_max = repeat == Repeat::kNever ? 1 : options_.retry.attempts_max;
  for (int attempt = 1;; ++attempt) {
    absl::Duration delay;
    bool may_repeat = true;
    absl::Status status = RunOnce(options, deadline, call, &delay, &may_repeat);
    if (status.ok()) return status;
    // An address that never answered is more likely wrong than busy.
    const bool hopeless = IsNoServer(status) && !connected_once_;
    if (!absl::IsUnavailable(status) || !may_repeat || hopeless || attempt >= attempts_max) {
      return Explain(std::move(status), options, options_.server, way_out);
    }
    if (delay < absl::ZeroDuration()) {
      delay = BackoffDelay(attempt, options_.retry.initial_backoff, options_.retry.backoff_max,
                           Jitter());
    }
    if (delay > kServerDelayMax || SteadyTime() + delay >= deadline) {
      return Explain(std::move(status), options, options_.server, way_out);
    }
    if (options.cancellation == nullptr) {
      absl::SleepFor(delay);
    } else if (!options.cancellation->SleepFor(delay)) {
      return CancelledByCaller();
    }
  }
}

template <class Response, class Method, class Stub, class Request>
absl::StatusOr<Response> LoricaClient::Unary(Stub* stub, Method method, const Request& request,
                                             const CallOptions& options, Repeat repeat) {
  Response response;
  absl::Status status = Run(options, repeat, [&](grpc::ClientContext* context) {
    response.Clear();
    return Attempt{(stub->*method)(context, request, &response)};
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::GenerateResponse> LoricaClient::Generate(const v1::GenerateRequest& request,
                                                            const CallOptions& options) {
  v1::GenerateResponse response;
  absl::Status status = Run(
      options, Repeat::kWhenUnavailable,
      [&](grpc::ClientContext* context) {
        response.Clear();
        if (FitsHeader(request.adapter_id()))
          context->AddMetadata(kAdapterHeader, request.adapter_id());
        return Attempt{inference_->Generate(context, request, &response)};
      },
      kFewerTokens);
  if (!status.ok()) return status;
  return response;
}

absl::Status LoricaClient::GenerateStream(const v1::GenerateRequest& request,
                                          const ChunkCallback& on_chunk,
                                          const CallOptions& options) {
  bool stopped = false;
  absl::Status status = Run(
      options, Repeat::kWhenUnavailable,
      [&](grpc::ClientContext* context) {
        if (FitsHeader(request.adapter_id()))
          context->AddMetadata(kAdapterHeader, request.adapter_id());
        auto reader = inference_->GenerateStream(context, request);
        v1::GenerateStreamResponse chunk;
        bool delivered = false;
        bool finished = false;
        while (!stopped && reader->Read(&chunk)) {
          delivered = true;
          finished = chunk.has_finish();
          stopped = !on_chunk(chunk) && !finished;
        }
        if (stopped) context->TryCancel();
        grpc::Status end = reader->Finish();
        if (end.ok() && !finished && !stopped) {
          end =
              grpc::Status(grpc::StatusCode::DATA_LOSS, "the stream ended without its last chunk");
        }
        return Attempt{end, !delivered};
      },
      kFewerTokens);
  return stopped ? absl::CancelledError("stopped by the caller") : status;
}

absl::StatusOr<v1::TokenizeResponse> LoricaClient::Tokenize(const v1::TokenizeRequest& request,
                                                            const CallOptions& options) {
  return Unary<v1::TokenizeResponse>(inference_.get(), &v1::InferenceService::Stub::Tokenize,
                                     request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::RegisterAdapterResponse> LoricaClient::RegisterAdapter(
    const v1::RegisterAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::RegisterAdapterResponse>(adapters_.get(),
                                            &v1::AdapterService::Stub::RegisterAdapter, request,
                                            options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::MergeAdaptersResponse> LoricaClient::MergeAdapters(
    const v1::MergeAdaptersRequest& request, const CallOptions& options) {
  return Unary<v1::MergeAdaptersResponse>(adapters_.get(), &v1::AdapterService::Stub::MergeAdapters,
                                          request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::RollbackAdapterResponse> LoricaClient::RollbackAdapter(
    const v1::RollbackAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::RollbackAdapterResponse>(adapters_.get(),
                                            &v1::AdapterService::Stub::RollbackAdapter, request,
                                            options, Repeat::kNever);
}

absl::StatusOr<v1::SetAliasResponse> LoricaClient::SetAlias(const v1::SetAliasRequest& request,
                                                            const CallOptions& options) {
  return Unary<v1::SetAliasResponse>(adapters_.get(), &v1::AdapterService::Stub::SetAlias, request,
                                     options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::CheckAdapterResponse> LoricaClient::CheckAdapter(
    const v1::CheckAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::CheckAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::CheckAdapter,
                                         request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::GetAdapterResponse> LoricaClient::GetAdapter(
    const v1::GetAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::GetAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::GetAdapter,
                                       request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::ListAdaptersResponse> LoricaClient::ListAdapters(
    const v1::ListAdaptersRequest& request, const CallOptions& options) {
  return Unary<v1::ListAdaptersResponse>(adapters_.get(), &v1::AdapterService::Stub::ListAdapters,
                                         request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<std::vector<v1::Adapter>> LoricaClient::AllAdapters(const std::string& prefix,
                                                                   const CallOptions& options,
                                                                   bool show_deleted) {
  std::vector<v1::Adapter> adapters;
  v1::ListAdaptersRequest request;
  request.set_show_deleted(show_deleted);
  request.set_prefix(prefix);
  request.set_page_size(kListPage);
  do {
    absl::StatusOr<v1::ListAdaptersResponse> page = ListAdapters(request, options);
    if (!page.ok()) return page.status();
    adapters.insert(adapters.end(), page->adapters().begin(), page->adapters().end());
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return adapters;
}

absl::StatusOr<v1::LoadAdapterResponse> LoricaClient::LoadAdapter(
    const v1::LoadAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::LoadAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::LoadAdapter,
                                        request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::EvictAdapterResponse> LoricaClient::EvictAdapter(
    const v1::EvictAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::EvictAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::EvictAdapter,
                                         request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::PinAdapterResponse> LoricaClient::PinAdapter(
    const v1::PinAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::PinAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::PinAdapter,
                                       request, options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::UnpinAdapterResponse> LoricaClient::UnpinAdapter(
    const v1::UnpinAdapterRequest& request, const CallOptions& options) {
  return Unary<v1::UnpinAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::UnpinAdapter,
                                         request, options, Repeat::kWhenUnavailable);
}

absl::Status LoricaClient::DeleteAdapter(const v1::DeleteAdapterRequest& request,
                                         const CallOptions& options) {
  return Unary<v1::DeleteAdapterResponse>(adapters_.get(), &v1::AdapterService::Stub::DeleteAdapter,
                                          request, options, Repeat::kNever)
      .status();
}

absl::Status LoricaClient::WatchAdapters(const v1::WatchAdaptersRequest& request,
                                         const WatchCallback& on_event,
                                         const CallOptions& options) {
  bool stopped = false;
  absl::Status status = Run(options, Repeat::kNever, [&](grpc::ClientContext* context) {
    auto reader = adapters_->WatchAdapters(context, request);
    v1::WatchAdaptersResponse event;
    while (!stopped && reader->Read(&event)) stopped = !on_event(event);
    if (stopped) context->TryCancel();
    return Attempt{reader->Finish()};
  });
  if (absl::IsDeadlineExceeded(status) && options.timeout != absl::InfiniteDuration()) {
    return absl::DeadlineExceededError(absl::StrCat(
        "watched for ", absl::FormatDuration(options.timeout), ", the whole of its timeout"));
  }
  return stopped ? absl::OkStatus() : status;
}

absl::StatusOr<v1::GetStatusResponse> LoricaClient::GetStatus(const CallOptions& options) {
  return Unary<v1::GetStatusResponse>(server_.get(), &v1::ServerService::Stub::GetStatus,
                                      v1::GetStatusRequest(), options, Repeat::kWhenUnavailable);
}

absl::StatusOr<v1::GetUsageResponse> LoricaClient::GetUsage(const v1::GetUsageRequest& request,
                                                            const CallOptions& options) {
  return Unary<v1::GetUsageResponse>(server_.get(), &v1::ServerService::Stub::GetUsage, request,
                                     options, Repeat::kWhenUnavailable);
}

}  // namespace lorica
