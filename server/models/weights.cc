#include "server/models/weights.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

// Copies vectors, end to end, to the device as fp32.
absl::StatusOr<std::unique_ptr<Buffer>> UploadVectors(absl::Span<const HostMatrix> vectors,
                                                      Backend& backend) {
  std::vector<float> values;
  for (const HostMatrix& vector : vectors) {
    const size_t begin = values.size();
    values.resize(begin + vector.columns);
    Dequantize(vector.dtype, vector.data, vector.columns, values.data() + begin);
  }
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
  auto buffer = backend.Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  backend.Upload((*buffer)->data(), values.data(), bytes);
  return buffer;
}

absl::Status PackInto(std::unique_ptr<Weight>* out, absl::Span<const HostMatrix> parts,
                      Backend& backend) {
  auto weight = backend.PackWeight(parts);
  if (!weight.ok()) return weight.status();
  *out = std::move(*weight);
  return absl::OkStatus();
}

absl::Status UploadInto(std::unique_ptr<Buffer>* out, absl::Span<const HostMatrix> vectors,
                        Backend& backend) {
  auto buffer = UploadVectors(vectors, backend);
  if (!buffer.ok()) return buffer.status();
  *out = std::move(*buffer);
  return absl::OkStatus();
}

absl::Status PackLayer(const LayerTensors& tensors, LayerWeights* layer, Backend& backend) {
  absl::Status status = PackInto(&layer->qkv, {tensors.q, tensors.k, tensors.v}, backend);
  status.Update(PackInto(&layer->o, {tensors.o}, backend));
  status.Update(PackInto(&layer->gate_up, {tensors.gate, tensors.up}, backend));
  status.Update(PackInto(&layer->down, {tensors.down}, backend));
  status.Update(UploadInto(&layer->attention_norm, {tensors.attention_norm}, backend));
  status.Update(UploadInto(&layer->mlp_norm, {tensors.mlp_norm}, backend));
  if (tensors.q_bias.data != nullptr) {
    status.Update(
        UploadInto(&layer->qkv_bias, {tensors.q_bias, tensors.k_bias, tensors.v_bias}, backend));
  }
  return status;
}

}  // namespace

int64_t Model::Weights::resident_bytes() const {
  int64_t bytes = embedding->resident_bytes() + (head ? head->resident_bytes() : 0);
  for (const LayerWeights& layer : layers) {
    bytes += layer.qkv->resident_bytes() + layer.o->resident_bytes() +
             layer.gate_up->resident_bytes() + layer.down->resident_bytes();
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<Model::Weights>> PackWeights(const OpenedModel& opened,
                                                            int64_t positions, Backend& backend) {
  auto weights = std::make_unique<Model::Weights>();
  absl::Status status = PackInto(&weights->embedding, {opened.embedding}, backend);
  if (opened.head.data != nullptr) status.Update(PackInto(&weights->head, {opened.head}, backend));
  status.Update(UploadInto(&weights->final_norm, {opened.final_norm}, backend));
  weights->layers.resize(opened.layers.size());
  for (size_t layer = 0; layer < opened.layers.size() && status.ok(); ++layer) {
    status.Update(PackLayer(opened.layers[layer], &weights->layers[layer], backend));
  }
  if (!status.ok()) return status;
  weights->rope = MakeRopeTable(opened.config, positions);
  return weights;
}

std::vector<LoraTarget> MakeLoraTargets(const ModelConfig& config, const Model::Weights& weights) {
  const int64_t q_rows = int64_t{config.heads} * config.head_size;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_size;
  std::vector<LoraTarget> targets;
  targets.reserve(static_cast<size_t>(config.layers) * kLoraModuleCount + 2);
  for (int index = 0; index < config.layers; ++index) {
    const LayerWeights& layer = weights.layers[index];
    const auto add = [&](LoraModule module, int64_t in, int64_t out, const Weight& weight,
                         int64_t row_begin) {
      targets.push_back(
          {index, module,
           absl::StrCat("model.layers.", index, ".", std::string(LoraModuleName(module))), in, out,
           &weight, row_begin});
    };
    add(LoraModule::kQ, config.hidden, q_rows, *layer.qkv, 0);
    add(LoraModule::kK, config.hidden, kv_rows, *layer.qkv, q_rows);
    add(LoraModule::kV, config.hidden, kv_rows, *layer.qkv, q_rows + kv_rows);
    add(LoraModule::kO, q_rows, config.hidden, *layer.o, 0);
    add(LoraModule::kGate, config.hidden, config.ffn, *layer.gate_up, 0);
    add(LoraModule::kUp, config.hidden, config.ffn, *layer.gate_up, config.ffn);
    add(LoraModule::kDown, config.ffn, config.hidden, *layer.down, 0);
  }
  const auto add_outside = [&](LoraModule module, int64_t in, int64_t out, const Weight& weight) {
    targets.push_back(
        {kOutsideLayers, module, std::string(LoraModuleName(module)), in, out, &weight, 0});
  };
  add_outside(LoraModule::kEmbedding, config.vocabulary, config.hidden, *weights.embedding);
  add_outside(LoraModule::kHead, config.hidden, config.vocabulary, weights.output());
  return targets;
}

}  // namespace lorica
