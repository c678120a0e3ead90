// Byte-level BPE: text to token ids and back.
//
// Built from a tokenizer.json or from GGUF metadata; another kind of tokenizer
// (SentencePiece, WordPiece, Unigram) is refused by name. Encoding is O(n log n) for
// any text. Immutable once built: share it between threads freely.
// Format: https://huggingface.co/docs/tokenizers; byte alphabet: GPT-2's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/text/prompt_part.h"

namespace lorica {

inline constexpr int64_t kTokenizerJsonBytesMax = 64 << 20;
inline constexpr int64_t kEncodeBytesMax = 16 << 20;         // of one text
inline constexpr int32_t kTokenizerVocabularyMax = 1 << 22;  // ids are below this

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
};

// What GGUF metadata says (keys tokenizer.ggml.*).
struct GgufVocabulary {
  std::string model;  // "gpt2" is byte-level BPE
  std::string pre;    // name of the pre-tokeniser: "smollm", "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;
  std::vector<int64_t> token_types;  // 1 normal, 3 control, 4 user defined, ...
  std::vector<std::string> merges;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Appends the ids of `text`. With `parse_special` added tokens written in the text
  // are recognised; without, they are plain text (chat contents). Nothing is added in
  // front or behind. Bytes that the vocabulary cannot express vanish, as in the
  // reference. InvalidArgument, and `ids` as it was: not valid UTF-8, or beyond
  // kEncodeBytesMax.
  virtual absl::Status Encode(std::string_view text, bool parse_special,
                              std::vector<int32_t>* ids) const = 0;
  // The same for template text and message text put together: added tokens are recognised
  // where the template alone wrote them; all other text is encoded as one, across the
  // seams, which gives the ids of the reference for the whole prompt.
  virtual absl::Status EncodeParts(absl::Span<const PromptPart> parts,
                                   std::vector<int32_t>* ids) const;
  // The bytes of one token: may be part of a character. Empty for ids without a token.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // -1 if no such token.
  virtual int32_t IdOf(std::string_view token) const = 0;
  virtual int32_t size() const = 0;  // ids are below this
};

// FailedPrecondition names the kind of tokenizer that is not served.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizerFromJson(std::string_view tokenizer_json);
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizerFromGguf(const GgufVocabulary& vocabulary);

}  // namespace lorica
