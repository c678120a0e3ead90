#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter.h"
#include "adapters/hub/quoted.h"
#include "adapters/module_pattern.h"
#include "kernels/lora_tiles.h"

namespace lorica {
namespace {

using Json = nlohmann::ordered_json;

// How the library numbers its error about a number that no double holds.
constexpr int kNumberTooLarge = 406;
constexpr int kDepthMax = 32;
constexpr int kKeysMax = 2 * kPatternEntriesMax + 1024;  // of all objects together

absl::Status Bad(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat("adapter_config.json: ", what));
}

// Walks the text without building anything: duplicate keys, depth and size. What it
// passes is safe to build.
class Guard : public nlohmann::json_sax<Json> {
 public:
  const std::string& problem() const { return problem_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool key(string_t& key) override {
    if (++key_count_ > kKeysMax) return Fail(absl::StrCat("has over ", kKeysMax, " keys"));
    return keys_.back().insert(key).second || Fail(absl::StrCat(Quoted(key), " appears twice"));
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return Deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const bool too_large = error.id == kNumberTooLarge;
    return Fail(absl::StrCat(
        too_large ? "a number too large for a double, up to byte " : "not valid JSON at byte ",
        position));
  }

 private:
  bool Fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool Deeper() {
    return ++depth_ <= kDepthMax || Fail(absl::StrCat("nested deeper than ", kDepthMax));
  }

  std::string problem_;
  int depth_ = 0;
  int key_count_ = 0;
  std::vector<absl::flat_hash_set<std::string>> keys_;
};

absl::StatusOr<Json> ParseObject(std::string_view text) {
  if (std::ssize(text) > kAdapterConfigBytesMax) {
    return Bad(
        absl::StrCat("has ", text.size(), " bytes, at most ", kAdapterConfigBytesMax, " are read"));
  }
  if (text.empty()) return Bad("is empty");
  // The parser would skip a BOM and stop at a NUL.
  if (text.substr(0, 3) == "\xEF\xBB\xBF") return Bad("begins with a byte order mark: remove it");
  if (text.find('\0') != std::string_view::npos) return Bad("is not UTF-8 text");
  Guard guard;
  if (!nlohmann::ordered_json::sax_parse(text.begin(), text.end(), &guard)) {
    return Bad(guard.problem().empty() ? "not valid JSON" : guard.problem());
  }
  Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object()) return Bad("is not a JSON object");
  return json;
}

const Json& Field(const Json& json, const char* name) {
  static const Json kNull;
  const auto found = json.find(name);
  return found == json.end() ? kNull : *found;
}

// null, false, "", [] and {} are how PEFT writes "not used".
bool IsSet(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.is_structured() || !value.empty();
}

// A short text of a value for messages.
std::string Shown(const Json& value) {
  if (value.is_string()) return Quoted(value.get_ref<const std::string&>());
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  return value.dump();
}

absl::Status ReadBool(const Json& json, const char* name, bool* out) {
  const Json& value = Field(json, name);
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_boolean()) {
    return Bad(absl::StrCat(name, " is ", Shown(value), ", expected true or false"));
  }
  *out = value.get<bool>();
  return absl::OkStatus();
}

absl::Status ReadRank(const std::string& field, const Json& value, int* out) {
  const bool fits = value.is_number_integer() && value >= 1 && value <= kLoraRankMax;
  if (!fits) {
    return Bad(absl::StrCat(field, " is ", Shown(value), ", expected a whole number from 1 to ",
                            kLoraRankMax));
  }
  *out = value.get<int>();
  return absl::OkStatus();
}

absl::Status ReadAlpha(const std::string& field, const Json& value, double* out) {
  if (!value.is_number()) {
    return Bad(absl::StrCat(field, " is ", Shown(value), ", expected a number"));
  }
  *out = value.get<double>();
  return absl::OkStatus();
}

template <typename Value, typename Reader>
absl::Status ReadPatterns(const Json& json, const std::string& name, Reader read,
                          std::vector<std::pair<std::string, Value>>* out) {
  const Json& table = Field(json, name.c_str());
  if (table.is_null()) return absl::OkStatus();
  if (!table.is_object()) return Bad(absl::StrCat(name, " is not an object"));
  for (const auto& [key, value] : table.items()) {
    Value parsed{};
    absl::Status s = read(absl::StrCat(name, " ", Quoted(key)), value, &parsed);
    if (!s.ok()) return s;
    out->emplace_back(key, parsed);
  }
  return PatternTable<Value>::Compile(name, *out).status();
}

struct Refusal {
  const char* field;
  const char* reason;
};

// Fields that change the mathematics in a way that is not served.
constexpr Refusal kRefusals[] = {
    {"modules_to_save",
     "it replaces whole modules of the base: train LoRA on them instead (target_modules may name "
     "lm_head and embed_tokens)"},
    {"trainable_token_indices",
     "it replaces rows of the embedding: train LoRA on embed_tokens instead"},
    {"target_parameters", "LoRA on bare parameters (experts) is not served"},
    {"layer_replication", "it repeats layers of the base model"},
    {"use_qalora", "QA-LoRA pools its inputs: train plain LoRA"},
    {"alora_invocation_tokens", "activated LoRA acts on a part of the prompt only"},
    {"use_bdlora", "block-diagonal LoRA is not served"},
    {"arrow_config", "it routes among adapters at run time"},
    {"kasa_config", "KaSA rewrites the base weights"},
};

absl::Status CheckRefusals(const Json& json) {
  for (const Refusal& refusal : kRefusals) {
    if (IsSet(Field(json, refusal.field))) {
      return Bad(absl::StrCat(refusal.field, " is not supported: ", refusal.reason));
    }
  }
  return absl::OkStatus();
}

// Whether there are trained biases the tensors say: a base without biases has none.
absl::Status CheckBias(const Json& json) {
  const Json& bias = Field(json, "bias");
  if (bias.is_null() || bias == "none" || bias == "all" || bias == "lora_only") {
    return absl::OkStatus();
  }
  return Bad(absl::StrCat("bias ", Shown(bias), " is unknown"));
}

absl::Status CheckPeftType(const Json& json) {
  const Json& type = Field(json, "peft_type");
  if (type == "LORA") return absl::OkStatus();
  if (type.is_null()) return Bad("peft_type is missing: only LORA adapters are served");
  return Bad(absl::StrCat("peft_type ", Shown(type), " is not supported: only LORA is served"));
}

absl::Status CheckTaskType(const Json& json, AdapterConfig& config) {
  static constexpr const char* kKnown[] = {"CAUSAL_LM", "SEQ_CLS",      "SEQ_2_SEQ_LM",
                                           "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"};
  const Json& type = Field(json, "task_type");
  if (type.is_null() || type == "CAUSAL_LM") return absl::OkStatus();
  const bool known = std::any_of(std::begin(kKnown), std::end(kKnown),
                                 [&](const char* name) { return type == name; });
  if (!known) return Bad(absl::StrCat("task_type ", Shown(type), " is unknown"));
  config.warnings.push_back(
      absl::StrCat("task_type is ", Shown(type), "; it is served as a text generator"));
  return absl::OkStatus();
}

// Some initialisations change the base weights before training.
absl::Status CheckInit(const Json& json, AdapterConfig& config) {
  const Json& init = Field(json, "init_lora_weights");
  if (init.is_null() || init.is_boolean()) return absl::OkStatus();
  if (!init.is_string()) return Bad(absl::StrCat("init_lora_weights is ", Shown(init)));
  const std::string name = absl::AsciiStrToLower(init.get<std::string>());
  if (name == "gaussian" || name == "eva" || name == "orthogonal" || name == "mica") {
    return absl::OkStatus();
  }
  if (name == "loftq") {
    config.warnings.push_back(
        "init_lora_weights is 'loftq': the adapter was made for one quantised base and is only "
        "approximate on another");
    return absl::OkStatus();
  }
  if (name == "olora" || name == "corda" || name == "lora_ga" || absl::StartsWith(name, "pissa")) {
    return Bad(absl::StrCat("init_lora_weights ", Shown(init),
                            ": the adapter needs a modified base; convert it with PEFT first "
                            "(path_initial_model_for_weight_conversion)"));
  }
  return Bad(absl::StrCat("init_lora_weights ", Shown(init), " is unknown"));
}

// Combinations that PEFT itself never writes.
absl::Status CheckConsistency(const Json& json, const AdapterConfig& config) {
  if (Field(json, "target_modules").is_string() &&
      (IsSet(Field(json, "layers_to_transform")) || IsSet(Field(json, "layers_pattern")))) {
    return Bad("target_modules is a pattern together with layers_to_transform or layers_pattern");
  }
  if (IsSet(Field(json, "layers_pattern")) && Field(json, "layers_to_transform").is_null()) {
    return Bad("layers_pattern without layers_to_transform");
  }
  if (config.use_dora && config.lora_bias) return Bad("use_dora together with lora_bias");
  if (config.use_dora && IsSet(Field(json, "megatron_config"))) {
    return Bad("use_dora together with megatron_config");
  }
  return absl::OkStatus();
}

absl::Status ReadLayers(const Json& json, AdapterConfig& config) {
  const Json& layers = Field(json, "layers_to_transform");
  if (layers.is_null()) return absl::OkStatus();
  for (const Json& layer : layers.is_array() ? layers : Json::array({layers})) {
    const bool fits = layer.is_number_integer() && layer >= 0 && layer <= INT32_MAX;
    if (!fits) {
      return Bad(absl::StrCat("layers_to_transform holds ", Shown(layer),
                              ", expected the numbers of layers"));
    }
    config.layers_to_transform.push_back(layer.get<int>());
  }
  return absl::OkStatus();
}

void ReadTargets(const Json& json, AdapterConfig& config) {
  const Json& targets = Field(json, "target_modules");
  if (targets.is_string()) {
    const std::string pattern = targets.get<std::string>();
    if (!PatternTable<int>::Compile("target_modules", {{pattern, 0}}).ok()) {
      config.warnings.push_back(absl::StrCat("target_modules is a pattern that cannot be read, ",
                                             Quoted(pattern), ": the tensors say what is served"));
    }
  }
  if (!targets.is_array()) return;
  for (const Json& target : targets) {
    if (target.is_string()) config.target_modules.push_back(target.get<std::string>());
  }
}

void WarnAboutUnknown(const Json& json, AdapterConfig& config) {
  static const auto* const kKnown = new absl::flat_hash_set<std::string>{"peft_type",
                                                                         "task_type",
                                                                         "base_model_name_or_path",
                                                                         "revision",
                                                                         "inference_mode",
                                                                         "auto_mapping",
                                                                         "peft_version",
                                                                         "r",
                                                                         "lora_alpha",
                                                                         "use_rslora",
                                                                         "lora_dropout",
                                                                         "target_modules",
                                                                         "exclude_modules",
                                                                         "layers_to_transform",
                                                                         "layers_pattern",
                                                                         "rank_pattern",
                                                                         "alpha_pattern",
                                                                         "bias",
                                                                         "lora_bias",
                                                                         "modules_to_save",
                                                                         "trainable_token_indices",
                                                                         "use_dora",
                                                                         "fan_in_fan_out",
                                                                         "init_lora_weights",
                                                                         "target_parameters",
                                                                         "layer_replication",
                                                                         "megatron_config",
                                                                         "megatron_core",
                                                                         "use_qalora",
                                                                         "qalora_group_size",
                                                                         "alora_invocation_tokens",
                                                                         "use_bdlora",
                                                                         "arrow_config",
                                                                         "kasa_config",
                                                                         "monteclora_config",
                                                                         "velora_config",
                                                                         "eva_config",
                                                                         "corda_config",
                                                                         "lora_ga_config",
                                                                         "loftq_config",
                                                                         "ensure_weight_tying",
                                                                         "runtime_config"};
  std::vector<std::string> unknown;
  for (const auto& [key, value] : json.items()) {
    if (!kKnown->contains(key)) unknown.push_back(key);
  }
  if (unknown.empty()) return;
  config.warnings.push_back(absl::StrCat("unknown fields are ignored: ", QuotedList(unknown)));
}

void WarnAboutAlpha(AdapterConfig& config) {
  if (config.alpha == 0) config.warnings.push_back("lora_alpha is 0: the adapter has no effect");
  if (config.alpha < 0) config.warnings.push_back("lora_alpha is negative");
}

absl::Status ReadNumbers(const Json& json, AdapterConfig& config) {
  if (!json.contains("r")) return Bad("r (the rank) is missing");
  if (absl::Status s = ReadRank("r", Field(json, "r"), &config.rank); !s.ok()) return s;
  if (json.contains("lora_alpha")) {
    absl::Status s = ReadAlpha("lora_alpha", Field(json, "lora_alpha"), &config.alpha);
    if (!s.ok()) return s;
  }
  if (absl::Status s = ReadBool(json, "use_rslora", &config.use_rslora); !s.ok()) return s;
  if (absl::Status s = ReadBool(json, "use_dora", &config.use_dora); !s.ok()) return s;
  if (absl::Status s = ReadBool(json, "lora_bias", &config.lora_bias); !s.ok()) return s;
  absl::Status s = ReadPatterns(json, "rank_pattern", ReadRank, &config.rank_pattern);
  if (!s.ok()) return s;
  return ReadPatterns(json, "alpha_pattern", ReadAlpha, &config.alpha_pattern);
}

}  // namespace

absl::StatusOr<AdapterConfig> ParseAdapterConfig(std::string_view text) {
  absl::StatusOr<Json> json = ParseObject(text);
  if (!json.ok()) return json.status();
  AdapterConfig config;
  if (absl::Status s = CheckPeftType(*json); !s.ok()) return s;
  if (absl::Status s = CheckTaskType(*json, config); !s.ok()) return s;
  if (absl::Status s = ReadNumbers(*json, config); !s.ok()) return s;
  if (absl::Status s = CheckRefusals(*json); !s.ok()) return s;
  if (absl::Status s = CheckBias(*json); !s.ok()) return s;
  if (absl::Status s = CheckInit(*json, config); !s.ok()) return s;
  if (absl::Status s = CheckConsistency(*json, config); !s.ok()) return s;
  if (absl::Status s = ReadLayers(*json, config); !s.ok()) return s;
  if (const Json& base = Field(*json, "base_model_name_or_path"); base.is_string()) {
    config.base_model = base.get<std::string>();
  }
  ReadTargets(*json, config);
  WarnAboutAlpha(config);
  WarnAboutUnknown(*json, config);
  return config;
}

}  // namespace lorica
