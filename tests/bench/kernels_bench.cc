// How fast the verbs are, each beside a roof measured in the same process.
//
//   kernels_bench [--threads N] [--repeats N] [--cpu-time] [steps | verbs]
//
// --cpu-time counts the CPU time of one thread instead of the clock: on a busy machine
// it still tells what the code costs.
//
// The shapes are SmolLM2-135M's with random Q4_1 linears and a random Q8_0 head. The
// figure of a line is the best of its repeats: what the code can do when the machine
// lets it. Roofs: fused multiply-adds in registers and a sum over 1 GiB.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <list>

#include "tests/kernels/kernel_test.h"
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace lorica::testing {
namespace {

constexpr int kLayers = 30, kHidden = 576, kFfn = 1536, kHeads = 9, kKvHeads = 3, kHeadSize = 64;
constexpr int kQkv = (kHeads + 2 * kKvHeads) * kHeadSize;
constexpr int kVocabulary = 49152;
constexpr int kRowsMax = 256;
constexpr int kPosition = 192;  // of every decoding stream: the middle of 128 to 256
constexpr AttentionShape kShape = {kLayers, kHeads, kKvHeads, kHeadSize, 0.125f, 0, 0};

bool count_cpu_time = false;

double Seconds() {
  if (count_cpu_time) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Work>
double BestSeconds(int repeats, const Work& work) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const double start = Seconds();
    work();
    best = std::min(best, Seconds() - start);
  }
  return best;
}

template <typename Work>
void OnThreads(int threads, const Work& work) {
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) running.emplace_back([&work, i] { work(i); });
  for (auto& thread : running) thread.join();
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) float FmaChains(int64_t rounds) {
  __m256 sums[12];
  for (auto& sum : sums) sum = _mm256_set1_ps(1.0f);
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  }
  for (const auto& sum : sums) sums[0] = _mm256_add_ps(sums[0], sum);
  return _mm256_cvtss_f32(sums[0]);
}
#else
float FmaChains(int64_t) { return 0.0f; }
#endif

struct Roof {
  double flops = 0;  // a second, all threads
  double bytes_a_second = 0;
};

Roof MeasureRoof(int threads) {
  constexpr int64_t kRounds = 4'000'000, kBytes = int64_t{1} << 30;
  static std::atomic<float> sink{0};
  Roof roof;
  roof.flops = threads * kRounds * 12 * 16.0 /
               BestSeconds(3, [&] { OnThreads(threads, [&](int) { sink = FmaChains(kRounds); }); });
  const std::vector<uint64_t> data(kBytes / 8, 1);
  roof.bytes_a_second = kBytes / BestSeconds(3, [&] {
                          OnThreads(threads, [&](int i) {
                            uint64_t sums[8] = {};
                            const size_t part = data.size() / threads / 8 * 8;
                            for (size_t k = i * part; k < (i + 1) * part; k += 8) {
                              for (int j = 0; j < 8; ++j) sums[j] += data[k + j];
                            }
                            for (const uint64_t sum : sums) sink = sink + static_cast<float>(sum);
                          });
                        });
  return roof;
}

// Random weights in the model's shapes.
class SyntheticModel {
 public:
  explicit SyntheticModel(Backend& backend) : backend_(backend) {
    for (int i = 0; i < kLayers; ++i) {
      qkv.push_back(Pack(DType::kQ4_1, kQkv, kHidden));
      o.push_back(Pack(DType::kQ4_1, kHidden, kHidden));
      gate_up.push_back(Pack(DType::kQ4_1, 2 * kFfn, kHidden));
      down.push_back(Pack(DType::kQ4_1, kHidden, kFfn));
    }
    head = Pack(DType::kQ8_0, kVocabulary, kHidden);
    norm.assign(kHidden, 1.0f);
    rope.rotary_size = kHeadSize;
    rope.positions = 8192;
    rope.cos.assign(rope.positions * kHeadSize / 2, 0.8f);
    rope.sin.assign(rope.positions * kHeadSize / 2, 0.6f);
  }

  int64_t bytes() const {
    int64_t sum = head->resident_bytes();
    for (const auto* group : {&qkv, &o, &gate_up, &down}) {
      for (const auto& weight : *group) sum += weight->resident_bytes();
    }
    return sum;
  }

  std::vector<std::unique_ptr<Weight>> qkv, o, gate_up, down;
  std::unique_ptr<Weight> head;
  std::vector<float> norm;
  RopeTable rope;

 private:
  std::unique_ptr<Weight> Pack(DType dtype, int64_t out, int64_t in) {
    const StoredMatrix matrix = RandomMatrix(dtype, out, in, random_, 0.02f);
    const HostMatrix view = matrix.view();
    return *backend_.PackWeight({&view, 1});
  }

  Backend& backend_;
  std::mt19937_64 random_{1};
};

class Bench {
 public:
  Bench(int threads, int repeats)
      : backend_(MakeCpu(threads, kRowsMax)),
        model_(*backend_),
        arena_(*backend_, kShape, 1500, 7, std::byte{0}),
        repeats_(repeats) {
    roof_ = MeasureRoof(backend_->threads());
    std::printf("%s: roof %.0f GFLOP/s, %.1f GB/s; weights %.1f MB\n", backend_->name().c_str(),
                roof_.flops * 1e-9, roof_.bytes_a_second * 1e-9, model_.bytes() * 1e-6);
    for (Tensor* t : {&residual_, &normed_, &attended_, &projected_}) *t = New(kHidden);
    qkv_ = New(kQkv);
    gate_up_ = New(2 * kFfn);
    activated_ = New(kFfn);
    logits_ = New(kVocabulary);
  }

  void Steps() {
    std::printf("\n%-34s %9s %9s %9s %7s\n", "step", "ms", "tok/s", "floor", "share");
    for (const int rows : {1, 8, 32}) Report("decode", Decode(rows, 0), rows, 0);
    Report("prompt chunk", Prompt(256), 256, 0);
    MakeAdapters(8);
    Report("decode, one adapter for all", Decode(8, 1), 8, 1);
    Report("decode, 8 adapters of rank 16", Decode(8, 8), 8, 8);
    Report("decode, one adapter", Decode(1, 1), 1, 1);
  }

  void Verbs() {
    std::printf("\n%-34s %9s %9s %9s %7s\n", "verb", "us", "GFLOP/s", "GB/s", "share");
    for (const int rows : {1, 2, 3, 4, 6, 8, 12, 16, 32, 256}) {
      const StepBatch batch = Decode(std::min(rows, 32), 0);
      backend_->BeginStep(batch);
      LinearLine("qkv", rows, qkv_, normed_, model_.qkv);
      LinearLine("o", rows, projected_, attended_, model_.o);
      LinearLine("gate_up", rows, gate_up_, normed_, model_.gate_up);
      LinearLine("down", rows, projected_, activated_, model_.down);
      const double seconds = BestSeconds(repeats_, [&] {
        backend_->Linear(Rows(logits_, rows), Rows(normed_, rows), *model_.head);
      });
      Line("head", rows, seconds, 2.0 * rows * kVocabulary * kHidden,
           model_.head->resident_bytes());
    }
    for (const int rows : {1, 8}) OtherLines(rows, Decode(rows, 0));
    OtherLines(256, Prompt(256));
  }

 private:
  Tensor New(int64_t columns) {
    buffers_.push_back(*backend_->Allocate(backend_->TensorBytes(kRowsMax, columns)));
    return {buffers_.back()->data(), kRowsMax, columns};
  }
  static Tensor Rows(Tensor t, int64_t rows) { return {t.data, rows, t.columns}; }

  void MakeAdapters(int count) {
    const struct {
      LoraModule module;
      int in, out;
    } modules[] = {{LoraModule::kQ, kHidden, kHeads * kHeadSize},
                   {LoraModule::kK, kHidden, kKvHeads * kHeadSize},
                   {LoraModule::kV, kHidden, kKvHeads * kHeadSize},
                   {LoraModule::kO, kHidden, kHidden},
                   {LoraModule::kGate, kHidden, kFfn},
                   {LoraModule::kUp, kHidden, kFfn},
                   {LoraModule::kDown, kFfn, kHidden}};
    std::mt19937_64 random(3);
    for (int i = 0; i < count; ++i) {
      TestAdapter& adapter = adapters_.emplace_back();
      for (int layer = 0; layer < kLayers; ++layer) {
        for (const auto& m : modules) {
          adapter.pairs.push_back({layer,
                                   m.module,
                                   16,
                                   0.01f,
                                   RandomMatrix(DType::kF16, 16, m.in, random),
                                   RandomMatrix(DType::kF16, m.out, 16, random),
                                   {}});
          adapter_bytes_ += (m.in + m.out) * 16 * 2.0 / count;
        }
      }
      MountPairs(*backend_, arena_, adapter);
      adapter.pairs.clear();
    }
  }

  StepBatch Decode(int rows, int adapters) {
    StepBatch batch;
    while (static_cast<int>(pages_.size()) < rows) {
      pages_.push_back(arena_.Take(kPosition / kBlockTokens + 1));
    }
    for (int i = 0; i < rows; ++i) {
      AddSpan(batch, kPosition, 1, pages_[i]);
      batch.samples.emplace_back();
      batch.samples.back().row = batch.samples.back().slot = i;
    }
    for (int i = 0; i < adapters; ++i) {
      batch.terms.push_back({std::next(adapters_.begin(), i)->mounted.get(), 1.0f});
      batch.segments.push_back({i * rows / adapters, rows / adapters, i, 1});
    }
    return batch;
  }

  StepBatch Prompt(int rows) {
    StepBatch batch;
    if (prompt_pages_.empty()) prompt_pages_ = arena_.Take(kRowsMax / kBlockTokens);
    AddSpan(batch, 0, rows, prompt_pages_);
    batch.samples.resize(1);
    batch.samples[0].row = rows - 1;
    return batch;
  }

  void Step(const StepBatch& batch) {
    const int64_t n = batch.rows();
    const Tensor residual = Rows(residual_, n), normed = Rows(normed_, n), qkv = Rows(qkv_, n),
                 attended = Rows(attended_, n), projected = Rows(projected_, n),
                 gate_up = Rows(gate_up_, n), activated = Rows(activated_, n);
    Backend& b = *backend_;
    const float* norm = model_.norm.data();
    b.BeginStep(batch);
    b.Embed(residual, *model_.head);
    b.RmsNorm(normed, residual, norm, 1e-5f);
    for (int layer = 0; layer < kLayers; ++layer) {
      b.LoraShrink(normed, layer, LoraGroup::kQkv);
      b.Linear(qkv, normed, *model_.qkv[layer]);
      b.QkvPost(qkv, nullptr, model_.rope, layer, arena_.cache());
      b.Attend(attended, qkv, layer, arena_.cache());
      b.LoraShrink(attended, layer, LoraGroup::kO);
      b.Linear(projected, attended, *model_.o[layer]);
      b.ResidualNorm(normed, residual, projected, nullptr, layer, LoraGroup::kO, norm, 1e-5f);
      b.LoraShrink(normed, layer, LoraGroup::kGateUp);
      b.Linear(gate_up, normed, *model_.gate_up[layer]);
      b.GluPost(activated, gate_up, Activation::kSilu, layer);
      b.LoraShrink(activated, layer, LoraGroup::kDown);
      b.Linear(projected, activated, *model_.down[layer]);
      b.ResidualNorm(normed, residual, projected, nullptr, layer, LoraGroup::kDown, norm, 1e-5f);
    }
    const int64_t samples = static_cast<int64_t>(batch.samples.size());
    b.GatherRows(Rows(attended_, samples), normed);
    b.Linear(Rows(logits_, samples), Rows(attended_, samples), *model_.head);
    results_.resize(samples);
    b.Sample(Rows(logits_, samples), kVocabulary, absl::MakeSpan(results_));
  }

  // The longer of reading weights, adapters and KV once and doing the products.
  void Report(const char* name, const StepBatch& batch, int rows, int adapters) {
    Step(batch);
    const double seconds = BestSeconds(repeats_, [&] { Step(batch); });
    const double layer_products = double{kHidden} * (kQkv + kHidden + 3 * kFfn) * kLayers;
    const double head_products = double{kHidden} * kVocabulary;
    const double flops = 2 * (layer_products * rows + head_products * batch.samples.size());
    double kv_tokens = 0;
    for (const AttendSpan& span : batch.spans) kv_tokens += span.position_begin + span.row_count;
    const double kv_bytes = kv_tokens * kLayers * 2 * kKvHeads * kHeadSize * sizeof(float);
    const double bytes = model_.bytes() + adapters * adapter_bytes_ + kv_bytes;
    const double floor = std::max(flops / roof_.flops, bytes / roof_.bytes_a_second);
    std::printf("%-26s %3d rows %9.2f %9.0f %9.0f %6.0f%%\n", name, rows, seconds * 1e3,
                rows / seconds, rows / floor, 100 * floor / seconds);
    std::fflush(stdout);
  }

  void Line(const char* name, int rows, double seconds, double flops, double bytes) {
    const double floor = std::max(flops / roof_.flops, bytes / roof_.bytes_a_second);
    std::printf("%-26s %3d rows %9.1f %9.1f %9.1f %6.0f%%\n", name, rows, seconds * 1e6,
                flops / seconds * 1e-9, bytes / seconds * 1e-9, 100 * floor / seconds);
    std::fflush(stdout);
  }

  // All layers in turn, so that the weights come from memory as in a step.
  void LinearLine(const char* name, int rows, Tensor y, Tensor x,
                  const std::vector<std::unique_ptr<Weight>>& weights) {
    const double seconds = BestSeconds(repeats_, [&] {
      for (const auto& w : weights) backend_->Linear(Rows(y, rows), Rows(x, rows), *w);
    });
    Line(name, rows, seconds / kLayers, 2.0 * rows * y.columns * x.columns,
         weights[0]->resident_bytes());
  }

  void OtherLines(int rows, const StepBatch& batch) {
    const double kv_tokens = rows > 32 ? rows * (rows + 1) / 2.0 : rows * (kPosition + 1.0);
    Backend& b = *backend_;
    b.BeginStep(batch);
    const Tensor qkv = Rows(qkv_, rows), residual = Rows(residual_, rows);
    const auto line = [&](const char* name, double flops, double bytes, const auto& work) {
      Line(name, rows, BestSeconds(20 * repeats_, work), flops, bytes);
    };
    line("attend", 4.0 * kv_tokens * kHeads * kHeadSize,
         (rows > 32 ? rows : kv_tokens) * 2 * kKvHeads * kHeadSize * 4,
         [&] { b.Attend(Rows(attended_, rows), qkv, 0, arena_.cache()); });
    line("qkv post", 0, 2.0 * rows * kQkv * 4,
         [&] { b.QkvPost(qkv, nullptr, model_.rope, 0, arena_.cache()); });
    line("residual norm", 0, 5.0 * rows * kHidden * 4, [&] {
      b.ResidualNorm(Rows(normed_, rows), residual, Rows(projected_, rows), nullptr, 0,
                     LoraGroup::kO, model_.norm.data(), 1e-5f);
    });
    line("glu post", 0, 3.0 * rows * kFfn * 4,
         [&] { b.GluPost(Rows(activated_, rows), Rows(gate_up_, rows), Activation::kSilu, 0); });
    line("embed", 0, 2.0 * rows * kHidden * 4, [&] { b.Embed(residual, *model_.head); });
    const int64_t samples = static_cast<int64_t>(batch.samples.size());
    results_.resize(samples);
    line("sample, greedy", 0, 4.0 * samples * kVocabulary,
         [&] { b.Sample(Rows(logits_, samples), kVocabulary, absl::MakeSpan(results_)); });
    StepBatch random = batch;
    for (SampleRow& row : random.samples) row.params.temperature = 0.8f;
    b.BeginStep(random);
    line("sample, temperature", 0, 4.0 * samples * kVocabulary,
         [&] { b.Sample(Rows(logits_, samples), kVocabulary, absl::MakeSpan(results_)); });
    for (SampleRow& row : random.samples) {
      row.params.top_p = 0.95f;
      row.params.top_k = 50;
    }
    b.BeginStep(random);
    line("sample, top-k 50 top-p 0.95", 0, 4.0 * samples * kVocabulary,
         [&] { b.Sample(Rows(logits_, samples), kVocabulary, absl::MakeSpan(results_)); });
  }

  std::unique_ptr<Backend> backend_;
  SyntheticModel model_;
  PoisonedArena arena_;
  int repeats_;
  Roof roof_;
  std::list<TestAdapter> adapters_;
  double adapter_bytes_ = 0;
  std::vector<std::vector<BlockId>> pages_;
  std::vector<BlockId> prompt_pages_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  Tensor residual_, normed_, qkv_, attended_, projected_, gate_up_, activated_, logits_;
  std::vector<SampleResult> results_;
};

}  // namespace
}  // namespace lorica::testing

int main(int argc, char** argv) {
  int threads = 0, repeats = 9;
  bool steps = true, verbs = true;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--threads" && i + 1 < argc) threads = std::atoi(argv[++i]);
    if (flag == "--repeats" && i + 1 < argc) repeats = std::atoi(argv[++i]);
    if (flag == "--cpu-time") {
      lorica::testing::count_cpu_time = true;
      threads = 1;
    }
    if (flag == "steps") verbs = false;
    if (flag == "verbs") steps = false;
  }
  lorica::testing::Bench bench(threads, repeats);
  if (steps) bench.Steps();
  if (verbs) bench.Verbs();
  return 0;
}
