#include "server/api/request_checks.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "adapters/catalog_text.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "server/api/field_error.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

std::string Indexed(absl::string_view list, size_t index, absl::string_view field = "") {
  return absl::StrCat(list, "[", index, "]", field.empty() ? "" : ".", field);
}

absl::Status CheckRange(absl::string_view field, std::optional<double> value, double low,
                        double high) {
  if (!value || (*value >= low && *value <= high)) return absl::OkStatus();  // NaN: neither
  return FieldError(field, OutOfRange(*value, low, high));
}

absl::Status CheckCount(absl::string_view field, size_t count, size_t count_max) {
  if (count <= count_max) return absl::OkStatus();
  return FieldError(field,
                    absl::StrCat("has ", count, " entries; at most ", count_max, " are taken"));
}

absl::Status CheckToken(const std::string& field, int32_t token, int32_t vocabulary) {
  if (token >= 0 && token < vocabulary) return absl::OkStatus();
  return FieldError(field,
                    absl::StrCat("names token ", token, "; token ids are 0 to ", vocabulary - 1));
}

absl::Status CheckUtf8Field(const std::string& field, const std::string& text) {
  const absl::Status status = CheckUtf8(text);
  if (status.ok()) return status;
  return FieldError(field, absl::StrCat("is not valid UTF-8: ", status.message()));
}

absl::Status CheckSampling(const GenerateCall& call) {
  const struct {
    absl::string_view field;
    std::optional<double> value;
    double low;
    double high;
  } ranges[] = {
      {"temperature", call.temperature, 0.0, kTemperatureMax},
      {"min_p", call.min_p, 0.0, 1.0},
      {"repetition_penalty", call.repetition_penalty, kRepetitionPenaltyMin, kPenaltyMax},
      {"presence_penalty", call.presence_penalty, -kPenaltyMax, kPenaltyMax},
      {"frequency_penalty", call.frequency_penalty, -kPenaltyMax, kPenaltyMax},
      {"logprobs", call.logprobs, 0.0, kLogprobsMax},
      {"prompt_logprobs", call.prompt_logprobs, 0.0, kLogprobsMax},
  };
  for (const auto& range : ranges) {
    const absl::Status status = CheckRange(range.field, range.value, range.low, range.high);
    if (!status.ok()) return status;
  }
  if (call.top_p && !(*call.top_p > 0.0 && *call.top_p <= 1.0)) {
    return FieldError("top_p",
                      absl::StrCat("must be above 0 and at most 1, not ", PlainNumber(*call.top_p),
                                   "; leave it out (or 1) to switch it off"));
  }
  if (call.top_k.value_or(0) < 0) {
    return FieldError("top_k", absl::StrCat("must be 0 (off) or more, not ", *call.top_k));
  }
  if (call.max_tokens.value_or(1) < (call.prompt_logprobs ? 0 : 1)) {
    return FieldError("max_tokens",
                      "must be 1 or more, or 0 for the prompt's log-probabilities alone; leave it "
                      "out for the default");
  }
  if (call.truncate.value_or(1) < 1) {
    return FieldError("truncate", "must be 1 or more; leave it out to keep the whole prompt");
  }
  return absl::OkStatus();
}

absl::Status CheckBias(const GenerateCall& call, int32_t vocabulary) {
  absl::Status status = CheckCount("logit_bias", call.logit_bias.size(), kLogitBiasMax);
  if (!status.ok()) return status;
  absl::flat_hash_set<int32_t> seen;
  int32_t banned = 0;
  for (size_t i = 0; i < call.logit_bias.size(); ++i) {
    const auto& [token, bias] = call.logit_bias[i];
    status = CheckToken(Indexed("logit_bias", i, "token_id"), token, vocabulary);
    if (!status.ok()) return status;
    if (!std::isfinite(bias) || bias > kBiasMax) {
      return FieldError(Indexed("logit_bias", i, "bias"),
                        absl::StrCat("of token ", token, " must be a finite number of at most ",
                                     kBiasMax, " (-100 or less bans the token)"));
    }
    if (!seen.insert(token).second) {
      return FieldError(Indexed("logit_bias", i, "token_id"),
                        absl::StrCat("names token ", token, " twice"));
    }
    banned += bias <= -kBiasMax;
  }
  if (banned >= vocabulary) return FieldError("logit_bias", "bans every token there is");
  return absl::OkStatus();
}

absl::Status CheckStops(const GenerateCall& call, int32_t vocabulary) {
  absl::Status status = CheckCount("stop", call.stop.size(), kStopStringsMax);
  if (!status.ok()) return status;
  for (size_t i = 0; i < call.stop.size(); ++i) {
    if (call.stop[i].empty() || call.stop[i].size() > kStopStringBytesMax) {
      return FieldError(Indexed("stop", i),
                        absl::StrCat("has ", call.stop[i].size(), " bytes; 1 to ",
                                     kStopStringBytesMax, " are taken"));
    }
    status = CheckUtf8Field(Indexed("stop", i), call.stop[i]);
    if (!status.ok()) return status;
  }
  status = CheckCount("stop_token_ids", call.stop_token_ids.size(), kStopTokensMax);
  if (!status.ok()) return status;
  for (size_t i = 0; i < call.stop_token_ids.size(); ++i) {
    status = CheckToken(Indexed("stop_token_ids", i), call.stop_token_ids[i], vocabulary);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckFormat(const GenerateCall& call) {
  if (!call.format) return absl::OkStatus();
  const std::string field = "response_format";
  if (call.ignore_eos) {
    return FieldError(field, "cannot go on after its end: what is complete ends");
  }
  if (std::ssize(call.format->text) > kFormatBytesMax) {
    return FieldError(field, absl::StrCat("has ", call.format->text.size(), " bytes; at most ",
                                          kFormatBytesMax, " are taken"));
  }
  absl::Status status = CheckUtf8Field(field, call.format->text);
  if (!status.ok()) return status;
  const auto& [kind, text] = *call.format;
  status = kind == FormatKind::kJsonSchema ? CheckSchema(text) : CheckExpression(kind, text);
  return status.ok() ? status : FieldError(field, status.message());
}

absl::Status CheckMessages(absl::Span<const ChatTurn> messages) {
  absl::Status status = CheckCount("messages", messages.size(), kChatMessagesMax);
  if (!status.ok()) return status;
  int64_t bytes = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatTurn& turn = messages[i];
    if (turn.role.empty() || turn.role.size() > kRoleBytesMax) {
      return FieldError(
          Indexed("messages", i, "role"),
          absl::StrCat("must have 1 to ", kRoleBytesMax, " bytes, e.g. \"user\" or \"assistant\""));
    }
    bytes += turn.content.size() + turn.more.size();
    if (bytes > kPromptBytesMax) {
      return FieldError("messages", absl::StrCat("hold more than ", kPromptBytesMax, " bytes"));
    }
    status = CheckUtf8Field(Indexed("messages", i, "role"), turn.role);
    if (status.ok()) status = CheckUtf8Field(Indexed("messages", i, "content"), turn.content);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckTokenIds(const GenerateCall& call, const GatewayLimits& limits) {
  if (static_cast<int64_t>(call.token_ids.size()) > limits.context_tokens) {
    return FieldError("token_ids",
                      absl::StrCat("has ", call.token_ids.size(), " tokens; the context holds ",
                                   limits.context_tokens));
  }
  for (size_t i = 0; i < call.token_ids.size(); ++i) {
    const absl::Status status =
        CheckToken(Indexed("token_ids", i), call.token_ids[i], limits.vocabulary);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckWeight(const std::string& field, double weight) {
  if (std::isfinite(weight) && std::abs(weight) <= kAdapterWeightMax) return absl::OkStatus();
  return FieldError(field, absl::StrCat("must be a finite number from ", -kAdapterWeightMax, " to ",
                                        kAdapterWeightMax));
}

// CheckAdapterId's text begins with what the field's name says already.
absl::Status CheckIdField(absl::string_view field, const std::string& id) {
  const absl::Status status = CheckAdapterId(id);
  if (status.ok()) return status;
  absl::string_view what = status.message();
  absl::ConsumePrefix(&what, "adapter id ");
  return FieldError(field, what);
}

// An id as a field error; "" and the base model's name pass.
absl::Status CheckChoice(absl::string_view field, const std::string& id,
                         const std::string& base_name) {
  if (id.empty() || id == base_name) return absl::OkStatus();
  return CheckIdField(field, id);
}

absl::Status CheckMix(absl::Span<const AdapterChoice> mix, const std::string& base_name) {
  absl::Status status = CheckCount("adapters", mix.size(), kMixTermsMax);
  if (!status.ok()) return status;
  absl::flat_hash_set<absl::string_view> seen;
  for (size_t i = 0; i < mix.size(); ++i) {
    const std::string id_field = Indexed("adapters", i, "adapter_id");
    if (mix[i].adapter_id.empty() || mix[i].adapter_id == base_name) {
      return FieldError(id_field, "names the base model, which is part of every mix already");
    }
    status = CheckChoice(id_field, mix[i].adapter_id, base_name);
    if (status.ok()) status = CheckWeight(Indexed("adapters", i, "weight"), mix[i].weight);
    if (!status.ok()) return status;
    if (!seen.insert(mix[i].adapter_id).second) {
      return FieldError(id_field, "is there twice; add the weights up instead");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckText(const std::optional<std::string>& prompt,
                       absl::Span<const ChatTurn> messages) {
  if (!messages.empty()) return CheckMessages(messages);
  if (prompt->empty()) return FieldError("prompt", "is empty; give at least one character");
  if (prompt->size() > kPromptBytesMax) {
    return FieldError("prompt", absl::StrCat("has ", prompt->size(), " bytes; at most ",
                                             kPromptBytesMax, " are taken"));
  }
  return CheckUtf8Field("prompt", *prompt);
}

absl::Status CheckHubToken(const std::string& token) {
  const bool plain = std::all_of(token.begin(), token.end(), absl::ascii_isgraph);
  if (plain && token.size() <= kTokenBytesMax) return absl::OkStatus();
  return FieldError("hub_token", "is too long, or holds what no token does");
}

absl::Status CheckFields(const GenerateCall& call, const GatewayLimits& limits) {
  const int inputs = call.prompt.has_value() + !call.messages.empty() + !call.token_ids.empty();
  if (inputs == 0) {
    return FieldError("prompt", "is missing: give prompt, messages or token_ids");
  }
  if (inputs > 1) {
    return FieldError(call.prompt ? "prompt" : "messages",
                      "cannot be combined: give only one of prompt, messages and token_ids");
  }
  absl::Status status = CheckHubToken(call.hub_token);
  if (status.ok()) status = CheckSampling(call);
  if (status.ok() && call.truncate.value_or(1) >= limits.context_tokens) {
    status = FieldError("truncate", absl::StrCat("must be at most ", limits.context_tokens - 1,
                                                 ", which leaves room for one token more"));
  }
  if (status.ok()) status = CheckBias(call, limits.vocabulary);
  if (status.ok()) status = CheckStops(call, limits.vocabulary);
  if (status.ok()) status = CheckFormat(call);
  if (!status.ok()) return status;
  if (std::ssize(call.tools) > kToolsBytesMax) {
    return FieldError("tools", absl::StrCat("have ", call.tools.size(), " bytes as JSON; at most ",
                                            kToolsBytesMax, " are taken"));
  }
  if (!call.token_ids.empty()) return CheckTokenIds(call, limits);
  return CheckText(call.prompt, call.messages);
}

absl::Status CheckPlace(const std::string& location) {
  if (IsObjectLocation(location)) return absl::OkStatus();
  return FieldError("adapter_id", "is no place in a bucket; name it as s3://bucket/name");
}

absl::Status CheckNamed(absl::string_view field, const std::string& adapter_id) {
  if (adapter_id.empty()) return FieldError(field, "is missing");
  return CheckIdField(field, adapter_id);
}

absl::Status CheckExpectedGeneration(const std::string& generation) {
  const bool digits = std::all_of(generation.begin(), generation.end(), [](char c) {
    return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
  });
  const size_t size = generation.size();
  if (size == 0 || (digits && size >= kRevisionDigitsMin && size <= 64)) return absl::OkStatus();
  return FieldError("expected_generation",
                    absl::StrCat("must be a generation, or its first ", kRevisionDigitsMin,
                                 " digits or more: 0 to 9 and a to f"));
}

absl::Status CheckSource(absl::string_view field, const std::string& source) {
  const absl::Status status = CheckAdapterId(source);
  const std::string place = source.substr(0, source.find('@'));
  const bool in_folder = IsRepoFolder(place) && source.size() <= kLocationBytesMax &&
                         CheckAdapterId(absl::StrCat("x", source.substr(place.size()))).ok();
  if (status.ok() || in_folder || IsObjectLocation(source)) return absl::OkStatus();
  if (absl::StrContains(source, "://")) {
    return FieldError(field,
                      "must be \"s3://bucket/name\" with a bucket of 3 letters or more, where "
                      "--s3-allow names it, or \"https://host/name\", where --mirror-allow does");
  }
  return FieldError(field,
                    absl::StrCat("must name a folder beneath the adapters folder, as \"name\" or "
                                 "\"group/name\", a repository, a folder in one as "
                                 "\"org/name/folder\", or \"s3://bucket/name\": ",
                                 status.message()));
}

absl::Status CheckPromptLogprobs(const GenerateCall& call, int64_t prompt_tokens) {
  if (!call.prompt_logprobs) return absl::OkStatus();
  const int64_t count = prompt_tokens * (1 + *call.prompt_logprobs);
  if (count <= kPromptLogprobsMax) return absl::OkStatus();
  return FieldError("prompt_logprobs",
                    absl::StrCat("are too many: ", prompt_tokens, " prompt tokens, each with ",
                                 *call.prompt_logprobs, " best ones, make ", count, "; at most ",
                                 kPromptLogprobsMax, " are given"));
}

absl::StatusOr<std::vector<AdapterChoice>> ChooseAdapters(const GenerateCall& call,
                                                          const std::string& base_name) {
  if (call.adapter_headers.size() > 1) {
    return FieldError("x-adapter-id", "was sent more than once; send one header");
  }
  const std::string header = call.adapter_headers.empty() ? "" : call.adapter_headers[0];
  // The message first: most clients repeat its id in the header.
  absl::Status status = call.adapter_by_location
                            ? CheckPlace(call.adapter_id)
                            : CheckChoice("adapter_id", call.adapter_id, base_name);
  if (status.ok()) status = CheckChoice("x-adapter-id", header, base_name);
  if (status.ok()) status = CheckMix(call.adapters, base_name);
  if (!status.ok()) return status;
  if (!call.adapter_id.empty() && !call.adapters.empty()) {
    return FieldError("adapters", "cannot be combined with adapter_id");
  }
  const std::string field =
      call.adapters.size() == 1 ? call.adapters[0].adapter_id : call.adapter_id;
  if (!header.empty() && (call.adapters.size() > 1 || (!field.empty() && field != header))) {
    return FieldError("x-adapter-id", "differs from the adapter that the message names");
  }
  if (!call.adapters.empty()) return call.adapters;
  const std::string& id = call.adapter_id.empty() ? header : call.adapter_id;
  if (id.empty() || id == base_name) return std::vector<AdapterChoice>();
  return std::vector<AdapterChoice>{{.adapter_id = id}};
}

SampleParams ToSampleParams(const GenerateCall& call, uint64_t seed) {
  constexpr float kSmallest = 1e-30f;  // keeps tiny doubles from becoming 0
  SampleParams params;
  const double temperature = call.temperature.value_or(0.0);
  params.temperature = temperature < kTemperatureGreedy ? 0.0f : static_cast<float>(temperature);
  params.top_k = call.top_k.value_or(0);
  params.top_p = std::max(static_cast<float>(call.top_p.value_or(1.0)), kSmallest);
  params.min_p = static_cast<float>(call.min_p.value_or(0.0));
  params.repetition_penalty = static_cast<float>(call.repetition_penalty.value_or(1.0));
  params.presence_penalty = static_cast<float>(call.presence_penalty.value_or(0.0));
  params.frequency_penalty = static_cast<float>(call.frequency_penalty.value_or(0.0));
  params.seed = call.seed.value_or(seed);
  params.logprobs = call.logprobs.value_or(-1);
  return params;
}

std::vector<TokenBias> ToTokenBias(const GenerateCall& call) {
  std::vector<TokenBias> result;
  result.reserve(call.logit_bias.size());
  for (const auto& [token, bias] : call.logit_bias) {
    result.push_back({token, static_cast<float>(std::max(bias, -kBiasMax))});
  }
  return result;
}

}  // namespace lorica
