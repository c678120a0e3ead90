#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/grammar/response_format.h"

namespace lorica {
namespace {

// Whether a number of the text is above the bound.
bool HasLargeNumber(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && absl::ascii_isdigit(text[end])) ++end;
    int64_t number = 0;
    const absl::string_view digits(text.data() + i, end - i);
    if (end > i && (!absl::SimpleAtoi(digits, &number) || number > kRepetitionMax)) return true;
    i = end + 1;
  }
  return false;
}

}  // namespace

absl::Status CheckRepetitions(FormatKind kind, std::string_view text) {
  bool quoted = false, listed = false;  // in a text of a grammar, in a class of characters
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      ++i;
    } else if (c == '#' && kind == FormatKind::kEbnf && !quoted && !listed) {
      i = std::min(text.find('\n', i), text.size());  // a comment
    } else if (c == '"' && kind == FormatKind::kEbnf && !listed) {
      quoted = !quoted;
    } else if (c == '[' && !quoted) {
      listed = true;
    } else if (c == ']') {
      listed = false;
    } else if (c == '{' && !quoted && !listed) {
      const size_t end = text.find('}', i);
      if (HasLargeNumber(text.substr(i, end == text.npos ? end : end - i))) {
        return absl::InvalidArgumentError(
            absl::StrCat("repeats something more than ", kRepetitionMax, " times"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace lorica
