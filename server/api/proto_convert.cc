#include "server/api/proto_convert.h"

namespace lorica {
namespace {

template <typename T, typename Field>
std::vector<T> ToVector(const Field& field) {
  return std::vector<T>(field.begin(), field.end());
}

v1::FinishReason ToFinishReason(StopReason reason) {
  switch (reason) {
    case StopReason::kEndToken:
      return v1::FINISH_REASON_EOS;
    case StopReason::kStopString:
      return v1::FINISH_REASON_STOP;
    case StopReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case StopReason::kNone:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void FillUse(const AdapterUse& use, v1::AdapterUsed* message) {
  message->set_adapter_id(use.adapter_id);
  message->set_generation(use.generation);
  message->set_weight(use.weight);
}

void FillAdapters(const std::vector<AdapterUse>& uses, v1::AdapterUsed* message) {
  if (uses.size() == 1) FillUse(uses[0], message);
  if (uses.size() <= 1) return;
  for (const AdapterUse& use : uses) FillUse(use, message->add_mix());
}

void FillTimings(const AnswerEnd& end, v1::Timings* message) {
  const RequestTimings& timings = end.timings;
  message->set_queue_ms(absl::ToDoubleMilliseconds(timings.queue));
  message->set_load_ms(absl::ToDoubleMilliseconds(timings.load));
  message->set_ttft_ms(absl::ToDoubleMilliseconds(timings.first_token));
  message->set_total_ms(absl::ToDoubleMilliseconds(timings.total));
  const double decode_seconds = absl::ToDoubleSeconds(timings.total - timings.first_token);
  if (end.completion_tokens > 1 && decode_seconds > 0) {
    message->set_tokens_per_second((end.completion_tokens - 1) / decode_seconds);
  }
  message->set_preemptions(timings.preemptions);
}

void FillLogprob(const TokenEvent::Token& token, v1::TokenLogprob* message) {
  message->set_token_id(token.id);
  message->set_logprob(token.logprob);
  for (const Logprob& best : token.top) {
    v1::TopLogprob* top = message->add_top();
    top->set_token_id(best.token);
    top->set_logprob(best.logprob);
  }
}

std::optional<ResponseFormat> ToFormat(const v1::ResponseFormat& format) {
  switch (format.form_case()) {
    case v1::ResponseFormat::kJsonObject:
      return ResponseFormat{FormatKind::kJsonObject, ""};
    case v1::ResponseFormat::kJsonSchema:
      return ResponseFormat{FormatKind::kJsonSchema, format.json_schema()};
    case v1::ResponseFormat::kRegex:
      return ResponseFormat{FormatKind::kRegex, format.regex()};
    case v1::ResponseFormat::kEbnf:
      return ResponseFormat{FormatKind::kEbnf, format.ebnf()};
    case v1::ResponseFormat::FORM_NOT_SET:
      break;
  }
  return std::nullopt;
}

}  // namespace

std::vector<ChatTurn> ToTurns(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  std::vector<ChatTurn> turns;
  turns.reserve(messages.size());
  for (const v1::ChatMessage& message : messages) {
    turns.push_back({message.role(), message.content()});
  }
  return turns;
}

GenerateCall ToCall(const v1::GenerateRequest& request) {
  GenerateCall call;
  call.adapter_id = request.adapter_id();
  for (const v1::AdapterWeight& term : request.adapters()) {
    call.adapters.push_back({term.adapter_id(), term.has_weight() ? term.weight() : 1.0});
  }
  call.hub_token = request.hub_token();
  if (request.has_prompt()) call.prompt = request.prompt();
  call.messages = ToTurns(request.messages());
  call.token_ids = ToVector<int32_t>(request.token_ids());
  if (request.has_max_tokens()) call.max_tokens = request.max_tokens();
  if (request.has_temperature()) call.temperature = request.temperature();
  if (request.has_top_k()) call.top_k = request.top_k();
  if (request.has_top_p()) call.top_p = request.top_p();
  if (request.has_min_p()) call.min_p = request.min_p();
  if (request.has_repetition_penalty()) call.repetition_penalty = request.repetition_penalty();
  if (request.has_presence_penalty()) call.presence_penalty = request.presence_penalty();
  if (request.has_frequency_penalty()) call.frequency_penalty = request.frequency_penalty();
  if (request.has_seed()) call.seed = request.seed();
  for (const v1::LogitBias& bias : request.logit_bias()) {
    call.logit_bias.emplace_back(bias.token_id(), bias.bias());
  }
  if (request.has_logprobs()) call.logprobs = request.logprobs();
  if (request.has_prompt_logprobs()) call.prompt_logprobs = request.prompt_logprobs();
  call.stop = ToVector<std::string>(request.stop());
  call.stop_token_ids = ToVector<int32_t>(request.stop_token_ids());
  call.ignore_eos = request.ignore_eos();
  call.format = ToFormat(request.response_format());
  call.skip_special_tokens = !request.has_skip_special_tokens() || request.skip_special_tokens();
  return call;
}

template <typename Message>
void AppendChunk(const AnswerChunk& chunk, bool with_logprobs, Message* message) {
  for (size_t i = 1; i < chunk.prompt.size(); ++i) {
    FillLogprob(chunk.prompt[i], message->add_prompt_logprobs());
  }
  for (const TokenEvent::Token& token : chunk.tokens) {
    message->add_token_ids(token.id);
    if (with_logprobs) FillLogprob(token, message->add_logprobs());
  }
  message->mutable_text()->append(chunk.text);
}

template <typename Message>
void FillEnd(const AnswerEnd& end, Message* message) {
  message->set_finish_reason(ToFinishReason(end.reason));
  FillAdapters(end.adapters, message->mutable_adapter());
  message->mutable_usage()->set_prompt_tokens(end.prompt_tokens);
  message->mutable_usage()->set_completion_tokens(end.completion_tokens);
  message->mutable_usage()->set_cached_tokens(end.cached_tokens);
  FillTimings(end, message->mutable_timings());
}

template void AppendChunk(const AnswerChunk&, bool, v1::GenerateResponse*);
template void AppendChunk(const AnswerChunk&, bool, v1::GenerateStreamResponse*);
template void FillEnd(const AnswerEnd&, v1::GenerateResponse*);
template void FillEnd(const AnswerEnd&, v1::StreamFinish*);

}  // namespace lorica
