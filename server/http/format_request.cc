#include "server/http/format_request.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"

namespace lorica {
namespace {

enum class Type { kText, kObject, kSchema, kUnknown };

// Also as the Rust names that LoRAX takes.
Type TypeOf(const std::optional<std::string>& written) {
  const std::string name = absl::AsciiStrToLower(written.value_or("json_object"));
  if (name == "text") return Type::kText;
  if (name == "json_object" || name == "jsonobject") return Type::kObject;
  return name == "json_schema" || name == "jsonschema" ? Type::kSchema : Type::kUnknown;
}

std::optional<ResponseFormat> Read(Fields& outer, std::vector<std::string> path,
                                   std::string_view body) {
  const Json* format = outer.Find("response_format");
  if (format == nullptr) return std::nullopt;
  path.push_back("response_format");
  Fields inner(*format, "response_format.");
  const Type type = TypeOf(inner.Text("type"));
  if (type == Type::kUnknown) inner.Refuse("type", "must be text, json_object or json_schema");
  const Json* holder = format;
  const Json* nested = inner.Find("json_schema");
  if (type == Type::kSchema && nested != nullptr) {
    holder = nested;
    path.push_back("json_schema");
  }
  Fields holds(*holder, "response_format.");
  const Json* schema = holds.Find("schema");
  inner.Add(holds.status());
  outer.Add(inner.status());
  if (type == Type::kText) return std::nullopt;
  if (schema == nullptr) return ResponseFormat{FormatKind::kJsonObject, ""};
  path.push_back("schema");
  return ResponseFormat{FormatKind::kJsonSchema, MemberText(body, path)};
}

}  // namespace

std::optional<ResponseFormat> ReadLoraxFormat(Fields& parameters, std::string_view body) {
  return Read(parameters, {"parameters"}, body);
}

std::optional<ResponseFormat> ReadOpenAiFormat(Fields& request, std::string_view body) {
  return Read(request, {}, body);
}

}  // namespace lorica
