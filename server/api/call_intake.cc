#include "server/api/call_intake.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "grpc/grpc.h"
#include "grpc/support/time.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "server/api/call_pump.h"
#include "server/api/field_error.h"
#include "server/api/metadata_bound.h"
#include "server/api/refusal_log.h"
#include "server/api/socket_name.h"
#include "server/api/status_map.h"

namespace lorica {
namespace {

absl::Status CheckMetadata(const grpc::CallbackServerContext& context) {
  constexpr size_t kHeaderBytes = 32;
  size_t bytes = 0;
  for (const auto& [name, value] : context.client_metadata()) {
    bytes += name.size() + value.size() + kHeaderBytes;
  }
  if (bytes <= kMetadataBytesMax) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the call's metadata have ", bytes, " bytes, more than ", kMetadataBytesMax));
}

bool HasPassed(const gpr_timespec& deadline) {
  return gpr_time_cmp(deadline, gpr_now(deadline.clock_type)) <= 0;
}

}  // namespace

void LogRefusedCall(absl::string_view method, const grpc::ServerContextBase& context,
                    const absl::Status& status) {
  if (!EndsForAHead(PeerText(context.peer()))) LogRefusal(method, "", status, SteadyNow());
}

void HeldCall::Begin(absl::StatusOr<IntakeCaller> caller) {
  if (!caller.ok()) return Refuse(caller.status());
  tenant_ = std::move(caller->tenant);
  const absl::Status status = rooms_.turns->Enter(this, caller->lane);
  if (!status.ok()) Refuse(status);
}

void HeldCall::Refuse(const absl::Status& status) {
  LogRefusedCall(method_, *context_, status);
  Finish(ToGrpcStatus(status));
}

// So that what has come of the message is let go at once, also where the client reads nothing; it
// hears the reason all the same.
void HeldCall::GiveWay(const absl::Status& why) {
  gave_way_ = why;
  grpc_call_cancel_with_status(context_->c_call(), static_cast<grpc_status_code>(why.code()),
                               CleanErrorText(why.message()).c_str(), nullptr);
  if (is_last_.exchange(true)) Refuse(gave_way_);
}

absl::Status HeldCall::WhyNoMessage() const {
  if (!context_->IsCancelled()) return absl::InvalidArgumentError("the call has no message");
  if (HasPassed(context_->raw_deadline())) {
    return absl::DeadlineExceededError("the deadline passed before the message was here");
  }
  return absl::CancelledError("the client cancelled the call before its message was here");
}

absl::Status HeldCall::CheckFrame() {
  if (IsMisframed(bytes_)) {
    return absl::InvalidArgumentError(
        "the first byte of the message's frame is neither 0 nor 1: it says whether the message is "
        "compressed");
  }
  if (IsCompressed(bytes_)) {
    return absl::UnimplementedError(
        "the message is compressed, and its grpc-encoding is none, or none that is known; send it "
        "without compression");
  }
  if (IsTooLarge(bytes_) || static_cast<int64_t>(bytes_.Length()) > rooms_.message_bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the message has more than ", rooms_.message_bytes_max, " bytes"));
  }
  if (bytes_.Length() <= kSmallBodyBytes) return absl::OkStatus();
  held_.emplace(rooms_.bytes, tenant_);
  if (held_->Take(static_cast<int64_t>(bytes_.Length()))) return absl::OkStatus();
  return TryLater("the messages of calls that are open take all the room; try again");
}

void HeldCall::OnReadDone(bool ok) {
  if (!rooms_.turns->Leave(this)) {
    bytes_.Clear();
    if (is_last_.exchange(true)) Refuse(gave_way_);
    return;
  }
  absl::Status status = ok ? absl::OkStatus() : WhyNoMessage();
  if (status.ok()) status = CheckFrame();
  if (status.ok()) status = Handle(&bytes_);
  if (!status.ok()) Refuse(status);
}

void HeldCall::SetReactor(grpc::internal::ServerReactor* reactor) {
  {
    absl::MutexLock lock(&mutex_);
    reactor_ = reactor;
    if (!cancelled_) return;
  }
  reactor->OnCancel();
}

void HeldCall::OnCancel() {
  grpc::internal::ServerReactor* reactor = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    reactor = reactor_;
  }
  if (reactor != nullptr) {
    reactor->OnCancel();
  } else if (rooms_.turns->GiveUp(this)) {
    Refuse(WhyNoMessage());
  }
}

void HeldCall::OnDone() {
  grpc::internal::ServerReactor* reactor = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    reactor = reactor_;
  }
  if (reactor != nullptr) reactor->OnDone();
  delete this;
}

// False: it is too large for Protobuf.
bool HeldCall::Serialize(const google::protobuf::Message& message) {
  bool own = false;
  bytes_.Clear();
  return grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &bytes_, &own)
      .ok();
}

void HeldCall::Send(const google::protobuf::Message& message, grpc::WriteOptions options) {
  if (!Serialize(message)) context_->TryCancel();  // so the write fails
  StartWrite(&bytes_, options);
}

void HeldCall::SendAndFinish(const google::protobuf::Message& message, grpc::WriteOptions options,
                             grpc::Status status) {
  if (!Serialize(message)) {
    return Finish(ToGrpcStatus(absl::InternalError("the answer is too large for one message")));
  }
  StartWriteAndFinish(&bytes_, options, std::move(status));
}

absl::StatusOr<IntakeCaller> CallIntake::CallerOf(const grpc::CallbackServerContext& context,
                                                  IntakeChecks checks) const {
  if (absl::Status s = CheckMetadata(context); !s.ok()) return s;
  if (gateway_ == nullptr) return IntakeCaller{context.peer(), ""};
  absl::StatusOr<TenantPtr> tenant = gateway_->Authenticate(CredentialsOf(context));
  if (!tenant.ok()) {
    gateway_->CountRefusal();
    return tenant.status();
  }
  if (checks == IntakeChecks::kCallerAndRoom) {
    if (absl::Status s = gateway_->CheckRoom(**tenant); !s.ok()) return s;
  }
  const std::string& name = (*tenant)->name;
  return IntakeCaller{gateway_->needs_keys() ? name : context.peer(), name};
}

void CallIntake::Register(
    const std::string& method,
    std::function<grpc::ServerGenericBidiReactor*(grpc::CallbackServerContext*)> begin) {
  using grpc::internal::RpcServiceMethod;
  using Handler = grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>;
  const std::string& path = names_.emplace_back(absl::StrCat("/", service_, "/", method));
  auto* const added = new RpcServiceMethod(path.c_str(), RpcServiceMethod::BIDI_STREAMING,
                                           new Handler(std::move(begin)));
  added->SetServerApiType(RpcServiceMethod::ApiType::RAW_CALL_BACK);
  AddMethod(added);
}

}  // namespace lorica
