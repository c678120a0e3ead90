#include "server/http/format_request.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/http/json.h"

namespace lorica {
namespace {

enum class Type { kText, kObject, kSchema, kRegex, kEbnf, kUnknown };

// Also as the Rust names that LoRAX takes.
Type TypeOf(const std::optional<std::string>& written) {
  const std::string name = absl::AsciiStrToLower(written.value_or("json_object"));
  if (name == "text") return Type::kText;
  if (name == "json_object" || name == "jsonobject") return Type::kObject;
  if (name == "regex") return Type::kRegex;
  if (name == "grammar" || name == "ebnf") return Type::kEbnf;
  return name == "json_schema" || name == "jsonschema" ? Type::kSchema : Type::kUnknown;
}

std::optional<ResponseFormat> ReadText(Fields& fields, const char* name, FormatKind kind) {
  const auto text = fields.Text(name);
  if (fields.status().ok() && text.value_or("").empty()) fields.Refuse(name, "is missing");
  return ResponseFormat{kind, text.value_or("")};
}

std::optional<ResponseFormat> ReadSchema(Fields& inner, const Json& format, bool may_be_nested,
                                         std::vector<std::string> path, std::string_view body) {
  const Json* holder = &format;
  const Json* nested = inner.Find("json_schema");
  if (may_be_nested && nested != nullptr) {
    holder = nested;
    path.push_back("json_schema");
  }
  Fields holds(*holder, "response_format.");
  const Json* schema = holds.Find("schema");
  inner.Add(holds.status());
  if (schema == nullptr) return ResponseFormat{FormatKind::kJsonObject, ""};
  path.push_back("schema");
  return ResponseFormat{FormatKind::kJsonSchema, MemberText(body, path)};
}

// `names_schema`: a json_schema without any is a mistake.
std::optional<ResponseFormat> Read(Fields& outer, bool names_schema, std::vector<std::string> path,
                                   std::string_view body) {
  const Json* format = outer.Find("response_format");
  if (format == nullptr) return std::nullopt;
  path.push_back("response_format");
  Fields inner(*format, "response_format.");
  const Type type = TypeOf(inner.Text("type"));
  std::optional<ResponseFormat> read;
  if (type == Type::kUnknown) {
    inner.Refuse("type", "must be text, json_object, json_schema, regex or grammar");
  } else if (type == Type::kRegex) {
    read = ReadText(inner, "regex", FormatKind::kRegex);
  } else if (type == Type::kEbnf) {
    read = ReadText(inner, "grammar", FormatKind::kEbnf);
  } else if (type != Type::kText) {
    const bool named = inner.Has("json_schema") || inner.Has("schema");
    if (names_schema && type == Type::kSchema && !named) inner.Refuse("json_schema", "is missing");
    read = ReadSchema(inner, *format, type == Type::kSchema, path, body);
  }
  outer.Add(inner.status());
  return read;
}

// Exactly one of the texts.
std::optional<ResponseFormat> ReadChoice(Fields& fields, const char* name) {
  const std::vector<std::string> texts = fields.Texts(name);
  if (fields.status().ok() && texts.empty()) fields.Refuse(name, "must name at least one text");
  const std::string choice = absl::StrJoin(
      texts, " | ",
      [](std::string* out, const std::string& text) { absl::StrAppend(out, Dump(Json(text))); });
  return ResponseFormat{FormatKind::kEbnf, absl::StrCat("root ::= ", choice)};
}

// vLLM's fields, older ones at the top of a request, newer ones inside an object.
std::optional<ResponseFormat> ReadVllmFormat(Fields& fields, const std::string& prefix,
                                             std::vector<std::string> path, std::string_view body) {
  std::optional<ResponseFormat> read;
  const auto given = [&](const char* kind) {
    const std::string name = absl::StrCat(prefix, kind);
    if (!fields.Has(name.c_str())) return std::string();
    if (read) fields.Refuse(name.c_str(), "and another form: at most one may be given");
    return name;
  };
  if (const std::string name = given("json"); !name.empty()) {
    path.push_back(name);
    const auto* text = fields.Find(name.c_str())->get_ptr<const std::string*>();
    read = {FormatKind::kJsonSchema, text != nullptr ? *text : MemberText(body, path)};
  }
  if (const std::string name = given("regex"); !name.empty()) {
    read = ReadText(fields, name.c_str(), FormatKind::kRegex);
  }
  if (const std::string name = given("grammar"); !name.empty()) {
    read = ReadText(fields, name.c_str(), FormatKind::kEbnf);
  }
  if (const std::string name = given("choice"); !name.empty()) {
    read = ReadChoice(fields, name.c_str());
  }
  return read;
}

}  // namespace

std::optional<ResponseFormat> ReadLoraxFormat(Fields& parameters, std::string_view body) {
  return Read(parameters, /*names_schema=*/false, {"parameters"}, body);
}

std::optional<ResponseFormat> ReadOpenAiFormat(Fields& request, std::string_view body) {
  auto read = Read(request, /*names_schema=*/true, {}, body);
  const auto take = [&](const char* name, std::optional<ResponseFormat> other) {
    if (read && other) request.Refuse(name, "and another form: at most one may be given");
    if (other) read = std::move(other);
  };
  take("guided_json", ReadVllmFormat(request, "guided_", {}, body));
  if (const Json* outputs = request.Find("structured_outputs")) {
    Fields inner(*outputs, "structured_outputs.");
    take("structured_outputs", ReadVllmFormat(inner, "", {"structured_outputs"}, body));
    request.Add(inner.status());
  }
  return read;
}

}  // namespace lorica
