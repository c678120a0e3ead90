// A splitting pattern out of a tokenizer.json that is none of the published ones, run by PCRE2.
//
// The pattern is the model's, the text anyone's: all work on a text is counted, one unit for
// each item of the pattern tried and each byte passed over, and has a bound that grows with the
// text alone, so that no text takes more than linear time. Memory is bounded too.
// Immutable: thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorica {

inline constexpr int64_t kSplitPatternBytesMax = 4096;
inline constexpr int64_t kSplitWorkPerByteMax = 24;
inline constexpr int64_t kSplitWorkMin = 64 << 10;  // granted to any text, however short
inline constexpr int64_t kSplitHeapBytesMax = 64 << 20;

enum class SplitKeeps { kAll, kMatches, kGaps };

class SplitPattern {
 public:
  struct Options {
    bool literal = false;  // the pattern is text to be found, not a regular expression
    SplitKeeps keeps = SplitKeeps::kAll;
  };

  // FailedPrecondition, in PCRE2's words: the pattern is too long or not understood.
  static absl::StatusOr<std::shared_ptr<const SplitPattern>> Compile(std::string_view pattern,
                                                                     const Options& options);
  virtual ~SplitPattern() = default;

  // Calls `piece` with what is kept of `text`, in order; none is empty. `text` is valid UTF-8.
  // InvalidArgument: the text needs more work than the bounds allow.
  virtual absl::Status Split(std::string_view text,
                             absl::FunctionRef<void(std::string_view)> piece) const = 0;
};

}  // namespace lorica
