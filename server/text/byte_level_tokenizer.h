// The parts of a byte-level BPE tokenizer, and the tokenizer made of them.
//
// Readers of tokenizer.json and GGUF fill ByteLevelParts; nothing here knows a file format.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/pre_tokenizer.h"
#include "server/text/tokenizer.h"

namespace lorica {

struct VocabularyEntry {
  std::string spelling;  // in the byte alphabet
  int32_t id = 0;
};

struct ByteLevelParts {
  std::vector<VocabularyEntry> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // spelled, best first
  std::vector<AddedToken> added_tokens;                     // sought in the text as it came
  std::vector<AddedToken> normalized_added_tokens;          // sought in what is left, normalised
  std::vector<PreTokenizerStep> steps;
  bool nfc = false;
  bool ignore_merges = false;
  int32_t unknown_id = -1;  // -1: bytes without a token vanish
  bool fuse_unknown = false;
  bool byte_fallback = false;  // served only where no byte would need it
};

// FailedPrecondition: an id out of range, a merge of what is no token.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeByteLevelTokenizer(ByteLevelParts parts);

}  // namespace lorica
