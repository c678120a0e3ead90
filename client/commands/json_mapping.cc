#include "client/commands/json_mapping.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lorica {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kShownBytesMax = 40;

absl::Status Wrong(const std::string& path, absl::string_view expected, const Json& got) {
  std::string shown = got.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > kShownBytesMax) shown = absl::StrCat(shown.substr(0, kShownBytesMax), "...");
  return absl::InvalidArgumentError(absl::StrCat(path, ": expected ", expected, ", got ", shown));
}

// --- reading -----------------------------------------------------------------------

// Watches the parse for what nlohmann-json would accept in silence.
struct ParseGuard {
  std::vector<std::set<std::string>> keys;
  std::string problem;

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kJsonDepthMax && problem.empty()) {
      problem = absl::StrCat("JSON nested deeper than ", kJsonDepthMax, " levels");
    } else if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const std::string key = parsed.get<std::string>();
      const bool twice = !keys.back().insert(key).second;
      if (twice && problem.empty()) problem = absl::StrCat(key, ": given twice");
    }
    return true;
  }
};

// "[json.exception.parse_error.101] parse error at line 1, column 5: …" without its label.
std::string WithoutLabel(absl::string_view what) {
  const size_t end = what.find("] ");
  return std::string(end == absl::string_view::npos ? what : what.substr(end + 2));
}

absl::Status UnknownField(const std::string& path, const std::string& name,
                          const Descriptor& descriptor) {
  std::vector<std::string> known;
  for (int i = 0; i < descriptor.field_count(); ++i) known.push_back(descriptor.field(i)->name());
  const std::string nearest = NearestName(name, known);
  const std::string hint = nearest.empty() ? absl::StrCat("known are ", absl::StrJoin(known, ", "))
                                           : absl::StrCat("did you mean \"", nearest, "\"?");
  return absl::InvalidArgumentError(absl::StrCat(path, ": unknown field; ", hint));
}

absl::Status Fill(const Json& json, const std::string& path, Message* message);

absl::StatusOr<int32_t> Int32(const Json& json, const std::string& path) {
  constexpr int64_t kMin = std::numeric_limits<int32_t>::min();
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (!json.is_number_integer()) return Wrong(path, "an integer", json);
  const bool fits = json.is_number_unsigned()
                        ? json.get<uint64_t>() <= static_cast<uint64_t>(kMax)
                        : json.get<int64_t>() >= kMin && json.get<int64_t>() <= kMax;
  if (!fits) return Wrong(path, "an integer of 32 bits", json);
  return json.get<int32_t>();
}

// Sets a singular field or adds to a repeated one.
absl::Status Put(const Json& json, const std::string& path, const FieldDescriptor* field,
                 Message* message) {
  const Reflection* reflection = message->GetReflection();
  const bool add = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      absl::StatusOr<int32_t> value = Int32(json, path);
      if (!value.ok()) return value.status();
      add ? reflection->AddInt32(message, field, *value)
          : reflection->SetInt32(message, field, *value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64:
      if (!json.is_number_unsigned()) {
        return Wrong(path, "an integer from 0 to 18446744073709551615", json);
      }
      reflection->SetUInt64(message, field, json.get<uint64_t>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (!json.is_number()) return Wrong(path, "a number", json);
      reflection->SetDouble(message, field, json.get<double>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!json.is_boolean()) return Wrong(path, "true or false", json);
      reflection->SetBool(message, field, json.get<bool>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_STRING:
      if (!json.is_string()) return Wrong(path, "a string", json);
      add ? reflection->AddString(message, field, json.get<std::string>())
          : reflection->SetString(message, field, json.get<std::string>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return Fill(json, path,
                  add ? reflection->AddMessage(message, field)
                      : reflection->MutableMessage(message, field));
    default:
      return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be given as JSON"));
  }
}

absl::Status PutField(const Json& json, const std::string& path, const FieldDescriptor* field,
                      Message* message) {
  if (json.is_null()) return absl::OkStatus();
  const auto* choice = field->real_containing_oneof();
  if (choice != nullptr && message->GetReflection()->HasOneof(*message, choice)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": another ", choice->name(), " is given already"));
  }
  if (!field->is_repeated()) return Put(json, path, field, message);
  if (!json.is_array()) return Wrong(path, "a list", json);
  for (size_t i = 0; i < json.size(); ++i) {
    absl::Status status = Put(json[i], absl::StrCat(path, "[", i, "]"), field, message);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Fill(const Json& json, const std::string& path, Message* message) {
  if (!json.is_object()) return Wrong(path, "an object", json);
  for (const auto& [name, value] : json.items()) {
    const std::string field_path = path.empty() ? name : absl::StrCat(path, ".", name);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) return UnknownField(field_path, name, *message->GetDescriptor());
    absl::Status status = PutField(value, field_path, field, message);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// {"50": -100} as [{"token_id": 50, "bias": -100}].
absl::StatusOr<Json> LogitBiasList(const Json& object) {
  Json list = Json::array();
  for (const auto& [key, bias] : object.items()) {
    int32_t token_id = 0;
    if (!absl::SimpleAtoi(key, &token_id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("logit_bias: expected token ids as keys, got \"", key, "\""));
    }
    list.push_back({{"token_id", token_id}, {"bias", bias}});
  }
  return list;
}

// --- writing -----------------------------------------------------------------------

// FinishReason -> "FINISH_REASON_"
std::string EnumPrefix(const EnumDescriptor& descriptor) {
  std::string prefix;
  for (const char c : descriptor.name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return prefix + "_";
}

Json EnumToJson(const EnumValueDescriptor& value) {
  const std::string prefix = EnumPrefix(*value.type());
  if (value.number() == 0) return nullptr;
  const bool prefixed = absl::StartsWith(value.name(), prefix);
  return absl::AsciiStrToLower(prefixed ? value.name().substr(prefix.size()) : value.name());
}

Json ElementToJson(const Message& message, const FieldDescriptor* field, int i) {
  const Reflection* r = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return r->GetRepeatedInt32(message, field, i);
    case FieldDescriptor::CPPTYPE_STRING:
      return r->GetRepeatedString(message, field, i);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(r->GetRepeatedMessage(message, field, i));
    default:
      return nullptr;
  }
}

Json SingleToJson(const Message& message, const FieldDescriptor* field) {
  const Reflection* r = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return r->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return r->GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return r->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return r->GetDouble(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return r->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_STRING:
      return r->GetString(message, field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumToJson(*r->GetEnum(message, field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(r->GetMessage(message, field));
    default:
      return nullptr;
  }
}

Json AdapterUsedToJson(const v1::AdapterUsed& used) {
  Json json = {{"adapter_id", used.adapter_id()}, {"generation", used.generation()}};
  if (!used.adapter_id().empty()) json["weight"] = used.weight();
  for (const v1::AdapterUsed& part : used.mix()) json["mix"].push_back(AdapterUsedToJson(part));
  return json;
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

absl::StatusOr<Json> ParseJsonObject(absl::string_view text) {
  ParseGuard guard;
  Json json;
  try {
    json = Json::parse(text.begin(), text.end(), std::ref(guard));
  } catch (const Json::exception& error) {
    if (guard.problem.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("not JSON: ", WithoutLabel(error.what())));
    }
  }
  if (!guard.problem.empty()) return absl::InvalidArgumentError(guard.problem);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("expected a JSON object such as {\"prompt\": \"Hello\"}");
  }
  return json;
}

absl::StatusOr<v1::GenerateRequest> RequestFromJson(absl::string_view text) {
  absl::StatusOr<Json> json = ParseJsonObject(text);
  if (!json.ok()) return json.status();
  const auto bias = json->find("logit_bias");
  if (bias != json->end() && bias->is_object()) {
    absl::StatusOr<Json> list = LogitBiasList(*bias);
    if (!list.ok()) return list.status();
    *bias = *std::move(list);
  }
  v1::GenerateRequest request;
  absl::Status status = Fill(*json, "", &request);
  if (!status.ok()) return status;
  return request;
}

Json MessageToJson(const Message& message) {
  Json json = Json::object();
  const Descriptor* descriptor = message.GetDescriptor();
  const Reflection* reflection = message.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->is_repeated()) {
      Json& list = json[field->name()] = Json::array();
      const int count = reflection->FieldSize(message, field);
      for (int k = 0; k < count; ++k) list.push_back(ElementToJson(message, field, k));
    } else if (!field->has_presence() || reflection->HasField(message, field)) {
      json[field->name()] = SingleToJson(message, field);
    }
  }
  return json;
}

Json ResultToJson(const v1::GenerateResponse& response) {
  Json json = MessageToJson(response);
  json["adapter"] = AdapterUsedToJson(response.adapter());
  json["usage"] = MessageToJson(response.usage());
  json["timings"] = MessageToJson(response.timings());
  if (response.logprobs().empty()) json.erase("logprobs");
  if (response.prompt_logprobs().empty()) json.erase("prompt_logprobs");
  return json;
}

Json ErrorToJson(const absl::Status& status) {
  return {{"error",
           {{"code", absl::StatusCodeToString(status.code())},
            {"message", std::string(status.message())}}}};
}

std::string ToLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string NearestName(absl::string_view name, const std::vector<std::string>& known) {
  std::string nearest;
  size_t fewest = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t edits = EditDistance(name, candidate);
    if (edits < fewest) {
      fewest = edits;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace lorica
