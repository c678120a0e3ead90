// UTF-8: the one place that decides what is a character.
//
// Free functions without state: share them freely. Invalid bytes are cut as Unicode
// recommends and Python's 'replace' does it: each maximal part that starts a character
// without finishing it counts as one error.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lorica {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

enum class Utf8Kind {
  kCharacter,   // a whole character
  kInvalid,     // can never become one
  kIncomplete,  // the text ends inside what may become one
};

struct Utf8Step {
  Utf8Kind kind = Utf8Kind::kInvalid;
  int bytes = 1;                                // how many this step covers, 1 to 4
  char32_t code_point = kReplacementCharacter;  // of a character
};

// What `text` starts with. REQUIRES: not empty.
Utf8Step NextUtf8(std::string_view text);

// Whether a character of valid UTF-8 begins with the byte.
inline bool BeginsCharacter(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; }
int64_t CountCharacters(std::string_view text);

void AppendUtf8(char32_t code_point, std::string* out);

// InvalidArgument names the first offset that is not UTF-8. Surrogates, overlong forms
// and code points beyond U+10FFFF are not; NUL and the byte order mark are.
absl::Status CheckUtf8(std::string_view text);

}  // namespace lorica
