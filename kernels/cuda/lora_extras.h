// What few adapters have beside the pairs of their linears: biases of lora_B (lora_bias), LoRA on
// the embedding and on the output head.
//
// Kernels of their own add it (lora_extras.cu; to rows that are many, variants of those in
// post_many.cu), in steps whose adapters have it; other steps have neither a table nor a launch of
// it, and their kernels know nothing of it. Such steps are not captured: what they launch depends
// on what their adapters have.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tables.h"
#include "kernels/step_batch.h"

namespace lorica::cuda {

inline constexpr int kExtraRows = 8;  // of a tile

// LoRA on the embedding or the head. module.rank_tiles 0: not touched.
struct OutsideModule {
  DeviceModule module;
  const float* bias;
  int32_t in_features;
  int32_t out_features;
};

// What an adapter has of all this.
struct MountedExtras {
  const DeviceBias* biases = nullptr;  // [layers][kLoraModuleCount], on the device; null: none
  OutsideModule embedding{};
  OutsideModule head{};

  bool any() const {
    return biases || embedding.module.rank_tiles > 0 || head.module.rank_tiles > 0;
  }
};

// At most kExtraRows neighbouring rows with the same terms; of the head, rows that sample.
struct ExtraTile {
  int32_t row_begin;
  int32_t row_count;
  int32_t term_begin;  // of those of the list
  int32_t term_count;
  int64_t u_begin;  // numbers of u before the tile's, [rank of all its terms][row]
};

struct ExtraList {
  std::vector<ExtraTile> tiles;
  std::vector<OutsideModule> terms;  // scales are times weights here
  int rank_tiles_max = 0;            // of a tile's terms together
};

// What the adapters of a step have, and for which rows.
struct ExtrasPlan {
  std::vector<BiasTerm> biases;  // of all terms of the step; empty: none has any
  ExtraList embedding;
  ExtraList head;
};
// `of` says what a term's adapter has.
ExtrasPlan PlanExtras(const StepBatch& batch,
                      absl::FunctionRef<const MountedExtras&(const MountedAdapter&)> of);

// A list on the device.
struct ExtraTable {
  const ExtraTile* tiles = nullptr;
  const OutsideModule* terms = nullptr;
  int count = 0;  // tiles
  int rank_tiles_max = 0;
};

// Sends the tables of steps that have any. Two pinned images take turns. One thread.
class StepExtras {
 public:
  static absl::StatusOr<std::unique_ptr<StepExtras>> Make(int64_t rows_max, int64_t terms_max);
  void Send(const StepBatch& batch, cudaStream_t stream);

  // Of the last Send.
  bool any() const { return any_; }
  StepBiases biases(int layer, LoraGroup group) const {
    return {biases_, layer * kLoraModuleCount + ModulesOf(group).first};
  }
  const ExtraTable& embedding() const { return embedding_; }
  const ExtraTable& head() const { return head_; }

 private:
  struct Staging {
    std::unique_ptr<Buffer> memory;
    Event sent;
  };
  class Packer;

  StepExtras() = default;

  bool any_ = false;
  const BiasTerm* biases_ = nullptr;
  ExtraTable embedding_;
  ExtraTable head_;
  std::unique_ptr<Buffer> device_;
  Staging staging_[2];
  uint32_t turn_ = 0;
};

// Adds biases, if there are any, to LoraArgs::sums of `tiles` row tiles with an adapter, before the
// kernel behind reads them. Where the expand is that kernel's, it adds the biases as well.
void LaunchAddBiases(void* sums, const GroupOutputs& outputs, const StepBiases& biases,
                     const StepTables& step, int tiles, cudaStream_t stream);
// out [rows, hidden], fp32: the embedding's rows, as LaunchEmbed has left them.
void LaunchEmbedLora(void* out, const ExtraTable& table, const StepTables& step,
                     const std::byte* arena, int64_t hidden, cudaStream_t stream);
// logits [samples, vocabulary], fp32, of x [samples, hidden]. `u`: room for the numbers of u of all
// tiles.
void LaunchHeadLora(void* logits, int64_t vocabulary, const void* x, int64_t hidden,
                    const ExtraTable& table, float* u, const std::byte* arena, cudaStream_t stream);

}  // namespace lorica::cuda
