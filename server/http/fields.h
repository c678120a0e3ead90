// Reads the members of a JSON object into what a call wants, and keeps the first fault.
//
// null and absent are the same. A member of another type than it should have is a
// FieldError that names it. Unknown members are nobody's business. The object outlives it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/http/json.h"

namespace lorica {

// Of presence and frequency penalties, as LoRAX and OpenAI take them.
inline constexpr double kHttpPenaltyMax = 2.0;

class Fields {
 public:
  // `prefix` stands before names in errors, e.g. "parameters.". A value that is no object
  // is a fault by itself.
  explicit Fields(const Json& value, std::string prefix = "");

  bool Has(const char* name) const { return Find(name) != nullptr; }
  // Null: absent or null.
  const Json* Find(const char* name) const;

  std::optional<std::string> Text(const char* name);
  std::optional<bool> Bool(const char* name);
  std::optional<double> Number(const char* name);
  std::optional<double> NumberWithin(const char* name, double low, double high);
  std::optional<int32_t> Int(const char* name);
  std::optional<uint64_t> Unsigned(const char* name);
  // A string counts as a list of one.
  std::vector<std::string> Texts(const char* name);

  // Keeps `status` if it is the first error.
  void Add(absl::Status status);
  void Refuse(const char* name, absl::string_view what);
  const absl::Status& status() const { return status_; }

 private:
  const Json* object_;
  const std::string prefix_;
  absl::Status status_;
};

}  // namespace lorica
