// Character classes and the composed normal form (NFC) that tokenizers are defined by.
//
// Free functions over tables that are built once, on first use: share them freely.
// Unicode version: see unicode_tables.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lorica::unicode {

enum Class : uint8_t {
  kLetter = 1,  // \p{L}
  kNumber = 2,  // \p{N}
  kSpace = 4,   // White_Space, what \s means here
  kWord = 8,    // \w
};

// The classes of a code point, or-ed together. REQUIRES: below 0x110000.
uint8_t ClassesOf(char32_t code_point);

// O(n log n) for any text. `text` is valid UTF-8.
std::string NormalizeNfc(std::string_view text);

}  // namespace lorica::unicode
