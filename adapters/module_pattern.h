// Keys of PEFT's rank_pattern and alpha_pattern, matched as PEFT matches them.
//
// A key is itself a regular expression; it matches a module's name when
// (.*\.)?(KEY) matches all of it. Keys are foreign text: they run on RE2, in linear
// time and bounded memory. Immutable and thread-safe.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace re2 {
class RE2;
}

namespace lorica {

inline constexpr int kPatternBytesMax = 1 << 10;  // of one key
inline constexpr int kPatternProgramMax = 4000;   // compiled instructions of one key
inline constexpr int kPatternEntriesMax = 4096;   // keys of one table
// Instructions of all keys of a table: bounds what looking up one module costs.
inline constexpr int kPatternTableProgramMax = 1 << 18;

// An ordered table: the first key that matches gives the value.
template <typename Value>
class PatternTable {
 public:
  // FailedPrecondition names the key that cannot be used. `field`: for the message.
  static absl::StatusOr<PatternTable> Compile(
      const std::string& field, const std::vector<std::pair<std::string, Value>>& entries);
  // Null when no key matches.
  const Value* Find(const std::string& module_name) const;

 private:
  std::vector<std::pair<std::shared_ptr<const re2::RE2>, Value>> entries_;
};

}  // namespace lorica
