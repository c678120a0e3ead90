// Answers in OpenAI's words: choices, log-probabilities, usage, chunks of a stream.
//
// One a choice; takes its pieces in order. Not thread-safe.
#pragma once

#include <optional>
#include <string>

#include "server/api/gateway.h"
#include "server/http/json.h"
#include "server/http/openai_request.h"

namespace lorica {

class OpenAiChoice {
 public:
  // Both outlive it. `prompt`: which of the request's prompts it answers.
  OpenAiChoice(const OpenAiRequest* request, const Gateway* gateway, int prompt);

  void Add(const AnswerChunk& chunk);
  void End(AnswerEnd end) { end_ = std::move(end); }
  const std::optional<AnswerEnd>& end() const { return end_; }
  double mean_logprob() const;

  // The whole choice; REQUIRES: ended.
  OrderedJson Whole(int index);
  // What was added since the last call, as a stream's choice. `first`: a chat's role.
  OrderedJson Part(int index, bool first);
  // What vLLM says of each token of the prompt; null where nobody asked. REQUIRES: ended.
  OrderedJson PromptLogprobs() const;
  bool has_part() const { return !text_.empty() || !tokens_.empty(); }
  // The last one, with the reason.
  OrderedJson LastPart(int index) const;

 private:
  OrderedJson TakeLogprobs();
  OrderedJson ChatLogprobs() const;
  OrderedJson CompletionLogprobs() const;
  OrderedJson ChatToken(int32_t id, float logprob) const;
  OrderedJson RankedLogprob(const Logprob& entry, std::optional<int> rank) const;
  std::string TokenText(int32_t id) const;
  const char* FinishReason() const;

  const OpenAiRequest& request_;
  const Tokenizer* const tokenizer_;
  std::string text_;
  std::vector<TokenEvent::Token> tokens_;  // kept for their log-probabilities
  std::vector<TokenEvent::Token> prompt_;
  int64_t text_offset_ = 0;  // in characters, of the next token
  double logprob_sum_ = 0.0;
  std::optional<AnswerEnd> end_;
};

// What all chunks or the one answer of a request begin with.
OrderedJson OpenAiHead(const OpenAiRequest& request, const std::string& id, absl::Time created,
                       const std::string& version);
OrderedJson UsageJson(int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens);

}  // namespace lorica
