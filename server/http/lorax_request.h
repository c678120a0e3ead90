// LoRAX's generate request: what its clients send, and what it means here.
//
// Field names, defaults and the rules among fields are LoRAX's; every bound of a value is
// the gateway's. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/api/gateway.h"
#include "server/http/json.h"

namespace lorica {

struct LoraxRequest {
  GenerateCall call;
  std::string input;  // as sent
  bool stream = false;
  bool details = false;
  bool return_full_text = false;
  int best_of = 1;
  std::optional<uint64_t> seed;  // of a sampled answer
};

// Which routes stream: as the body says, or as the path does.
enum class LoraxStream : uint8_t { kAsAsked, kNever, kAlways };

// `adapters_dir`: what an absolute path given as a local adapter must lie beneath; resolved,
// may be empty. InvalidArgument: a field at fault. FailedPrecondition: an adapter source that
// is not served. `text`: the body as it was sent.
absl::StatusOr<LoraxRequest> ParseLoraxRequest(const Json& body, std::string_view text,
                                               LoraxStream stream, const std::string& adapters_dir);

}  // namespace lorica
