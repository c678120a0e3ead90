// GGUF files of architecture "llama" (keys and names:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/gguf.h"
#include "server/models/families/family.h"

namespace lorica {
namespace {

std::optional<DType> DTypeOfGgml(uint32_t ggml_type) {
  switch (ggml_type) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 2:
      return DType::kQ4_0;
    case 3:
      return DType::kQ4_1;
    case 8:
      return DType::kQ8_0;
    case 30:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<HostMatrix> ReadTensor(const GgufFile& file, const std::string& name, int64_t rows,
                                      int64_t columns) {
  const GgufTensor* tensor = file.FindTensor(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' is missing"));
  }
  const std::optional<DType> dtype = DTypeOfGgml(tensor->ggml_type);
  if (!dtype) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor '", name, "' has ggml type ", tensor->ggml_type,
                     "; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are served"));
  }
  const size_t dimensions = tensor->dimensions.size();
  if (dimensions < 1 || dimensions > 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", name, "' has ", dimensions, " dimensions, expected 1 or 2"));
  }
  HostMatrix matrix;
  matrix.dtype = *dtype;
  matrix.columns = tensor->dimensions[0];
  matrix.rows = dimensions == 2 ? tensor->dimensions[1] : 1;
  matrix.data = file.data(*tensor);
  absl::Status status = CheckShape(matrix, rows, columns, name);
  if (!status.ok()) return status;
  return matrix;
}

// GGUF stores q and k rows for rotation of neighbours: row (head, 2 i + j) there is row
// (head, j d/2 + i) in Hugging Face order, which LoRA B rows and our rotation use.
HostMatrix UnpermuteRows(const HostMatrix& matrix, int head_size, OpenedModel* opened) {
  const int64_t row_bytes = RowBytes(matrix.dtype, matrix.columns);
  opened->owned.push_back(std::make_unique<std::byte[]>(matrix.rows * row_bytes));
  std::byte* out = opened->owned.back().get();
  const int half = head_size / 2;
  for (int64_t row = 0; row < matrix.rows; ++row) {
    const int64_t head = row / head_size;
    const int within = static_cast<int>(row % head_size);
    const int64_t source = head * head_size + 2 * (within % half) + within / half;
    std::memcpy(out + row * row_bytes, matrix.data + source * row_bytes, row_bytes);
  }
  HostMatrix result = matrix;
  result.data = out;
  return result;
}

class GgufReader {
 public:
  GgufReader(const GgufFile& file, OpenedModel* opened) : file_(file), opened_(opened) {}

  absl::Status ReadConfig(const std::string& path);
  absl::Status ReadWeights();
  void ReadText();

 private:
  int64_t IntOr(const std::string& key, int64_t fallback) {
    return ValueOr(file_.Int(key), key, fallback);
  }
  double NumberOr(const std::string& key, double fallback) {
    return ValueOr(file_.Number(key), key, fallback);
  }
  template <typename T>
  T ValueOr(std::optional<T> value, const std::string& key, T fallback) {
    if (!value && file_.FindValue(key) != nullptr) {
      status_.Update(absl::InvalidArgumentError(absl::StrCat(key, " is no single number")));
    }
    return value.value_or(fallback);
  }
  // Kept within int, so that CheckConfig sees what is too large as too large.
  int CountOr(const std::string& key, int64_t fallback) {
    return static_cast<int>(std::clamp<int64_t>(IntOr(key, fallback), INT32_MIN, INT32_MAX));
  }
  void Take(HostMatrix* out, const std::string& name, int64_t rows, int64_t columns) {
    taken_.insert(name);
    auto matrix = ReadTensor(file_, name, rows, columns);
    if (matrix.ok()) {
      *out = *matrix;
    } else {
      status_.Update(matrix.status());
    }
  }
  absl::Status ReadRopeDivisors();
  void ReadLayer(int index);
  void ReadEndTokens();
  absl::Status CheckNothingIsLeft() const;

  const GgufFile& file_;
  OpenedModel* opened_;
  absl::flat_hash_set<std::string> taken_;
  absl::Status status_;
};

absl::Status GgufReader::ReadRopeDivisors() {
  ModelConfig& config = opened_->config;
  if (file_.FindTensor("rope_freqs.weight") == nullptr) return absl::OkStatus();
  auto matrix = ReadTensor(file_, "rope_freqs.weight", 1, config.head_size / 2);
  if (!matrix.ok()) return matrix.status();
  std::vector<float> divisors(matrix->columns);
  Dequantize(matrix->dtype, matrix->data, matrix->columns, divisors.data());
  config.rope_scaling.kind = "divisors";
  config.rope_scaling.divisors.assign(divisors.begin(), divisors.end());
  return absl::OkStatus();
}

absl::Status GgufReader::ReadConfig(const std::string& path) {
  ModelConfig& config = opened_->config;
  const std::string architecture = file_.String("general.architecture").value_or("");
  if (architecture != "llama") {
    return absl::FailedPreconditionError(absl::StrCat(
        "general.architecture is '", architecture, "'; GGUF files of the llama family are served"));
  }
  config.architecture = architecture;
  config.name = file_.String("general.name").value_or("");
  if (config.name.empty()) config.name = std::filesystem::path(path).stem();
  config.layers = CountOr("llama.block_count", 0);
  config.hidden = IntOr("llama.embedding_length", 0);
  config.ffn = IntOr("llama.feed_forward_length", 0);
  config.heads = CountOr("llama.attention.head_count", 0);
  config.kv_heads = CountOr("llama.attention.head_count_kv", config.heads);
  const int64_t derived_head = config.heads > 0 ? config.hidden / config.heads : 0;
  config.head_size = CountOr("llama.attention.key_length", derived_head);
  config.context_tokens = IntOr("llama.context_length", 0);
  config.norm_epsilon = static_cast<float>(NumberOr("llama.attention.layer_norm_rms_epsilon", 0.0));
  config.rope_theta = NumberOr("llama.rope.freq_base", 10000.0);
  const GgufTensor* embedding = file_.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->dimensions.size() != 2) {
    return absl::InvalidArgumentError("tensor 'token_embd.weight' is missing or not a matrix");
  }
  config.vocabulary = embedding->dimensions[1];
  const std::string scaling = file_.String("llama.rope.scaling.type").value_or("none");
  if (scaling != "none") {
    config.rope_scaling.kind = scaling;
    config.rope_scaling.factor = NumberOr("llama.rope.scaling.factor", 1.0);
  }
  if (IntOr("llama.rope.dimension_count", config.head_size) != config.head_size) {
    return absl::FailedPreconditionError(
        "llama.rope.dimension_count: partial rotation is not served");
  }
  if (IntOr("llama.expert_count", 0) != 0) {
    return absl::FailedPreconditionError("llama.expert_count: mixtures of experts are not served");
  }
  status_.Update(CheckConfig(config));
  if (!status_.ok()) return status_;
  return ReadRopeDivisors();
}

void GgufReader::ReadLayer(int index) {
  const ModelConfig& config = opened_->config;
  LayerTensors& layer = opened_->layers[index];
  const std::string prefix = absl::StrCat("blk.", index, ".");
  const int64_t q_rows = int64_t{config.heads} * config.head_size;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_size;
  Take(&layer.q, prefix + "attn_q.weight", q_rows, config.hidden);
  Take(&layer.k, prefix + "attn_k.weight", kv_rows, config.hidden);
  Take(&layer.v, prefix + "attn_v.weight", kv_rows, config.hidden);
  Take(&layer.o, prefix + "attn_output.weight", config.hidden, q_rows);
  Take(&layer.gate, prefix + "ffn_gate.weight", config.ffn, config.hidden);
  Take(&layer.up, prefix + "ffn_up.weight", config.ffn, config.hidden);
  Take(&layer.down, prefix + "ffn_down.weight", config.hidden, config.ffn);
  Take(&layer.attention_norm, prefix + "attn_norm.weight", 1, config.hidden);
  Take(&layer.mlp_norm, prefix + "ffn_norm.weight", 1, config.hidden);
  if (!status_.ok()) return;
  layer.q = UnpermuteRows(layer.q, config.head_size, opened_);
  layer.k = UnpermuteRows(layer.k, config.head_size, opened_);
}

absl::Status GgufReader::ReadWeights() {
  ModelConfig& config = opened_->config;
  Take(&opened_->embedding, "token_embd.weight", config.vocabulary, config.hidden);
  Take(&opened_->final_norm, "output_norm.weight", 1, config.hidden);
  config.tied_embedding = file_.FindTensor("output.weight") == nullptr;
  if (!config.tied_embedding) {
    Take(&opened_->head, "output.weight", config.vocabulary, config.hidden);
  }
  opened_->layers.resize(config.layers);
  for (int index = 0; index < config.layers && status_.ok(); ++index) ReadLayer(index);
  if (!status_.ok()) return status_;
  if (absl::Status left = CheckNothingIsLeft(); !left.ok()) return left;
  opened_->weight_format =
      absl::StrCat("GGUF ", std::string(DTypeName(opened_->layers[0].q.dtype)));
  return absl::OkStatus();
}

// A bias or a norm that is passed over would make every answer a little wrong.
absl::Status GgufReader::CheckNothingIsLeft() const {
  for (const GgufTensor& tensor : file_.tensors()) {
    const bool used = taken_.contains(tensor.name) || tensor.name == "rope_freqs.weight";
    if (!used) return UnknownTensor(tensor.name);
  }
  return absl::OkStatus();
}

void GgufReader::ReadEndTokens() {
  ModelConfig& config = opened_->config;
  config.bos_token = static_cast<int32_t>(IntOr("tokenizer.ggml.bos_token_id", -1));
  config.eos_token = static_cast<int32_t>(IntOr("tokenizer.ggml.eos_token_id", -1));
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    const int64_t id = IntOr(key, -1);
    if (id >= 0 && id < config.vocabulary) config.end_tokens.push_back(static_cast<int32_t>(id));
  }
}

void GgufReader::ReadText() {
  ModelText& text = opened_->text;
  ReadEndTokens();
  text.chat_template = file_.String("tokenizer.chat_template").value_or("");
  text.gguf_model = file_.String("tokenizer.ggml.model").value_or("");
  text.gguf_pre = file_.String("tokenizer.ggml.pre").value_or("");
  if (const auto* tokens = file_.Strings("tokenizer.ggml.tokens")) text.gguf_tokens = *tokens;
  if (const auto* types = file_.Ints("tokenizer.ggml.token_type")) text.gguf_token_types = *types;
  if (const auto* merges = file_.Strings("tokenizer.ggml.merges")) text.gguf_merges = *merges;
  const auto token_text = [&text](int32_t id) {
    const bool known = id >= 0 && id < static_cast<int64_t>(text.gguf_tokens.size());
    return known ? text.gguf_tokens[id] : std::string();
  };
  text.bos_token = token_text(opened_->config.bos_token);
  text.eos_token = token_text(opened_->config.eos_token);
}

}  // namespace

absl::StatusOr<OpenedModel> OpenGgufLlama(const std::string& path) {
  auto mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  auto file = GgufFile::Parse((*mapped)->bytes());
  if (!file.ok()) return file.status();
  OpenedModel opened;
  GgufReader reader(*file, &opened);
  absl::Status status = reader.ReadConfig(path);
  if (status.ok()) status = reader.ReadWeights();
  if (!status.ok()) return status;
  reader.ReadText();
  opened.files.push_back(std::move(*mapped));
  return opened;
}

}  // namespace lorica
