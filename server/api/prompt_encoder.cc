#include "server/api/prompt_encoder.h"

#include <string>

namespace lorica {
namespace {

std::vector<int32_t> SpecialsOf(const Tokenizer& tokenizer, absl::Span<const int32_t> ids) {
  std::vector<int32_t> specials;
  for (const int32_t id : ids) {
    if (tokenizer.IsSpecial(id)) specials.push_back(id);
  }
  return specials;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeParts(const Tokenizer& tokenizer,
                                                 absl::Span<const PromptPart> parts) {
  std::string joined;
  for (const PromptPart& part : parts) joined += part.text;
  std::vector<int32_t> whole;
  absl::Status status = tokenizer.Encode(joined, /*parse_special=*/true, &whole);
  if (!status.ok()) return status;

  std::vector<int32_t> from_template;
  for (const PromptPart& part : parts) {
    if (part.from_message) continue;
    status = tokenizer.Encode(part.text, /*parse_special=*/true, &from_template);
    if (!status.ok()) return status;
  }
  if (SpecialsOf(tokenizer, whole) == SpecialsOf(tokenizer, from_template)) return whole;

  std::vector<int32_t> by_part;
  for (const PromptPart& part : parts) {
    status = tokenizer.Encode(part.text, !part.from_message, &by_part);
    if (!status.ok()) return status;
  }
  return by_part;
}

}  // namespace lorica
