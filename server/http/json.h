// JSON in and out, within bounds.
//
// Bodies come from anyone: nesting, values and duplicate keys are refused while they are
// read, in one pass and without exceptions. Pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lorica {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

inline constexpr int kJsonDepthMax = 64;
inline constexpr int kJsonValuesMax = 1 << 20;  // token ids of a long prompt, and more

// InvalidArgument says what is wrong and where.
absl::StatusOr<Json> ParseJson(std::string_view text);

// The value at `path` of a document, compact, its members in the order in which they were
// written, which Json forgets. Empty: there is none. REQUIRES: ParseJson took the text.
std::string MemberText(std::string_view text, const std::vector<std::string>& path);

// Compact; invalid UTF-8, which only a bug could bring, shows as U+FFFD.
template <typename AnyJson>
std::string Dump(const AnyJson& value, bool ascii = false) {
  return value.dump(-1, ' ', ascii, AnyJson::error_handler_t::replace);
}

// The double that prints as shortly as the float does.
double ShortDouble(float value);

}  // namespace lorica
