#include "server/http/fields.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/api/field_error.h"

namespace lorica {

Fields::Fields(const Json& value, std::string prefix)
    : object_(value.is_object() ? &value : nullptr), prefix_(std::move(prefix)) {
  if (object_ != nullptr) return;
  const std::string name = prefix_.empty() ? "body" : prefix_.substr(0, prefix_.size() - 1);
  Add(FieldError(name, "must be a JSON object"));
}

void Fields::Add(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void Fields::Refuse(const char* name, absl::string_view what) {
  Add(FieldError(absl::StrCat(prefix_, name), what));
}

const Json* Fields::Find(const char* name) const {
  if (object_ == nullptr) return nullptr;
  const auto member = object_->find(name);
  return member == object_->end() || member->is_null() ? nullptr : &*member;
}

std::optional<std::string> Fields::Text(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (const auto* text = value->get_ptr<const std::string*>()) return *text;
  Refuse(name, "must be a string");
  return std::nullopt;
}

std::optional<bool> Fields::Bool(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (const auto* flag = value->get_ptr<const bool*>()) return *flag;
  Refuse(name, "must be true or false");
  return std::nullopt;
}

std::optional<double> Fields::Number(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return value->get<double>();
  Refuse(name, "must be a number");
  return std::nullopt;
}

std::optional<double> Fields::NumberWithin(const char* name, double low, double high) {
  const std::optional<double> value = Number(name);
  if (value && !(*value >= low && *value <= high)) {
    Refuse(name, OutOfRange(*value, low, high));
  }
  return value;
}

std::optional<int32_t> Fields::Int(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  // Unsigned ones are stored as such, so the cast could wrap.
  const bool fits = value->is_number_unsigned()
                        ? value->get<uint64_t>() <= std::numeric_limits<int32_t>::max()
                        : value->is_number_integer() &&
                              value->get<int64_t>() >= std::numeric_limits<int32_t>::min();
  if (fits) return value->get<int32_t>();
  Refuse(name, "must be a whole number of at most 32 bits");
  return std::nullopt;
}

std::optional<uint64_t> Fields::Unsigned(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number_unsigned()) return value->get<uint64_t>();
  Refuse(name, "must be a whole number from 0 to 2^64 - 1");
  return std::nullopt;
}

std::vector<std::string> Fields::Texts(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  std::vector<std::string> texts;
  for (const Json& item : value->is_array() ? *value : Json::array({*value})) {
    const auto* text = item.get_ptr<const std::string*>();
    if (text == nullptr) {
      Refuse(name, "must be a string or a list of strings");
      return {};
    }
    texts.push_back(*text);
  }
  return texts;
}

}  // namespace lorica
