#include "server/http/openai_request.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter.h"
#include "adapters/hub/quoted.h"
#include "server/api/field_error.h"
#include "server/http/adapter_source.h"
#include "server/http/fields.h"
#include "server/http/format_request.h"

namespace lorica {
namespace {

void ReadModel(Fields& fields, const OpenAiFacts& facts, OpenAiRequest* request,
               GenerateCall* call) {
  call->hub_token = fields.Text("api_token").value_or("");
  const auto model = fields.Text("model");
  if (!model) return fields.Refuse("model", "is missing: name the base model or an adapter");
  request->model = model->empty() ? facts.base_name : *model;
  const bool is_base = request->model == facts.base_name;
  if (!is_base) call->adapter_id = *model;
  const absl::Status source = ReadAdapterSource(fields, facts.adapters_dir, call);
  if (absl::IsFailedPrecondition(source)) {
    fields.Refuse("adapter_source", "must be hub, local or s3");
  } else if (!source.ok()) {
    fields.Refuse("model", "is an absolute path that is not beneath --adapters-dir");
  }
  if (is_base) call->adapter_id = *model;
  const bool known = is_base || call->adapter_by_location || CheckAdapterId(call->adapter_id).ok();
  if (!known) fields.Add(NoSuchModel(request->model));
}

void ReadBias(Fields& fields, GenerateCall* call) {
  const Json* bias = fields.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return fields.Refuse("logit_bias", "must map token ids to numbers");
  for (const auto& [name, value] : bias->items()) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(name, &token) || !value.is_number()) {
      return fields.Refuse("logit_bias", absl::StrCat("must map token ids to numbers, as ",
                                                      Quoted(name), " does not"));
    }
    call->logit_bias.emplace_back(token, value.get<double>());
  }
}

void ReadStopTokens(Fields& fields, GenerateCall* call) {
  const Json* ids = fields.Find("stop_token_ids");
  if (ids == nullptr) return;
  for (const Json& id : ids->is_array() ? *ids : Json::array({"not a list"})) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX;
    if (!fits) return fields.Refuse("stop_token_ids", "must be a list of token ids");
    call->stop_token_ids.push_back(id.get<int32_t>());
  }
}

// Any whole number of 64 bits; -1 is vLLM's way to say "none".
std::optional<uint64_t> ReadSeed(Fields& fields) {
  const Json* seed = fields.Find("seed");
  const bool negative = seed != nullptr && seed->is_number_integer() && !seed->is_number_unsigned();
  if (!negative) return fields.Unsigned("seed");
  if (*seed == -1) return std::nullopt;
  return static_cast<uint64_t>(seed->get<int64_t>());
}

void ReadSampling(Fields& fields, GenerateCall* call) {
  call->temperature = fields.Number("temperature").value_or(1.0);
  call->top_p = fields.Number("top_p");
  call->min_p = fields.Number("min_p");
  call->top_k = fields.Int("top_k");
  if (call->top_k == -1) call->top_k.reset();  // vLLM's way to say "off"
  call->presence_penalty =
      fields.NumberWithin("presence_penalty", -kHttpPenaltyMax, kHttpPenaltyMax);
  call->frequency_penalty =
      fields.NumberWithin("frequency_penalty", -kHttpPenaltyMax, kHttpPenaltyMax);
  call->repetition_penalty = fields.Number("repetition_penalty");
  call->seed = ReadSeed(fields);
  ReadBias(fields, call);
  call->stop = fields.Texts("stop");
  ReadStopTokens(fields, call);
  call->ignore_eos =
      fields.Bool("ignore_eos").value_or(false) || fields.Bool("ignore_eos_token").value_or(false);
  call->include_stop = fields.Bool("include_stop_str_in_output").value_or(false);
  call->skip_special_tokens = fields.Bool("skip_special_tokens").value_or(true);
  call->truncate = fields.Int("truncate_prompt_tokens");
}

// What a client sends that fills in its defaults.
bool IsNothing(const Json& value) {
  return value == false || value == 0 || value == "" || (value.is_structured() && value.empty());
}

void RefuseUnserved(Fields& fields) {
  for (const char* name :
       {"functions", "audio", "prediction", "use_beam_search", "min_tokens", "allowed_token_ids",
        "bad_words", "continue_final_message", "chat_template", "merged_adapters",
        "logits_processors", "early_stopping", "prompt_embeds", "return_token_ids", "documents"}) {
    const Json* value = fields.Find(name);
    if (value != nullptr && !IsNothing(*value)) fields.Refuse(name, "is not served");
  }
  if (fields.Has("web_search_options")) fields.Refuse("web_search_options", "is not served");
  if (fields.Number("length_penalty").value_or(1.0) != 1.0) {
    fields.Refuse("length_penalty", "is not served");
  }
  if (!fields.Bool("add_generation_prompt").value_or(true)) {
    fields.Refuse("add_generation_prompt", "must be true");
  }
  for (const std::string& kind : fields.Texts("modalities")) {
    if (kind != "text") fields.Refuse("modalities", "must be text alone");
  }
}

void ReadCounts(Fields& fields, OpenAiRequest* request) {
  request->stream = fields.Bool("stream").value_or(false);
  if (const Json* options = fields.Find("stream_options")) {
    Fields inner(*options, "stream_options.");
    request->usage_in_stream = inner.Bool("include_usage").value_or(false);
    fields.Add(inner.status());
    if (!request->stream) fields.Refuse("stream_options", "needs stream to be true");
  }
  request->choices = fields.Int("n").value_or(1);
  request->samples = fields.Int("best_of").value_or(request->choices);
  if (request->choices < 1) fields.Refuse("n", "must be 1 or more");
  if (request->samples < request->choices) fields.Refuse("best_of", "must be at least n");
  if (request->samples > kSamplesMax) {
    fields.Refuse("n", absl::StrCat("and best_of must be at most ", kSamplesMax));
  }
  if (request->stream && request->samples > request->choices) {
    fields.Refuse("best_of", "must equal n when streaming");
  }
}

void ReadPromptLogprobs(Fields& fields, OpenAiRequest* request, GenerateCall* call) {
  call->prompt_logprobs = request->prompt_logprobs = fields.Int("prompt_logprobs");
  if (request->prompt_logprobs && request->stream) {
    fields.Refuse("prompt_logprobs", "is not given when streaming");
  }
}

// What the caller calls fields that the gateway calls otherwise.
FieldNames NamesOf(const Fields& fields, bool chat) {
  FieldNames names = {{"truncate", "truncate_prompt_tokens"},
                      {"hub_token", "api_token"},
                      {"adapter_id", "model"},
                      {"logit_bias[].token_id", "logit_bias"},
                      {"logit_bias[].bias", "logit_bias"}};
  for (const char* form :
       {"guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs"}) {
    if (fields.Has(form)) names.push_back({"response_format", form});
  }
  if (!chat) {
    names.push_back({"token_ids", "prompt"});
    if (!fields.Has("prompt_logprobs")) names.push_back({"prompt_logprobs", "logprobs"});
    return names;
  }
  names.push_back({"prompt", "messages"});
  names.push_back({"logprobs", "top_logprobs"});
  if (fields.Has("max_completion_tokens")) {
    names.push_back({"max_tokens", "max_completion_tokens"});
  }
  return names;
}

// Fields of completions and chats alike.
void ReadWhatBothHave(Fields& fields, std::string_view text, const OpenAiFacts& facts,
                      OpenAiRequest* request, GenerateCall* call) {
  request->names = NamesOf(fields, request->chat);
  ReadModel(fields, facts, request, call);
  ReadCounts(fields, request);
  ReadPromptLogprobs(fields, request, call);
  ReadSampling(fields, call);
  call->format = ReadOpenAiFormat(fields, text);
  RefuseUnserved(fields);
}

bool IsTokenList(const Json& value) {
  return value.is_array() && !value.empty() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) {
           return item.is_number_unsigned() && item.get<uint64_t>() <= INT32_MAX;
         });
}

// A prompt is a text or a list of tokens; there may be a list of prompts.
void ReadPrompts(Fields& fields, const GenerateCall& call, OpenAiRequest* request) {
  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return fields.Refuse("prompt", "is missing");
  const bool several = prompt->is_array() && !IsTokenList(*prompt);
  const Json list = several ? *prompt : Json::array({*prompt});
  if (list.empty() || list.size() > kPromptsMax) {
    return fields.Refuse("prompt", absl::StrCat("must be 1 to ", kPromptsMax, " prompts"));
  }
  for (const Json& item : list) {
    GenerateCall& one = request->calls.emplace_back(call);
    if (const auto* text = item.get_ptr<const std::string*>()) {
      one.prompt = *text;
    } else if (IsTokenList(item)) {
      one.token_ids = item.get<std::vector<int32_t>>();
    } else {
      return fields.Refuse("prompt", "must be a text, a list of token ids, or a list of these");
    }
  }
}

void ReadEcho(Fields& fields, OpenAiRequest* request) {
  request->echoed.resize(request->calls.size());
  if (!fields.Bool("echo").value_or(false)) return;
  if (request->logprobs && request->calls[0].truncate) {
    return fields.Refuse("truncate_prompt_tokens", "cannot go with both echo and logprobs");
  }
  for (size_t i = 0; i < request->calls.size(); ++i) {
    GenerateCall& call = request->calls[i];
    if (!call.prompt) return fields.Refuse("echo", "needs prompts that are text");
    request->echoed[i] = *call.prompt;
    if (!request->logprobs) continue;
    request->echoed_logprobs = true;
    call.prompt_logprobs = std::max(*call.logprobs, call.prompt_logprobs.value_or(0));
  }
}

// A string, or the text parts of a list.
void ReadContent(Fields& fields, const Json* content, std::string* text) {
  if (content == nullptr) return;  // an assistant that called a tool
  if (const auto* plain = content->get_ptr<const std::string*>()) {
    *text = *plain;
    return;
  }
  if (!content->is_array()) return fields.Refuse("content", "must be a string or a list of parts");
  for (const Json& part : *content) {
    Fields inner(part, "messages.content.");
    const std::string type = inner.Text("type").value_or("");
    if (type != "text") inner.Refuse("type", "other than text is not served");
    if (!inner.Has("text")) inner.Refuse("text", "is missing");
    *text += inner.Text("text").value_or("");
    fields.Add(inner.status());
  }
}

// Templates want the arguments of a call as an object; clients send them as text.
OrderedJson ToolCalls(const Json& calls, Fields& message) {
  OrderedJson list = OrderedJson::array();
  for (const Json& call : calls.is_array() ? calls : Json::array({calls})) {
    Fields fields(call, "messages.tool_calls.");
    const Json* function = fields.Find("function");
    if (function == nullptr) fields.Refuse("function", "is missing");
    const Json none = Json::object();
    Fields inner(function == nullptr ? none : *function, "messages.tool_calls.function.");
    OrderedJson one;
    one["id"] = fields.Text("id").value_or("");
    one["type"] = fields.Text("type").value_or("function");
    one["function"]["name"] = inner.Text("name").value_or("");
    const std::string arguments = inner.Text("arguments").value_or("{}");
    one["function"]["arguments"] =
        ParseJson(arguments).ok() ? OrderedJson::parse(arguments) : OrderedJson(arguments);
    list.push_back(std::move(one));
    message.Add(fields.status());
    message.Add(inner.status());
  }
  return list;
}

// What a message has besides role and content.
std::string ReadMore(Fields& message) {
  OrderedJson more = OrderedJson::object();
  if (const Json* calls = message.Find("tool_calls")) {
    more["tool_calls"] = ToolCalls(*calls, message);
  }
  for (const char* name : {"tool_call_id", "name"}) {
    if (const auto text = message.Text(name)) more[name] = *text;
  }
  return more.empty() ? "" : Dump(more);
}

void ReadMessages(Fields& fields, GenerateCall* call) {
  const Json* messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return fields.Refuse("messages", "must be a list of at least one message");
  }
  if (messages->size() > kChatMessagesMax) {
    return fields.Refuse("messages", absl::StrCat("has more than ", kChatMessagesMax, " entries"));
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    Fields message((*messages)[i], absl::StrCat("messages[", i, "]."));
    ChatTurn turn;
    turn.role = message.Text("role").value_or("");
    if (turn.role == "developer") turn.role = "system";  // its newer name
    ReadContent(message, message.Find("content"), &turn.content);
    turn.more = ReadMore(message);
    fields.Add(message.status());
    call->messages.push_back(std::move(turn));
  }
}

// Tools are the template's business: what the model makes of them is the answer's text. It
// prints them with the keys in the client's order.
void ReadTools(Fields& fields, std::string_view text, GenerateCall* call) {
  const Json* tools = fields.Find("tools");
  const Json* choice = fields.Find("tool_choice");
  const bool automatic = choice == nullptr || *choice == "auto";
  if (!automatic && *choice != "none") {
    return fields.Refuse("tool_choice", "other than \"auto\" and \"none\" is not served");
  }
  if (tools == nullptr || !automatic) return;
  if (!tools->is_array()) return fields.Refuse("tools", "must be a list");
  for (const Json& tool : *tools) {
    Fields outer(tool, "tools.");
    if (outer.Text("type").value_or("") != "function") outer.Refuse("type", "must be \"function\"");
    const Json* function = outer.Find("function");
    const Json none;
    Fields inner(function == nullptr ? none : *function, "tools.function.");
    if (inner.Text("name").value_or("").empty()) inner.Refuse("name", "is missing");
    fields.Add(outer.status());
    fields.Add(inner.status());
  }
  if (!tools->empty()) call->tools = MemberText(text, {"tools"});
}

}  // namespace

absl::Status NoSuchModel(const std::string& model) {
  return absl::NotFoundError(absl::StrCat("The model `", model, "` does not exist"));
}

absl::StatusOr<OpenAiRequest> ParseCompletion(const Json& body, std::string_view text,
                                              const OpenAiFacts& facts) {
  OpenAiRequest request;
  GenerateCall call;
  Fields fields(body);
  ReadWhatBothHave(fields, text, facts, &request, &call);
  call.max_tokens = fields.Int("max_tokens");
  call.max_tokens_default = kCompletionTokensDefault;
  call.logprobs = fields.Int("logprobs");
  request.logprobs = call.logprobs.has_value();
  if (request.samples > request.choices && !call.logprobs) call.logprobs = 0;
  if (!fields.Text("suffix").value_or("").empty()) fields.Refuse("suffix", "is not served");
  ReadPrompts(fields, call, &request);
  ReadEcho(fields, &request);
  if (!fields.status().ok()) return fields.status();
  return request;
}

absl::StatusOr<OpenAiRequest> ParseChat(const Json& body, std::string_view text,
                                        const OpenAiFacts& facts) {
  OpenAiRequest request;
  request.chat = true;
  GenerateCall call;
  Fields fields(body);
  ReadWhatBothHave(fields, text, facts, &request, &call);
  ReadTools(fields, text, &call);
  call.max_tokens = fields.Int("max_completion_tokens");
  if (!call.max_tokens) call.max_tokens = fields.Int("max_tokens");
  call.max_tokens_default = std::numeric_limits<int32_t>::max();
  request.logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs");
  if (top && !request.logprobs) fields.Refuse("top_logprobs", "needs logprobs to be true");
  if (request.logprobs || request.samples > request.choices) call.logprobs = top.value_or(0);
  ReadMessages(fields, &call);
  if (!fields.status().ok()) return fields.status();
  request.calls.push_back(std::move(call));
  request.echoed.resize(1);
  return request;
}

absl::StatusOr<TokenizeCall> ParseTokenize(const Json& body, std::string_view text,
                                           const OpenAiFacts& facts) {
  TokenizeCall request;
  OpenAiRequest named;
  Fields fields(body);
  if (fields.Has("model")) ReadModel(fields, facts, &named, &request.call);
  fields.Bool("add_special_tokens");  // byte-level tokenizers add none
  request.with_texts = fields.Bool("return_token_strs").value_or(false);
  request.call.prompt = fields.Text("prompt");
  if (fields.Has("messages")) ReadMessages(fields, &request.call);
  ReadTools(fields, text, &request.call);
  RefuseUnserved(fields);
  if (!fields.status().ok()) return fields.status();
  return request;
}

}  // namespace lorica
