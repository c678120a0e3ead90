// The one decoder pass: every family, every backend.
#include <algorithm>

#include "kernels/check.h"
#include "server/models/decode_steps.h"
#include "server/models/model.h"
#include "server/models/weights.h"

namespace lorica {
namespace {

const float* Floats(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? static_cast<const float*>(buffer->data()) : nullptr;
}

}  // namespace

void Model::Forward(const StepBatch& batch, const KvCache& cache) {
  const int64_t rows = batch.rows();
  const int64_t samples = static_cast<int64_t>(batch.samples.size());
  LORICA_CHECK(rows <= buffers_->rows_max, rows, buffers_->rows_max);
  LORICA_CHECK(samples <= buffers_->samples_max, samples, buffers_->samples_max);
  buffers_->samples = samples;
  backend_->BeginStep(batch);
  const CapturedStep* captured = captured_->Find(batch);
  if (captured == nullptr || !backend_->Replay(*captured)) RunVerbs(rows, samples, cache);
}

// All between BeginStep and Sample.
void Model::RunVerbs(int64_t rows, int64_t samples, const KvCache& cache) {
  Backend& device = *backend_;
  const int64_t q_columns = int64_t{config_.heads} * config_.head_size;
  const int64_t kv_columns = int64_t{config_.kv_heads} * config_.head_size;
  const Tensor residual = {buffers_->residual, rows, config_.hidden};
  const Tensor normed = {buffers_->normed, rows, config_.hidden};
  const Tensor qkv = {buffers_->qkv, rows, q_columns + 2 * kv_columns};
  const Tensor attended = {buffers_->attended, rows, q_columns};
  const Tensor projected = {buffers_->projected, rows, config_.hidden};
  const Tensor gate_up = {buffers_->gate_up, rows, 2 * config_.ffn};
  const Tensor activated = {buffers_->activated, rows, config_.ffn};
  const Weights& weights = *weights_;
  const float epsilon = config_.norm_epsilon;

  device.Embed(residual, *weights.embedding);
  device.RmsNorm(normed, residual, Floats(weights.layers[0].attention_norm), epsilon);
  for (int index = 0; index < config_.layers; ++index) {
    const LayerWeights& layer = weights.layers[index];
    device.LoraShrink(normed, index, LoraGroup::kQkv);
    device.Linear(qkv, normed, *layer.qkv);
    device.QkvPost(qkv, Floats(layer.qkv_bias), weights.rope, index, cache);
    device.Attend(attended, qkv, index, cache);
    device.LoraShrink(attended, index, LoraGroup::kO);
    device.Linear(projected, attended, *layer.o);
    device.ResidualNorm(normed, residual, projected, nullptr, index, LoraGroup::kO,
                        Floats(layer.mlp_norm), epsilon);
    device.LoraShrink(normed, index, LoraGroup::kGateUp);
    device.Linear(gate_up, normed, *layer.gate_up);
    device.GluPost(activated, gate_up, config_.activation, index);
    device.LoraShrink(activated, index, LoraGroup::kDown);
    device.Linear(projected, activated, *layer.down);
    const bool last = index + 1 == config_.layers;
    const auto& next_norm = last ? weights.final_norm : weights.layers[index + 1].attention_norm;
    device.ResidualNorm(normed, residual, projected, nullptr, index, LoraGroup::kDown,
                        Floats(next_norm), epsilon);
  }
  if (samples == 0) return;
  const Tensor gathered = {buffers_->gathered, samples, config_.hidden};
  device.GatherRows(gathered, normed);
  const Tensor logits = {buffers_->logits, samples, config_.vocabulary};
  device.Logits(logits, gathered, weights.output());
  device.HeadPost(logits, gathered);
}

absl::Status Model::ChooseProducts() {
  const LayerWeights& layer = weights_->layers.front();
  const Weight* weights[] = {layer.qkv.get(), layer.o.get(), layer.gate_up.get(), layer.down.get()};
  return backend_->ChooseProducts(weights);
}

absl::Status Model::CaptureSteps(const KvCache& cache, int rows) {
  LORICA_CHECK(rows <= buffers_->rows_max && rows <= buffers_->samples_max, rows);
  return captured_->Capture(*backend_, cache, rows, [&](int rows) { RunVerbs(rows, rows, cache); });
}

int Model::captured_steps() const { return captured_->count(); }

Tensor Model::logits() const { return {buffers_->logits, buffers_->samples, config_.vocabulary}; }

}  // namespace lorica
