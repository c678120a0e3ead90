#include "server/api/grpc_service.h"

#include <chrono>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "grpc/grpc.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "lorica/v1/adapters.grpc.pb.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "lorica/v1/server.grpc.pb.h"
#include "server/api/adapter_service.h"
#include "server/api/grpc_door.h"
#include "server/api/health_service.h"
#include "server/api/inference_service.h"
#include "server/api/message_bound.h"
#include "server/api/metadata_bound.h"
#include "server/api/ping_guard.h"
#include "server/api/read_bound.h"
#include "server/api/reset_guard.h"
#include "server/api/server_tls.h"
#include "server/api/status_map.h"
#include "server/api/work_pool.h"

namespace lorica {
namespace {

constexpr absl::Duration kStopPoll = absl::Milliseconds(5);
constexpr absl::Duration kTellTime = absl::Milliseconds(250);  // for who is cut to read that it was

// The library registers its reflection by itself, for every server of the process.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

// Counts calls from their beginning to the end of their last write.
class OpenCalls final : public grpc::ContextAllocator {
 public:
  explicit OpenCalls(std::atomic<int>* count) : count_(*count) {}
  grpc::CallbackServerContext* NewCallbackServerContext() override {
    ++count_;
    return nullptr;  // the library has room for one itself
  }
  void Release(grpc::CallbackServerContext*) override { --count_; }

 private:
  std::atomic<int>& count_;
};

// What no service has.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    const absl::Status status = absl::UnimplementedError(
        absl::StrCat("this server has no method ", absl::StripPrefix(context->method(), "/")));
    LogRefusedCall("unknown", *context, status);
    class Refusal final : public grpc::ServerGenericBidiReactor {
     public:
      void OnDone() override { delete this; }
    };
    auto* const refusal = new Refusal;
    refusal->Finish(ToGrpcStatus(status));
    return refusal;
  }
};

void SetLimits(const GrpcOptions& options, grpc::ServerBuilder* builder) {
  grpc::ResourceQuota quota("lorica");
  quota.Resize(kTransportBytesMax);
  quota.SetMaxThreads(kTransportThreadsMax);
  builder->SetResourceQuota(quota);
  builder->SetMaxReceiveMessageSize(-1);  // HeldCall looks at it
  // The library would unpack a small message to any size before it looks at the limit.
  for (const auto packing : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder->SetCompressionAlgorithmSupportStatus(packing, false);
  }
  const auto set_ms = [builder](const char* name, absl::Duration value) {
    builder->AddChannelArgument(name, static_cast<int>(absl::ToInt64Milliseconds(value)));
  };
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kTransportMetadataBytesMax);
  // Windows do not grow by themselves: an unread message takes no more than this.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kStreamWindowBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsPerConnectionMax);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (options.connection_age != absl::InfiniteDuration()) {
    set_ms(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.connection_age);
    set_ms(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kConnectionGrace);
  }
  set_ms(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMax);
  set_ms(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_time);
  set_ms(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive_timeout);
  set_ms(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kClientPingMin);
}

}  // namespace

// In order of construction: the transport, last, goes first.
struct GrpcService::Parts {
  Parts(const GrpcOptions& options, ServerFacts facts, const std::atomic<ServingState>* state,
        Gateway* gateway)
      : inference(gateway, {&work, &delivery, &adapter_work}),
        adapters(gateway, {&work, &delivery, &adapter_work}, options.block_bytes),
        status(std::move(facts), state, gateway),
        health(state),
        tenant_turns(kTenantTurns),
        open_turns(kOpenTurns),
        bytes(options.messages_bytes, options.tenant_parts),
        intakes{{v1::InferenceService::service_full_name(), gateway, {&tenant_turns, &bytes}},
                {v1::AdapterService::service_full_name(), gateway, {&tenant_turns, &bytes}},
                {v1::ServerService::service_full_name(), gateway, {&tenant_turns, &bytes}},
                {grpc::health::v1::Health::service_full_name(),
                 nullptr,
                 {&open_turns, &bytes, kOpenMessageBytesMax}}},
        work(options.work_threads, options.work_queue),
        delivery(kDeliveryThreads, options.work_queue),
        adapter_work(kAdapterWorkThreads, options.work_queue) {
    AddMethods();
  }
  void AddMethods();

  InferenceService inference;
  AdapterService adapters;
  ServerService status;
  HealthService health;
  MessageTurns tenant_turns;
  MessageTurns open_turns;
  BodyRoom bytes;
  CallIntake intakes[4];
  UnknownMethods unknown;
  WorkPool work;  // what is queued may still name the services
  WorkPool delivery;
  WorkPool adapter_work;
  std::atomic<int> open_calls{0};
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<GrpcDoor> door;
  // Waits for what is open, once the port is closed. It is there from the start, for the process
  // may have no thread more in the end.
  std::thread closing;
  std::atomic<bool> close_begun{false};
  absl::Notification may_close;
  std::atomic<bool> closed{false};
};

void GrpcService::Parts::AddMethods() {
  auto& [of_inference, of_adapters, of_server, of_health] = intakes;
  constexpr auto kGenerates = IntakeChecks::kCallerAndRoom;
  of_inference.Add("Generate", &inference, &InferenceService::Generate, kGenerates);
  of_inference.Add("GenerateStream", &inference, &InferenceService::GenerateStream, kGenerates);
  of_inference.Add("Tokenize", &inference, &InferenceService::Tokenize);
  of_adapters.Add("RegisterAdapter", &adapters, &AdapterService::RegisterAdapter);
  of_adapters.Add("MergeAdapters", &adapters, &AdapterService::MergeAdapters);
  of_adapters.Add("RollbackAdapter", &adapters, &AdapterService::RollbackAdapter);
  of_adapters.Add("SetAlias", &adapters, &AdapterService::SetAlias);
  of_adapters.Add("CheckAdapter", &adapters, &AdapterService::CheckAdapter);
  of_adapters.Add("GetAdapter", &adapters, &AdapterService::GetAdapter);
  of_adapters.Add("ListAdapters", &adapters, &AdapterService::ListAdapters);
  of_adapters.Add("LoadAdapter", &adapters, &AdapterService::LoadAdapter);
  of_adapters.Add("EvictAdapter", &adapters, &AdapterService::EvictAdapter);
  of_adapters.Add("PinAdapter", &adapters, &AdapterService::PinAdapter);
  of_adapters.Add("UnpinAdapter", &adapters, &AdapterService::UnpinAdapter);
  of_adapters.Add("DeleteAdapter", &adapters, &AdapterService::DeleteAdapter);
  of_adapters.Add("WatchAdapters", &adapters, &AdapterService::WatchAdapters);
  of_server.Add("GetStatus", &status, &ServerService::GetStatus);
  of_server.Add("GetUsage", &status, &ServerService::GetUsage);
  of_health.Add("Check", &health, &HealthService::Check);
  of_health.Add("Watch", &health, &HealthService::Watch);
}

GrpcService::GrpcService() = default;

GrpcService::~GrpcService() { Stop(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcService>> GrpcService::Start(const GrpcOptions& options,
                                                                ServerFacts facts,
                                                                Gateway* gateway) {
  std::unique_ptr<GrpcService> service(new GrpcService);
  service->parts_ = std::make_unique<Parts>(options, std::move(facts), &service->state_, gateway);
  const absl::Status status = service->Listen(options);
  if (!status.ok()) return status;
  return service;
}

absl::Status GrpcService::Listen(const GrpcOptions& options) {
  if (absl::Status s = CheckMessageBound(); !s.ok()) return s;
  if (absl::Status s = CheckMetadataBound(); !s.ok()) return s;
  if (absl::Status s = CheckReadBound(); !s.ok()) return s;
  if (absl::Status s = CheckCallBacklog(); !s.ok()) return s;
  if (absl::Status s = CheckPingGuard(); !s.ok()) return s;
  grpc::ServerBuilder builder;
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(options, &builder);
  auto door = GrpcDoor::Make(
      options.address,
      options.tls == nullptr ? grpc::InsecureServerCredentials() : options.tls->credentials(),
      &builder);
  if (!door.ok()) return door.status();
  for (CallIntake& intake : parts_->intakes) builder.RegisterService(&intake);
  builder.RegisterCallbackGenericService(&parts_->unknown);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeResetGuard());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  builder.SetContextAllocator(std::make_unique<OpenCalls>(&parts_->open_calls));
  parts_->server = builder.BuildAndStart();
  if (parts_->server == nullptr) return absl::UnavailableError("gRPC's server cannot be made");
  parts_->door = *std::move(door);
  try {
    parts_->closing = std::thread([&parts = *parts_] {
      parts.may_close.WaitForNotification();
      parts.server->Shutdown(std::chrono::system_clock::time_point::max());
      parts.closed.store(true);
    });
    parts_->door->Open();
  } catch (const std::system_error&) {
    parts_->may_close.Notify();
    if (parts_->closing.joinable()) parts_->closing.join();
    parts_->server = nullptr;
    return absl::UnavailableError("the process may have no thread more");
  }
  port_ = parts_->door->port();
  SetState(ServingState::kStarting);
  return absl::OkStatus();
}

void GrpcService::SetState(ServingState state) {
  state_.store(state);
  parts_->health.Tell();
}

std::shared_ptr<grpc::Channel> GrpcService::InProcess() {
  return parts_->server->InProcessChannel({});
}

void GrpcService::StartDrain() {
  SetState(ServingState::kDraining);
  parts_->adapters.StartDrain();
}

void GrpcService::CloseDoor() {
  if (parts_->server == nullptr || parts_->close_begun.exchange(true)) return;
  parts_->health.EndWatches();
  parts_->door->Close();
  parts_->may_close.Notify();
}

void GrpcService::Stop(absl::Duration grace) {
  if (parts_->server == nullptr) return;
  CloseDoor();
  const absl::Time end = SteadyNow() + grace;
  while (parts_->open_calls.load() > 0 && SteadyNow() < end) absl::SleepFor(kStopPoll);
  // The library waits for connections, also for those without a call, and for one that was made
  // a moment ago.
  const absl::Time told = SteadyNow() + kTellTime;
  while (!parts_->closed.load()) {
    grpc_server_cancel_all_calls(parts_->server->c_server());
    if (SteadyNow() >= told) parts_->door->EndConnections();
    absl::SleepFor(kStopPoll);
  }
  parts_->closing.join();
  parts_->server->Wait();
  parts_->server = nullptr;
}

}  // namespace lorica
