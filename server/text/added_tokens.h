// Finds added tokens in text: the longest at the leftmost place, as the reference does.
// Immutable once built: thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "server/text/tokenizer.h"

namespace lorica {

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

class AddedTokenMatcher {
 public:
  // Tokens without content never match. Of equal contents the last one counts.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  bool empty() const { return edges_.empty(); }

  // Calls `piece` for the text between tokens (id -1) and for each token, in order, with the
  // blanks it swallows (lstrip, rstrip). A token lies within one of `ranges`, which ascend.
  void Split(std::string_view text, absl::Span<const TextRange> ranges,
             absl::FunctionRef<void(std::string_view, int32_t)> piece) const;

 private:
  struct Match {
    const AddedToken* token = nullptr;
    size_t end = 0;
  };
  // The next token of `text`, which may swallow what lies outside of `range`.
  struct Found {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = -1;  // -1: none
  };
  Found NextIn(std::string_view text, TextRange range, size_t done) const;
  Match LongestAt(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<uint64_t, int32_t> edges_;  // node << 8 | byte -> node; 0 is the root
  std::vector<int32_t> token_at_node_;            // index into tokens_, or -1
};

}  // namespace lorica
