#include "server/http/lorax_answer.h"

#include <algorithm>
#include <cmath>

namespace lorica {
namespace {

// Clients take numbers only; banned tokens are minus infinity.
constexpr float kLogprobMin = -9999.0f;

double LogprobNumber(float logprob) { return ShortDouble(std::max(logprob, kLogprobMin)); }

}  // namespace

LoraxAnswer::LoraxAnswer(const LoraxRequest* request, const Gateway* gateway, int index)
    : request_(*request),
      gateway_(*gateway),
      index_(index),
      keeps_tokens_(request->details && !request->stream) {
  if (gateway_.tokenizer() != nullptr) detokenizer_.emplace(gateway_.tokenizer(), false);
  if (request_.return_full_text) text_ = request_.input;
}

OrderedJson LoraxAnswer::Alternatives(const TokenEvent::Token& token) const {
  OrderedJson alternatives = OrderedJson::array();
  for (const Logprob& top : token.top) {
    OrderedJson alternative;
    alternative["id"] = top.token;
    const int32_t ids[] = {top.token};
    alternative["text"] = Decode(*gateway_.tokenizer(), ids, false);
    alternative["logprob"] = LogprobNumber(top.logprob);
    alternatives.push_back(std::move(alternative));
  }
  return alternatives;
}

OrderedJson LoraxAnswer::PrefillJson(const TokenEvent::Token& token) const {
  const int32_t ids[] = {token.id};
  OrderedJson json;
  json["id"] = token.id;
  json["text"] = gateway_.tokenizer() ? Decode(*gateway_.tokenizer(), ids, false) : "";
  json["logprob"] =
      std::isnan(token.logprob) ? OrderedJson() : OrderedJson(LogprobNumber(token.logprob));
  return json;
}

OrderedJson LoraxAnswer::TokenJson(const TokenEvent::Token& token) {
  OrderedJson json;
  json["id"] = token.id;
  json["text"] = detokenizer_ ? detokenizer_->Push(token.id) : "";
  json["logprob"] = LogprobNumber(token.logprob);
  json["special"] = detokenizer_ && gateway_.tokenizer()->IsSpecial(token.id);
  if (request_.call.logprobs.value_or(0) > 0) json["alternative_tokens"] = Alternatives(token);
  json["skipped"] = false;
  return json;
}

std::vector<OrderedJson> LoraxAnswer::Add(const AnswerChunk& chunk) {
  text_ += chunk.text;
  for (const TokenEvent::Token& token : chunk.prompt) prefill_.push_back(PrefillJson(token));
  std::vector<OrderedJson> tokens;
  for (const TokenEvent::Token& token : chunk.tokens) {
    logprob_sum_ += token.logprob;
    if (!keeps_tokens_ && !request_.stream) continue;
    tokens.push_back(TokenJson(token));
    if (keeps_tokens_) tokens_.push_back(tokens.back());
  }
  return tokens;
}

double LoraxAnswer::mean_logprob() const {
  return logprob_sum_ / std::max(1, end_->completion_tokens);
}

// The length comes first: an end token that is the last one allowed is not looked at.
const char* LoraxAnswer::FinishReason() const {
  const int64_t room = gateway_.limits().context_tokens - end_->prompt_tokens;
  const int64_t most = std::min<int64_t>(request_.call.max_tokens.value_or(room), room);
  if (end_->reason == StopReason::kLength || end_->completion_tokens >= most) return "length";
  return end_->reason == StopReason::kStopString ? "stop_sequence" : "eos_token";
}

OrderedJson LoraxAnswer::Seed() const {
  return request_.seed ? OrderedJson(*request_.seed + index_) : OrderedJson();
}

OrderedJson LoraxAnswer::Details(bool of_stream) const {
  OrderedJson details;
  details["finish_reason"] = FinishReason();
  details["prompt_tokens"] = end_->prompt_tokens;
  details["generated_tokens"] = end_->completion_tokens;
  if (!of_stream) details["skipped_tokens"] = 0;
  details["seed"] = Seed();
  if (of_stream) return details;
  details["prefill"] = prefill_;
  details["tokens"] = tokens_;
  return details;
}

OrderedJson LoraxAnswer::Sequence() const {
  OrderedJson sequence;
  sequence["generated_text"] = text_;
  sequence["finish_reason"] = FinishReason();
  sequence["generated_tokens"] = end_->completion_tokens;
  sequence["seed"] = Seed();
  sequence["prefill"] = prefill_;
  sequence["tokens"] = tokens_;
  return sequence;
}

}  // namespace lorica
