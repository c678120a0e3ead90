// gRPC requests, as bytes, into a whole server on the tiny model.
//
// The first byte chooses the method, the rest is the message. Every call is answered in time
// with a code and a text that may travel, and afterwards the server holds nothing of it.
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

constexpr int kTextBytesMax = 1024;
constexpr int kCallsBetweenLooks = 64;

const char* const kMethods[] = {
    "InferenceService/Generate",   "InferenceService/Tokenize",    "AdapterService/RegisterAdapter",
    "AdapterService/CheckAdapter", "AdapterService/GetAdapter",    "AdapterService/ListAdapters",
    "AdapterService/LoadAdapter",  "AdapterService/EvictAdapter",  "AdapterService/PinAdapter",
    "AdapterService/UnpinAdapter", "AdapterService/DeleteAdapter", "AdapterService/RollbackAdapter",
    "AdapterService/SetAlias",     "ServerService/GetUsage",       "AdapterService/MergeAdapters",
};

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
    config.context_tokens = 48;  // short answers
    return new TinyServer(config);
  }();
  static int calls = 0;
  if (size == 0) return 0;
  const std::string method = absl::StrCat("/lorica.v1.", kMethods[data[0] % std::size(kMethods)]);
  const std::string message(reinterpret_cast<const char*>(data) + 1, size - 1);
  CheckStatus(RawCall(*server, method, message).status);
  if (++calls % kCallsBetweenLooks == 0) CheckQuiet(*server);
  return 0;
}
