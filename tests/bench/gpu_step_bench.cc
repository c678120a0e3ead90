// Decode steps of a Mistral-7B-shaped model with random weights, driven through the
// backend's verbs as the decoder drives them, each captured as one graph. Prints a row a
// case beside its floor: bytes read / read bandwidth of this process.
//
//   gpu_step_bench [--pair | --profile | --linears | --prefill] [--breakdown]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/backend_cuda.h"
#include "tests/bench/gpu_floor.h"

namespace lorica::bench {
namespace {

using cuda::CudaBackend;
using cuda::CudaWeight;

constexpr int kHidden = 4096, kLayers = 32, kHeads = 32, kKvHeads = 8, kHeadSize = 128;
constexpr int kFfn = 14336, kVocabulary = 32000, kContext = 256;
constexpr int kDecodeRowsMax = 256, kPrefillRowsMax = 8192, kPromptTokens = 2048;
constexpr int kQ = kHeads * kHeadSize, kKv = kKvHeads * kHeadSize;
constexpr int64_t kArenaBlocks = 14000;
constexpr float kEpsilon = 1e-5f;

// Which verbs a captured step launches.
enum Parts : unsigned { kLinears = 1, kShrinks = 2, kPosts = 4, kAttends = 8, kAllParts = 15 };

struct LayerWeights {
  std::unique_ptr<CudaWeight> qkv, o, gate_up, down;
};

int InFeatures(LoraModule m) {
  return m == LoraModule::kO ? kQ : m == LoraModule::kDown ? kFfn : kHidden;
}
int OutFeatures(LoraModule m) {
  switch (m) {
    case LoraModule::kQ:
      return kQ;
    case LoraModule::kK:
    case LoraModule::kV:
      return kKv;
    case LoraModule::kGate:
    case LoraModule::kUp:
      return kFfn;
    default:
      return kHidden;
  }
}

class Bench {
 public:
  explicit Bench(int rows_max) : rows_max_(rows_max) {
    auto backend = CudaBackend::Make({.rows_max = rows_max});
    LORICA_CHECK(backend.ok(), backend.status().ToString());
    device_ = *std::move(backend);
    shape_ = {kLayers, kHeads, kKvHeads, kHeadSize, 0.0883883f};
    cache_.shape = shape_;
    cache_.block_bytes = device_->BlockBytesFor(shape_);
    arena_ = *device_->Allocate(kArenaBlocks * cache_.block_bytes);
    FillNoise(arena_->data(), arena_->size_bytes(), 0.02f, 99, device_->stream());
    cache_.arena = arena_->data();
    MakeWeights();
    MakeBuffers();
    rope_.rotary_size = kHeadSize;
    rope_.positions = std::max(kContext, kPromptTokens) + 8;
    rope_.cos.assign(rope_.positions * kHeadSize / 2, 0.6f);
    rope_.sin.assign(rope_.positions * kHeadSize / 2, 0.8f);
  }

  CudaBackend& device() { return *device_; }
  void ChooseProducts() {
    const LayerWeights& layer = layers_[0];
    const Weight* weights[] = {layer.qkv.get(), layer.o.get(), layer.gate_up.get(),
                               layer.down.get()};
    const absl::Status status = device_->ChooseProducts(weights);
    LORICA_CHECK(status.ok(), status.ToString());
  }
  int64_t weight_bytes() const { return weight_bytes_; }

  // An adapter of `rank` on the modules that `wanted` takes, its tiles anywhere in the arena.
  const MountedAdapter* Mount(int rank, const std::function<bool(LoraModule)>& wanted,
                              int64_t* bytes) {
    LoraImage image;
    image.block_bytes = cache_.block_bytes;
    image.layer_count = kLayers;
    int32_t block = 0;
    int64_t offset = 0;
    const auto put = [&](int64_t size) {
      if (offset + size > cache_.block_bytes) {
        ++block;
        offset = 0;
      }
      const BlockSlice slice{block, static_cast<int32_t>(offset)};
      offset += size;
      *bytes += size;
      return slice;
    };
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int m = 0; m < kLoraModuleCount; ++m) {
        const auto module = static_cast<LoraModule>(m);
        if (!wanted(module)) continue;
        ModuleTiles tiles;
        tiles.layer = layer;
        tiles.module = module;
        tiles.rank = rank;
        tiles.dtype = DType::kBF16;
        tiles.in_features = InFeatures(module);
        tiles.out_features = OutFeatures(module);
        for (auto [width, list] :
             {std::pair{tiles.in_features, &tiles.a_tiles}, {tiles.out_features, &tiles.b_tiles}}) {
          for (int r = 0; r < tiles.rank_tiles(); ++r) {
            for (int w = 0; w < width; w += kTileWidth) {
              list->push_back(put(std::min(kTileWidth, width - w) * kTileRanks * 2));
            }
          }
        }
        image.modules.push_back(std::move(tiles));
      }
    }
    image.block_count = block + 1;
    std::vector<BlockId> ids(image.block_count);
    for (BlockId& id : ids) id = --next_block_;
    LORICA_CHECK(next_block_ > kDecodeRowsMax * kContext / kBlockTokens);
    auto mounted = device_->Mount(image, cache_, ids);
    LORICA_CHECK(mounted.ok(), mounted.status().ToString());
    adapters_.push_back(*std::move(mounted));
    return adapters_.back().get();
  }
  void DropAdapters() {
    adapters_.clear();
    next_block_ = kArenaBlocks;
  }

  // One row a request at position kContext - 1; row i uses adapters[i % size] unless null.
  StepBatch Batch(int rows, const std::vector<const MountedAdapter*>& adapters) {
    StepBatch batch;
    for (int r = 0; r < rows; ++r) {
      batch.tokens.push_back(100 + r);
      batch.positions.push_back(kContext - 1);
      AttendSpan span{r, 1, kContext - 1, static_cast<int32_t>(batch.pages.size()),
                      kContext / kBlockTokens};
      for (int p = 0; p < span.page_count; ++p) batch.pages.push_back(r * span.page_count + p);
      batch.spans.push_back(span);
      SampleRow sample;
      sample.row = r;
      sample.slot = r;
      batch.samples.push_back(sample);
    }
    const int count = static_cast<int>(adapters.size());
    for (int a = 0; a < count; ++a) {
      const int begin = rows * a / count, end = rows * (a + 1) / count;
      if (!adapters[a] || begin == end) continue;
      batch.segments.push_back({begin, end - begin, static_cast<int>(batch.terms.size()), 1});
      batch.terms.push_back({adapters[a], 1.0f});
    }
    return batch;
  }

  // Prompts of kPromptTokens from their beginning, each with an adapter of its own or none.
  StepBatch Prompts(int count, const std::vector<const MountedAdapter*>& adapters) {
    StepBatch batch;
    constexpr int kPages = kPromptTokens / kBlockTokens;
    for (int p = 0; p < count; ++p) {
      for (int i = 0; i < kPromptTokens; ++i) {
        batch.tokens.push_back(100 + i);
        batch.positions.push_back(i);
      }
      batch.spans.push_back({p * kPromptTokens, kPromptTokens, 0, p * kPages, kPages});
      for (int i = 0; i < kPages; ++i) batch.pages.push_back(p * kPages + i);
      SampleRow sample;
      sample.row = (p + 1) * kPromptTokens - 1;
      sample.slot = p;
      batch.samples.push_back(sample);
      if (adapters.empty()) continue;
      batch.segments.push_back({p * kPromptTokens, kPromptTokens, p, 1});
      batch.terms.push_back({adapters[p % adapters.size()], 1.0f});
    }
    return batch;
  }

  void Forward(int rows, int samples, unsigned parts, std::vector<SampleResult>& results) {
    const auto view = [&](int i, int64_t columns) {
      return Tensor{buffers_[i]->data(), rows, columns};
    };
    const Tensor residual = view(0, kHidden), normed = view(1, kHidden);
    const Tensor qkv = view(2, kQ + 2 * kKv), attended = view(3, kQ), projected = view(4, kHidden);
    const Tensor gate_up = view(5, 2 * kFfn), activated = view(6, kFfn);
    const Tensor gathered{buffers_[7]->data(), samples, kHidden};
    const Tensor logits{buffers_[8]->data(), samples, kVocabulary};
    CudaBackend& d = *device_;
    const auto* norm = static_cast<const float*>(norm_->data());
    const auto shrink = [&](Tensor x, int layer, LoraGroup group) {
      if (parts & kShrinks) d.LoraShrink(x, layer, group);
    };
    const auto linear = [&](Tensor y, Tensor x, const Weight& w) {
      if (parts & kLinears) d.Linear(y, x, w);
    };
    d.Embed(residual, *embedding_);
    d.RmsNorm(normed, residual, norm, kEpsilon);
    for (int i = 0; i < kLayers; ++i) {
      LayerWeights& w = layers_[i];
      shrink(normed, i, LoraGroup::kQkv);
      linear(qkv, normed, *w.qkv);
      if (parts & kPosts) d.QkvPost(qkv, nullptr, rope_, i, cache_);
      if (parts & kAttends) d.Attend(attended, qkv, i, cache_);
      shrink(attended, i, LoraGroup::kO);
      linear(projected, attended, *w.o);
      if (parts & kPosts) {
        d.ResidualNorm(normed, residual, projected, nullptr, i, LoraGroup::kO, norm, kEpsilon);
      }
      shrink(normed, i, LoraGroup::kGateUp);
      linear(gate_up, normed, *w.gate_up);
      if (parts & kPosts) d.GluPost(activated, gate_up, Activation::kSilu, i);
      shrink(activated, i, LoraGroup::kDown);
      linear(projected, activated, *w.down);
      if (parts & kPosts) {
        d.ResidualNorm(normed, residual, projected, nullptr, i, LoraGroup::kDown, norm, kEpsilon);
      }
    }
    d.GatherRows(gathered, normed);
    if (parts & kLinears) d.Logits(logits, gathered, *head_);
    if (parts == kAllParts) {
      results.resize(samples);
      d.Sample(logits, kVocabulary, absl::MakeSpan(results));
    }
  }

  // Median milliseconds of a captured step, the step's tables included.
  double Time(const StepBatch& batch, const std::function<void()>& body, bool tables = true) {
    device_->BeginStep(batch);
    body();  // outside a graph first: plans, ropes and attributes are made
    CheckDevice();
    cudaStream_t stream = device_->stream();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    body();
    LORICA_CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    LORICA_CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<float> times;
    for (int i = 0; i < 25; ++i) {
      cudaEventRecord(begin, stream);
      if (tables) device_->BeginStep(batch);
      cudaGraphLaunch(exec, stream);
      cudaEventRecord(end, stream);
      CheckDevice();
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      if (i >= 5) times.push_back(ms);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  double TimeStep(const StepBatch& batch, unsigned parts) {
    std::vector<SampleResult> results;
    const int rows = static_cast<int>(batch.rows());
    const int samples = static_cast<int>(batch.samples.size());
    return Time(batch, [&] { Forward(rows, samples, parts, results); });
  }

  // For a profiler.
  void RunOnce(const StepBatch& batch) {
    std::vector<SampleResult> results;
    device_->BeginStep(batch);
    Forward(static_cast<int>(batch.rows()), static_cast<int>(batch.samples.size()), kAllParts,
            results);
    CheckDevice();
  }

  // Microseconds of one product of each kind, its weights rotated over all layers.
  double TimeLinear(int rows, int which) {
    const StepBatch batch = Batch(1, {});  // products do not look at it
    const auto run = [&](int i) {
      LayerWeights& w = layers_[i];
      const auto view = [&](int b, int64_t columns) {
        return Tensor{buffers_[b]->data(), rows, columns};
      };
      switch (which) {
        case 0:
          return device_->Linear(view(2, kQ + 2 * kKv), view(1, kHidden), *w.qkv);
        case 1:
          return device_->Linear(view(4, kHidden), view(3, kQ), *w.o);
        case 2:
          return device_->Linear(view(5, 2 * kFfn), view(1, kHidden), *w.gate_up);
        case 3:
          return device_->Linear(view(4, kHidden), view(6, kFfn), *w.down);
        default:
          return device_->Logits(view(8, kVocabulary), view(1, kHidden), *head_);
      }
    };
    const double ms = Time(
        batch,
        [&] {
          for (int i = 0; i < kLayers; ++i) run(i);
        },
        false);
    return ms * 1e3 / kLayers;
  }
  static int64_t LinearBytes(int which) {
    const int64_t out[] = {kQ + 2 * kKv, kHidden, 2 * kFfn, kHidden, kVocabulary};
    const int64_t in[] = {kHidden, kQ, kHidden, kFfn, kHidden};
    return out[which] * in[which] * 2;
  }

  // Microseconds of the product o with the kernel behind it, weights and adapters rotated over all
  // layers, as a step launches them for the batch.
  double TimeO(const StepBatch& batch) {
    const int rows = static_cast<int>(batch.rows());
    const Tensor x{buffers_[3]->data(), rows, kQ}, y{buffers_[4]->data(), rows, kHidden};
    const Tensor residual{buffers_[0]->data(), rows, kHidden};
    const Tensor normed{buffers_[1]->data(), rows, kHidden};
    const double ms = Time(batch, [&] {
      for (int i = 0; i < kLayers; ++i) {
        device_->LoraShrink(x, i, LoraGroup::kO);
        device_->Linear(y, x, *layers_[i].o);
        device_->ResidualNorm(normed, residual, y, nullptr, i, LoraGroup::kO,
                              static_cast<const float*>(norm_->data()), kEpsilon);
      }
    });
    return ms * 1e3 / kLayers;
  }

 private:
  void CheckDevice() {
    const absl::Status status = device_->Synchronize();
    LORICA_CHECK(status.ok(), status.ToString());
  }

  std::unique_ptr<CudaWeight> MakeWeight(int64_t rows, int64_t columns) {
    auto memory = *device_->Allocate(rows * columns * 2);
    FillNoise(memory->data(), memory->size_bytes(), 0.015f, ++seed_, device_->stream());
    weight_bytes_ += rows * columns * 2;
    return std::make_unique<CudaWeight>(std::move(memory), rows, columns);
  }

  void MakeWeights() {
    embedding_ = MakeWeight(kVocabulary, kHidden);
    weight_bytes_ = 0;  // its rows are looked up, not read through
    for (auto& layer : layers_) {
      layer.qkv = MakeWeight(kQ + 2 * kKv, kHidden);
      layer.o = MakeWeight(kHidden, kQ);
      layer.gate_up = MakeWeight(2 * kFfn, kHidden);
      layer.down = MakeWeight(kHidden, kFfn);
    }
    head_ = MakeWeight(kVocabulary, kHidden);
    norm_ = *device_->Allocate(kHidden * 4);
    const std::vector<float> ones(kHidden, 1.0f);
    device_->Upload(norm_->data(), ones.data(), kHidden * 4);
  }

  void MakeBuffers() {
    for (const int64_t columns :
         {kHidden, kHidden, kQ + 2 * kKv, kQ, kHidden, 2 * kFfn, kFfn, kHidden, kVocabulary}) {
      buffers_.push_back(*device_->Allocate(Backend::WideBytes(rows_max_, columns)));
      FillNoise(buffers_.back()->data(), buffers_.back()->size_bytes(), 1.0f, ++seed_,
                device_->stream());
    }
  }

  std::unique_ptr<CudaBackend> device_;
  AttentionShape shape_;
  KvCache cache_;
  std::unique_ptr<Buffer> arena_, norm_;
  std::unique_ptr<CudaWeight> embedding_, head_;
  LayerWeights layers_[kLayers];
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<std::unique_ptr<MountedAdapter>> adapters_;
  RopeTable rope_;
  BlockId next_block_ = kArenaBlocks;
  const int rows_max_;
  int64_t weight_bytes_ = 0;
  uint32_t seed_ = 0;
};

bool AllModules(LoraModule) { return true; }

class Report {
 public:
  Report(Bench& bench, double bandwidth) : bench_(bench), bandwidth_(bandwidth) {}

  void Steps(int rows, const std::string& what, const std::vector<const MountedAdapter*>& adapters,
             int64_t adapter_bytes) {
    const StepBatch batch = bench_.Batch(rows, adapters);
    const double ms = bench_.TimeStep(batch, kAllParts);
    const double kv = double{131072} * kContext * rows;
    const double floor = (bench_.weight_bytes() + kv + adapter_bytes) / bandwidth_ * 1e3;
    if (adapter_bytes == 0) base_ms_ = ms;
    const double rule = base_ms_ + 0.15 + 1.15 * adapter_bytes / bandwidth_ * 1e3;
    std::printf(
        "| B=%-3d %-34s | %7.3f ms | floor %6.3f | share %.3f | rule %6.3f | %+.3f over base |\n",
        rows, what.c_str(), ms, floor, floor / ms, rule, ms - base_ms_);
    std::fflush(stdout);
  }

  void Parts(int rows, const std::vector<const MountedAdapter*>& adapters) {
    PrintParts(bench_.Batch(rows, adapters));
  }

  void PrintParts(const StepBatch& batch) {
    for (const auto& [name, parts] :
         {std::pair{"linears", kLinears + 0u},
          {"posts", kPosts + 0u},
          {"attention", kAttends + 0u},
          {"posts+shrinks", kPosts + kShrinks + 0u},
          {"linears+posts", kLinears + kPosts + 0u},
          {"linears+posts+attention", kLinears + kPosts + kAttends + 0u}}) {
      std::printf("    %d rows, %zu segments, %-24s %7.3f ms\n", static_cast<int>(batch.rows()),
                  batch.segments.size(), name, bench_.TimeStep(batch, parts));
      std::fflush(stdout);
    }
  }

  void Linears() {
    const char* names[] = {"qkv", "o", "gate_up", "down", "head"};
    for (const int rows : {1, 8, 32, 64, 128, 256}) {
      for (int which = 0; which < 5; ++which) {
        const double us = bench_.TimeLinear(rows, which);
        const double floor = Bench::LinearBytes(which) / bandwidth_ * 1e6;
        std::printf("| product %-8s B=%-3d | %7.2f us | floor %6.2f | share %.3f |\n", names[which],
                    rows, us, floor, floor / us);
      }
    }
    std::fflush(stdout);
  }

  // Steps of 2,048 to kPrefillRowsMax rows: prompts alone, then each with its own adapter.
  void Prefill(const std::vector<const MountedAdapter*>& adapters, bool breakdown) {
    bench_.ChooseProducts();
    constexpr double kRowFlops =
        2.0 * kLayers * (kHidden * (kQ + 2.0 * kKv) + kQ * double{kHidden} + 3.0 * kHidden * kFfn);
    for (int prompts = 1; prompts <= kPrefillRowsMax / kPromptTokens; prompts *= 2) {
      double base = 0;
      for (const auto& set : {std::vector<const MountedAdapter*>{}, adapters}) {
        const StepBatch batch = bench_.Prompts(prompts, set);
        const double ms = bench_.TimeStep(batch, kAllParts);
        if (set.empty()) base = ms;
        std::printf(
            "| prefill %d x %d, %s | %8.2f ms | %.0f TFLOP/s in all | 8 prompts %.1f ms | "
            "%.3f of base |\n",
            prompts, kPromptTokens, set.empty() ? "base" : "an adapter each", ms,
            kRowFlops * batch.rows() / ms / 1e9, ms * 8 / prompts, ms / base);
        if (breakdown) PrintParts(batch);
      }
    }
    for (const int rows : {512, 2048, 4096, 8192}) {
      double all = 0;
      for (int which = 0; which < 4; ++which) {
        const double us = bench_.TimeLinear(rows, which);
        const double flops = Bench::LinearBytes(which) * double(rows);
        std::printf("| product %d, %d rows | %8.1f us | %.0f TFLOP/s |\n", which, rows, us,
                    flops / us / 1e6);
        all += us;
      }
      std::printf("| products, %d rows | %8.2f ms | %.0f TFLOP/s |\n", rows, all * kLayers / 1e3,
                  kRowFlops * rows / (all * kLayers) / 1e6);
    }
    std::fflush(stdout);
  }

  // What adapters add to o and the kernel behind it: the pair runs beside the product.
  void Pair(int rows, const std::vector<const MountedAdapter*>& adapters) {
    const StepBatch batch = bench_.Batch(rows, adapters);
    const double bytes = 2.0 * kHidden * 16 * 2 * batch.segments.size();
    const double base = bench_.TimeO(bench_.Batch(rows, {}));
    const double with = bench_.TimeO(batch);
    const double floor = bytes / bandwidth_ * 1e6;
    std::printf(
        "| pair 4096-16-4096, %2d rows, %2zu adapters | adds %5.2f us to o and norm, %5.2f us | "
        "floor %5.2f | share %.2f |\n",
        rows, batch.segments.size(), with - base, base, floor, floor / (with - base));
    std::fflush(stdout);
  }

 private:
  Bench& bench_;
  double bandwidth_;
  double base_ms_ = 0;
};

using Adapters = std::vector<const MountedAdapter*>;

bool QAndV(LoraModule module) { return module == LoraModule::kQ || module == LoraModule::kV; }
bool OOnly(LoraModule module) { return module == LoraModule::kO; }

Adapters MountMany(Bench& bench, int count, const std::vector<int>& ranks, int64_t* bytes,
                   const std::function<bool(LoraModule)>& wanted = AllModules) {
  bench.DropAdapters();
  Adapters out;
  *bytes = 0;
  for (int i = 0; i < count; ++i) {
    out.push_back(bench.Mount(ranks[i % ranks.size()], wanted, bytes));
  }
  return out;
}

void Run(int argc, char** argv) {
  const auto flag = [&](const char* name) {
    return std::any_of(argv + 1, argv + argc, [&](char* a) { return std::strcmp(a, name) == 0; });
  };
  const double bandwidth = MeasureReadBandwidth();
  std::printf("read bandwidth %.0f GB/s\n", bandwidth / 1e9);
  const bool prefill = flag("--prefill");
  Bench bench(prefill ? kPrefillRowsMax : kDecodeRowsMax);
  bench.device().set_fixed_grids(!prefill);
  Report report(bench, bandwidth);
  int64_t bytes = 0;
  Adapters many = MountMany(bench, prefill ? 8 : 64, {16}, &bytes);
  if (prefill && flag("--profile")) {
    for (const int prompts : {1, 4}) {
      bench.RunOnce(bench.Prompts(prompts, {}));
      bench.RunOnce(bench.Prompts(prompts, many));
    }
    return;
  }
  if (prefill) return report.Prefill(many, flag("--breakdown"));
  const int64_t each = bytes / 64;
  if (flag("--linears")) return report.Linears();
  if (flag("--profile")) {  // one mixed step, for a profiler
    report.Steps(32, "32 distinct r16", Adapters(many.begin(), many.begin() + 32), each * 32);
    return;
  }
  if (flag("--pair")) {
    report.Pair(64, many);
    report.Pair(32, Adapters(many.begin(), many.begin() + 32));
    report.Pair(32, Adapters(many.begin(), many.begin() + 1));
    report.Pair(1, Adapters(many.begin(), many.begin() + 1));
  }
  for (const int rows : {1, 32, 64, 128}) {
    report.Steps(rows, "base", {}, 0);
    for (const int distinct : {1, 8, 32, 64}) {
      if (distinct > rows) continue;
      report.Steps(rows, std::to_string(distinct) + " distinct r16",
                   Adapters(many.begin(), many.begin() + distinct), each * distinct);
    }
    if (flag("--breakdown") && rows != 64) {
      report.Parts(rows, {});
      report.Parts(rows, Adapters(many.begin(), many.begin() + std::min(rows, 32)));
      if (rows == 32) report.Parts(rows, Adapters(many.begin(), many.begin() + 1));
    }
  }
  report.Steps(32, "base", {}, 0);
  Adapters half(32, nullptr);
  for (int i = 0; i < 16; ++i) half[2 * i] = many[i];
  report.Steps(32, "16 base, 16 distinct r16", half, each * 16);
  many = MountMany(bench, 32, {8, 16, 32, 64}, &bytes);
  report.Steps(32, "32 distinct of r8/16/32/64", many, bytes);
  many = MountMany(bench, 32, {16}, &bytes, QAndV);
  report.Steps(32, "32 distinct r16, q and v alone", many, bytes);
  many = MountMany(bench, 32, {16}, &bytes, OOnly);
  report.Steps(32, "32 distinct r16, o alone", many, bytes);
}

}  // namespace
}  // namespace lorica::bench

int main(int argc, char** argv) {
  lorica::bench::Run(argc, argv);
  return 0;
}
