// Wire messages as flat JSON and back, in the field names of proto/lorica/v1.
//
// The rules, which the batch command shows to the world:
//   - numbers are JSON numbers, 64-bit ones too; a seed of 2^64 - 1 stays exact
//   - an enum value is its name in lower case without the enum's prefix: "eos", "device";
//     the unspecified value is null
//   - reading is strict: "5" is not 5, 5.0 is not an integer, a field nobody knows is an
//     error that names the nearest one, a field given twice is an error; null = absent
//   - writing keeps the order of the .proto file and includes fields that are zero;
//     `optional` and message fields that are absent are left out
// Stateless. Errors are InvalidArgument with the path of the field at fault.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "lorica/v1/inference.pb.h"
#include "nlohmann/json.hpp"

namespace lorica {

using Json = nlohmann::ordered_json;

// JSON deeper than this is refused; a request needs three levels.
inline constexpr int kJsonDepthMax = 16;

// Parses one JSON object. InvalidArgument on anything else, on duplicate keys and on
// text that is not UTF-8.
absl::StatusOr<Json> ParseJsonObject(absl::string_view text);

// {"adapter_id": "a", "prompt": "…", "max_tokens": 5, …}. Besides the list of the .proto,
// `logit_bias` may be an object: {"50": -100, "7": 2.5}.
absl::StatusOr<v1::GenerateRequest> RequestFromJson(absl::string_view text);

// Any message, by the rules above.
Json MessageToJson(const google::protobuf::Message& message);

// {"token_ids", "text", "finish_reason", "adapter": {"adapter_id", "generation", "weight"?,
//  "mix"?}, "usage", "timings", "logprobs"?,
//  "prompt_logprobs"?}. The base model and a mix of several have an empty
// adapter_id and no weight; the entries of a mix have all three.
Json ResultToJson(const v1::GenerateResponse& response);

// {"error": {"code": "INVALID_ARGUMENT", "message": "…"}}
Json ErrorToJson(const absl::Status& status);

// One line, valid UTF-8 whatever the strings hold.
std::string ToLine(const Json& json);

// The entry of `known` that takes the fewest edits to reach, if it is near enough to be
// what was meant; else empty.
std::string NearestName(absl::string_view name, const std::vector<std::string>& known);

}  // namespace lorica
