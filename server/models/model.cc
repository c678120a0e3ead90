#include "server/models/model.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/models/decode_steps.h"
#include "server/models/families/family.h"
#include "server/models/weights.h"

namespace lorica {
namespace {

absl::StatusOr<OpenedModel> OpenModel(const std::string& path, LoadFormat format) {
  std::error_code error;
  if (format == LoadFormat::kDummy) {
    if (std::filesystem::is_directory(path, error)) return OpenHfShape(path);
    return absl::InvalidArgumentError("dummy weights need a folder with a config.json");
  }
  if (std::filesystem::is_directory(path, error)) return OpenHfLlama(path);
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(
        "no model at ", path, ": give a .gguf file or a folder with config.json and safetensors"));
  }
  return OpenGgufLlama(path);
}

absl::StatusOr<std::unique_ptr<Model::Buffers>> MakeBuffers(const ModelConfig& config,
                                                            const Model::Options& options,
                                                            Backend& backend) {
  constexpr int64_t kAlignment = 256;
  const int64_t rows = options.rows_max, samples = options.samples_max;
  const int64_t q_columns = int64_t{config.heads} * config.head_size;
  const int64_t kv_columns = int64_t{config.kv_heads} * config.head_size;
  auto buffers = std::make_unique<Model::Buffers>();
  Model::Buffers& b = *buffers;
  b.rows_max = rows;
  b.samples_max = samples;
  std::vector<std::pair<void**, int64_t>> places;
  // Returns where the next one may begin.
  const auto place = [&](int64_t begin, void*& buffer, int64_t bytes) {
    places.emplace_back(&buffer, begin);
    return begin + (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  const int64_t residual_end = place(0, b.residual, Backend::WideBytes(rows, config.hidden));
  const int64_t kept = place(residual_end, b.gathered, backend.TensorBytes(samples, config.hidden));
  const int64_t inputs = std::max(place(kept, b.normed, backend.TensorBytes(rows, config.hidden)),
                                  place(kept, b.activated, backend.TensorBytes(rows, config.ffn)));
  const int64_t qkv_end =
      place(inputs, b.qkv, backend.TensorBytes(rows, q_columns + 2 * kv_columns));
  const int64_t attended_end = place(qkv_end, b.attended, backend.TensorBytes(rows, q_columns));
  const int64_t bytes =
      std::max({place(attended_end, b.projected, backend.TensorBytes(rows, config.hidden)),
                place(inputs, b.gate_up, backend.TensorBytes(rows, 2 * config.ffn)),
                place(inputs, b.logits, Backend::WideBytes(samples, config.vocabulary))});
  auto memory = backend.Allocate(bytes);
  if (!memory.ok()) return memory.status();
  b.memory = *std::move(memory);
  for (const auto& [buffer, begin] : places) {
    *buffer = static_cast<std::byte*>(b.memory->data()) + begin;
  }
  return buffers;
}

}  // namespace

Model::Model() : captured_(std::make_unique<DecodeSteps>()) {}
Model::~Model() = default;

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& path, Backend* backend,
                                                   const Options& options) {
  auto opened = OpenModel(path, options.load_format);
  if (!opened.ok()) return opened.status();
  if (options.context_tokens > opened->config.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's context is ", opened->config.context_tokens,
                     " tokens; it cannot be served with ", options.context_tokens));
  }
  const int64_t context_tokens =
      std::min(options.context_tokens > 0 ? options.context_tokens : opened->config.context_tokens,
               kContextTokensMax);
  const int64_t pages = (context_tokens + kBlockTokens - 1) / kBlockTokens;
  const absl::Status sizes =
      backend->CheckSizes(opened->config.attention(),
                          {.hidden = opened->config.hidden,
                           .ffn = opened->config.ffn,
                           .vocabulary = opened->config.vocabulary,
                           .pages = std::min(options.rows_max, options.samples_max) * pages});
  if (!sizes.ok()) return sizes;
  std::unique_ptr<Model> model(new Model());
  model->backend_ = backend;
  model->context_tokens_ = context_tokens;
  auto weights = options.load_format == LoadFormat::kDummy
                     ? MakeRandomWeights(opened->config, model->context_tokens_, *backend)
                     : PackWeights(*opened, model->context_tokens_, *backend);
  if (!weights.ok()) return weights.status();
  auto buffers = MakeBuffers(opened->config, options, *backend);
  if (!buffers.ok()) return buffers.status();
  model->weights_ = std::move(*weights);
  model->buffers_ = std::move(*buffers);
  model->config_ = std::move(opened->config);
  if (!options.name.empty()) model->config_.name = options.name;
  model->text_ = std::move(opened->text);
  model->weight_format_ = std::move(opened->weight_format);
  model->weight_bytes_ = model->weights_->resident_bytes();
  model->targets_ = MakeLoraTargets(model->config_, *model->weights_);
  return model;
}

}  // namespace lorica
