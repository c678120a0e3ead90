// Cuts text into the words that byte-pair encoding works on.
//
// The patterns that published models use are written out by hand over Unicode classes:
// they need look-ahead, which linear-time regex libraries lack, and here each character
// is looked at a bounded number of times. Others are SplitPatterns. Immutable: thread-safe.
#pragma once

#include <memory>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "server/text/split_pattern.h"

namespace lorica {

enum class SplitStep {
  kPrefixSpace,  // a blank goes before a piece that does not start with one
  kDigits,       // every number character alone
  kDigitRuns,    // runs of number characters
  kGpt2,         // contractions; letters, numbers, others, each with one blank before
  kLlama3,       // any case of contractions; numbers by threes; line ends together
  kQwen2,        // as kLlama3, numbers one by one
};

// One step cuts every piece the steps before it left.
using PreTokenizerStep = std::variant<SplitStep, std::shared_ptr<const SplitPattern>>;

class PreTokenizer {
 public:
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}
  // Calls `word` with the pieces of `text` in order; none is empty. `text` is valid UTF-8.
  // The error of a SplitPattern is passed on, after words of the text before it.
  absl::Status Split(std::string_view text, absl::FunctionRef<void(std::string_view)> word) const;

 private:
  absl::Status SplitFrom(size_t step, std::string_view text,
                         absl::FunctionRef<void(std::string_view)> word) const;

  std::vector<PreTokenizerStep> steps_;
};

}  // namespace lorica
