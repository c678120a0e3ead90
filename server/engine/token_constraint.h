// What the tokens of one request must keep to, as the engine sees it: a grammar, say.
//
// The engine tells every token that was chosen, and takes the mask of those that may come
// next. Making a mask is another thread's work, done while the device computes the row that it
// is for. The engine's thread calls all of it, and no call but TakeMask waits.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace lorica {

class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Whether the mask that follows all accepted tokens is there. At first that takes as long as
  // the constraint needs to be made; its request waits in the queue. An error ends the request.
  virtual absl::StatusOr<bool> Ready() = 0;
  // `token` was chosen: starts on the mask that follows it.
  virtual void Accept(int32_t token) = 0;
  // Copies the mask, bit per token and 32 tokens a word, waiting for it at most `patience`.
  // False: it is not there yet. An error ends the request. REQUIRES: words for the vocabulary.
  virtual absl::StatusOr<bool> TakeMask(absl::Duration patience, absl::Span<int32_t> mask) = 0;
};

}  // namespace lorica
