// An answer in LoRAX's words: tokens with text and log-probability, details, events.
//
// One per answer; takes its pieces in order. Not thread-safe.
#pragma once

#include <optional>
#include <string>

#include "server/api/gateway.h"
#include "server/http/json.h"
#include "server/http/lorax_request.h"
#include "server/text/detokenizer.h"

namespace lorica {

// Of one event: a client that reads lines by Python's asyncio gives up at 131,072 bytes.
inline constexpr int64_t kLoraxEventBytesMax = 131'000;

class LoraxAnswer {
 public:
  // `request` outlives it. `index`: which of several samples.
  LoraxAnswer(const LoraxRequest* request, const Gateway* gateway, int index);

  // Adds a piece. Its tokens as JSON, in order.
  std::vector<OrderedJson> Add(const AnswerChunk& chunk);
  void End(AnswerEnd end) { end_ = std::move(end); }

  const std::optional<AnswerEnd>& end() const { return end_; }
  const std::string& text() const { return text_; }
  double mean_logprob() const;

  // The members of `details`, without `tokens` and `prefill` for a stream.
  OrderedJson Details(bool of_stream) const;
  // As one of `best_of_sequences`.
  OrderedJson Sequence() const;

 private:
  OrderedJson PrefillJson(const TokenEvent::Token& token) const;
  OrderedJson TokenJson(const TokenEvent::Token& token);
  const char* FinishReason() const;
  OrderedJson Seed() const;
  OrderedJson Alternatives(const TokenEvent::Token& token) const;

  const LoraxRequest& request_;
  const Gateway& gateway_;
  const int index_;
  const bool keeps_tokens_;
  std::optional<Detokenizer> detokenizer_;
  std::string text_;
  OrderedJson prefill_ = OrderedJson::array();
  OrderedJson tokens_ = OrderedJson::array();
  double logprob_sum_ = 0.0;
  std::optional<AnswerEnd> end_;
};

}  // namespace lorica
