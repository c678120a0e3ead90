// Weights of a shape that nobody trained, for benchmarks: seeded, the same on every device.
#include <cmath>

#include "server/models/weights.h"

namespace lorica {
namespace {

class RandomPacker {
 public:
  explicit RandomPacker(Backend& backend) : backend_(backend) {}

  // Outputs of a row of ones' size have that size too.
  std::unique_ptr<Weight> Matrix(int64_t rows, int64_t columns) {
    if (!status_.ok()) return nullptr;
    const float bound = static_cast<float>(std::sqrt(3.0 / static_cast<double>(columns)));
    auto weight = backend_.RandomWeight(rows, columns, ++seed_, bound);
    if (weight.ok()) return *std::move(weight);
    status_ = weight.status();
    return nullptr;
  }

  std::unique_ptr<Buffer> Ones(int64_t count) {
    if (!status_.ok()) return nullptr;
    const std::vector<float> ones(count, 1.0f);
    auto buffer = backend_.Allocate(count * sizeof(float));
    if (buffer.ok()) {
      backend_.Upload((*buffer)->data(), ones.data(), count * sizeof(float));
      return *std::move(buffer);
    }
    status_ = buffer.status();
    return nullptr;
  }

  const absl::Status& status() const { return status_; }

 private:
  Backend& backend_;
  uint64_t seed_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Model::Weights>> MakeRandomWeights(const ModelConfig& config,
                                                                  int64_t positions,
                                                                  Backend& backend) {
  auto weights = std::make_unique<Model::Weights>();
  RandomPacker packer(backend);
  const int64_t q_rows = int64_t{config.heads} * config.head_size;
  const int64_t kv_rows = int64_t{config.kv_heads} * config.head_size;
  weights->embedding = packer.Matrix(config.vocabulary, config.hidden);
  if (!config.tied_embedding) weights->head = packer.Matrix(config.vocabulary, config.hidden);
  weights->final_norm = packer.Ones(config.hidden);
  weights->layers.resize(config.layers);
  for (LayerWeights& layer : weights->layers) {
    layer.qkv = packer.Matrix(q_rows + 2 * kv_rows, config.hidden);
    layer.o = packer.Matrix(config.hidden, q_rows);
    layer.gate_up = packer.Matrix(2 * config.ffn, config.hidden);
    layer.down = packer.Matrix(config.hidden, config.ffn);
    layer.attention_norm = packer.Ones(config.hidden);
    layer.mlp_norm = packer.Ones(config.hidden);
    if (!packer.status().ok()) return packer.status();
  }
  weights->rope = MakeRopeTable(config, positions);
  return weights;
}

}  // namespace lorica
