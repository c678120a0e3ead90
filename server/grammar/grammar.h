// A compiled grammar, and the walk of one answer through it.
//
// What wraps xgrammar: its exceptions and warnings end here as statuses, and no other header
// names it. Compiling takes as long as a grammar likes; GrammarTrial bounds it. A GrammarMaker
// and a Grammar may be shared between threads, a GrammarWalk belongs to one at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/grammar/response_format.h"
#include "server/grammar/vocabulary.h"

namespace lorica {

inline constexpr int kRehearsedWays = 4;
inline constexpr int kRehearsedTokens = 16;  // of each way

class Grammar {
 public:
  virtual ~Grammar() = default;
  virtual int64_t bytes() const = 0;  // of memory, about

  // A mask took too long: no further answer should begin.
  void MarkSlow() const { slow_.store(true, std::memory_order_relaxed); }
  bool slow() const { return slow_.load(std::memory_order_relaxed); }

 private:
  mutable std::atomic<bool> slow_{false};
};

// How far an answer has come.
class GrammarWalk {
 public:
  virtual ~GrammarWalk() = default;
  // Internal: the token may not follow. REQUIRES: the last mask had it.
  virtual absl::Status Accept(int32_t token) = 0;
  // Bit per token, 32 tokens a word. InvalidArgument: no token may follow, not even an end
  // token; such a grammar has a part that nothing fits. REQUIRES: words for the vocabulary.
  virtual absl::Status FillMask(absl::Span<int32_t> mask) = 0;
};

class GrammarMaker {
 public:
  explicit GrammarMaker(const GrammarVocabulary& vocabulary);
  ~GrammarMaker();

  // InvalidArgument says what the format lacks; ResourceExhausted: memory ended.
  absl::StatusOr<std::shared_ptr<const Grammar>> Make(const ResponseFormat& format) const;
  // REQUIRES: `grammar` comes from Make; it may outlive the maker.
  static std::unique_ptr<GrammarWalk> Walk(std::shared_ptr<const Grammar> grammar);
  // Walks some ways of a few tokens: what is compiled fast may still be slow to follow.
  void Rehearse(const std::shared_ptr<const Grammar>& grammar) const;
  int mask_words() const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorica
