// Messages to token ids: the chat template and the tokeniser together.
//
// Template text and message text meet inside one token now and then (a line break
// at a seam), so the rendered text is encoded as a whole; only when that would read a
// special token out of a message are the parts encoded one by one. Free functions,
// without state.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/text/chat_template.h"
#include "server/text/tokenizer.h"

namespace lorica {

absl::StatusOr<std::vector<int32_t>> EncodeParts(const Tokenizer& tokenizer,
                                                 absl::Span<const PromptPart> parts);

}  // namespace lorica
