// Hugging Face folders of the Llama family: config.json, model*.safetensors,
// tokenizer.json (https://huggingface.co/docs/transformers/model_doc/llama).
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/safetensors.h"
#include "server/models/families/family.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr int64_t kConfigBytesMax = 1 << 20;
constexpr int64_t kIndexBytesMax = 64 << 20;
constexpr int64_t kTokenizerBytesMax = 64 << 20;
constexpr int kShardsMax = 1024;

absl::StatusOr<Json> ReadJsonObject(const std::string& path, int64_t bytes_max) {
  auto text = ReadTextFile(path, bytes_max);
  if (!text.ok()) return text.status();
  Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON object"));
  return json;
}

std::optional<int64_t> Int(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) return std::nullopt;
  return it->get<int64_t>();
}

std::optional<double> Number(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number()) return std::nullopt;
  return it->get<double>();
}

bool Flag(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_boolean() && it->get<bool>();
}

std::string Text(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// A token is written as a string or as {"content": ...}.
std::string TokenText(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end()) return "";
  return it->is_object() ? Text(*it, "content") : Text(object, key);
}

// "eos_token_id" is a number or a list of numbers.
std::vector<int32_t> TokenIds(const Json& object, const char* key, int64_t vocabulary) {
  std::vector<int32_t> ids;
  const auto it = object.find(key);
  if (it == object.end()) return ids;
  const Json list = it->is_array() ? *it : Json::array({*it});
  for (const Json& item : list) {
    if (!item.is_number_integer()) continue;
    const int64_t id = item.get<int64_t>();
    if (id >= 0 && id < vocabulary) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::Status ReadRope(const Json& json, ModelConfig* config) {
  // transformers 5 writes "rope_parameters" where 4 wrote rope_theta and rope_scaling.
  const auto parameters = json.find("rope_parameters");
  const bool has_parameters = parameters != json.end() && parameters->is_object();
  config->rope_theta =
      Number(json, "rope_theta")
          .value_or(has_parameters ? Number(*parameters, "rope_theta").value_or(1e4) : 1e4);
  const auto old_scaling = json.find("rope_scaling");
  const bool has_scaling = old_scaling != json.end() && old_scaling->is_object();
  if (!has_parameters && !has_scaling) return absl::OkStatus();
  const Json& scaling = has_scaling ? *old_scaling : *parameters;
  RopeScaling& out = config->rope_scaling;
  out.kind = Text(scaling, "rope_type");
  if (out.kind.empty()) out.kind = Text(scaling, "type");
  if (out.kind.empty()) out.kind = "default";
  if (out.kind == "divisors") {
    return absl::FailedPreconditionError("config.json: rope scaling 'divisors' is not supported");
  }
  out.factor = Number(scaling, "factor").value_or(1.0);
  out.low_freq_factor = Number(scaling, "low_freq_factor").value_or(1.0);
  out.high_freq_factor = Number(scaling, "high_freq_factor").value_or(4.0);
  out.original_context = Int(scaling, "original_max_position_embeddings").value_or(8192);
  return absl::OkStatus();
}

// What would change the mathematics and is not served here.
absl::Status RefuseVariations(const Json& json) {
  const auto refuse = [](absl::string_view what) {
    return absl::FailedPreconditionError(absl::StrCat("config.json: ", what, " is not supported"));
  };
  if (Flag(json, "attention_bias")) return refuse("attention_bias");
  if (Flag(json, "mlp_bias")) return refuse("mlp_bias");
  if (json.contains("quantization_config")) return refuse("quantization_config");
  const auto window = json.find("sliding_window");
  if (window != json.end() && !window->is_null()) return refuse("sliding_window");
  if (const auto partial = Number(json, "partial_rotary_factor"); partial && *partial != 1.0) {
    return refuse("partial_rotary_factor");
  }
  const std::string activation = Text(json, "hidden_act");
  if (!activation.empty() && activation != "silu") return refuse("hidden_act other than silu");
  return absl::OkStatus();
}

absl::Status ReadConfig(const Json& json, const std::string& folder, ModelConfig* config) {
  const std::string type = Text(json, "model_type");
  if (type != "llama" && type != "mistral") {
    return absl::FailedPreconditionError(absl::StrCat("config.json: model_type '", type,
                                                      "' is not supported; llama and mistral are"));
  }
  config->architecture = type;
  config->name = std::filesystem::path(folder).lexically_normal().filename();
  if (config->name.empty()) {
    config->name = std::filesystem::path(folder).lexically_normal().parent_path().filename();
  }
  config->layers = static_cast<int>(Int(json, "num_hidden_layers").value_or(0));
  config->hidden = Int(json, "hidden_size").value_or(0);
  config->ffn = Int(json, "intermediate_size").value_or(0);
  config->heads = static_cast<int>(Int(json, "num_attention_heads").value_or(0));
  config->kv_heads = static_cast<int>(Int(json, "num_key_value_heads").value_or(config->heads));
  const int64_t derived_head = config->heads > 0 ? config->hidden / config->heads : 0;
  config->head_size = static_cast<int>(Int(json, "head_dim").value_or(derived_head));
  config->vocabulary = Int(json, "vocab_size").value_or(0);
  config->context_tokens = Int(json, "max_position_embeddings").value_or(2048);
  config->norm_epsilon = static_cast<float>(Number(json, "rms_norm_eps").value_or(1e-6));
  config->tied_embedding = Flag(json, "tie_word_embeddings");
  absl::Status status = RefuseVariations(json);
  status.Update(ReadRope(json, config));
  if (!status.ok()) return status;
  return CheckConfig(*config);
}

std::optional<DType> DTypeOfSafetensors(std::string_view dtype) {
  if (dtype == "F32") return DType::kF32;
  if (dtype == "F16") return DType::kF16;
  if (dtype == "BF16") return DType::kBF16;
  return std::nullopt;
}

// The tensors of all shards, by name.
class TensorIndex {
 public:
  absl::Status Open(const std::string& folder, OpenedModel* opened);
  absl::StatusOr<HostMatrix> Find(const std::string& name, int64_t rows, int64_t columns) const;
  bool Has(const std::string& name) const { return tensors_.contains(name); }

 private:
  struct Located {
    SafetensorsEntry entry;
    const std::byte* data;
  };
  absl::Status AddShard(const std::string& path, OpenedModel* opened);

  absl::flat_hash_map<std::string, Located> tensors_;
};

// File names of the shards, or the one file.
absl::StatusOr<std::set<std::string>> ShardNames(const std::string& folder) {
  const std::string index_path = folder + "/model.safetensors.index.json";
  if (!std::filesystem::exists(index_path)) return std::set<std::string>{"model.safetensors"};
  auto index = ReadJsonObject(index_path, kIndexBytesMax);
  if (!index.ok()) return index.status();
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object()) {
    return absl::InvalidArgumentError("model.safetensors.index.json: weight_map is missing");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : std::string();
    const bool plain = !name.empty() && name.find_first_of("/\\") == std::string::npos &&
                       name.find('\0') == std::string::npos && name != "." && name != "..";
    if (!plain) {
      return absl::InvalidArgumentError(
          "model.safetensors.index.json: weight_map names something that is no plain file name");
    }
    names.insert(name);
    if (names.size() > kShardsMax) {
      return absl::InvalidArgumentError("model.safetensors.index.json: more than 1,024 shards");
    }
  }
  return names;
}

absl::Status TensorIndex::AddShard(const std::string& path, OpenedModel* opened) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  const absl::Span<const std::byte> bytes = (*mapped)->bytes();
  const int64_t size = static_cast<int64_t>(bytes.size());
  auto header_bytes = SafetensorsHeaderBytes(bytes.subspan(0, std::min<size_t>(8, size)), size);
  if (!header_bytes.ok()) return header_bytes.status();
  const std::string_view json(reinterpret_cast<const char*>(bytes.data()) + 8, *header_bytes);
  auto header = ParseSafetensorsHeader(json, size);
  if (!header.ok()) return header.status();
  for (const SafetensorsEntry& entry : header->entries) {
    if (!tensors_.emplace(entry.name, Located{entry, bytes.data() + entry.begin}).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", entry.name, "' is in more than one shard"));
    }
  }
  opened->files.push_back(std::move(*mapped));
  return absl::OkStatus();
}

absl::Status TensorIndex::Open(const std::string& folder, OpenedModel* opened) {
  auto names = ShardNames(folder);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    absl::Status status = AddShard(absl::StrCat(folder, "/", name), opened);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<HostMatrix> TensorIndex::Find(const std::string& name, int64_t rows,
                                             int64_t columns) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is missing"));
  }
  const SafetensorsEntry& entry = it->second.entry;
  const std::optional<DType> dtype = DTypeOfSafetensors(entry.dtype);
  if (!dtype) {
    return absl::FailedPreconditionError(absl::StrCat("tensor '", name, "' has dtype ", entry.dtype,
                                                      "; F32, F16 and BF16 are served"));
  }
  if (entry.shape.empty() || entry.shape.size() > 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", name, "' has ", entry.shape.size(), " dimensions"));
  }
  HostMatrix matrix{*dtype, entry.shape.size() == 2 ? entry.shape[0] : 1, entry.shape.back(),
                    it->second.data};
  absl::Status status = CheckShape(matrix, rows, columns, name);
  if (!status.ok()) return status;
  return matrix;
}

absl::Status ReadWeights(const TensorIndex& index, OpenedModel* opened) {
  ModelConfig& config = opened->config;
  absl::Status status;
  const auto take = [&](HostMatrix* out, const std::string& name, int64_t rows, int64_t columns) {
    auto matrix = index.Find(name, rows, columns);
    if (matrix.ok()) {
      *out = *matrix;
    } else {
      status.Update(matrix.status());
    }
  };
  const int64_t q_rows = int64_t{config.heads} * config.head_size;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_size;
  take(&opened->embedding, "model.embed_tokens.weight", config.vocabulary, config.hidden);
  take(&opened->final_norm, "model.norm.weight", 1, config.hidden);
  if (!config.tied_embedding) {
    take(&opened->head, "lm_head.weight", config.vocabulary, config.hidden);
  }
  opened->layers.resize(config.layers);
  for (int layer_index = 0; layer_index < config.layers && status.ok(); ++layer_index) {
    LayerTensors& layer = opened->layers[layer_index];
    const std::string prefix = absl::StrCat("model.layers.", layer_index, ".");
    take(&layer.q, prefix + "self_attn.q_proj.weight", q_rows, config.hidden);
    take(&layer.k, prefix + "self_attn.k_proj.weight", kv_rows, config.hidden);
    take(&layer.v, prefix + "self_attn.v_proj.weight", kv_rows, config.hidden);
    take(&layer.o, prefix + "self_attn.o_proj.weight", config.hidden, q_rows);
    take(&layer.gate, prefix + "mlp.gate_proj.weight", config.ffn, config.hidden);
    take(&layer.up, prefix + "mlp.up_proj.weight", config.ffn, config.hidden);
    take(&layer.down, prefix + "mlp.down_proj.weight", config.hidden, config.ffn);
    take(&layer.attention_norm, prefix + "input_layernorm.weight", 1, config.hidden);
    take(&layer.mlp_norm, prefix + "post_attention_layernorm.weight", 1, config.hidden);
  }
  return status;
}

// tokenizer_config.json: "chat_template" is a string or a list of {name, template}.
std::string TemplateOf(const Json& tokenizer_config) {
  const auto it = tokenizer_config.find("chat_template");
  if (it == tokenizer_config.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return "";
  for (const Json& item : *it) {
    if (item.is_object() && Text(item, "name") == "default") return Text(item, "template");
  }
  return "";
}

absl::Status ReadText(const std::string& folder, const Json& config_json, OpenedModel* opened) {
  ModelConfig& config = opened->config;
  auto tokenizer = ReadTextFile(folder + "/tokenizer.json", kTokenizerBytesMax);
  if (tokenizer.ok()) opened->text.tokenizer_json = std::move(*tokenizer);
  if (auto json = ReadJsonObject(folder + "/tokenizer_config.json", kTokenizerBytesMax);
      json.ok()) {
    opened->text.chat_template = TemplateOf(*json);
    opened->text.bos_token = TokenText(*json, "bos_token");
    opened->text.eos_token = TokenText(*json, "eos_token");
  }
  if (auto text = ReadTextFile(folder + "/chat_template.jinja", kConfigBytesMax); text.ok()) {
    opened->text.chat_template = std::move(*text);
  }
  auto generation = ReadJsonObject(folder + "/generation_config.json", kConfigBytesMax);
  if (generation.ok()) {
    config.end_tokens = TokenIds(*generation, "eos_token_id", config.vocabulary);
  }
  const std::vector<int32_t> config_ends = TokenIds(config_json, "eos_token_id", config.vocabulary);
  if (config.end_tokens.empty()) config.end_tokens = config_ends;
  if (!config.end_tokens.empty()) config.eos_token = config.end_tokens.front();
  const std::vector<int32_t> begins = TokenIds(config_json, "bos_token_id", config.vocabulary);
  if (!begins.empty()) config.bos_token = begins.front();
  return tokenizer.ok() || absl::IsNotFound(tokenizer.status()) ? absl::OkStatus()
                                                                : tokenizer.status();
}

}  // namespace

absl::StatusOr<OpenedModel> OpenHfLlama(const std::string& folder) {
  auto json = ReadJsonObject(folder + "/config.json", kConfigBytesMax);
  if (!json.ok()) return json.status();
  OpenedModel opened;
  absl::Status status = ReadConfig(*json, folder, &opened.config);
  if (!status.ok()) return status;
  TensorIndex index;
  status = index.Open(folder, &opened);
  if (status.ok()) status = ReadWeights(index, &opened);
  if (status.ok()) status = ReadText(folder, *json, &opened);
  if (!status.ok()) return status;
  opened.weight_format =
      absl::StrCat("safetensors ", std::string(DTypeName(opened.layers[0].q.dtype)));
  return opened;
}

}  // namespace lorica
