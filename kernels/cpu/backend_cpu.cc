// The CPU backend: the definition of the right answer. Each verb is a file of this
// folder; this one only hands tables and buffers around.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/copy_stream.h"
#include "kernels/cpu/dora.h"
#include "kernels/cpu/embed.h"
#include "kernels/cpu/kv_layout.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/lora.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/post.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/noise.h"

namespace lorica {
namespace {

constexpr int kRowsMax = 1 << 16;
constexpr int32_t kTokenSlotsMax = 1 << 20;

const PackedWeight& Packed(const Weight& weight) {
  return static_cast<const PackedWeight&>(weight);
}

absl::StatusOr<std::unique_ptr<Buffer>> MapBuffer(int64_t bytes) {
  auto memory = HostMemory::Map(bytes);
  if (!memory.ok()) return memory.status();
  return std::make_unique<HostMemory>(*std::move(memory));
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, int rows_max) : pool_(threads), rows_max_(rows_max) {}

  std::string name() const override {
    std::string target = SimdTargetName();
    std::transform(target.begin(), target.end(), target.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return absl::StrCat("cpu (", target, ", ", threads(),
                        threads() == 1 ? " thread)" : " threads)");
  }
  int threads() const override { return pool_.threads(); }
  bool asynchronous() const override { return false; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override {
    return MapBuffer(bytes);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(int64_t bytes) override {
    return MapBuffer(bytes);
  }
  void Upload(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void Download(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  int64_t TensorBytes(int64_t rows, int64_t columns) const override {
    return rows * columns * static_cast<int64_t>(sizeof(float));
  }
  absl::StatusOr<std::unique_ptr<Weight>> PackWeight(absl::Span<const HostMatrix> parts) override {
    return PackedWeight::Pack(parts);
  }
  absl::StatusOr<std::unique_ptr<Weight>> RandomWeight(int64_t rows, int64_t columns, uint64_t seed,
                                                       float bound) override {
    std::vector<uint16_t> values(rows * columns);
    for (size_t i = 0; i < values.size(); ++i) values[i] = NoiseBf16(seed, i, bound);
    const HostMatrix matrix{DType::kBF16, rows, columns,
                            reinterpret_cast<const std::byte*>(values.data())};
    return PackedWeight::Pack({matrix});
  }

  int64_t BlockBytesFor(const AttentionShape& shape) const override {
    const int64_t bytes = KvLayout(shape).block_floats(shape.layers) * sizeof(float);
    return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
  }
  DType TileDType(DType file_dtype) const override { return file_dtype; }
  absl::StatusOr<std::vector<float>> DoraGain(const LoraTarget& target, absl::Span<const float> a,
                                              absl::Span<const float> b, int rank, float scale,
                                              absl::Span<const float> magnitude) override;
  absl::StatusOr<float> ReadRow(const Weight& weight, int64_t row,
                                absl::Span<float> out) const override;
  std::unique_ptr<CopyTicket> StartCopy(const KvCache& cache,
                                        absl::Span<const BlockCopy> copies) override {
    return copies_.Start(cache, copies);
  }
  absl::StatusOr<std::unique_ptr<MountedAdapter>> Mount(
      const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids) override {
    return CpuMountedAdapter::Make(image, cache, block_ids);
  }

  void BeginStep(const StepBatch& batch) override;
  void Embed(Tensor out, const Weight& table) override {
    ResolveTokens(*batch_, slots_, tokens_);
    RunEmbed(out, Packed(table), tokens_, pool_);
    lora_.ShrinkTokens(tokens_, pool_);
    RunExpand(out, LoraGroup::kEmbedding, lora_, pool_);
    lora_.Clear();
  }
  void RmsNorm(Tensor out, Tensor x, const float* weight, float epsilon) override {
    RunRmsNorm(out, x, weight, epsilon, pool_);
  }
  void Linear(Tensor y, Tensor x, const Weight& weight) override {
    LORICA_CHECK(
        y.rows == x.rows && x.columns == weight.in_features() && y.columns == weight.out_features(),
        "y", y.rows, y.columns, "x", x.rows, x.columns, "weight", weight.out_features(),
        weight.in_features());
    RunLinear({&Packed(weight), x.f32(), x.rows, y.f32()}, pool_);
  }
  void LoraShrink(Tensor x, int layer, LoraGroup group) override {
    lora_.Shrink(x.f32(), x.columns, layer, group, pool_);
  }
  void QkvPost(Tensor qkv, const float* bias, const RopeTable& rope, int layer,
               const KvCache& cache) override {
    RunQkvPost({qkv, bias, &rope, layer, &cache, batch_, &row_pages_}, lora_, pool_);
    lora_.Clear();
  }
  void Attend(Tensor out, Tensor qkv, int layer, const KvCache& cache) override {
    RunAttend({qkv.f32(), qkv.columns, out.f32(), layer, &cache, batch_}, pool_);
  }
  void ResidualNorm(Tensor out, Tensor residual, Tensor projection, const float* bias, int layer,
                    LoraGroup group, const float* next_weight, float epsilon) override {
    RunResidualNorm({out, residual, projection, bias, layer, group, next_weight, epsilon}, lora_,
                    pool_);
    lora_.Clear();
  }
  void GluPost(Tensor out, Tensor gate_up, Activation activation, int layer) override {
    RunGluPost(out, gate_up, activation, layer, lora_, pool_);
    lora_.Clear();
  }
  void GatherRows(Tensor out, Tensor x) override { RunGatherRows(out, x, *batch_); }
  void HeadPost(Tensor logits, Tensor x) override;
  void Sample(Tensor logits, int32_t vocabulary_used, absl::Span<SampleResult> results) override;
  void EndStep() override {}
  absl::Status AwaitStep() override { return absl::OkStatus(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  ThreadPool pool_;
  int rows_max_;
  const StepBatch* batch_ = nullptr;
  std::vector<BlockId> row_pages_;  // [rows] block that holds the row's position
  std::vector<int32_t> slots_;      // token slots; -1 = nothing yet
  std::vector<int32_t> tokens_;     // [rows]
  LoraStep lora_;
  LoraStep head_lora_;                      // over the sample rows
  std::vector<LoraSegment> head_segments_;  // the same
  CopyStream copies_;
};

absl::StatusOr<std::vector<float>> CpuBackend::DoraGain(const LoraTarget& target,
                                                        absl::Span<const float> a,
                                                        absl::Span<const float> b, int rank,
                                                        float scale,
                                                        absl::Span<const float> magnitude) {
  const PackedWeight& weight = Packed(*target.weight);
  LORICA_CHECK(target.in_features == weight.in_features() &&
                   target.weight_row_begin + target.out_features <= weight.out_features(),
               target.name);
  LORICA_CHECK(static_cast<int64_t>(a.size()) == rank * target.in_features &&
                   static_cast<int64_t>(b.size()) == rank * target.out_features &&
                   static_cast<int64_t>(magnitude.size()) == target.out_features,
               target.name, rank);
  DoraInput input;
  input.weight = &weight;
  input.row_begin = target.weight_row_begin;
  input.in_features = target.in_features;
  input.out_features = target.out_features;
  input.a = a.data();
  input.b = b.data();
  input.rank = rank;
  input.scale = scale;
  input.magnitude = magnitude.data();
  return ComputeDoraGain(input);
}

absl::StatusOr<float> CpuBackend::ReadRow(const Weight& weight, int64_t row,
                                          absl::Span<float> out) const {
  const PackedWeight& packed = Packed(weight);
  LORICA_CHECK(row >= 0 && row < packed.out_features() &&
                   static_cast<int64_t>(out.size()) == packed.in_features(),
               row, out.size());
  UnpackRow(packed, row, out.data());
  return PackingShare(packed.PartOfRow(row).dtype);
}

void CpuBackend::BeginStep(const StepBatch& batch) {
  LORICA_CHECK(batch.rows() <= rows_max_, "rows", batch.rows(), rows_max_);
  LORICA_CHECK(batch.positions.size() == batch.tokens.size(), batch.positions.size());
  pool_.Wake();
  batch_ = &batch;
  row_pages_.assign(batch.rows(), -1);
  int32_t row = 0;
  for (const AttendSpan& span : batch.spans) {
    LORICA_CHECK(span.row_begin == row && span.row_count > 0, "span at", span.row_begin, row);
    LORICA_CHECK((span.position_begin + span.row_count - 1) / kBlockTokens < span.page_count,
                 "pages", span.page_count);
    for (int32_t i = 0; i < span.row_count; ++i, ++row) {
      const int32_t position = span.position_begin + i;
      LORICA_CHECK(batch.positions[row] == position, batch.positions[row], position);
      row_pages_[row] = batch.pages[span.page_begin + position / kBlockTokens];
    }
  }
  LORICA_CHECK(row == batch.rows(), "rows in spans", row, batch.rows());
  lora_.Begin(batch.rows(), batch.segments, batch.terms);
}

void CpuBackend::HeadPost(Tensor logits, Tensor x) {
  if (batch_->segments.empty()) return;
  head_segments_ = SampleSegments(*batch_);
  head_lora_.Begin(logits.rows, head_segments_, batch_->terms);
  head_lora_.Shrink(x.f32(), x.columns, kOutsideLayers, LoraGroup::kHead, pool_);
  RunExpand(logits, LoraGroup::kHead, head_lora_, pool_);
}

void CpuBackend::Sample(Tensor logits, int32_t vocabulary_used, absl::Span<SampleResult> results) {
  RunSample(logits, vocabulary_used, batch_->samples, slots_, results, pool_);
  for (size_t j = 0; j < results.size(); ++j) {
    const int32_t slot = batch_->samples[j].slot;
    LORICA_CHECK(slot >= 0 && slot < kTokenSlotsMax, "slot", slot);
    if (slot >= static_cast<int32_t>(slots_.size())) slots_.resize(slot + 1, -1);
    slots_[slot] = results[j].token;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendOptions& options) {
  if (options.threads < 0 || options.threads > ThreadPool::kThreadsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "threads must be 0 (one a core) to ", ThreadPool::kThreadsMax, ", not ", options.threads));
  }
  if (options.rows_max < 1 || options.rows_max > kRowsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows_max must be 1 to ", kRowsMax, ", not ", options.rows_max));
  }
  const int threads = options.threads > 0 ? options.threads : ThreadPool::UsableCpus();
  return std::make_unique<CpuBackend>(threads, options.rows_max);
}

}  // namespace lorica
