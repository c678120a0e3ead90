// OpenAI's completion and chat requests: what clients send, and what it means here.
//
// Field names and defaults are OpenAI's, with the extensions that vLLM's clients use
// (top_k, min_p, repetition_penalty, ignore_eos, stop_token_ids, ...). What cannot be done
// is refused; what has no effect on an answer (user, metadata, ...) is ignored. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/api/gateway.h"
#include "server/http/field_names.h"
#include "server/http/json.h"

namespace lorica {

inline constexpr int kPromptsMax = 16;  // of one completion request
inline constexpr int kCompletionTokensDefault = 16;

struct OpenAiRequest {
  std::vector<GenerateCall> calls;  // one a prompt
  std::vector<std::string> echoed;  // what each answer's text begins with
  std::string model;                // as sent
  FieldNames names;                 // what it calls the gateway's fields
  bool chat = false;
  bool stream = false;
  bool usage_in_stream = false;
  bool logprobs = false;
  bool echoed_logprobs = false;        // those of the prompt come first
  std::optional<int> prompt_logprobs;  // vLLM's: so many best ones of each prompt token
  int choices = 1;                     // of each prompt, wanted
  int samples = 1;                     // of each prompt, made; the best of them are given
};

// What a request is read against.
struct OpenAiFacts {
  std::string base_name;     // what `model` calls the base model
  std::string adapters_dir;  // as in HttpFacts
};

// `text`: the body as it was sent. InvalidArgument: a field at fault. NotFound: `model` can be no
// adapter's name.
absl::StatusOr<OpenAiRequest> ParseCompletion(const Json& body, std::string_view text,
                                              const OpenAiFacts& facts);
absl::StatusOr<OpenAiRequest> ParseChat(const Json& body, std::string_view text,
                                        const OpenAiFacts& facts);

struct TokenizeCall {
  GenerateCall call;  // prompt, or messages and tools
  bool with_texts = false;
};
// vLLM's request for the tokens of a prompt or of messages.
absl::StatusOr<TokenizeCall> ParseTokenize(const Json& body, std::string_view text,
                                           const OpenAiFacts& facts);

// NotFound, as OpenAI's clients know it.
absl::Status NoSuchModel(const std::string& model);

}  // namespace lorica
