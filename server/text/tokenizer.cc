#include "server/text/tokenizer.h"

namespace lorica {

// For tokenizers whose tokens never cross a seam.
absl::Status Tokenizer::EncodeParts(absl::Span<const PromptPart> parts,
                                    std::vector<int32_t>* ids) const {
  for (const PromptPart& part : parts) {
    if (auto status = Encode(part.text, !part.from_message, ids); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace lorica
