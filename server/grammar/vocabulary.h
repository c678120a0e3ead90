// A model's tokens as grammars see them: the bytes of each, and which of them end an answer.
//
// Special tokens have no bytes here, so that no grammar lets them through as text. Also as bytes,
// for the program that tries grammars out. Immutable once filled: share it freely.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lorica {

struct GrammarVocabulary {
  std::vector<std::string> tokens;  // by id
  std::vector<int32_t> end_tokens;  // not empty
};

std::string ToBytes(const GrammarVocabulary& vocabulary);
// DataLoss: not what ToBytes makes.
absl::StatusOr<GrammarVocabulary> VocabularyFromBytes(std::string_view bytes);

}  // namespace lorica
