// gRPC requests, as bytes, into a whole server on the tiny model.
//
// The first byte chooses the method, and of a stream how many messages are read before it is
// cancelled; the rest is the message. Every call is answered in time with a code and a text that
// may travel, and afterwards the server holds nothing of it.
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "kernels/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

constexpr int kTextBytesMax = 1024;
constexpr int kCallsBetweenLooks = 64;
constexpr int kContextTokens = 48;    // short answers
constexpr int kWatchMessagesMax = 1;  // nothing has to change for a second one
constexpr char kGenerateStream[] = "lorica.v1.InferenceService/GenerateStream";
constexpr char kWatchAdapters[] = "lorica.v1.AdapterService/WatchAdapters";
constexpr char kWatchHealth[] = "grpc.health.v1.Health/Watch";

const char* const kMethods[] = {
    "lorica.v1.InferenceService/Generate",
    "lorica.v1.InferenceService/Tokenize",
    "lorica.v1.AdapterService/RegisterAdapter",
    "lorica.v1.AdapterService/CheckAdapter",
    "lorica.v1.AdapterService/GetAdapter",
    "lorica.v1.AdapterService/ListAdapters",
    "lorica.v1.AdapterService/LoadAdapter",
    "lorica.v1.AdapterService/EvictAdapter",
    "lorica.v1.AdapterService/PinAdapter",
    "lorica.v1.AdapterService/UnpinAdapter",
    "lorica.v1.AdapterService/DeleteAdapter",
    "lorica.v1.AdapterService/RollbackAdapter",
    "lorica.v1.AdapterService/SetAlias",
    "lorica.v1.ServerService/GetUsage",
    "lorica.v1.AdapterService/MergeAdapters",
    "lorica.v1.ServerService/GetStatus",
    kGenerateStream,
    kWatchAdapters,
    "grpc.health.v1.Health/Check",
    kWatchHealth,
};

// Reads a stream's messages to its end, or so many and cancels it.
grpc::Status ReadStream(const TinyServer& server, const std::string& method,
                        const std::string& request, int messages_max) {
  grpc::GenericStub stub(server.channel());
  grpc::CompletionQueue queue;
  const auto done = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    LORICA_CHECK(queue.Next(&tag, &ok));
    return ok;
  };
  Context context;
  auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  done();
  const grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), {}, nullptr);
  bool more = done();
  for (int read = 0; more && read < messages_max; ++read) {
    grpc::ByteBuffer message;
    call->Read(&message, nullptr);
    more = done();
  }
  if (more) context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  done();
  return status;
}

grpc::Status Call(const TinyServer& server, uint8_t choice, const std::string& request) {
  const std::string name = kMethods[choice % std::size(kMethods)];
  const int number = choice / std::size(kMethods);
  const std::string method = absl::StrCat("/", name);
  if (name == kWatchAdapters || name == kWatchHealth) {
    return ReadStream(server, method, request, number % (kWatchMessagesMax + 1));
  }
  if (name == kGenerateStream) {
    return ReadStream(server, method, request, number == 0 ? kContextTokens + 1 : number);
  }
  return RawCall(server, method, request).status;
}

void CheckStatus(const grpc::Status& status) {
  // UNKNOWN would be an exception, DEADLINE_EXCEEDED a call that hangs; INTERNAL is gRPC's own
  // answer to bytes that are no message.
  LORICA_CHECK(status.error_code() != grpc::UNKNOWN, status.error_message());
  LORICA_CHECK(status.error_code() != grpc::DEADLINE_EXCEEDED, status.error_message());
  LORICA_CHECK(std::ssize(status.error_message()) <= kTextBytesMax);
  for (const char c : status.error_message()) LORICA_CHECK(c >= 0x20 && c < 0x7f, "text");
}

void CheckQuiet(TinyServer& server) {
  v1::GetStatusResponse status;
  const absl::Time end = absl::Now() + absl::Seconds(10);
  do {
    status = server.Status();
    LORICA_CHECK(absl::Now() < end, status.DebugString());
  } while (status.running() + status.queued() + status.waiting() > 0);
  LORICA_CHECK(status.state() == v1::SERVING_STATE_SERVING);
}

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  static TinyServer* const server = [] {
    Config config;
    config.context_tokens = kContextTokens;
    return new TinyServer(config);
  }();
  static int calls = 0;
  if (size == 0) return 0;
  const std::string message(reinterpret_cast<const char*>(data) + 1, size - 1);
  CheckStatus(Call(*server, data[0], message));
  if (++calls % kCallsBetweenLooks == 0) CheckQuiet(*server);
  return 0;
}
