#include "server/api/parse_refusal.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/logging.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "adapters/hub/steady_now.h"
#include "grpcpp/server_context.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/status_map.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

using grpc::experimental::InterceptionHookPoints;

// "String field 'lorica.v1.GenerateRequest.prompt' contains invalid UTF-8 data when ..."
constexpr absl::string_view kFieldBegin = "String field '";
constexpr absl::string_view kFieldEnd = "' contains invalid UTF-8 data when parsing";

// gRPC parses a message and refuses it on one thread, in one go.
thread_local std::string field_of_last_failure;

// "prompt"; empty if the text is about something else.
std::string FieldIn(absl::string_view text) {
  const size_t end = text.find(kFieldEnd);
  if (text.substr(0, kFieldBegin.size()) != kFieldBegin || end == absl::string_view::npos) {
    return "";
  }
  const absl::string_view name = text.substr(kFieldBegin.size(), end - kFieldBegin.size());
  return std::string(name.substr(name.rfind('.') + 1));
}

void TakeProtobufLog(google::protobuf::LogLevel level, const char*, int, const std::string& text) {
  field_of_last_failure = FieldIn(text);
  if (!field_of_last_failure.empty() || level < google::protobuf::LOGLEVEL_ERROR) return;
  spdlog::warn("protobuf: {}", CleanErrorText(text));
}

absl::Status Refusal() {
  const std::string field = std::exchange(field_of_last_failure, "");
  if (!field.empty()) return FieldError(field, "is not valid UTF-8");
  return absl::InvalidArgumentError(
      "the message cannot be parsed: send one made from lorica/v1's .proto files, in UTF-8");
}

// "/lorica.v1.ServerService/GetStatus" is one of ours; others are not implemented indeed.
bool IsOurs(absl::string_view method) {
  if (!absl::ConsumePrefix(&method, "/lorica.v1.")) return false;
  const std::string name = absl::StrCat("lorica.v1.", absl::StrReplaceAll(method, {{"/", "."}}));
  return google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name) != nullptr;
}

class ParseRefusal final : public grpc::experimental::Interceptor {
 public:
  explicit ParseRefusal(grpc::experimental::ServerRpcInfo* info)
      : method_(info->method()), call_(info->server_context()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      // None of our own methods says so.
      const bool unparsed =
          status.error_code() == grpc::StatusCode::UNIMPLEMENTED && status.error_message().empty();
      if (unparsed) {
        refusal_ = Refusal();
        methods->ModifySendStatus(ToGrpcStatus(refusal_));
      }
    }
    // Only now it is known whether the message is missing since the client went.
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE)) Log();
    methods->Proceed();
  }

 private:
  void Log() const {
    if (refusal_.ok()) return;
    const absl::Status gone =
        absl::CancelledError("the client cancelled the call before its message was here");
    LogRefusal(method_.substr(method_.rfind('/') + 1), "", call_->IsCancelled() ? gone : refusal_,
               SteadyNow());
  }

  const absl::string_view method_;
  grpc::ServerContextBase* const call_;
  absl::Status refusal_;
};

class ParseRefusals final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return IsOurs(info->method()) ? new ParseRefusal(info) : nullptr;
  }
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeParseRefusals() {
  google::protobuf::SetLogHandler(TakeProtobufLog);
  return std::make_unique<ParseRefusals>();
}

}  // namespace lorica
