// Errors in the words of whoever called: the gateway names fields as gRPC does, and a
// client looks for its own.
//
// A name stands for all that lies beneath it: "stop" also for "stop[2]". "[]" stands for any
// index, which the caller's name may repeat. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lorica {

struct FieldName {
  std::string ours;
  std::string callers;
};
using FieldNames = std::vector<FieldName>;

// An error about a field that has another name there; all others stay as they are. The first
// name that fits counts.
absl::Status InWordsOf(const FieldNames& names, const absl::Status& status);
// As LoRAX's clients write them: "parameters.max_new_tokens".
absl::Status InLoraxWords(const absl::Status& status);

}  // namespace lorica
