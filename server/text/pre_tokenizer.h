// Cuts text into the words that byte-pair encoding works on.
//
// The patterns that published models use are written out by hand over Unicode classes:
// they need look-ahead, which linear-time regex libraries lack, and here each character
// is looked at a bounded number of times. Immutable: thread-safe.
#pragma once

#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"

namespace lorica {

// One step cuts every piece the steps before it left.
enum class SplitStep {
  kPrefixSpace,  // a blank goes before a piece that does not start with one
  kDigits,       // every number character alone
  kDigitRuns,    // runs of number characters
  kGpt2,         // contractions; letters, numbers, others, each with one blank before
  kLlama3,       // any case of contractions; numbers by threes; line ends together
  kQwen2,        // as kLlama3, numbers one by one
};

class PreTokenizer {
 public:
  explicit PreTokenizer(std::vector<SplitStep> steps) : steps_(std::move(steps)) {}
  // Calls `word` with the pieces of `text` in order; none is empty. `text` is valid UTF-8.
  void Split(std::string_view text, absl::FunctionRef<void(std::string_view)> word) const;

 private:
  void SplitFrom(size_t step, std::string_view text,
                 absl::FunctionRef<void(std::string_view)> word) const;

  std::vector<SplitStep> steps_;
};

}  // namespace lorica
