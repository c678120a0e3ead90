// Hugging Face folders of the Llama family: config.json, model*.safetensors,
// tokenizer.json (https://huggingface.co/docs/transformers/model_doc/llama).
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"
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

// The fields of one JSON object of a file. Absent and null mean the fallback; the first value of
// another type is remembered as the error.
class Fields {
 public:
  Fields(const Json& object, std::string file) : object_(object), file_(std::move(file)) {}

  int64_t Int(const char* key, int64_t fallback) {
    const Json* value = Value(key, "a whole number", [](const Json& v) {
      return v.is_number_unsigned() ? v.get<uint64_t>() <= INT64_MAX : v.is_number_integer();
    });
    return value == nullptr ? fallback : value->get<int64_t>();
  }
  // Kept within int, so that CheckConfig sees what is too large as too large.
  int Count(const char* key, int64_t fallback) {
    return static_cast<int>(std::clamp<int64_t>(Int(key, fallback), INT32_MIN, INT32_MAX));
  }
  double Number(const char* key, double fallback) {
    const Json* value = Value(key, "a number", [](const Json& v) { return v.is_number(); });
    return value == nullptr ? fallback : value->get<double>();
  }
  bool Flag(const char* key) {
    const Json* value = Value(key, "true or false", [](const Json& v) { return v.is_boolean(); });
    return value != nullptr && value->get<bool>();
  }
  std::string Text(const char* key) {
    const Json* value = Value(key, "a string", [](const Json& v) { return v.is_string(); });
    return value == nullptr ? "" : value->get<std::string>();
  }
  // Null if there is none.
  const Json* Object(const char* key) {
    return Value(key, "an object", [](const Json& v) { return v.is_object(); });
  }
  bool Has(const char* key) const {
    const auto it = object_.find(key);
    return it != object_.end() && !it->is_null();
  }
  // A token is written as a string or as {"content": ...}.
  std::string TokenText(const char* key) {
    const auto it = object_.find(key);
    if (it == object_.end() || !it->is_object()) return Text(key);
    Fields token(*it, file_);
    const std::string text = token.Text("content");
    status_.Update(token.status());
    return text;
  }
  // A number or a list of numbers; those outside of the vocabulary cannot come up.
  std::vector<int32_t> TokenIds(const char* key, int64_t vocabulary) {
    std::vector<int32_t> ids;
    if (!Has(key)) return ids;
    const Json& value = object_.at(key);
    for (const Json& item : value.is_array() ? value : Json::array({value})) {
      if (!item.is_number_integer()) Wrong(key, "token ids", item);
      const int64_t id = item.is_number_integer() ? item.get<int64_t>() : -1;
      if (id >= 0 && id < vocabulary) ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
  }

  const absl::Status& status() const { return status_; }

 private:
  template <typename Fits>
  const Json* Value(const char* key, absl::string_view expected, Fits fits) {
    if (!Has(key)) return nullptr;
    const Json& value = object_.at(key);
    if (fits(value)) return &value;
    Wrong(key, expected, value);
    return nullptr;
  }
  void Wrong(const char* key, absl::string_view expected, const Json& value) {
    status_.Update(absl::InvalidArgumentError(absl::StrCat(
        file_, ": ", key, " is ", Quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace)),
        ", expected ", expected)));
  }

  const Json& object_;
  const std::string file_;
  absl::Status status_;
};

constexpr char kConfigFile[] = "config.json";

absl::Status ReadRope(Fields& fields, ModelConfig* config) {
  // transformers 5 writes "rope_parameters" where 4 wrote rope_theta and rope_scaling.
  const Json* parameters = fields.Object("rope_parameters");
  const Json* old_scaling = fields.Object("rope_scaling");
  static const Json& none = *new Json(Json::object());
  Fields named(parameters != nullptr ? *parameters : none, "config.json: rope_parameters");
  config->rope_theta = fields.Number("rope_theta", named.Number("rope_theta", 1e4));
  const Json& json = old_scaling != nullptr  ? *old_scaling
                     : parameters != nullptr ? *parameters
                                             : none;
  Fields scaling(json, "config.json: rope scaling");
  RopeScaling& out = config->rope_scaling;
  out.kind = scaling.Text("rope_type");
  if (out.kind.empty()) out.kind = scaling.Text("type");
  if (out.kind.empty()) out.kind = "default";
  if (out.kind == "divisors") {
    return absl::FailedPreconditionError("config.json: rope scaling 'divisors' is not supported");
  }
  // 0: CheckConfig refuses what its kind cannot do without.
  const bool scaled = out.kind != "default";
  const bool blended = out.kind == "llama3";
  out.factor = scaling.Number("factor", scaled ? 0.0 : 1.0);
  out.low_freq_factor = scaling.Number("low_freq_factor", blended ? 0.0 : 1.0);
  out.high_freq_factor = scaling.Number("high_freq_factor", blended ? 0.0 : 4.0);
  out.original_context = scaling.Int("original_max_position_embeddings", blended ? 0 : 8192);
  absl::Status status = named.status();
  status.Update(scaling.status());
  return status;
}

// What would change the mathematics and is not served here.
absl::Status RefuseVariations(Fields& fields) {
  const auto refuse = [](absl::string_view what) {
    return absl::FailedPreconditionError(absl::StrCat("config.json: ", what, " is not supported"));
  };
  if (fields.Flag("attention_bias")) return refuse("attention_bias");
  if (fields.Flag("mlp_bias")) return refuse("mlp_bias");
  if (fields.Has("quantization_config")) return refuse("quantization_config");
  if (fields.Has("sliding_window")) return refuse("sliding_window");
  if (fields.Number("partial_rotary_factor", 1.0) != 1.0) return refuse("partial_rotary_factor");
  const std::string activation = fields.Text("hidden_act");
  if (!activation.empty() && activation != "silu") return refuse("hidden_act other than silu");
  return absl::OkStatus();
}

absl::Status ReadConfig(const Json& json, const std::string& folder, ModelConfig* config) {
  Fields fields(json, kConfigFile);
  const std::string type = fields.Text("model_type");
  if (type != "llama" && type != "mistral") {
    return absl::FailedPreconditionError(absl::StrCat("config.json: model_type ", Quoted(type),
                                                      " is not supported; llama and mistral are"));
  }
  config->architecture = type;
  config->name = std::filesystem::path(folder).lexically_normal().filename();
  if (config->name.empty()) {
    config->name = std::filesystem::path(folder).lexically_normal().parent_path().filename();
  }
  config->layers = fields.Count("num_hidden_layers", 0);
  config->hidden = fields.Int("hidden_size", 0);
  config->ffn = fields.Int("intermediate_size", 0);
  config->heads = fields.Count("num_attention_heads", 0);
  config->kv_heads = fields.Count("num_key_value_heads", config->heads);
  const int64_t derived_head = config->heads > 0 ? config->hidden / config->heads : 0;
  config->head_size = fields.Count("head_dim", derived_head);
  config->vocabulary = fields.Int("vocab_size", 0);
  config->context_tokens = fields.Int("max_position_embeddings", 2048);
  config->norm_epsilon = static_cast<float>(fields.Number("rms_norm_eps", 1e-6));
  config->tied_embedding = fields.Flag("tie_word_embeddings");
  absl::Status status = RefuseVariations(fields);
  status.Update(ReadRope(fields, config));
  status.Update(fields.status());
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
  // FailedPrecondition if a layer has tensors that are not among `taken`.
  absl::Status CheckNothingIsLeft(const std::set<std::string>& taken) const;

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

// Outside of the layers only a head may be left: a copy of the embedding it is tied to.
absl::Status TensorIndex::CheckNothingIsLeft(const std::set<std::string>& taken) const {
  for (const auto& [name, located] : tensors_) {
    const bool harmless = name == "lm_head.weight" || absl::EndsWith(name, ".rotary_emb.inv_freq");
    if (!harmless && !taken.contains(name)) return UnknownTensor(name);
  }
  return absl::OkStatus();
}

absl::Status ReadWeights(const TensorIndex& index, OpenedModel* opened) {
  ModelConfig& config = opened->config;
  absl::Status status;
  std::set<std::string> taken;
  const auto take = [&](HostMatrix* out, const std::string& name, int64_t rows, int64_t columns) {
    taken.insert(name);
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
  return status.ok() ? index.CheckNothingIsLeft(taken) : status;
}

// tokenizer_config.json: "chat_template" is a string or a list of {name, template}.
std::string TemplateOf(const Json& tokenizer_config, Fields& fields) {
  const auto it = tokenizer_config.find("chat_template");
  if (it == tokenizer_config.end() || !it->is_array()) return fields.Text("chat_template");
  for (const Json& item : *it) {
    const bool whole = item.is_object() && item.contains("name") && item.contains("template") &&
                       item["template"].is_string();
    if (whole && item["name"] == "default") return item["template"];
  }
  return "";
}

// A file that a folder need not have.
template <typename T>
absl::StatusOr<T> OrIfMissing(absl::StatusOr<T> read, T missing) {
  if (absl::IsNotFound(read.status())) return missing;
  return read;
}

absl::Status ReadTemplate(const std::string& folder, ModelText* text) {
  constexpr char kFile[] = "tokenizer_config.json";
  const auto json = OrIfMissing(
      ReadJsonObject(absl::StrCat(folder, "/", kFile), kTokenizerBytesMax), Json(Json::object()));
  if (!json.ok()) return json.status();
  Fields fields(*json, kFile);
  text->chat_template = TemplateOf(*json, fields);
  text->bos_token = fields.TokenText("bos_token");
  text->eos_token = fields.TokenText("eos_token");
  auto newer = OrIfMissing(ReadTextFile(folder + "/chat_template.jinja", kConfigBytesMax),
                           text->chat_template);
  if (!newer.ok()) return newer.status();
  text->chat_template = *std::move(newer);
  return fields.status();
}

absl::Status ReadEndTokens(const std::string& folder, const Json& config_json,
                           ModelConfig* config) {
  constexpr char kFile[] = "generation_config.json";
  const auto json = OrIfMissing(ReadJsonObject(absl::StrCat(folder, "/", kFile), kConfigBytesMax),
                                Json(Json::object()));
  if (!json.ok()) return json.status();
  Fields generation(*json, kFile);
  Fields fields(config_json, kConfigFile);
  config->end_tokens = generation.TokenIds("eos_token_id", config->vocabulary);
  const std::vector<int32_t> ends = fields.TokenIds("eos_token_id", config->vocabulary);
  if (config->end_tokens.empty()) config->end_tokens = ends;
  if (!config->end_tokens.empty()) config->eos_token = config->end_tokens.front();
  const std::vector<int32_t> begins = fields.TokenIds("bos_token_id", config->vocabulary);
  if (!begins.empty()) config->bos_token = begins.front();
  absl::Status status = generation.status();
  status.Update(fields.status());
  return status;
}

absl::Status ReadText(const std::string& folder, const Json& config_json, OpenedModel* opened) {
  auto tokenizer =
      OrIfMissing(ReadTextFile(folder + "/tokenizer.json", kTokenizerBytesMax), std::string());
  if (!tokenizer.ok()) return tokenizer.status();
  opened->text.tokenizer_json = *std::move(tokenizer);
  absl::Status status = ReadTemplate(folder, &opened->text);
  status.Update(ReadEndTokens(folder, config_json, &opened->config));
  return status;
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

absl::StatusOr<OpenedModel> OpenHfShape(const std::string& folder) {
  auto json = ReadJsonObject(folder + "/config.json", kConfigBytesMax);
  if (!json.ok()) return json.status();
  OpenedModel opened;
  absl::Status status = ReadConfig(*json, folder, &opened.config);
  if (status.ok()) status = ReadText(folder, *json, &opened);
  if (!status.ok()) return status;
  opened.weight_format = "random BF16";
  return opened;
}

}  // namespace lorica
