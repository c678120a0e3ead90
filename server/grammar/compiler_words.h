// The grammar compiler's errors in our words: its own are about its source and its plans.
//
// What is known gets a text of ours, with the place where it has one that means something to who
// wrote the form; anything else is said to be no such form. Pure functions.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/grammar/response_format.h"

namespace lorica {

// InvalidArgument of a form of that kind about which the compiler says `message`.
absl::Status InOurWords(FormatKind kind, absl::string_view message);

}  // namespace lorica
