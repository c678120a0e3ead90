#include "kernels/cuda/backend_cuda.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/captured.h"
#include "kernels/cuda/dora.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/mounted.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kFlaggedUMax = int64_t{8} << 20;
// Tables of mounted adapters, some 40 KiB each for 32 layers.
constexpr int64_t kStreamMemoryFirstBytes = int64_t{32} << 20;
constexpr int64_t kStreamMemoryKeptBytes = int64_t{256} << 20;

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

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Make(const BackendOptions& options) {
  std::unique_ptr<CudaBackend> backend(new CudaBackend);
  const absl::Status status = backend->Start(options);
  if (!status.ok()) return status;
  return backend;
}

// A step of few rows goes through kernels of our own, each of which gives a row its own bits. What
// depends on the other rows is which kernel takes it: the library's product where rows are many,
// the tiled attention where a span has many. So batch-invariant steps are steps of few rows, and
// all of them decode.
absl::Status CudaBackend::Start(const BackendOptions& options) {
  static_assert(kBatchInvariantRowsMax <= kStreamRowsMax);
  static_assert(kBatchInvariantRowsMax * kAttendPiecesMax <= kAttendSlotsMax);
  if (options.batch_invariant && options.rows_max > kBatchInvariantRowsMax) {
    return absl::InvalidArgumentError(absl::StrCat("batch-invariant steps have at most ",
                                                   kBatchInvariantRowsMax, " rows on a GPU, not ",
                                                   options.rows_max));
  }
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    return absl::FailedPreconditionError(absl::StrCat(
        "no CUDA device answers (", cudaGetErrorString(error),
        "): see whether nvidia-smi lists one and its driver is new enough, or use --device cpu"));
  }
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return ToStatus(error, "cannot ask the CUDA device");
  // A thread's stack, which the device keeps for all that it can hold: kernels here need 96 bytes.
  constexpr size_t kStackBytes = 128;
  error = cudaDeviceSetLimit(cudaLimitStackSize, kStackBytes);
  if (error != cudaSuccess) return ToStatus(error, "cannot bound the stack of CUDA threads");
  name_ = absl::StrCat("cuda (", properties.name, ", ", kElementName, ")");
  for (auto* stream : {&stream_, &copy_stream_}) {
    auto made = Stream::Make(stream == &copy_stream_ ? 0 : -1);
    if (!made.ok()) return made.status();
    *stream = *std::move(made);
  }
  auto pinned = PinnedPool::Make(options.host_bytes);
  if (!pinned.ok()) {
    return absl::Status(pinned.status().code(),
                        absl::StrCat(pinned.status().message(), "; lower --host-bytes"));
  }
  pinned_ = *std::move(pinned);
  const absl::Status kept = KeepStreamMemory(kStreamMemoryKeptBytes);
  if (!kept.ok()) return kept;
  // So that the first adapter finds it there: growing the pool holds up what is launched.
  const auto first_use = AllocateInStream(kStreamMemoryFirstBytes, stream());
  if (!first_use.ok()) return first_use.status();
  LaunchNoise((*first_use)->data(), 1, 0, 1.0f, stream());
  if (error = cudaGetLastError(); error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("no kernel runs on ", properties.name, ", of compute capability ",
                     properties.major, ".", properties.minor, " (", cudaGetErrorString(error),
                     "): these are for the Hopper generation, 9.0; use --device cpu"));
  }
  auto linear = LinearRunner::Make(options.cache_folder);
  if (!linear.ok()) return linear.status();
  linear_ = *std::move(linear);

  rows_max_ = options.rows_max;
  const int64_t rows = options.rows_max;
  const int64_t u_floats = rows * kMixTermsMax * kGroupModulesMax * kLoraRankMax;
  const int decode_rows_max = options.batch_invariant ? rows_max_ : kAttendDecodeRowsMax;
  auto step = StepImage::Make(rows_max_, decode_rows_max, u_floats, kFlaggedUMax);
  if (!step.ok()) return step.status();
  step_ = *std::move(step);
  const int64_t terms = options.terms_max > 0 ? options.terms_max : rows;
  auto extras = StepExtras::Make(rows, terms);
  if (!extras.ok()) return extras.status();
  extras_ = *std::move(extras);
  const int requests = options.requests_max > 0 ? options.requests_max : rows_max_;
  auto lora =
      LoraMemory::Make({rows_max_, requests, static_cast<int>(terms), u_floats, kFlaggedUMax});
  if (!lora.ok()) return lora.status();
  lora_ = *std::move(lora);
  plan_ = lora_->plan();
  auto sample = SampleTables::Make(options.rows_max);
  if (!sample.ok()) return sample.status();
  sample_ = *std::move(sample);
  return absl::OkStatus();
}

// Room for the plan of a model with that many layers.
absl::Status CudaBackend::AllocatePlan(int layers) {
  if (layers <= lora_->layers()) return absl::OkStatus();
  LORICA_CHECK(captures_ == 0, layers, lora_->layers());
  const absl::Status made = lora_->MakeTables(layers);
  TakePlan();
  return made;
}

// Takes over where the plan's memory lies.
void CudaBackend::TakePlan() {
  const LoraPlan step = std::exchange(plan_, lora_->plan());
  plan_.arena = step.arena;
  plan_.pairs = step.pairs;
  if (plan_layers_ == 0) plan_.tile_starts = nullptr;
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::Allocate(int64_t bytes) {
  return AllocateDevice(bytes);
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::NewHostBuffer(int64_t bytes) {
  return pinned_->Allocate(bytes);
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

absl::StatusOr<std::unique_ptr<Weight>> CudaBackend::RandomWeight(int64_t rows, int64_t columns,
                                                                  uint64_t seed, float bound) {
  auto data = AllocateDevice(rows * columns * 2);
  if (!data.ok()) return data.status();
  LaunchNoise((*data)->data(), rows * columns, seed, bound, stream());
  const cudaError_t error = cudaStreamSynchronize(stream());
  if (error != cudaSuccess) return ToStatus(error, "cannot make a random weight");
  return std::make_unique<CudaWeight>(*std::move(data), rows, columns);
}

DeviceMemory CudaBackend::memory() const {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return {};
  return {static_cast<int64_t>(total), static_cast<int64_t>(free)};
}

absl::Status CudaBackend::Health() const {
  if (!IsLost(copy_stream_->get())) return absl::OkStatus();
  return absl::InternalError("the CUDA device has failed");
}

absl::Status CudaBackend::ChooseProducts(absl::Span<const Weight* const> weights) {
  std::vector<ProductWeight> products;
  for (const Weight* weight : weights) products.push_back(OnDevice(*weight).product());
  return linear_->library().Choose(products, rows_max_, stream()).status();
}

absl::Status CudaBackend::CheckSizes(const AttentionShape& shape, const ModelSizes& sizes) const {
  return CheckServedSizes(shape, sizes);
}

int64_t CudaBackend::BlockBytesFor(const AttentionShape& shape) const {
  const int64_t padded = PaddedHeadSize(shape.head_size);
  const int64_t bytes =
      int64_t{shape.layers} * 2 * shape.kv_heads * kBlockTokens * padded * sizeof(uint16_t);
  return (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
}

absl::StatusOr<float> CudaBackend::ReadRow(const Weight& weight, int64_t row,
                                           absl::Span<float> out) const {
  return cuda::ReadRow(OnDevice(weight), row, out, copy_stream_->get());
}

absl::StatusOr<std::vector<float>> CudaBackend::DoraGain(const LoraTarget& target,
                                                         absl::Span<const float> a,
                                                         absl::Span<const float> b, int rank,
                                                         float scale,
                                                         absl::Span<const float> magnitude) {
  return ComputeDoraGain(target, a, b, rank, scale, magnitude, copy_stream_->get());
}

std::unique_ptr<CopyTicket> CudaBackend::StartCopy(const KvCache& cache,
                                                   absl::Span<const BlockCopy> copies) {
  auto ticket = std::make_unique<EventTicket>();
  auto* arena = static_cast<std::byte*>(cache.arena);
  const int64_t block_bytes = cache.block_bytes;
  for (size_t begin = 0, end = 0; begin < copies.size(); begin = end) {
    // Blocks that are neighbours on both sides go over together.
    const BlockCopy& first = copies[begin];
    const auto follows = [&](const BlockCopy& copy, int64_t n) {
      return copy.target == first.target + n && copy.source == first.source + n * block_bytes;
    };
    for (end = begin + 1; end < copies.size() && follows(copies[end], end - begin); ++end) {
    }
    const cudaError_t error =
        cudaMemcpyAsync(arena + first.target * block_bytes, first.source,
                        (end - begin) * block_bytes, cudaMemcpyHostToDevice, copy_stream_->get());
    if (error != cudaSuccess) {
      ticket->Fail(ToStatus(error, "cannot copy blocks to the device"));
      break;
    }
  }
  ticket->Record(copy_stream_->get());
  return ticket;
}

absl::StatusOr<std::unique_ptr<MountedAdapter>> CudaBackend::Mount(
    const LoraImage& image, const KvCache& cache, absl::Span<const BlockId> block_ids) {
  return CudaMounted::Make(image, cache, block_ids, stream());
}

void CudaBackend::BeginStep(const StepBatch& batch) {
  LORICA_CHECK(std::ssize(batch.terms) <= plan_.terms_max, batch.terms.size());
  LORICA_CHECK(flights_.size() < kStepsInFlightMax, "steps in flight", flights_.size());
  sample_->Begin(batch.samples, step_->tables().token_slots, stream());
  step_->Send(batch, sample_->rows(), sample_->outputs(), NextUFlag(), stream());
  extras_->Send(batch, stream());
  pending_shrink_.reset();
  plan_layers_ = 0;
  int layers = 0;
  for (const LoraTerm& term : batch.terms) {
    const auto* adapter = static_cast<const CudaMounted*>(term.adapter);
    layers = std::max(layers, adapter->layers());
    plan_.arena = adapter->arena();
  }
  PlanAdapters(layers);
}

// A flag that no number of u has: when all were used up, they are made zero.
uint32_t CudaBackend::NextUFlag() {
  u_flag_ += kPairsMax;
  if (u_flag_ == 0) {
    u_flag_ = kPairsMax;
    lora_->ClearFlaggedU(stream());
  }
  return u_flag_;
}

// Fills the plan from the step's tables. 0 layers: the step has no adapters.
void CudaBackend::PlanAdapters(int layers) {
  plan_layers_ = layers;
  plan_.pairs = layers * 4;
  if (layers > 0) {
    const absl::Status room = AllocatePlan(layers);
    LORICA_CHECK(room.ok(), room.ToString());
  }
  plan_.tile_starts = layers > 0 ? lora_->plan().tile_starts : nullptr;
  LORICA_CHECK(layers == 0 || step_->counts().all_tiles <= plan_.tile_stride,
               step_->counts().all_tiles, plan_.tile_stride);
  if (layers > 0) LaunchLoraPlan(step_->tables(), plan_, layers, stream());
}

// What a step of the form could be, all rows at the start of the first block.
StepBatch CudaBackend::SomeStep(int rows) {
  StepBatch batch;
  batch.tokens.resize(rows);
  batch.positions.resize(rows);
  batch.pages.resize(1);
  for (int row = 0; row < rows; ++row) {
    batch.spans.push_back({.row_begin = row, .row_count = 1, .page_count = 1});
    batch.samples.push_back({.row = row});
  }
  return batch;
}

absl::StatusOr<std::unique_ptr<CapturedStep>> CudaBackend::Capture(
    const DecodeForm& form, const KvCache& cache, absl::FunctionRef<void()> verbs) {
  absl::Status status = AllocatePlan(cache.shape.layers);
  if (!status.ok()) return status;
  BeginStep(SomeStep(form.rows));
  plan_.arena = static_cast<const std::byte*>(cache.arena);
  if (form.adapters) PlanAdapters(cache.shape.layers);
  const absl::Cleanup restore = [this, before = fixed_grids_] { fixed_grids_ = before; };
  fixed_grids_ = true;
  const auto settled = [&] {
    verbs();
    SettleProduct();
  };
  settled();  // not captured: loads the kernels, chooses how to multiply
  status = Synchronize();
  if (!status.ok()) return status;
  auto captured = CapturedGraph::Record(form, stream(), settled);
  if (!captured.ok()) return captured.status();
  ++captures_;
  status = Synchronize();
  if (!status.ok()) return status;
  return *std::move(captured);
}

bool CudaBackend::Replay(const CapturedStep& step) {
  if (extras_->any()) return false;
  const auto& captured = static_cast<const CapturedGraph&>(step);
  LORICA_CHECK(step_->counts().rows <= captured.form().rows, captured.form().rows);
  LORICA_CHECK((plan_layers_ > 0) == captured.form().adapters, plan_layers_);
  captured.Launch(stream());
  return true;
}

void CudaBackend::Embed(Tensor out, const Weight& table) {
  LaunchEmbed(out.data, OnDevice(table).data(), out.columns, step_->tables(),
              static_cast<int>(out.rows), stream());
  LaunchEmbedLora(out.data, extras_->embedding(), step_->tables(), plan_.arena, out.columns,
                  stream());
}

void CudaBackend::RmsNorm(Tensor out, Tensor x, const float* weight, float epsilon) {
  SettleProduct();
  LaunchRmsNorm(out.data, x.data, weight, epsilon, x.columns, static_cast<int>(x.rows), stream());
}

void CudaBackend::Linear(Tensor y, Tensor x, const Weight& weight) {
  LORICA_CHECK(y.columns == weight.out_features() && x.columns == weight.in_features(), y.columns,
               x.columns);
  SettleProduct();
  const CudaWeight& matrix = OnDevice(weight);
  const bool with_lora =
      pending_shrink_ && pending_shrink_->x.data == x.data && LinearRunner::Streams(x.rows, matrix);
  if (with_lora) {
    pending_linear_ = {y, x, &matrix};
  } else {
    pending_product_ = linear_->Run(y.data, x.data, x.rows, matrix, stream());
  }
}

void CudaBackend::Logits(Tensor y, Tensor x, const Weight& weight) {
  LORICA_CHECK(y.columns == weight.out_features() && x.columns == weight.in_features(), y.columns,
               x.columns);
  SettleProduct();
  linear_->RunWide(y.data, x.data, x.rows, OnDevice(weight), stream());
}

void CudaBackend::SettleProduct() {
  if (const auto linear = std::exchange(pending_linear_, std::nullopt)) {
    pending_product_ =
        linear_->Run(linear->y.data, linear->x.data, linear->x.rows, *linear->weight, stream());
  }
  const Product product = std::exchange(pending_product_, {});
  if (!product.parts) return;
  LaunchAddParts(const_cast<void*>(product.y), false, product.parts, product.splits,
                 product.part_stride, stream());
}

void CudaBackend::LoraShrink(Tensor x, int layer, LoraGroup group) {
  if (plan_layers_ > 0) pending_shrink_ = {x, layer, group};
}

Product CudaBackend::TakeProduct(Tensor y, const GroupOutputs& outputs) {
  const void* pending = pending_linear_ ? pending_linear_->y.data : pending_product_.y;
  if (pending != y.data) SettleProduct();
  Product product = std::exchange(pending_product_, {});
  product.y = y.data;
  if (!pending_shrink_) return product;
  const PendingShrink shrink = *std::exchange(pending_shrink_, std::nullopt);
  LoraArgs args;
  args.x = shrink.x.data;
  args.in_features = shrink.x.columns;
  args.layer = shrink.layer;
  args.group = shrink.group;
  args.outputs = outputs;
  if (const auto linear = std::exchange(pending_linear_, std::nullopt)) {
    LORICA_CHECK(y.columns <= kLoraColumnsMax, y.columns);
    args.sums = lora_->sums();
    product = linear_->RunWithLora(y.data, y.rows, *linear->weight, args, step_->tables(), plan_,
                                   stream());
    LaunchAddBiases(args.sums, outputs, extras_->biases(args.layer, args.group), step_->tables(),
                    step_->counts().row_tiles, stream());
    return product;
  }
  if (product.parts) {
    LaunchAddParts(y.data, false, product.parts, product.splits, product.part_stride, stream());
    product = {.y = y.data};
  }
  // A captured step's later ones may have as many tiles as rows.
  const StepCounts& counts = step_->counts();
  const int rows = static_cast<int>(y.rows);
  const int tiles = fixed_grids_ ? rows : counts.row_tiles;
  args.down_parts = args.x == down_input_ && args.group == LoraGroup::kDown;
  if (tiles > 0) LaunchShrinkMany(args, step_->tables(), plan_, tiles, stream());
  product.expand_tiles = fixed_grids_ ? rows : counts.all_tiles;
  return product;
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
  const DeviceRope& device = RopeOnDevice(rope);
  QkvPostArgs args;
  const int size = cache.shape.head_size, kv_columns = cache.shape.kv_heads * size;
  args.product = TakeProduct(qkv, {cache.shape.heads * size, kv_columns, kv_columns});
  args.qkv = qkv.data;
  args.bias = bias;
  args.cos = static_cast<const float*>(device.cos->data());
  args.sin = static_cast<const float*>(device.sin->data());
  args.rotary_size = rope.rotary_size;
  args.layer = layer;
  args.arena = cache.arena;
  args.block_bytes = cache.block_bytes;
  args.shape = cache.shape;
  LaunchQkvPost(args, step_->tables(), plan_, extras_->biases(layer, LoraGroup::kQkv),
                static_cast<int>(qkv.rows), stream());
}

void CudaBackend::Attend(Tensor out, Tensor qkv, int layer, const KvCache& cache) {
  SettleProduct();
  std::unique_ptr<Attention>& attention = attentions_[cache.arena];
  // A later cache may lie where one was that is gone.
  if (!attention || !attention->Serves(cache)) {
    auto sums = lora_->Share(Attention::SumBytes(cache.shape), captures_ == 0);
    LORICA_CHECK(sums.ok(), sums.status().ToString());
    TakePlan();
    auto made = Attention::Make(cache, rows_max_, *std::move(sums));
    LORICA_CHECK(made.ok(), made.status().ToString());
    attention = *std::move(made);
  }
  const absl::Status status =
      attention->Run(out, qkv, layer, step_->tables(), step_->attend(), fixed_grids_, stream());
  LORICA_CHECK(status.ok() || IsLost(stream()), status.ToString());
}

void CudaBackend::ResidualNorm(Tensor out, Tensor residual, Tensor projection, const float* bias,
                               int layer, LoraGroup group, const float* next_weight,
                               float epsilon) {
  LORICA_CHECK(residual.columns <= kResidualColumnsMax, residual.columns);
  ResidualNormArgs args;
  args.out = out.data;
  args.residual = residual.data;
  args.projection = TakeProduct(projection, {static_cast<int>(projection.columns)});
  args.bias = bias;
  args.norm = next_weight;
  args.epsilon = epsilon;
  args.columns = residual.columns;
  args.layer = layer;
  args.group = group;
  LaunchResidualNorm(args, step_->tables(), plan_, extras_->biases(layer, group),
                     static_cast<int>(residual.rows), stream());
}

void CudaBackend::GluPost(Tensor out, Tensor gate_up, Activation activation, int layer) {
  const int ffn = static_cast<int>(out.columns);
  const Product product = TakeProduct(gate_up, {ffn, ffn});
  down_input_ = product.expand_tiles > 0 ? out.data : nullptr;
  LaunchGluPost(out.data, product, ffn, activation, layer, step_->tables(), plan_,
                extras_->biases(layer, LoraGroup::kGateUp), static_cast<int>(out.rows), stream());
}

void CudaBackend::GatherRows(Tensor out, Tensor x) {
  SettleProduct();
  LaunchGatherRows(out.data, x.data, x.columns, step_->tables(), static_cast<int>(out.rows),
                   stream());
}

void CudaBackend::HeadPost(Tensor logits, Tensor x) {
  SettleProduct();
  LaunchHeadLora(logits.data, logits.columns, x.data, x.columns, extras_->head(),
                 reinterpret_cast<float*>(plan_.u), plan_.arena, stream());
}

void CudaBackend::Sample(Tensor logits, int32_t vocabulary_used, absl::Span<SampleResult> results) {
  SettleProduct();
  LORICA_CHECK(vocabulary_used > 0 && vocabulary_used <= logits.columns, vocabulary_used,
               logits.columns);
  LORICA_CHECK(vocabulary_used <= kSampleVocabularyMax, vocabulary_used);
  LORICA_CHECK(vocabulary_used <= sample_->masked_tokens(), sample_->masked_tokens());
  sample_->CopyMasks();
  const bool greedy = sample_->rows().empty();
  (greedy ? LaunchGreedy : LaunchSample)(logits.data, logits.columns, vocabulary_used,
                                         step_->tables(), static_cast<int>(results.size()),
                                         stream());
  for (size_t i = 0; i < results.size(); ++i) {
    results[i].no_room = !greedy && sample_->rows()[i].no_room != 0;
  }
  pending_.push_back({results, sample_->outputs()});
}

void CudaBackend::EndStep() {
  SettleProduct();
  Flight& flight = flights_.emplace_back();
  if (spare_events_.empty()) {
    flight.end = std::make_unique<Event>();
  } else {
    flight.end = std::move(spare_events_.back());
    spare_events_.pop_back();
  }
  flight.end->Record(stream());
  flight.results = std::exchange(pending_, {});
}

absl::Status CudaBackend::AwaitStep() {
  LORICA_CHECK(!flights_.empty(), "no step to wait for");
  Flight flight = std::move(flights_.front());
  flights_.pop_front();
  const absl::Status status = ToStatus(flight.end->Wait(), "the CUDA device has failed");
  return Land(std::move(flight), status);
}

// Writes the results of a step that has ended with `status`.
absl::Status CudaBackend::Land(Flight flight, const absl::Status& status) {
  if (!status.ok()) return status;
  for (const PendingResults& pending : flight.results) {
    ReadOutputs(pending.outputs, pending.results);
  }
  if (flight.end) spare_events_.push_back(std::move(flight.end));
  return ToStatus(cudaGetLastError(), "a CUDA launch has failed");
}

absl::Status CudaBackend::Synchronize() {
  SettleProduct();
  absl::Status status = ToStatus(cudaStreamSynchronize(stream()), "the CUDA device has failed");
  flights_.push_back({nullptr, std::exchange(pending_, {})});
  for (Flight& flight : flights_) status.Update(Land(std::move(flight), status));
  flights_.clear();
  return status;
}

}  // namespace lorica::cuda

// What the program looks for, see kernels/plugin.h.
extern "C" {
extern const char LoricaBackendInterface[] = LORICA_BACKEND_INTERFACE;

lorica::Backend* LoricaMakeBackend(const lorica::BackendOptions* options, absl::Status* error) {
  auto backend = lorica::cuda::CudaBackend::Make(*options);
  if (backend.ok()) return backend->release();
  *error = backend.status();
  return nullptr;
}
}
