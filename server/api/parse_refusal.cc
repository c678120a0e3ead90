#include "server/api/parse_refusal.h"

#include <google/protobuf/stubs/logging.h>

#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "server/api/field_error.h"
#include "server/api/status_map.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

// "String field 'lorica.v1.GenerateRequest.prompt' contains invalid UTF-8 data when ..."
constexpr absl::string_view kFieldBegin = "String field '";
constexpr absl::string_view kFieldEnd = "' contains invalid UTF-8 data when parsing";

// A message is parsed and refused on one thread, in one go.
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

}  // namespace

absl::Status ParseMessage(grpc::ByteBuffer* bytes, google::protobuf::Message* message) {
  static google::protobuf::LogHandler* const before =
      google::protobuf::SetLogHandler(TakeProtobufLog);
  static_cast<void>(before);
  const grpc::Status status =
      grpc::SerializationTraits<google::protobuf::Message>::Deserialize(bytes, message);
  bytes->Clear();
  return status.ok() ? absl::OkStatus() : Refusal();
}

}  // namespace lorica
