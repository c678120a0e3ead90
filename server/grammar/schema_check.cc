#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/grammar/response_format.h"

namespace lorica {
namespace {

using Json = nlohmann::json;
using Names = std::initializer_list<const char*>;

constexpr Names kUnservedEscapes = {"\\\\", "\\x", "\\u", "\\n", "\\t",
                                    "\\r",  "\\f", "\\v", "\\0", "\\c"};

// Formats of the standard that the compiler does not know or writes wrongly.
constexpr Names kUnservedFormats = {"json-pointer", "relative-json-pointer", "regex",
                                    "iri",          "iri-reference",         "idn-email",
                                    "idn-hostname"};

// Numbers are written with so many decimals at most.
constexpr int kDecimalSteps = 1'000'000;
// How the library numbers its error about a number that no double holds.
constexpr int kNumberTooLarge = 406;
constexpr double kWholeMax = 0x1p63;  // whole numbers are exact below it

// Dots, since what looks like a path of the host is left out of errors.
std::string Inside(const std::string& path, absl::string_view name) {
  return absl::StrCat(path, path.empty() ? "" : ".", name);
}

absl::Status Refused(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("(", path.empty() ? "schema" : path, ") ", what));
}

// Watches the parse for depth and for keys that are there twice.
class ParseGuard {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    const bool opens =
        event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kSchemaDepthMax) {
      problem_ = absl::StrCat("is nested more than ", kSchemaDepthMax, " levels");
    }
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto key = value.get<std::string>();
      if (!keys_.back().insert(key).second) problem_ = absl::StrCat("has the key ", key, " twice");
    }
    return true;
  }
  const std::string& problem() const { return problem_; }

 private:
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

// Why a text is no JSON.
struct FaultReader : nlohmann::detail::json_sax_acceptor<Json> {
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) {
    fault = absl::StrCat(error.id == kNumberTooLarge
                             ? "has a number too large for a double, up to byte "
                             : "is not JSON at byte ",
                         position);
    return false;
  }
  std::string fault;
};

bool HasAny(const Json& schema, Names names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const char* name) { return schema.contains(name); });
}

bool IsOfType(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return type == "integer" && value.is_number_integer();
}

class SchemaWalk {
 public:
  explicit SchemaWalk(const Json& root) : root_(root) {}

  // OK, or the first fault of the document, whichever way its references lead.
  absl::Status Check() {
    absl::Status status = Check(root_, "");
    while (status.ok() && !references_.empty()) {
      const std::string reference = references_.back();
      references_.pop_back();
      status = CheckReference(reference);
    }
    return status;
  }

 private:
  absl::Status Check(const Json& schema, const std::string& path) {
    if (schema.is_boolean()) return absl::OkStatus();
    if (!schema.is_object()) return Refused(path, "a schema must be an object");
    // However many references lead here; copies do not keep their addresses.
    if (copies_ == 0 && !checked_.insert(&schema).second) return absl::OkStatus();
    const auto reference = schema.find("$ref");
    if (reference != schema.end() && reference->is_string()) references_.push_back(*reference);
    absl::Status status = CheckUnserved(schema, path);
    if (status.ok()) status = CheckAlone(schema, path);
    if (status.ok()) status = CheckValues(schema, path);
    if (status.ok()) status = CheckTyped(schema, path);
    if (status.ok()) status = CheckNumber(schema, path);
    if (status.ok()) status = CheckString(schema, path);
    if (status.ok()) status = CheckObject(schema, path);
    if (status.ok()) status = CheckNames(schema, path);
    if (status.ok()) status = CheckInside(schema, path);
    return status;
  }

  // What it leads to may be no part of a schema otherwise. The compiler says what is not there.
  absl::Status CheckReference(const std::string& reference) {
    const Json* place = &root_;
    for (const absl::string_view name : absl::StrSplit(reference, '/', absl::SkipEmpty())) {
      if (name == "#") continue;
      const std::string part(name);
      if (!place->is_object() || !place->contains(part)) return absl::OkStatus();
      place = &(*place)[part];
    }
    return Check(*place, absl::StrReplaceAll(reference, {{"/", "."}}));
  }

  static absl::Status CheckUnserved(const Json& schema, const std::string& path) {
    for (const char* name : {"not", "if", "then", "else", "dependentRequired", "dependentSchemas",
                             "dependencies", "contains", "minContains", "maxContains",
                             "additionalItems", "$dynamicRef", "$recursiveRef"}) {
      if (schema.contains(name)) return Refused(path, absl::StrCat(name, " is not served"));
    }
    const auto unique = schema.find("uniqueItems");
    if (unique == schema.end() || *unique == false) return absl::OkStatus();
    return Refused(path, "uniqueItems is not served");
  }

  // The compiler looks at one of these and at nothing beside it.
  static absl::Status CheckAlone(const Json& schema, const std::string& path) {
    for (const char* name : {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"}) {
      if (!schema.contains(name)) continue;
      const bool holds_values = std::string(name) == "const" || std::string(name) == "enum";
      for (const auto& [key, value] : schema.items()) {
        if (key == name || (key == "type" && holds_values) || !Constrains(key)) continue;
        return Refused(path, absl::StrCat(key, " beside ", name, " is not served"));
      }
    }
    return absl::OkStatus();
  }

  static bool Constrains(const std::string& key) {
    static const std::set<std::string>* const keys =
        new std::set<std::string>{"$ref",          "const",           "enum",
                                  "anyOf",         "oneOf",           "allOf",
                                  "type",          "properties",      "required",
                                  "items",         "prefixItems",     "additionalProperties",
                                  "minimum",       "maximum",         "exclusiveMinimum",
                                  "multipleOf",    "minLength",       "exclusiveMaximum",
                                  "maxLength",     "pattern",         "patternProperties",
                                  "propertyNames", "minItems",        "unevaluatedProperties",
                                  "maxItems",      "minProperties",   "maxProperties",
                                  "format",        "unevaluatedItems"};
    return keys->contains(key);
  }

  static absl::Status CheckValues(const Json& schema, const std::string& path) {
    if (!HasAny(schema, {"const", "enum"})) return absl::OkStatus();
    const Json values = schema.contains("enum") ? schema["enum"] : Json::array({schema["const"]});
    if (HasHugeNumber(values)) {
      return Refused(path, "a whole number has more than 64 bits: say it as a string");
    }
    const auto type = schema.find("type");
    if (type == schema.end()) return absl::OkStatus();
    const Json types = type->is_array() ? *type : Json::array({*type});
    for (const Json& value : values) {
      const bool fits = std::any_of(types.begin(), types.end(), [&](const Json& one) {
        return one.is_string() && IsOfType(value, one.get<std::string>());
      });
      if (!fits) return Refused(path, "a value is not of the type beside it");
    }
    return absl::OkStatus();
  }

  // They would be written as fractions, and what a double cannot hold as another number.
  static bool HasHugeNumber(const Json& value) {
    if (value.is_structured()) return std::any_of(value.begin(), value.end(), HasHugeNumber);
    if (value.is_number_float()) return std::abs(value.get<double>()) >= kWholeMax;
    return value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
  }

  // Texts of some patterns would have to be written otherwise in JSON, and are not.
  static absl::Status CheckPattern(const std::string& text, const std::string& path) {
    const absl::Status expression = CheckExpression(FormatKind::kRegex, text);
    if (!expression.ok()) return Refused(path, absl::StrCat("pattern ", expression.message()));
    const bool control =
        std::any_of(text.begin(), text.end(), [](char c) { return c >= 0 && c < 32; });
    const bool escaped = std::any_of(kUnservedEscapes.begin(), kUnservedEscapes.end(),
                                     [&](const char* one) { return absl::StrContains(text, one); });
    if (!control && !escaped && !absl::StrContains(text, '"')) return absl::OkStatus();
    return Refused(path, "a pattern with quotes, backslashes or escaped characters is not served");
  }

  // Of a format and a pattern the compiler takes the format alone.
  static absl::Status CheckString(const Json& schema, const std::string& path) {
    const auto format = schema.find("format");
    if (format != schema.end()) {
      const bool served = std::none_of(kUnservedFormats.begin(), kUnservedFormats.end(),
                                       [&](const char* one) { return *format == one; });
      if (!served) return Refused(path, "this format is not served");
      if (schema.contains("pattern")) return Refused(path, "pattern beside format is not served");
    }
    const auto pattern = schema.find("pattern");
    if (pattern == schema.end()) return absl::OkStatus();
    if (!pattern->is_string()) return Refused(path, "pattern must be a string");
    return CheckPattern(pattern->get<std::string>(), path);
  }

  // The compiler would let nothing be written where there is no number to write.
  static absl::Status CheckNumber(const Json& schema, const std::string& path) {
    double low = -HUGE_VAL, high = HUGE_VAL;
    bool above = false, below = false;  // the bound itself is outside
    const auto take = [&](const char* name, bool lower, bool outside) {
      const auto bound = schema.find(name);
      if (bound == schema.end() || !bound->is_number()) return;
      const auto value = bound->get<double>();
      if (lower ? value < low : value > high) return;
      const bool same = lower ? value == low : value == high;
      (lower ? above : below) = outside || (same && (lower ? above : below));
      (lower ? low : high) = value;
    };
    take("minimum", true, false);
    take("exclusiveMinimum", true, true);
    take("maximum", false, false);
    take("exclusiveMaximum", false, true);
    if (high - low >= 1.0) return absl::OkStatus();
    const double first = std::floor(low * kDecimalSteps);
    for (const int step : {0, 1, 2}) {  // the next one above the lower bound, however it is rounded
      const double value = (first + step) / kDecimalSteps;
      if ((above ? value > low : value >= low) && (below ? value < high : value <= high)) {
        return absl::OkStatus();
      }
    }
    return Refused(path, "no number of six decimals lies between the bounds");
  }

  // Without a type, these would hold nothing to anything.
  static absl::Status CheckTyped(const Json& schema, const std::string& path) {
    if (schema.contains("type")) {
      const bool none = schema["type"].is_array() && schema["type"].empty();
      return none ? Refused(path, "type must name one") : absl::OkStatus();
    }
    const bool object =
        HasAny(schema, {"properties", "additionalProperties", "unevaluatedProperties"});
    const bool array = HasAny(schema, {"items", "prefixItems", "unevaluatedItems"});
    if (object && array) return Refused(path, "keywords of objects and of lists need a type");
    const auto untyped = [&](Names names) -> absl::Status {
      for (const char* name : names) {
        if (schema.contains(name)) return Refused(path, absl::StrCat(name, " needs a type"));
      }
      return absl::OkStatus();
    };
    absl::Status status = untyped({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
                                   "multipleOf", "minLength", "maxLength", "pattern", "format"});
    if (status.ok() && !array) status = untyped({"minItems", "maxItems"});
    if (status.ok() && !object) {
      status = untyped(
          {"required", "minProperties", "maxProperties", "patternProperties", "propertyNames"});
    }
    return status;
  }

  static absl::Status CheckObject(const Json& schema, const std::string& path) {
    const Json properties = schema.value("properties", Json::object());
    if (!properties.is_object()) return Refused(path, "properties must be an object");
    const Json required = schema.value("required", Json::array());
    if (!required.is_array()) return Refused(path, "required must be a list");
    for (const Json& name : required) {
      if (!name.is_string()) return Refused(path, "required must hold names");
      if (!properties.contains(name.get<std::string>())) {
        return Refused(path, absl::StrCat("required names ", name.get<std::string>(),
                                          ", which properties do not hold"));
      }
    }
    return absl::OkStatus();
  }

  // Names that are not listed may come twice, and count once; and a name that several parts of a
  // schema speak of is held to one of them alone.
  static absl::Status CheckNames(const Json& schema, const std::string& path) {
    const auto other = [&](const char* name) {
      const auto found = schema.find(name);
      return found != schema.end() && *found != false;
    };
    const bool more = other("additionalProperties") || other("unevaluatedProperties");
    const bool patterns = schema.contains("patternProperties");
    const bool names = schema.contains("propertyNames");
    const auto least = schema.find("minProperties");
    if (least != schema.end() && *least > 1 && (more || patterns || names)) {
      return Refused(path, "minProperties above 1 is served for listed properties alone");
    }
    if (patterns + names > 1 || ((patterns || names) && schema.contains("properties"))) {
      return Refused(path,
                     "properties, patternProperties and propertyNames are served one at a time");
    }
    if (patterns && (more || schema["patternProperties"].size() > 1)) {
      return Refused(path, "patternProperties is served with one pattern and no other properties");
    }
    const Json named = schema.value("patternProperties", Json::object());  // items() only points
    for (const auto& [pattern, part] : named.items()) {
      if (absl::Status s = CheckPattern(pattern, Inside(path, "patternProperties")); !s.ok()) {
        return s;
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckInside(const Json& schema, const std::string& path) {
    if (schema.contains("propertyNames") && schema["propertyNames"].is_object()) {
      Json names = schema["propertyNames"];
      const bool elsewhere = HasAny(names, {"$ref", "anyOf", "oneOf", "allOf"});
      if (!elsewhere) names.emplace("type", "string");  // what all of them are
      ++copies_;
      const absl::Status status = Check(names, Inside(path, "propertyNames"));
      --copies_;
      if (!status.ok()) return status;
    }
    for (const char* name :
         {"items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems"}) {
      if (!schema.contains(name)) continue;
      const absl::Status status = Check(schema[name], Inside(path, name));
      if (!status.ok()) return status;
    }
    for (const char* name : {"properties", "patternProperties", "$defs", "definitions"}) {
      const absl::Status status = CheckMembers(schema, name, path);
      if (!status.ok()) return status;
    }
    for (const char* name : {"anyOf", "oneOf", "allOf", "prefixItems"}) {
      if (!schema.contains(name)) continue;
      const Json& list = schema[name];
      if (!list.is_array() || list.empty()) {
        return Refused(path, absl::StrCat(name, " must be a list of schemas"));
      }
      for (size_t i = 0; i < list.size(); ++i) {
        const absl::Status status = Check(list[i], Inside(path, absl::StrCat(name, "[", i, "]")));
        if (!status.ok()) return status;
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckMembers(const Json& schema, const char* name, const std::string& path) {
    if (!schema.contains(name)) return absl::OkStatus();
    const Json& members = schema[name];
    if (!members.is_object()) return Refused(path, absl::StrCat(name, " must be an object"));
    for (const auto& [key, value] : members.items()) {
      const absl::Status status = Check(value, Inside(path, absl::StrCat(name, ".", key)));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  const Json& root_;
  std::set<const Json*> checked_;
  int copies_ = 0;                       // whether what is checked is a copy of a part
  std::vector<std::string> references_;  // that were not followed yet
};

}  // namespace

absl::Status CheckSchema(std::string_view text) {
  ParseGuard guard;
  const Json schema =
      Json::parse(text.begin(), text.end(), std::ref(guard), /*allow_exceptions=*/false);
  if (schema.is_discarded()) {
    FaultReader reader;
    Json::sax_parse(text.begin(), text.end(), &reader);
    return absl::InvalidArgumentError(reader.fault);
  }
  if (!guard.problem().empty()) return absl::InvalidArgumentError(guard.problem());
  return SchemaWalk(schema).Check();
}

}  // namespace lorica
