// Files that hold a key or a token: read whole, bounded, and with a word about who else can.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace lorica {

inline constexpr size_t kSecretFileBytesMax = 1 << 20;

// The file's text. InvalidArgument: it cannot be read, is empty or too large. Warns on stderr when
// others than its owner may read it.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path);

// The same for a file with one word: a line feed at its end is none of it. InvalidArgument: also
// where it holds blanks or control characters.
absl::StatusOr<std::string> ReadSecretWord(const std::string& path);

// Makes a new file that its owner alone may read. InvalidArgument: it is there already, or cannot
// be written.
absl::Status WriteSecretFile(const std::string& path, const std::string& text);

}  // namespace lorica
