// Token ids to text, one token at a time, never splitting a character.
//
// Bytes of an unfinished UTF-8 sequence are held back until it is complete or can
// no longer be; each maximal invalid part becomes one U+FFFD. Concatenated, the
// pieces equal the decoding of the whole. Stop strings are matched over the text
// across token borders: text that may still become a stop string is held back too.
// One per stream; not thread-safe. The tokenizer outlives it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "server/text/tokenizer.h"

namespace lorica {

class Detokenizer {
 public:
  Detokenizer(const Tokenizer* tokenizer, bool skip_special_tokens);
  // Whole characters that became certain with this token.
  std::string Push(int32_t id);
  // What is left; an unfinished sequence becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;  // at most 3 bytes: the start of a character
};

// Decodes everything at once.
std::string Decode(const Tokenizer& tokenizer, absl::Span<const int32_t> ids,
                   bool skip_special_tokens);

// Finds the first of several stop strings in a text that arrives in pieces: the one that
// is complete first, the longest of those that are complete together. How the text was cut
// makes no difference. Time: bytes of text times stop strings.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);  // empty ones never match
  // Text that is certain not to belong to a stop string. Once stopped() it is the
  // text before the match, and later calls return nothing.
  std::string Push(std::string_view text);
  std::string Finish();  // the held-back rest; empty once stopped
  bool stopped() const { return stopped_; }
  // The stop string that was found; empty unless stopped().
  const std::string& found() const { return found_; }

 private:
  struct Pattern {
    bool Advance(char byte);  // true: the text so far ends with it

    std::string text;
    std::vector<size_t> border;  // [i]: longest proper prefix that ends text[0..i]
    size_t matched = 0;          // bytes of it that the text so far ends with
  };
  std::string Stop(std::string_view text, size_t stop_bytes);

  std::vector<Pattern> patterns_;
  std::string held_;
  std::string found_;
  bool stopped_ = false;
};

}  // namespace lorica
