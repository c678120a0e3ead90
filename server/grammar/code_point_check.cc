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

// The hex digits of the escape that `text` begins with behind its backslash: u{...}, or U and
// eight; empty: it is another.
absl::string_view DigitsOf(absl::string_view text) {
  const bool braced = absl::StartsWith(text, "u{");
  if (!braced && !absl::StartsWith(text, "U")) return {};
  const absl::string_view digits = text.substr(braced ? 2 : 1);
  const auto end = std::find_if_not(digits.begin(), digits.end(),
                                    [](unsigned char c) { return absl::ascii_isxdigit(c); });
  const size_t count = end - digits.begin();
  if (braced) return count < digits.size() && *end == '}' ? digits.substr(0, count) : "";
  return count >= 8 ? digits.substr(0, 8) : "";
}

bool IsCodePoint(absl::string_view digits) {
  uint32_t value = 0;
  return absl::SimpleHexAtoi(digits, &value) && value <= kLastCodePoint &&
         (value < kFirstSurrogate || value > kLastSurrogate);
}

}  // namespace

absl::Status CheckCodePoints(std::string_view text) {
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] != '\\') continue;
    ++i;
    const absl::string_view digits = DigitsOf({text.data() + i, text.size() - i});
    if (digits.empty() || IsCodePoint(digits)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("names U+", absl::AsciiStrToUpper(digits.substr(0, 16)),
                     ", which is no character: they end at U+10FFFF, without U+D800 to U+DFFF"));
  }
  return absl::OkStatus();
}

}  // namespace lorica
