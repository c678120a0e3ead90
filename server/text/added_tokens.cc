#include "server/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "server/text/unicode.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

uint64_t EdgeKey(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

// Where the character before `at` starts. REQUIRES: 0 < at.
size_t PreviousStart(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && !BeginsCharacter(text[at]));
  return at;
}

bool HasClass(std::string_view text, size_t at, uint8_t mask) {
  return at < text.size() && (unicode::ClassesOf(NextUtf8(text.substr(at)).code_point) & mask) != 0;
}

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  const bool joined_left = begin > 0 && HasClass(text, PreviousStart(text, begin), unicode::kWord);
  return !joined_left && !HasClass(text, end, unicode::kWord);
}

size_t BlanksStart(std::string_view text, size_t at, size_t lowest) {
  while (at > lowest && HasClass(text, PreviousStart(text, at), unicode::kSpace)) {
    at = PreviousStart(text, at);
  }
  return std::max(at, lowest);
}

size_t BlanksEnd(std::string_view text, size_t at) {
  while (HasClass(text, at, unicode::kSpace)) at += NextUtf8(text.substr(at)).bytes;
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_node_{-1} {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].content.empty()) continue;
    int32_t node = 0;
    for (const char byte : tokens_[i].content) {
      const auto [edge, added] = edges_.try_emplace(EdgeKey(node, byte), token_at_node_.size());
      if (added) token_at_node_.push_back(-1);
      node = edge->second;
    }
    token_at_node_[node] = static_cast<int32_t>(i);
  }
}

AddedTokenMatcher::Match AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  Match longest;
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(EdgeKey(node, text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_node_[node] >= 0) longest = {&tokens_[token_at_node_[node]], i + 1};
  }
  return longest;
}

AddedTokenMatcher::Found AddedTokenMatcher::NextIn(std::string_view text, TextRange range,
                                                   size_t done) const {
  const std::string_view sought = text.substr(0, range.end);
  for (size_t at = std::max(range.begin, done); at < range.end;) {
    const Match match = LongestAt(sought, at);
    const bool refused =
        match.token != nullptr && match.token->single_word && !StandsAlone(text, at, match.end);
    if (match.token == nullptr || refused) {
      at = refused ? match.end : at + 1;
      continue;
    }
    return {match.token->lstrip ? BlanksStart(text, at, done) : at,
            match.token->rstrip ? BlanksEnd(text, match.end) : match.end, match.token->id};
  }
  return {};
}

void AddedTokenMatcher::Split(std::string_view text, absl::Span<const TextRange> ranges,
                              absl::FunctionRef<void(std::string_view, int32_t)> piece) const {
  size_t done = 0;
  for (const TextRange& range : ranges) {
    for (TextRange rest = range;;) {
      const Found found = NextIn(text, rest, done);
      if (found.id < 0) break;
      if (found.begin > done) piece(text.substr(done, found.begin - done), -1);
      piece(text.substr(found.begin, found.end - found.begin), found.id);
      rest.begin = done = found.end;
    }
  }
  if (done < text.size()) piece(text.substr(done), -1);
}

}  // namespace lorica
