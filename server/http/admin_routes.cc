#include "server/http/admin_routes.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/api/status_map.h"
#include "server/http/errors.h"

namespace lorica {
namespace {

namespace pb = google::protobuf;

void Refuse(const absl::Status& status, HttpReply& reply) {
  SendError(OpenAiError(status), status, reply);
}

// Who asks. gRPC's library ends the process over a value that no header may have.
void PassCredentials(const HttpRequest& http, grpc::ClientContext* call) {
  const auto printable = [](char c) { return c >= 0x20 && c < 0x7f; };
  for (const char* name : {"authorization", "x-tenant-id"}) {
    for (const std::string& value : http.Values(name)) {
      if (std::all_of(value.begin(), value.end(), printable)) call->AddMetadata(name, value);
    }
  }
}

grpc::ByteBuffer BytesOf(const pb::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool Parse(const grpc::ByteBuffer& bytes, pb::Message* message) {
  grpc::Slice slice;
  return bytes.DumpToSingleSlice(&slice).ok() &&
         message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()));
}

class AdminCall {
 public:
  AdminCall(grpc::GenericStub* stub, const pb::MethodDescriptor* method)
      : stub_(*stub),
        method_(*method),
        request_(New(method->input_type())),
        response_(New(method->output_type())) {}

  absl::Status ReadRequest(std::string_view body) {
    if (body.empty()) return absl::OkStatus();
    if (const auto json = ParseJson(body); !json.ok()) return json.status();  // its bounds
    const auto parsed = pb::util::JsonStringToMessage({body.data(), body.size()}, request_.get());
    if (parsed.ok()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("the body is no ", method_.input_type()->name(),
                                                   ": ", std::string(parsed.message())));
  }

  absl::Status Run(const HttpRequest& http, Peer& peer) {
    grpc::ClientContext call;
    call.set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(kAdminWait));
    PassCredentials(http, &call);
    const grpc::ByteBuffer bytes = BytesOf(*request_);
    grpc::ByteBuffer answer;
    grpc::Status ended;
    absl::Notification done;
    stub_.UnaryCall(&call, absl::StrCat("/", method_.service()->full_name(), "/", method_.name()),
                    grpc::StubOptions(), &bytes, &answer, [&](grpc::Status status) {
                      ended = std::move(status);
                      done.Notify();
                    });
    while (!done.WaitForNotificationWithTimeout(kGoneInterval)) {
      if (peer.gone()) call.TryCancel();
    }
    if (!ended.ok()) return FromGrpcStatus(ended);
    if (!Parse(answer, response_.get())) return absl::InternalError("an answer was not read");
    return absl::OkStatus();
  }

  std::string Answer() const {
    pb::util::JsonPrintOptions options;
    options.always_print_primitive_fields = true;
    options.preserve_proto_field_names = true;
    std::string json;
    return pb::util::MessageToJsonString(*response_, &json, options).ok() ? json : "{}";
  }

 private:
  static std::unique_ptr<pb::Message> New(const pb::Descriptor* type) {
    return std::unique_ptr<pb::Message>(
        pb::MessageFactory::generated_factory()->GetPrototype(type)->New());
  }

  grpc::GenericStub& stub_;
  const pb::MethodDescriptor& method_;
  const std::unique_ptr<pb::Message> request_;
  const std::unique_ptr<pb::Message> response_;
};

void Serve(const HttpContext& context, grpc::GenericStub* stub, const pb::MethodDescriptor* method,
           const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  AdminCall call(stub, method);
  absl::Status status = call.ReadRequest(http.body);
  if (status.ok()) {
    reply.notes().refusal_logged = true;  // by the service
    status = call.Run(http, reply);
  }
  if (!status.ok()) return Refuse(status, reply);
  reply.SetHeader("Cache-Control", "no-store");
  reply.Send(200, call.Answer());
}

}  // namespace

void AddAdminRoutes(const HttpContext* context, std::shared_ptr<grpc::Channel> services,
                    HttpRoutes* routes) {
  const auto stub = std::make_shared<grpc::GenericStub>(std::move(services));
  for (const char* name : {"lorica.v1.AdapterService", "lorica.v1.ServerService"}) {
    const pb::ServiceDescriptor* const service =
        pb::DescriptorPool::generated_pool()->FindServiceByName(name);
    for (int m = 0; m < service->method_count(); ++m) {
      const pb::MethodDescriptor* const method = service->method(m);
      if (method->server_streaming()) continue;
      (*routes)[absl::StrCat("/", name, "/", method->name())]["POST"] = [=](const HttpRequest& http,
                                                                            HttpReply& reply) {
        Serve(*context, stub.get(), method, http, reply);
      };
    }
  }
}

}  // namespace lorica
