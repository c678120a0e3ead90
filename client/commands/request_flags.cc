#include "client/commands/request_flags.h"

#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/commands/command.h"
#include "client/commands/secret_file.h"

namespace lorica {
namespace {

// CLI11 fills a plain value; ours must know whether the flag was there.
template <class T>
CLI::Option* AddOptional(CLI::App* app, const std::string& name, std::optional<T>* value,
                         const std::string& help) {
  return app
      ->add_option_function<T>(
          name, [value](const T& given) { *value = given; }, help)
      ->group("Sampling");
}

void AddSamplingFlags(CLI::App* app, RequestFlags* flags) {
  AddOptional(app, "-n,--max-tokens", &flags->max_tokens, "Most tokens to generate (256)")
      ->check(SmallWholeNumber());
  AddOptional(app, "-t,--temperature", &flags->temperature, "0 = greedy (0)");
  AddOptional(app, "--top-k", &flags->top_k, "Only the k best tokens; 0 = off (0)")
      ->check(SmallWholeNumber());
  AddOptional(app, "--top-p", &flags->top_p, "Only the best tokens that add up to p (1 = off)");
  AddOptional(app, "--min-p", &flags->min_p,
              "Only tokens at least p times as likely as the best (0 = off)");
  AddOptional(app, "--repetition-penalty", &flags->repetition_penalty,
              "Divide logits of tokens already there (1 = off)");
  AddOptional(app, "--presence-penalty", &flags->presence_penalty,
              "Subtract once from tokens already generated (0 = off)");
  AddOptional(app, "--frequency-penalty", &flags->frequency_penalty,
              "Subtract for each time a token was generated (0 = off)");
  AddOptional(app, "--seed", &flags->seed, "Equal seeds give equal answers (server's choice)")
      ->check(WholeNumber());
  AddOptional(app, "--logprobs", &flags->logprobs,
              "Log-probabilities of the chosen token and of this many best ones, 0 to 20")
      ->check(SmallWholeNumber());
  AddOptional(app, "--prompt-logprobs", &flags->prompt_logprobs,
              "The same for each token of the prompt, with --json")
      ->check(SmallWholeNumber());
}

void AddEndingFlags(CLI::App* app, RequestFlags* flags) {
  app->add_option("--logit-bias", flags->logit_bias,
                  "ID=BIAS: add to that token's logit; -100 bans it. Repeatable")
      ->allow_extra_args(false)
      ->group("Sampling");
  app->add_option("--stop", flags->stop,
                  "Text that ends the answer and is not part of it. Repeatable")
      ->allow_extra_args(false)
      ->group("Sampling");
  app->add_option("--stop-token-id", flags->stop_token_ids, "Token that ends it. Repeatable")
      ->allow_extra_args(false)
      ->group("Sampling");
  app->add_flag("--ignore-eos", flags->ignore_eos, "Go on past the model's end token")
      ->group("Sampling");
  app->add_flag("--keep-special-tokens", flags->keep_special_tokens,
                "Show special tokens in the text")
      ->group("Sampling");
}

void AddFormatFlags(CLI::App* app, RequestFlags* flags) {
  const std::vector<CLI::Option*> forms = {
      app->add_option("--json-schema", flags->json_schema, "JSON that fits the schema in this file")
          ->check(CLI::ExistingFile)
          ->option_text("FILE"),
      app->add_flag("--json-object", flags->json_object, "Any JSON object"),
      app->add_option("--regex", flags->regex, "Text that matches from its begin to its end"),
      app->add_option("--ebnf", flags->ebnf, "A \"root\" of the grammar in this file")
          ->check(CLI::ExistingFile)
          ->option_text("FILE")};
  for (CLI::Option* form : forms) {
    form->group("Form of the answer (at most one of these)");
    for (CLI::Option* other : forms) {
      if (other != form) form->excludes(other);
    }
  }
}

absl::Status SetFormat(const RequestFlags& flags, v1::GenerateRequest* request) {
  const std::string& name = flags.json_schema.empty() ? flags.ebnf : flags.json_schema;
  absl::StatusOr<std::string> text = name.empty() ? std::string() : ReadFormatFile(name);
  if (!text.ok()) return text.status();
  if (flags.json_object) request->mutable_response_format()->mutable_json_object();
  if (!flags.regex.empty()) request->mutable_response_format()->set_regex(flags.regex);
  if (!flags.ebnf.empty()) request->mutable_response_format()->set_ebnf(*text);
  if (!flags.json_schema.empty()) request->mutable_response_format()->set_json_schema(*text);
  return absl::OkStatus();
}

template <class T, class Set>
void Copy(const std::optional<T>& value, Set set) {
  if (value.has_value()) set(*value);
}

void CopySampling(const RequestFlags& flags, v1::GenerateRequest* request) {
  Copy(flags.max_tokens, [&](int32_t v) { request->set_max_tokens(v); });
  Copy(flags.temperature, [&](double v) { request->set_temperature(v); });
  Copy(flags.top_k, [&](int32_t v) { request->set_top_k(v); });
  Copy(flags.top_p, [&](double v) { request->set_top_p(v); });
  Copy(flags.min_p, [&](double v) { request->set_min_p(v); });
  Copy(flags.repetition_penalty, [&](double v) { request->set_repetition_penalty(v); });
  Copy(flags.presence_penalty, [&](double v) { request->set_presence_penalty(v); });
  Copy(flags.frequency_penalty, [&](double v) { request->set_frequency_penalty(v); });
  Copy(flags.seed, [&](uint64_t v) { request->set_seed(v); });
  Copy(flags.logprobs, [&](int32_t v) { request->set_logprobs(v); });
  Copy(flags.prompt_logprobs, [&](int32_t v) { request->set_prompt_logprobs(v); });
  for (const std::string& stop : flags.stop) request->add_stop(stop);
  for (const int32_t id : flags.stop_token_ids) request->add_stop_token_ids(id);
  request->set_ignore_eos(flags.ignore_eos);
  if (flags.keep_special_tokens) request->set_skip_special_tokens(false);
}

}  // namespace

absl::StatusOr<std::string> ReadFormatFile(const std::string& name) {
  std::ifstream file(name, std::ios::binary);
  std::string text(kFormatFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kFormatFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has more than ", kFormatFileBytesMax, " bytes"));
  }
  if (!text.empty()) return text;
  return absl::InvalidArgumentError(absl::StrCat(name, " is empty or cannot be read"));
}

void AddRequestFlags(CLI::App* app, RequestFlags* flags) {
  CLI::Option* adapter =
      app->add_option("-a,--adapter", flags->adapter, "Adapter that answers (none = base model)")
          ->check(CLI::Validator(
              [](const std::string& id) {
                return id.empty() ? "is empty: name an adapter, or leave it out for the base model"
                                  : "";
              },
              ""));
  app->add_option("--mix", flags->mix, "Several adapters at once, weighted: a=0.7,b=0.3")
      ->excludes(adapter);
  app->add_option("--hub-token-file", flags->hub_token_file,
                  "Your own token for the hub, where an adapter has to be fetched")
      ->type_name("FILE");
  AddSamplingFlags(app, flags);
  AddEndingFlags(app, flags);
  AddFormatFlags(app, flags);
}

absl::StatusOr<v1::GenerateRequest> RequestFromFlags(const RequestFlags& flags) {
  v1::GenerateRequest request;
  request.set_adapter_id(flags.adapter);
  if (!flags.mix.empty()) {
    auto mix = ParseMix(flags.mix);
    if (!mix.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--mix: ", mix.status().message()));
    }
    request.mutable_adapters()->Assign(mix->begin(), mix->end());
  }
  if (!flags.hub_token_file.empty()) {
    absl::StatusOr<std::string> token = ReadSecretWord(flags.hub_token_file);
    if (!token.ok()) return token.status();
    request.set_hub_token(*std::move(token));
  }
  for (const std::string& text : flags.logit_bias) {
    auto bias = ParseLogitBias(text);
    if (!bias.ok()) return bias.status();
    *request.add_logit_bias() = *std::move(bias);
  }
  CopySampling(flags, &request);
  if (absl::Status status = SetFormat(flags, &request); !status.ok()) return status;
  return request;
}

absl::StatusOr<std::vector<v1::AdapterWeight>> ParseMix(absl::string_view text,
                                                        absl::string_view example) {
  std::vector<v1::AdapterWeight> mix;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    const size_t equals = part.rfind('=');
    v1::AdapterWeight entry;
    entry.set_adapter_id(std::string(absl::StripAsciiWhitespace(part.substr(0, equals))));
    double weight = 1;
    const bool weighted = equals != absl::string_view::npos;
    const bool valid = !weighted || absl::SimpleAtod(part.substr(equals + 1), &weight);
    if (entry.adapter_id().empty() || !valid) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected NAME=WEIGHT such as ", example, ", got \"", part, "\""));
    }
    if (weighted) entry.set_weight(weight);
    mix.push_back(std::move(entry));
  }
  return mix;
}

absl::StatusOr<v1::LogitBias> ParseLogitBias(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('=', 1));
  int32_t token_id = 0;
  double value = 0;
  if (!absl::SimpleAtoi(parts.first, &token_id) || !absl::SimpleAtod(parts.second, &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--logit-bias: expected TOKEN_ID=BIAS such as 50=-100, got \"", text, "\""));
  }
  v1::LogitBias bias;
  bias.set_token_id(token_id);
  bias.set_bias(value);
  return bias;
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text) {
  std::vector<int32_t> ids;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(part, &id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--token-ids: expected numbers with commas such as 1,2,3, got \"", part, "\""));
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace lorica
