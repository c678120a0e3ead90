#include "server/http/token_routes.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/api/field_error.h"
#include "server/http/errors.h"
#include "server/http/fields.h"
#include "server/http/openai_request.h"
#include "server/text/detokenizer.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

void RefuseLorax(const absl::Status& status, HttpReply& reply) {
  HttpError error = LoraxError(status);
  if (absl::IsFailedPrecondition(status)) {
    error.status = 404;
    error.body["error_type"] = "no fast tokenizer";
  }
  SendError(error, status, reply);
}

void RefuseVllm(const absl::Status& status, HttpReply& reply) {
  SendError(OpenAiError(status), status, reply);
}

// Where in the text a byte offset lies, in characters; `up` counts a character begun before.
int64_t CharacterAt(std::string_view text, size_t offset, bool up) {
  const int64_t begun = CountCharacters(text.substr(0, offset));
  const bool inside = offset < text.size() && !BeginsCharacter(text[offset]);
  return inside && !up ? begun - 1 : begun;
}

OrderedJson TokensJson(const Gateway& gateway, const Gateway::Tokenized& tokenized) {
  std::string text;
  for (const int32_t id : tokenized.token_ids) text += gateway.tokenizer()->TokenBytes(id);
  OrderedJson tokens = OrderedJson::array();
  size_t offset = 0;
  int64_t begun = 0;  // characters that begin before `offset`
  for (size_t i = 0; i < tokenized.token_ids.size(); ++i) {
    const std::string_view bytes = gateway.tokenizer()->TokenBytes(tokenized.token_ids[i]);
    const std::string_view rest = std::string_view(text).substr(offset);
    OrderedJson token;
    token["id"] = tokenized.token_ids[i];
    token["text"] = tokenized.tokens[i];
    token["start"] = begun + CharacterAt(rest, 0, /*up=*/false);
    begun += CharacterAt(rest, bytes.size(), /*up=*/true);
    token["stop"] = begun;
    tokens.push_back(std::move(token));
    offset += bytes.size();
  }
  return tokens;
}

void TokenizeForLorax(const HttpContext& context, const Json& body, HttpReply& reply) {
  Fields fields(body);
  const std::optional<std::string> inputs = fields.Text("inputs");
  fields.Bool("add_special_tokens");  // byte-level tokenizers add none
  if (!inputs) fields.Refuse("inputs", "is missing");
  if (!fields.status().ok()) return RefuseLorax(fields.status(), reply);
  OrderedJson tokens;
  const absl::Status status = context.RunWork([&] {
    const auto tokenized = context.gateway()->Tokenize(inputs, {});
    if (tokenized.ok()) tokens = TokensJson(*context.gateway(), *tokenized);
    return tokenized.status();
  });
  if (!status.ok()) return RefuseLorax(status, reply);
  reply.Send(200, Dump(tokens));
}

void TokenizeForVllm(const HttpContext& context, const Json& body, std::string_view text,
                     HttpReply& reply) {
  const auto request =
      ParseTokenize(body, text, {context.facts().model, context.facts().adapters_dir});
  if (!request.ok()) return RefuseVllm(request.status(), reply);
  const GenerateCall& call = request->call;
  Gateway::Tokenized tokenized;
  const absl::Status status = context.RunWork([&] {
    auto done =
        context.gateway()->Tokenize(call.prompt, call.messages, request->with_texts, call.tools);
    if (done.ok()) tokenized = *std::move(done);
    return done.status();
  });
  if (!status.ok()) return RefuseVllm(status, reply);
  OrderedJson json;
  json["count"] = tokenized.token_ids.size();
  json["max_model_len"] = context.gateway()->limits().context_tokens;
  json["tokens"] = tokenized.token_ids;
  json["token_strs"] = request->with_texts ? OrderedJson(tokenized.tokens) : OrderedJson();
  reply.Send(200, Dump(json));
}

void Tokenize(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return RefuseLorax(tenant.status(), reply);
  const auto body = ParseJson(http.body);
  if (!body.ok()) return SendError(LoraxSyntaxError(body.status()), body.status(), reply);
  const auto has = [&body](const char* name) {
    return body->is_object() && body->contains(name) && !(*body)[name].is_null();
  };
  const bool vllm = !has("inputs") && (has("prompt") || has("messages"));
  vllm ? TokenizeForVllm(context, *body, http.body, reply)
       : TokenizeForLorax(context, *body, reply);
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const Gateway& gateway, const Json& body) {
  Fields fields(body);
  fields.Text("model");  // any has the base's tokens
  if (!fields.status().ok()) return fields.status();
  const Json* tokens = fields.Find("tokens");
  if (tokens == nullptr || !tokens->is_array()) {
    fields.Refuse("tokens", "must be a list of token ids");
    return fields.status();
  }
  const GatewayLimits& limits = gateway.limits();
  if (std::ssize(*tokens) > limits.context_tokens) {
    fields.Refuse("tokens", absl::StrCat("has ", tokens->size(), " entries; at most ",
                                         limits.context_tokens, " are taken"));
  }
  std::vector<int32_t> ids;
  for (const Json& id : *tokens) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() < limits.vocabulary;
    if (!fits) fields.Refuse("tokens", absl::StrCat("must be from 0 to ", limits.vocabulary - 1));
    if (!fields.status().ok()) return fields.status();
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void Detokenize(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return RefuseVllm(tenant.status(), reply);
  const auto body = ParseJson(http.body);
  if (!body.ok()) return RefuseVllm(body.status(), reply);
  const auto ids = ReadTokens(*context.gateway(), *body);
  if (!ids.ok()) return RefuseVllm(ids.status(), reply);
  const Tokenizer* const tokenizer = context.gateway()->tokenizer();
  if (tokenizer == nullptr) {
    return RefuseVllm(
        absl::FailedPreconditionError("this model came without a tokenizer: it has no text"),
        reply);
  }
  OrderedJson json;
  const absl::Status status = context.RunWork([&] {
    json["prompt"] = Decode(*tokenizer, *ids, /*skip_special_tokens=*/false);
    return absl::OkStatus();
  });
  if (!status.ok()) return RefuseVllm(status, reply);
  reply.Send(200, Dump(json));
}

}  // namespace

void AddTokenRoutes(const HttpContext* context, HttpRoutes* routes) {
  (*routes)["/tokenize"]["POST"] = [context](const HttpRequest& request, HttpReply& reply) {
    Tokenize(*context, request, reply);
  };
  (*routes)["/detokenize"]["POST"] = [context](const HttpRequest& request, HttpReply& reply) {
    Detokenize(*context, request, reply);
  };
}

}  // namespace lorica
