// A vocabulary of all bytes, one long token and an end token; and what is hard to compile for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/grammar/response_format.h"
#include "server/grammar/vocabulary.h"

namespace lorica {

inline constexpr int32_t kLongToken = 256;  // "yes"
inline constexpr int32_t kEndToken = 257;

inline GrammarVocabulary ByteVocabulary() {
  GrammarVocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
  }
  vocabulary.tokens.emplace_back("yes");
  vocabulary.tokens.emplace_back("");  // as special tokens are
  vocabulary.end_tokens = {kEndToken};
  return vocabulary;
}

// A schema whose compilation takes many seconds; unlike each other by `number`.
inline ResponseFormat EndlessFormat(int number = 0) {
  std::string properties;
  for (int i = 0; i < 300; ++i) {
    absl::StrAppend(&properties, i > 0 ? "," : "", "\"p", i,
                    "\":{\"type\":\"string\",\"pattern\":\"^([a-z]{1,", i + 3,
                    "}[0-9]{2,}){1,50}$\"}");
  }
  return {FormatKind::kJsonSchema,
          absl::StrCat("{\"title\":\"", number, "\",\"type\":\"object\",\"properties\":{",
                       properties, "}}")};
}

inline bool Allows(const std::vector<int32_t>& mask, int32_t token) {
  return mask[token / 32] >> token % 32 & 1;
}

}  // namespace lorica
