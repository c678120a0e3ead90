// The CUDA backend. See kernels/backend.h for the contract.
//
// Activations, K, V and tiles are bf16, or fp16 in a library of its own (element.h); sums, norms,
// softmax, u and the residual stream are fp32. One stream runs the verbs; another of low priority
// copies blocks.
//
// Attention serves at most 8 query heads a KV head, sampling at most 262,144 tokens.
//
// KV inside a block: [layer][K, V][kv_head][16 tokens][head size], the head size padded
// to 64, 128 or 256 with zeros.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/lora_extras.h"
#include "kernels/cuda/lora_memory.h"
#include "kernels/cuda/pinned_pool.h"
#include "kernels/cuda/sample_tables.h"
#include "kernels/cuda/served_sizes.h"
#include "kernels/cuda/step_image.h"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {

class CudaBackend : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Make(const BackendOptions& options);

  std::string name() const override { return name_; }
  int threads() const override { return 1; }
  bool asynchronous() const override { return true; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override;
  absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(int64_t bytes) override;
  void Upload(void* device, const void* host, int64_t bytes) override;
  void Download(void* host, const void* device, int64_t bytes) override;
  DeviceMemory memory() const override;
  absl::Status Health() const override;
  int64_t TensorBytes(int64_t rows, int64_t columns) const override { return rows * columns * 2; }
  absl::StatusOr<std::unique_ptr<Weight>> PackWeight(absl::Span<const HostMatrix> parts) override;
  absl::StatusOr<std::unique_ptr<Weight>> RandomWeight(int64_t rows, int64_t columns, uint64_t seed,
                                                       float bound) override;
  absl::Status CheckSizes(const AttentionShape& shape, const ModelSizes& sizes) const override;
  absl::Status ChooseProducts(absl::Span<const Weight* const> weights) override;

  int64_t BlockBytesFor(const AttentionShape& shape) const override;
  DType TileDType(DType) const override { return kElementDType; }
  absl::StatusOr<float> ReadRow(const Weight& weight, int64_t row,
                                absl::Span<float> out) const override;
  absl::StatusOr<std::vector<float>> DoraGain(const LoraTarget& target, absl::Span<const float> a,
                                              absl::Span<const float> b, int rank, float scale,
                                              absl::Span<const float> magnitude) override;
  std::unique_ptr<CopyTicket> StartCopy(const KvCache& cache,
                                        absl::Span<const BlockCopy> copies) override;
  absl::StatusOr<std::unique_ptr<MountedAdapter>> Mount(
      const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids) override;

  void BeginStep(const StepBatch& batch) override;
  void Embed(Tensor out, const Weight& table) override;
  void RmsNorm(Tensor out, Tensor x, const float* weight, float epsilon) override;
  void Linear(Tensor y, Tensor x, const Weight& weight) override;
  void Logits(Tensor y, Tensor x, const Weight& weight) override;
  void LoraShrink(Tensor x, int layer, LoraGroup group) override;
  void QkvPost(Tensor qkv, const float* bias, const RopeTable& rope, int layer,
               const KvCache& cache) override;
  void Attend(Tensor out, Tensor qkv, int layer, const KvCache& cache) override;
  void ResidualNorm(Tensor out, Tensor residual, Tensor projection, const float* bias, int layer,
                    LoraGroup group, const float* next_weight, float epsilon) override;
  void GluPost(Tensor out, Tensor gate_up, Activation activation, int layer) override;
  void GatherRows(Tensor out, Tensor x) override;
  void HeadPost(Tensor logits, Tensor x) override;
  void Sample(Tensor logits, int32_t vocabulary_used, absl::Span<SampleResult> results) override;
  void EndStep() override;
  absl::Status AwaitStep() override;
  absl::StatusOr<std::unique_ptr<CapturedStep>> Capture(const DecodeForm& form,
                                                        const KvCache& cache,
                                                        absl::FunctionRef<void()> verbs) override;
  bool Replay(const CapturedStep& step) override;
  absl::Status Synchronize() override;

  cudaStream_t stream() const { return stream_->get(); }
  // Launches that hold for any later step of as many rows, as a captured one needs them.
  void set_fixed_grids(bool fixed) { fixed_grids_ = fixed; }

 private:
  struct DeviceRope {
    std::unique_ptr<Buffer> cos;
    std::unique_ptr<Buffer> sin;
  };
  struct PendingShrink {
    Tensor x;
    int layer = 0;
    LoraGroup group = LoraGroup::kQkv;
  };
  struct PendingLinear {
    Tensor y;
    Tensor x;
    const CudaWeight* weight = nullptr;
  };
  struct PendingResults {
    absl::Span<SampleResult> results;
    const SampleOutput* outputs = nullptr;
  };
  // A step whose results are not read yet.
  struct Flight {
    std::unique_ptr<Event> end;
    std::vector<PendingResults> results;
  };

  CudaBackend() = default;
  absl::Status Start(const BackendOptions& options);
  absl::Status AllocatePlan(int layers);
  void TakePlan();
  void PlanAdapters(int layers);
  uint32_t NextUFlag();
  const DeviceRope& RopeOnDevice(const RopeTable& rope);
  static StepBatch SomeStep(int rows);
  // What Linear and LoraShrink left for y, launched here in a step with adapters; whoever
  // else comes next settles the product into y.
  Product TakeProduct(Tensor y, const GroupOutputs& outputs);
  void SettleProduct();
  absl::Status Land(Flight flight, const absl::Status& status);

  std::string name_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Stream> copy_stream_;
  std::shared_ptr<PinnedPool> pinned_;
  bool fixed_grids_ = false;
  std::optional<PendingShrink> pending_shrink_;  // until the post verb
  std::optional<PendingLinear> pending_linear_;  // of the same x: one launch does both

  std::unique_ptr<LinearRunner> linear_;
  Product pending_product_;  // parts == nullptr: none
  std::unique_ptr<StepImage> step_;
  std::unique_ptr<StepExtras> extras_;
  std::unique_ptr<SampleTables> sample_;
  std::unique_ptr<LoraMemory> lora_;
  const void* down_input_ = nullptr;  // whose sums the last GluPost has left there; null: none
  uint32_t u_flag_ = 0;               // of the last step
  LoraPlan plan_{};                   // lora_'s, with what is this step's
  int plan_layers_ = 0;               // of this step; 0 without adapters
  int captures_ = 0;                  // which hold plan_'s addresses
  std::map<const RopeTable*, DeviceRope> ropes_;
  int rows_max_ = 0;
  std::map<const void*, std::unique_ptr<Attention>> attentions_;  // by arena

  std::vector<PendingResults> pending_;  // of the step that has not ended
  std::deque<Flight> flights_;
  std::vector<std::unique_ptr<Event>> spare_events_;
};

}  // namespace lorica::cuda
