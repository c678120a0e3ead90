#include "kernels/cuda/backend_cuda.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/bf16.h"
#include "kernels/cuda/mounted.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kUFloatsMin = int64_t{16} << 20;
constexpr int kPlanLayersMax = 128;
constexpr int64_t kResultsMax = 1 << 16;

class EventTicket : public CopyTicket {
 public:
  void Record(cudaStream_t stream) { event_.Record(stream); }
  void Fail(absl::Status status) { status_ = std::move(status); }
  bool Done() const override { return event_.Query() != cudaErrorNotReady; }
  absl::Status status() const override {
    if (!status_.ok()) return status_;
    return ToStatus(event_.Query(), "cannot copy blocks to the device");
  }

 private:
  Event event_;
  absl::Status status_;
};

const CudaWeight& OnDevice(const Weight& weight) { return static_cast<const CudaWeight&>(weight); }

// What the greedy kernel can serve.
bool IsPlainGreedy(const SampleRow& row) {
  const SampleParams& p = row.params;
  return p.temperature == 0.0f && p.repetition_penalty == 1.0f && p.presence_penalty == 0.0f &&
         p.frequency_penalty == 0.0f && p.logprobs < 0 && row.bias_count == 0 &&
         row.allowed_mask == nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Make(const BackendOptions& options) {
  std::unique_ptr<CudaBackend> backend(new CudaBackend);
  const absl::Status status = backend->Start(options);
  if (!status.ok()) return status;
  return backend;
}

absl::Status CudaBackend::Start(const BackendOptions& options) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    cudaGetLastError();
    return absl::FailedPreconditionError("no CUDA device answers; use --device cpu");
  }
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return ToStatus(error, "cannot ask the CUDA device");
  name_ = absl::StrCat("cuda (", properties.name, ")");
  for (auto* stream : {&stream_, &shrink_stream_, &copy_stream_}) {
    auto made = Stream::Make(stream == &copy_stream_ ? 0 : -1);
    if (!made.ok()) return made.status();
    *stream = *std::move(made);
  }
  auto linear = LinearRunner::Make();
  if (!linear.ok()) return linear.status();
  linear_ = *std::move(linear);

  const int64_t rows = options.rows_max;
  const int64_t u_floats =
      std::max(kUFloatsMin, rows * kMixTermsMax * kGroupModulesMax * kLoraRankMax);
  auto step = StepImage::Make(options.rows_max, u_floats);
  if (!step.ok()) return step.status();
  step_ = *std::move(step);
  auto u = AllocateDevice(u_floats * 4);
  if (!u.ok()) return u.status();
  u_ = *std::move(u);
  // Entries of a (layer, group) pair: a term a row at most in the steps that keep a plan.
  plan_.stride = rows * kGroupModulesMax;
  const int64_t pairs = kPlanLayersMax * 4;
  const int64_t entry_bytes = pairs * plan_.stride * sizeof(PlanEntry);
  const int64_t begin_bytes = pairs * (plan_.stride + 1) * 4;
  auto plan_memory = AllocateDevice(entry_bytes + 2 * begin_bytes);
  if (!plan_memory.ok()) return plan_memory.status();
  plan_memory_ = *std::move(plan_memory);
  auto* memory = static_cast<std::byte*>(plan_memory_->data());
  plan_.entries = reinterpret_cast<PlanEntry*>(memory);
  plan_.unit_begin = reinterpret_cast<int32_t*>(memory + entry_bytes);
  plan_.rank_begin = reinterpret_cast<int32_t*>(memory + entry_bytes + begin_bytes);
  plan_.u = static_cast<float*>(u_->data());
  plan_.shrink_warps = ShrinkWarps();
  plan_.tile_stride = static_cast<int32_t>(rows);
  auto starts = AllocateDevice(
      pairs * (plan_.shrink_warps * sizeof(ShrinkStart) + plan_.tile_stride * sizeof(TileStart)));
  if (!starts.ok()) return starts.status();
  starts_ = *std::move(starts);
  plan_.tile_starts = static_cast<TileStart*>(starts_->data());
  plan_.shrink_starts =
      reinterpret_cast<ShrinkStart*>(plan_.tile_starts + pairs * plan_.tile_stride);

  auto device_results = AllocateDevice(kResultsMax * sizeof(GreedyResult));
  if (!device_results.ok()) return device_results.status();
  device_results_ = *std::move(device_results);
  auto host_results = AllocatePinned(kResultsMax * sizeof(GreedyResult));
  if (!host_results.ok()) return host_results.status();
  host_results_ = *std::move(host_results);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::Allocate(int64_t bytes) {
  return AllocateDevice(bytes);
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::NewHostBuffer(int64_t bytes) {
  return AllocatePinned(bytes);
}

void CudaBackend::Upload(void* device, const void* host, int64_t bytes) {
  cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream());
  cudaStreamSynchronize(stream());
}

void CudaBackend::Download(void* host, const void* device, int64_t bytes) {
  SettleProduct();
  cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream());
  cudaStreamSynchronize(stream());
}

absl::StatusOr<std::unique_ptr<Weight>> CudaBackend::PackWeight(
    absl::Span<const HostMatrix> parts) {
  return cuda::PackWeight(parts);
}

int64_t CudaBackend::BlockBytesFor(const AttentionShape& shape) const {
  const int64_t padded = PaddedHeadSize(shape.head_size);
  const int64_t bytes =
      int64_t{shape.layers} * 2 * shape.kv_heads * kBlockTokens * padded * sizeof(uint16_t);
  return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
}

absl::StatusOr<std::vector<float>> CudaBackend::DoraGain(const LoraTarget& target,
                                                         absl::Span<const float> a,
                                                         absl::Span<const float> b, int rank,
                                                         float scale,
                                                         absl::Span<const float> magnitude) {
  const int64_t in = target.in_features;
  const auto* base = static_cast<const uint16_t*>(OnDevice(*target.weight).data());
  std::vector<uint16_t> stored(in);
  std::vector<float> row(in), gain(target.out_features);
  for (int64_t i = 0; i < target.out_features; ++i) {
    const cudaError_t error =
        cudaMemcpyAsync(stored.data(), base + (target.weight_row_begin + i) * in, in * 2,
                        cudaMemcpyDeviceToHost, copy_stream_->get());
    if (error != cudaSuccess) return ToStatus(error, "cannot read a weight back");
    cudaStreamSynchronize(copy_stream_->get());
    for (int64_t k = 0; k < in; ++k) row[k] = FromBf16(stored[k]);
    for (int r = 0; r < rank; ++r) {
      const float factor = scale * b[i * rank + r];
      for (int64_t k = 0; k < in; ++k) row[k] += factor * a[r * in + k];
    }
    double squares = 0.0;
    for (const float v : row) squares += double{v} * v;
    const double norm = std::sqrt(squares);
    if (!(norm > 0.0) || !std::isfinite(norm)) {
      return absl::DataLossError(
          absl::StrCat("row ", i, " of ", target.name, " with its adapter has norm ", norm));
    }
    gain[i] = static_cast<float>(magnitude[i] / norm);
  }
  return gain;
}

std::unique_ptr<CopyTicket> CudaBackend::StartCopy(const KvCache& cache,
                                                   absl::Span<const BlockCopy> copies) {
  auto ticket = std::make_unique<EventTicket>();
  auto* arena = static_cast<std::byte*>(cache.arena);
  for (const BlockCopy& copy : copies) {
    const cudaError_t error =
        cudaMemcpyAsync(arena + copy.target * cache.block_bytes, copy.source, cache.block_bytes,
                        cudaMemcpyHostToDevice, copy_stream_->get());
    if (error != cudaSuccess) {
      ticket->Fail(ToStatus(error, "cannot copy a block to the device"));
      break;
    }
  }
  ticket->Record(copy_stream_->get());
  return ticket;
}

absl::StatusOr<std::unique_ptr<MountedAdapter>> CudaBackend::Mount(
    const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids) {
  return CudaMounted::Make(image, cache, block_ids, copy_stream_->get());
}

void CudaBackend::BeginStep(const StepBatch& batch) {
  greedy_ = std::all_of(batch.samples.begin(), batch.samples.end(), IsPlainGreedy);
  LORICA_CHECK(batch.terms.size() * kGroupModulesMax <= plan_.stride, batch.terms.size());
  step_->Send(batch, stream());
  pending_shrink_.reset();
  plan_layers_ = 0;
  GroupInputs inputs;
  for (const LoraTerm& term : batch.terms) {
    const auto* adapter = static_cast<const CudaMounted*>(term.adapter);
    plan_layers_ = std::max(plan_layers_, adapter->layers());
    plan_.arena = adapter->arena();
    for (int group = 0; group < 4; ++group) {
      if (adapter->in_features(group) > 0) inputs.features[group] = adapter->in_features(group);
    }
  }
  LORICA_CHECK(plan_layers_ <= kPlanLayersMax, plan_layers_);
  plan_.tile_starts = plan_layers_ > 0 ? static_cast<TileStart*>(starts_->data()) : nullptr;
  if (plan_layers_ > 0) {
    LaunchLoraPlan(step_->tables(), plan_, plan_layers_, inputs, stream());
  }
}

int CudaBackend::RowTiles() const {
  return fixed_grids_ ? step_->counts().rows : step_->counts().row_tiles;
}

void CudaBackend::Embed(Tensor out, const Weight& table) {
  LaunchEmbed(out.data, OnDevice(table).data(), out.columns, step_->tables(),
              static_cast<int>(out.rows), stream());
}

void CudaBackend::RmsNorm(Tensor out, Tensor x, const float* weight, float epsilon) {
  SettleProduct();
  LaunchRmsNorm(out.data, x.data, weight, epsilon, x.columns, static_cast<int>(x.rows), stream());
}

void CudaBackend::Linear(Tensor y, Tensor x, const Weight& weight) {
  LORICA_CHECK(y.columns == weight.out_features() && x.columns == weight.in_features(), y.columns,
               x.columns);
  SettleProduct();
  pending_product_ = linear_->Run(y.data, x.data, x.rows, OnDevice(weight), stream());
}

Product CudaBackend::TakeProduct(const void* y) {
  if (pending_product_.parts && pending_product_.y == y) return std::exchange(pending_product_, {});
  SettleProduct();
  return {.y = y};
}

void CudaBackend::SettleProduct() {
  if (!pending_product_.parts) return;
  const Product product = std::exchange(pending_product_, {});
  LaunchAddParts(const_cast<void*>(product.y), product.parts, product.splits, product.part_stride,
                 stream());
}

void CudaBackend::LoraShrink(Tensor x, int layer, LoraGroup group) {
  shrink_columns_ = x.columns;
  if (plan_layers_ == 0) return;
  if (shrink_place_ == ShrinkPlace::kAfter) {
    pending_shrink_ = {x, layer, group};
    return;
  }
  const bool beside = shrink_place_ == ShrinkPlace::kBeside;
  if (beside) {
    input_ready_.Record(stream());
    input_ready_.Hold(shrink_stream_->get());
  }
  LaunchLoraShrink(x.data, x.columns, step_->tables(), plan_, layer, group, !beside,
                   beside ? shrink_stream_->get() : stream());
  if (beside) {
    shrink_done_.Record(shrink_stream_->get());
    shrink_running_ = true;
  }
}

void CudaBackend::JoinShrink() {
  if (pending_shrink_) {
    LaunchLoraShrink(pending_shrink_->x.data, pending_shrink_->x.columns, step_->tables(), plan_,
                     pending_shrink_->layer, pending_shrink_->group, true, stream());
    pending_shrink_.reset();
  }
  if (shrink_running_) shrink_done_.Hold(stream());
  shrink_running_ = false;
}

const CudaBackend::DeviceRope& CudaBackend::RopeOnDevice(const RopeTable& rope) {
  DeviceRope& device = ropes_[&rope];
  if (device.cos) return device;
  for (auto [values, target] : {std::pair{&rope.cos, &device.cos}, {&rope.sin, &device.sin}}) {
    const int64_t bytes = values->size() * sizeof(float);
    auto buffer = AllocateDevice(std::max<int64_t>(bytes, 4));
    LORICA_CHECK(buffer.ok(), buffer.status().ToString());
    *target = *std::move(buffer);
    cudaMemcpy((*target)->data(), values->data(), bytes, cudaMemcpyHostToDevice);
  }
  return device;
}

void CudaBackend::QkvPost(Tensor qkv, const float* bias, const RopeTable& rope, int layer,
                          const KvCache& cache) {
  JoinShrink();
  const DeviceRope& device = RopeOnDevice(rope);
  QkvPostArgs args;
  args.product = TakeProduct(qkv.data);
  args.qkv = qkv.data;
  args.bias = bias;
  args.cos = static_cast<const float*>(device.cos->data());
  args.sin = static_cast<const float*>(device.sin->data());
  args.rotary_size = rope.rotary_size;
  args.layer = layer;
  args.arena = cache.arena;
  args.block_bytes = cache.block_bytes;
  args.shape = cache.shape;
  LaunchQkvPost(args, shrink_columns_, step_->tables(), plan_, RowTiles(), stream());
}

void CudaBackend::Attend(Tensor out, Tensor qkv, int layer, const KvCache& cache) {
  SettleProduct();
  LORICA_CHECK(PaddedHeadSize(cache.shape.head_size) > 0, cache.shape.head_size);
  LORICA_CHECK(cache.shape.heads / cache.shape.kv_heads <= kAttendGroupMax, cache.shape.heads,
               cache.shape.kv_heads);
  AttendArgs args;
  args.out = out.data;
  args.qkv = qkv.data;
  args.qkv_columns = qkv.columns;
  args.layer = layer;
  args.arena = cache.arena;
  args.block_bytes = cache.block_bytes;
  args.shape = cache.shape;
  LaunchAttend(args, step_->tables(), static_cast<int>(out.rows), stream());
}

void CudaBackend::ResidualNorm(Tensor out, Tensor residual, Tensor projection, const float* bias,
                               int layer, LoraGroup group, const float* next_weight,
                               float epsilon) {
  JoinShrink();
  LORICA_CHECK(residual.columns <= kResidualColumnsMax, residual.columns);
  ResidualNormArgs args;
  args.out = out.data;
  args.residual = residual.data;
  args.projection = TakeProduct(projection.data);
  args.bias = bias;
  args.norm = next_weight;
  args.epsilon = epsilon;
  args.columns = residual.columns;
  args.in_features = shrink_columns_;
  args.layer = layer;
  args.group = group;
  LaunchResidualNorm(args, step_->tables(), plan_, RowTiles(), stream());
}

void CudaBackend::GluPost(Tensor out, Tensor gate_up, Activation activation, int layer) {
  JoinShrink();
  LaunchGluPost(out.data, TakeProduct(gate_up.data), out.columns, shrink_columns_, activation,
                layer, step_->tables(), plan_, RowTiles(), stream());
}

void CudaBackend::GatherRows(Tensor out, Tensor x) {
  SettleProduct();
  LaunchGatherRows(out.data, x.data, x.columns, step_->tables(), static_cast<int>(out.rows),
                   stream());
}

void CudaBackend::Sample(Tensor logits, int32_t vocabulary_used, absl::Span<SampleResult> results) {
  SettleProduct();
  const int64_t count = results.size();
  LORICA_CHECK(greedy_, "only greedy rows without penalties, masks or logprobs run on CUDA");
  if (results_used_ + count > kResultsMax) results_used_ = 0;
  auto* device = static_cast<GreedyResult*>(device_results_->data()) + results_used_;
  auto* host = static_cast<GreedyResult*>(host_results_->data()) + results_used_;
  LaunchGreedy(logits.data, logits.columns, vocabulary_used, step_->tables(), device,
               static_cast<int>(count), stream());
  cudaMemcpyAsync(host, device, count * sizeof(GreedyResult), cudaMemcpyDeviceToHost, stream());
  pending_.push_back({results, results_used_});
  results_used_ += count;
}

absl::Status CudaBackend::Synchronize() {
  SettleProduct();
  const absl::Status status =
      ToStatus(cudaStreamSynchronize(stream()), "the CUDA device has failed");
  if (!status.ok()) return status;
  const auto* host = static_cast<const GreedyResult*>(host_results_->data());
  for (const PendingResults& pending : pending_) {
    for (size_t i = 0; i < pending.results.size(); ++i) {
      const GreedyResult& from = host[pending.begin + i];
      pending.results[i].token = from.token;
      pending.results[i].finite = from.finite != 0;
    }
  }
  pending_.clear();
  results_used_ = 0;
  return ToStatus(cudaGetLastError(), "a CUDA launch has failed");
}

}  // namespace lorica::cuda

extern "C" lorica::Backend* LoricaMakeCudaBackend(const lorica::BackendOptions* options,
                                                  std::string* error) {
  auto backend = lorica::cuda::CudaBackend::Make(*options);
  if (backend.ok()) return backend->release();
  *error = std::string(backend.status().message());
  return nullptr;
}
