#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/grammar/response_format.h"

namespace lorica {
namespace {

constexpr uint32_t kLastCodePoint = 0x10ffff;
constexpr uint32_t kFirstSurrogate = 0xd800, kLastSurrogate = 0xdfff;
constexpr size_t kShownDigitsMax = 16;

absl::string_view HexDigitsOf(absl::string_view text) {
  const auto end = std::find_if_not(text.begin(), text.end(),
                                    [](unsigned char c) { return absl::ascii_isxdigit(c); });
  return text.substr(0, end - text.begin());
}

// What stands behind a backslash.
struct Escape {
  absl::string_view digits;  // of \x, \u, \u{...} and \U; empty: it is another
  size_t bytes = 1;
};

// The compiler takes all digits for \x's.
Escape EscapeAt(absl::string_view text) {
  if (text.empty()) return {};
  const bool braced = absl::StartsWith(text, "u{");
  const absl::string_view digits = HexDigitsOf(text.substr(braced ? 2 : 1));
  if (braced) {
    const bool closed = absl::StartsWith(text.substr(2 + digits.size()), "}");
    return closed ? Escape{digits, digits.size() + 3} : Escape();
  }
  if (text[0] == 'x') return {digits, digits.size() + 1};
  if (text[0] == 'u' && digits.size() >= 4) return {digits.substr(0, 4), 5};
  if (text[0] == 'U' && digits.size() >= 8) return {digits.substr(0, 8), 9};
  return {{}, text[0] == 'c' ? size_t{2} : size_t{1}};
}

// The character; none that exists: 0xffffffff.
uint32_t CodeOf(absl::string_view escape, absl::string_view digits) {
  uint32_t value = 0;
  if (digits.empty()) return escape[0] == 'c' && escape.size() > 1 ? escape[1] % 32 : escape[0];
  return absl::SimpleHexAtoi(digits, &value) ? value : 0xffffffff;
}

bool IsCodePoint(absl::string_view digits) {
  const uint32_t value = CodeOf("", digits);
  return value <= kLastCodePoint && (value < kFirstSurrogate || value > kLastSurrogate);
}

// Whether the compiler writes the escape as \x, without an end, on a regex's way to a grammar.
bool BecomesHex(absl::string_view escape, absl::string_view digits) {
  const uint32_t code = CodeOf(escape, digits);
  if (digits.empty() && escape[0] != 'c') return false;
  return code <= 0xff && !absl::ascii_isprint(static_cast<unsigned char>(code)) &&
         !absl::StrContains(absl::string_view("\0\a\b\t\n\v\f\r\x1b", 9), static_cast<char>(code));
}

bool BeginsWithHexDigit(absl::string_view text) {
  if (!absl::StartsWith(text, "\\") || text.size() < 2) return !HexDigitsOf(text).empty();
  const absl::string_view escape = text.substr(1);
  const absl::string_view digits = EscapeAt(escape).digits;
  if (digits.empty()) return escape[0] == 'd' || escape[0] == 'w';
  const uint32_t code = CodeOf(escape, digits);
  return code < 0x80 && absl::ascii_isxdigit(static_cast<unsigned char>(code));
}

absl::Status CheckInClass(absl::string_view escape, size_t bytes, bool first) {
  const absl::string_view digits = EscapeAt(escape).digits;
  if (first && CodeOf(escape, digits) == '^') {
    return absl::InvalidArgumentError(
        "has a class of characters that begins with an escaped '^': put another before it");
  }
  if (!BecomesHex(escape, digits) || !BeginsWithHexDigit(escape.substr(bytes))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "has a class of characters with an escape up to U+00FF before a hexadecimal digit: write "
      "the character itself, or put the escape last");
}

}  // namespace

absl::Status CheckCodePoints(FormatKind kind, std::string_view text) {
  const bool regex = kind == FormatKind::kRegex;
  size_t list_begin = text.npos;  // of a regex's class of characters
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '[' && regex && list_begin == text.npos) list_begin = i + 1;
    if (text[i] == ']') list_begin = text.npos;
    if (text[i] != '\\' || i + 1 == text.size()) continue;
    const absl::string_view escape(text.data() + i + 1, text.size() - i - 1);
    const auto [digits, bytes] = EscapeAt(escape);
    if (regex && escape[0] == 'x' && digits.size() > 2) {
      return absl::InvalidArgumentError(
          "has an escape \\x of more than two digits: write \\u{...}");
    }
    if (!digits.empty() && !IsCodePoint(digits)) {
      return absl::InvalidArgumentError(
          absl::StrCat("names U+", absl::AsciiStrToUpper(digits.substr(0, kShownDigitsMax)),
                       ", which is no character: they end at U+10FFFF, without U+D800 to U+DFFF"));
    }
    if (list_begin != text.npos) {
      absl::Status status = CheckInClass(escape, bytes, i == list_begin);
      if (!status.ok()) return status;
    }
    i += std::min(bytes, escape.size());
  }
  return absl::OkStatus();
}

absl::Status CheckExpression(FormatKind kind, std::string_view text) {
  if (text.find('\0') != text.npos) {
    return absl::InvalidArgumentError("holds a NUL, at which its reader would end: write \\0");
  }
  absl::Status status = CheckRepetitions(kind, text);
  status.Update(CheckCodePoints(kind, text));
  return status;
}

}  // namespace lorica
