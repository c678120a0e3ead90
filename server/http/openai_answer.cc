#include "server/http/openai_answer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/text/detokenizer.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

constexpr float kLogprobMin = -9999.0f;
constexpr char kReplacement[] = "\xEF\xBF\xBD";

// Null where there is none: for a prompt's first token.
OrderedJson LogprobNumber(float logprob) {
  if (std::isnan(logprob)) return nullptr;
  return ShortDouble(std::max(logprob, kLogprobMin));
}

// The engine gives as many as the one asks for who wants more.
TokenEvent::Token WithBest(TokenEvent::Token token, int count) {
  if (std::ssize(token.top) > count) token.top.resize(count);
  return token;
}

}  // namespace

OpenAiChoice::OpenAiChoice(const OpenAiRequest* request, const Gateway* gateway, int prompt)
    : request_(*request), tokenizer_(gateway->tokenizer()), text_(request->echoed[prompt]) {}

void OpenAiChoice::Add(const AnswerChunk& chunk) {
  text_ += chunk.text;
  for (const TokenEvent::Token& token : chunk.prompt) {
    if (request_.echoed_logprobs) tokens_.push_back(WithBest(token, *request_.calls[0].logprobs));
    if (request_.prompt_logprobs) prompt_.push_back(WithBest(token, *request_.prompt_logprobs));
  }
  for (const TokenEvent::Token& token : chunk.tokens) {
    logprob_sum_ += token.logprob;
    if (request_.logprobs) tokens_.push_back(token);
  }
}

double OpenAiChoice::mean_logprob() const {
  return logprob_sum_ / std::max(1, end_->completion_tokens);
}

const char* OpenAiChoice::FinishReason() const {
  return end_->reason == StopReason::kLength ? "length" : "stop";
}

// Tokens that are no whole characters show their bytes, so that they differ.
std::string OpenAiChoice::TokenText(int32_t id) const {
  if (tokenizer_ == nullptr) return absl::StrCat("token_id:", id);
  const int32_t ids[] = {id};
  std::string text = Decode(*tokenizer_, ids, false);
  if (!absl::StrContains(text, kReplacement)) return text;
  text = "bytes:";
  for (const unsigned char byte : tokenizer_->TokenBytes(id)) {
    absl::StrAppendFormat(&text, "\\x%02x", byte);
  }
  return text;
}

OrderedJson OpenAiChoice::ChatToken(int32_t id, float logprob) const {
  OrderedJson token;
  token["token"] = TokenText(id);
  token["logprob"] = LogprobNumber(logprob);
  token["bytes"] = OrderedJson::array();
  if (tokenizer_ == nullptr) return token;
  for (const unsigned char byte : tokenizer_->TokenBytes(id)) token["bytes"].push_back(byte);
  return token;
}

OrderedJson OpenAiChoice::ChatLogprobs() const {
  OrderedJson content = OrderedJson::array();
  for (const TokenEvent::Token& token : tokens_) {
    OrderedJson entry = ChatToken(token.id, token.logprob);
    entry["top_logprobs"] = OrderedJson::array();
    for (const Logprob& top : token.top) {
      entry["top_logprobs"].push_back(ChatToken(top.token, top.logprob));
    }
    content.push_back(std::move(entry));
  }
  OrderedJson logprobs;
  logprobs["content"] = std::move(content);
  logprobs["refusal"] = nullptr;
  return logprobs;
}

OrderedJson OpenAiChoice::CompletionLogprobs() const {
  OrderedJson logprobs;
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    logprobs[name] = OrderedJson::array();
  }
  int64_t offset = text_offset_;
  for (const TokenEvent::Token& token : tokens_) {
    const std::string text = TokenText(token.id);
    logprobs["tokens"].push_back(text);
    logprobs["token_logprobs"].push_back(LogprobNumber(token.logprob));
    OrderedJson top = OrderedJson::object();
    for (const Logprob& entry : token.top) {
      top[TokenText(entry.token)] = LogprobNumber(entry.logprob);
    }
    top[text] = LogprobNumber(token.logprob);
    if (std::isnan(token.logprob)) top = nullptr;
    logprobs["top_logprobs"].push_back(std::move(top));
    logprobs["text_offset"].push_back(offset);
    if (tokenizer_ != nullptr) offset += CountCharacters(tokenizer_->TokenBytes(token.id));
  }
  return logprobs;
}

// The rank of a token that is not among the best is not known.
OrderedJson OpenAiChoice::RankedLogprob(const Logprob& entry, std::optional<int> rank) const {
  OrderedJson ranked;
  ranked["logprob"] = LogprobNumber(entry.logprob);
  ranked["rank"] = rank ? OrderedJson(*rank) : OrderedJson();
  ranked["decoded_token"] = TokenText(entry.token);
  return ranked;
}

OrderedJson OpenAiChoice::PromptLogprobs() const {
  if (!request_.prompt_logprobs) return nullptr;
  OrderedJson list = OrderedJson::array();
  for (const TokenEvent::Token& token : prompt_) {
    OrderedJson entry = OrderedJson::object();
    entry[absl::StrCat(token.id)] = RankedLogprob({token.id, token.logprob}, std::nullopt);
    for (size_t i = 0; i < token.top.size(); ++i) {
      entry[absl::StrCat(token.top[i].token)] =
          RankedLogprob(token.top[i], static_cast<int>(i) + 1);
    }
    list.push_back(std::isnan(token.logprob) ? OrderedJson() : std::move(entry));
  }
  return list;
}

OrderedJson OpenAiChoice::TakeLogprobs() {
  if (!request_.logprobs) return nullptr;
  OrderedJson logprobs = request_.chat ? ChatLogprobs() : CompletionLogprobs();
  for (const TokenEvent::Token& token : tokens_) {
    if (tokenizer_ != nullptr) text_offset_ += CountCharacters(tokenizer_->TokenBytes(token.id));
  }
  tokens_.clear();
  return logprobs;
}

OrderedJson OpenAiChoice::Whole(int index) {
  OrderedJson choice;
  choice["index"] = index;
  std::string text = std::exchange(text_, "");
  if (request_.chat) {
    choice["message"]["role"] = "assistant";
    choice["message"]["content"] = std::move(text);
    choice["message"]["refusal"] = nullptr;
  } else {
    choice["text"] = std::move(text);
  }
  choice["logprobs"] = TakeLogprobs();
  choice["finish_reason"] = FinishReason();
  if (request_.prompt_logprobs && !request_.chat) choice["prompt_logprobs"] = PromptLogprobs();
  return choice;
}

OrderedJson OpenAiChoice::Part(int index, bool first) {
  OrderedJson choice;
  choice["index"] = index;
  std::string text = std::exchange(text_, "");
  if (request_.chat) {
    if (first) choice["delta"]["role"] = "assistant";
    choice["delta"]["content"] = std::move(text);
  } else {
    choice["text"] = std::move(text);
  }
  choice["logprobs"] = TakeLogprobs();
  choice["finish_reason"] = nullptr;
  return choice;
}

OrderedJson OpenAiChoice::LastPart(int index) const {
  OrderedJson choice;
  choice["index"] = index;
  if (request_.chat) {
    choice["delta"] = OrderedJson::object();
  } else {
    choice["text"] = "";
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = FinishReason();
  return choice;
}

OrderedJson OpenAiHead(const OpenAiRequest& request, const std::string& id, absl::Time created,
                       const std::string& version) {
  OrderedJson head;
  head["id"] = absl::StrCat(request.chat ? "chatcmpl-" : "cmpl-", id);
  head["object"] = !request.chat    ? "text_completion"
                   : request.stream ? "chat.completion.chunk"
                                    : "chat.completion";
  head["created"] = absl::ToUnixSeconds(created);
  head["model"] = request.model;
  head["system_fingerprint"] = absl::StrCat("lorica-", version);
  return head;
}

OrderedJson UsageJson(int64_t prompt_tokens, int64_t completion_tokens, int64_t cached_tokens) {
  OrderedJson usage;
  usage["prompt_tokens"] = prompt_tokens;
  usage["completion_tokens"] = completion_tokens;
  usage["total_tokens"] = prompt_tokens + completion_tokens;
  usage["prompt_tokens_details"]["cached_tokens"] = cached_tokens;
  return usage;
}

}  // namespace lorica
