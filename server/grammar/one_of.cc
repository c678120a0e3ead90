#include "server/grammar/one_of.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/grammar/response_format.h"

namespace lorica {
namespace {

using Json = nlohmann::ordered_json;  // properties come in their order
using Branches = std::vector<const Json*>;

class OneOfRewriter {
 public:
  explicit OneOfRewriter(Json* root) : root_(root) {}

  // Whether it changed anything.
  bool Rewrite() {
    Collect(*root_);
    // What lies inside others was found after them, and moves with them.
    for (auto schema = easy_.rbegin(); schema != easy_.rend(); ++schema) Rename(**schema);
    return !easy_.empty();
  }

 private:
  void Collect(Json& value) {
    if (value.is_object() && value.contains("oneOf") && IsEasy(value["oneOf"])) {
      easy_.push_back(&value);
    }
    for (auto& [key, inner] : value.items()) {
      const bool holds_values =
          key == "const" || key == "enum" || key == "default" || key == "examples";
      if (inner.is_structured() && !holds_values) Collect(inner);
    }
  }

  static void Rename(Json& schema) {
    Json renamed = Json::object();
    for (auto& [key, value] : schema.items()) {
      renamed[key == "oneOf" ? "anyOf" : key] = std::move(value);
    }
    schema = std::move(renamed);
  }

  bool IsEasy(const Json& list) const {
    if (!list.is_array() || list.empty()) return false;
    Branches branches;
    for (const Json& branch : list) {
      branches.push_back(Target(branch));
      if (branches.back() == nullptr) return false;
    }
    return TypesDiffer(branches) || SomePropertyDiffers(branches);
  }

  // Where a branch leads; null: to nothing that could be told apart.
  const Json* Target(const Json& branch) const {
    const Json* place = &branch;
    for (int i = 0; i < kSchemaDepthMax && place != nullptr && place->is_object(); ++i) {
      const Json* reference = Member(*place, "$ref");
      if (reference == nullptr) return place;
      place = reference->is_string() ? Find(reference->get<std::string>()) : nullptr;
    }
    return nullptr;
  }

  const Json* Find(const std::string& reference) const {
    if (!absl::StartsWith(reference, "#")) return nullptr;
    const Json* place = root_;
    for (const absl::string_view name :
         absl::StrSplit(reference.substr(1), '/', absl::SkipEmpty())) {
      place = Member(*place, std::string(name));
      if (place == nullptr) return nullptr;
    }
    return place;
  }

  static bool TypesDiffer(const Branches& branches) {
    std::set<std::string> seen;
    return std::all_of(branches.begin(), branches.end(), [&](const Json* branch) {
      const Json* type = Member(*branch, "type");
      if (type == nullptr || !type->is_string()) return false;
      const auto name = type->get<std::string>();
      return seen.insert(name == "integer" ? "number" : name).second;  // a number may be whole
    });
  }

  static bool SomePropertyDiffers(const Branches& branches) {
    const Json* required = Member(*branches[0], "required");
    if (required == nullptr || !required->is_array()) return false;
    return std::any_of(required->begin(), required->end(), [&](const Json& name) {
      return name.is_string() && PropertyDiffers(branches, name.get<std::string>());
    });
  }

  static bool PropertyDiffers(const Branches& branches, const std::string& name) {
    std::set<std::string> seen;
    return std::all_of(branches.begin(), branches.end(), [&](const Json* branch) {
      const std::vector<std::string> values = ValuesOf(*branch, name);
      return !values.empty() && std::all_of(values.begin(), values.end(), [&](const auto& value) {
        return seen.insert(value).second;
      });
    });
  }

  // The texts that a required property may be; empty: it may be others or may be missing.
  static std::vector<std::string> ValuesOf(const Json& branch, const std::string& name) {
    const Json* required = Member(branch, "required");
    const Json* type = Member(branch, "type");
    const Json* properties = Member(branch, "properties");
    if (required == nullptr || type == nullptr || *type != "object" || properties == nullptr ||
        std::find(required->begin(), required->end(), name) == required->end()) {
      return {};
    }
    const Json* property = Member(*properties, name);
    if (property == nullptr) return {};
    if (const Json* value = Member(*property, "const")) return TextsOf(Json::array({*value}));
    const Json* values = Member(*property, "enum");
    return values == nullptr ? std::vector<std::string>() : TextsOf(*values);
  }

  static const Json* Member(const Json& object, const std::string& name) {
    const auto member = object.find(name);
    return member == object.end() ? nullptr : &*member;
  }

  // Empty unless all of them are texts.
  static std::vector<std::string> TextsOf(const Json& values) {
    std::vector<std::string> texts;
    for (const Json& value : values) {
      if (!value.is_string()) return {};
      texts.push_back(value.get<std::string>());
    }
    return texts;
  }

  Json* const root_;
  std::vector<Json*> easy_;
};

}  // namespace

std::string WithEasyOneOf(const std::string& schema) {
  if (!absl::StrContains(schema, "oneOf")) return schema;
  Json root = Json::parse(schema, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return schema;
  return OneOfRewriter(&root).Rewrite() ? root.dump() : schema;
}

}  // namespace lorica
