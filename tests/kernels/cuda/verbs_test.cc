// The CUDA verbs against the CPU backend, verb by verb, on the same inputs: before each
// verb the CPU's tensors are set to what CUDA holds, so that errors do not add up.
#include <gtest/gtest.h>

#include "kernels/cuda/backend_cuda.h"
#include "kernels/half.h"
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

// ||got - want|| / ||want|| of a row, outputs rounded to bf16.
constexpr double kRowTolerance = 4e-3;
constexpr double kAttendTolerance = 1e-2;  // K, V and probabilities are rounded too

struct Shape {
  std::string name;
  int hidden, heads, kv_heads, head_size, ffn;
  int window = 0;
  float softcap = 0.0f;
};

// The same tensor on both devices.
class Twin {
 public:
  Twin(Backend& cuda, Backend& cpu, int64_t rows, int64_t columns, bool wide = false)
      : cuda_(cuda), cpu_(cpu), rows_(rows), columns_(columns), wide_(wide) {
    on_cuda_ = *cuda.Allocate(wide ? rows * columns * 4 : cuda.TensorBytes(rows, columns));
    on_cpu_ = *cpu.Allocate(cpu.TensorBytes(rows, columns));
  }
  Tensor cuda() const { return {on_cuda_->data(), rows_, columns_}; }
  Tensor cpu() const { return {on_cpu_->data(), rows_, columns_}; }

  void Set(const std::vector<float>& values) {
    if (wide_) return cuda_.Upload(on_cuda_->data(), values.data(), values.size() * 4);
    std::vector<uint16_t> bits(values.size());
    for (size_t i = 0; i < values.size(); ++i) bits[i] = BfloatFromFloat(values[i]);
    cuda_.Upload(on_cuda_->data(), bits.data(), bits.size() * 2);
  }
  std::vector<float> Read() const {
    std::vector<uint16_t> bits(rows_ * columns_);
    std::vector<float> values(bits.size());
    EXPECT_TRUE(cuda_.Synchronize().ok());
    if (wide_) {
      cuda_.Download(values.data(), on_cuda_->data(), values.size() * 4);
      return values;
    }
    cuda_.Download(bits.data(), on_cuda_->data(), bits.size() * 2);
    for (size_t i = 0; i < bits.size(); ++i) values[i] = FloatFromBfloat(bits[i]);
    return values;
  }
  void CopyToCpu() {
    const std::vector<float> values = Read();
    std::copy(values.begin(), values.end(), static_cast<float*>(on_cpu_->data()));
  }
  // NaN everywhere, so that what a verb leaves out shows.
  void Poison() { Set(std::vector<float>(rows_ * columns_, std::nanf(""))); }

  void ExpectRows(const std::string& what, int64_t columns, double tolerance) const {
    const std::vector<float> got = Read();
    const float* want = static_cast<const float*>(on_cpu_->data());
    for (int64_t r = 0; r < rows_; ++r) {
      double error = 0, size = 0;
      for (int64_t c = 0; c < columns; ++c) {
        const double w = want[r * columns_ + c], d = got[r * columns_ + c] - w;
        error += d * d;
        size += w * w;
      }
      const double relative = std::sqrt(error / std::max(size, 1e-30));
      ASSERT_TRUE(relative < tolerance) << what << ", row " << r << ": " << relative;
    }
  }

 private:
  Backend& cuda_;
  Backend& cpu_;
  int64_t rows_, columns_;
  const bool wide_;  // fp32 on CUDA too
  std::unique_ptr<Buffer> on_cuda_, on_cpu_;
};

// A model of random weights on both devices, and adapters for it.
class TwinModel {
 public:
  static constexpr int kLayers = 2;
  static constexpr int kVocabulary = 1000;
  static constexpr float kEpsilon = 1e-5f;

  explicit TwinModel(const Shape& shape) : shape_(shape) {
    cuda_ = *cuda::CudaBackend::Make({.rows_max = 512});
    cpu_ = *MakeCpuBackend({.threads = 0, .rows_max = 512});
    attention_ = {
        kLayers, shape.heads, shape.kv_heads, shape.head_size,
        // Scores near 2, so that rounding K moves a probability by well under a hundredth.
        0.4f / std::sqrt(static_cast<float>(shape.head_size)), shape.window, shape.softcap};
    cuda_arena_ = std::make_unique<PoisonedArena>(*cuda_, attention_, kBlocks);
    cpu_arena_ = std::make_unique<PoisonedArena>(*cpu_, attention_, kBlocks);
    MakeWeights();
    MakeRope();
  }

  int q() const { return shape_.heads * shape_.head_size; }
  int kv() const { return shape_.kv_heads * shape_.head_size; }
  const Shape& shape() const { return shape_; }
  cuda::CudaBackend& cuda() { return *cuda_; }
  Backend& cpu() { return *cpu_; }
  // The same ids on both sides: both arenas hand pages out in the same order only while they
  // take the same counts, so adapters, whose images differ in blocks, take theirs last.
  std::vector<BlockId> TakePages(int count) {
    cpu_arena_->Take(count);
    return cuda_arena_->Take(count);
  }

  struct TwinAdapter {
    TestAdapter cuda, cpu;
  };
  // rank(layer, module): 0 = not touched.
  int AddAdapter(const std::function<int(int, LoraModule)>& rank, bool dora = false) {
    auto adapter = std::make_unique<TwinAdapter>();
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int m = 0; m < kLoraModuleCount; ++m) {
        const auto module = static_cast<LoraModule>(m);
        if (rank(layer, module) == 0) continue;
        adapter->cpu.pairs.push_back(MakePair(layer, module, rank(layer, module), dora));
      }
    }
    adapter->cuda.pairs = adapter->cpu.pairs;
    MountPairs(*cuda_, *cuda_arena_, adapter->cuda);
    MountPairs(*cpu_, *cpu_arena_, adapter->cpu);
    adapters_.push_back(std::move(adapter));
    return static_cast<int>(adapters_.size()) - 1;
  }
  // `term` entries are (adapter, weight).
  void AddSegment(StepBatch& cuda_batch, StepBatch& cpu_batch, int row, int rows,
                  const std::vector<std::pair<int, float>>& terms) {
    const LoraSegment segment = {row, rows, static_cast<int>(cuda_batch.terms.size()),
                                 static_cast<int>(terms.size())};
    cuda_batch.segments.push_back(segment);
    cpu_batch.segments.push_back(segment);
    for (const auto& [adapter, weight] : terms) {
      cuda_batch.terms.push_back({adapters_[adapter]->cuda.mounted.get(), weight});
      cpu_batch.terms.push_back({adapters_[adapter]->cpu.mounted.get(), weight});
    }
  }

  void Step(const StepBatch& cuda_batch, const StepBatch& cpu_batch) {
    const int64_t rows = cuda_batch.rows();
    Twin residual = Make(rows, shape_.hidden, true), normed = Make(rows, shape_.hidden);
    Twin qkv = Make(rows, q() + 2 * kv()), attended = Make(rows, q());
    Twin projected = Make(rows, shape_.hidden), gate_up = Make(rows, 2 * shape_.ffn);
    Twin activated = Make(rows, shape_.ffn);
    cuda_->BeginStep(cuda_batch);
    cpu_->BeginStep(cpu_batch);
    cuda_->Embed(residual.cuda(), *embedding_.cuda);
    cpu_->Embed(residual.cpu(), *embedding_.cpu);
    residual.ExpectRows("embed", shape_.hidden, kRowTolerance);
    Run({&residual}, normed, "norm", [&](Backend& b, auto on, bool c) {
      b.RmsNorm(on(normed), on(residual), Norm(c), kEpsilon);
    });
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::string at = " of layer " + std::to_string(layer);
      LayerWeights& w = layers_[layer];
      Product(qkv, normed, w.qkv, layer, LoraGroup::kQkv, "qkv" + at);
      qkv.CopyToCpu();
      cuda_->QkvPost(qkv.cuda(), Bias(true), rope_, layer, cuda_arena_->cache());
      cpu_->QkvPost(qkv.cpu(), Bias(false), rope_, layer, cpu_arena_->cache());
      qkv.ExpectRows("qkv post" + at, q(), kRowTolerance);
      qkv.CopyToCpu();  // q as CUDA rounded it; K and V are in the caches
      attended.Poison();
      cuda_->Attend(attended.cuda(), qkv.cuda(), layer, cuda_arena_->cache());
      cpu_->Attend(attended.cpu(), qkv.cpu(), layer, cpu_arena_->cache());
      attended.ExpectRows("attend" + at, q(), kAttendTolerance);
      Product(projected, attended, w.o, layer, LoraGroup::kO, "o" + at);
      Residual(normed, residual, projected, layer, LoraGroup::kO, at);
      Product(gate_up, normed, w.gate_up, layer, LoraGroup::kGateUp, "gate_up" + at);
      Run({&gate_up}, activated, "glu" + at, [&](Backend& b, auto on, bool) {
        b.GluPost(on(activated), on(gate_up), Activation::kSilu, layer);
      });
      Product(projected, activated, w.down, layer, LoraGroup::kDown, "down" + at);
      Residual(normed, residual, projected, layer, LoraGroup::kDown, at);
    }
    Finish(cuda_batch, normed);
  }

 private:
  static constexpr int kBlocks = 600;

  struct TwinWeight {
    std::unique_ptr<Weight> cuda, cpu;
  };
  struct LayerWeights {
    TwinWeight qkv, o, gate_up, down;
  };

  Twin Make(int64_t rows, int64_t columns, bool wide = false) {
    return Twin(*cuda_, *cpu_, rows, columns, wide);
  }

  TwinWeight MakeWeight(int64_t rows, int64_t columns, float scale) {
    const StoredMatrix m = RandomMatrix(DType::kBF16, rows, columns, random_, scale);
    const HostMatrix views[] = {m.view()};
    return {*cuda_->PackWeight(views), *cpu_->PackWeight(views)};
  }

  void MakeWeights() {
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.hidden));
    embedding_ = MakeWeight(kVocabulary, shape_.hidden, 1.0f);
    for (auto& layer : layers_) {
      layer.qkv = MakeWeight(q() + 2 * kv(), shape_.hidden, scale);
      layer.o = MakeWeight(shape_.hidden, q(), scale);
      layer.gate_up = MakeWeight(2 * shape_.ffn, shape_.hidden, scale);
      layer.down = MakeWeight(shape_.hidden, shape_.ffn, scale);
    }
    std::normal_distribution<float> normal;
    norm_.resize(shape_.hidden);
    for (float& v : norm_) v = 1.0f + 0.1f * normal(random_);
    bias_.resize(q() + 2 * kv());
    for (float& v : bias_) v = 0.1f * normal(random_);
    cuda_norm_ = *cuda_->Allocate(norm_.size() * 4);
    cuda_->Upload(cuda_norm_->data(), norm_.data(), norm_.size() * 4);
    cuda_bias_ = *cuda_->Allocate(bias_.size() * 4);
    cuda_->Upload(cuda_bias_->data(), bias_.data(), bias_.size() * 4);
  }

  void MakeRope() {
    rope_.rotary_size = shape_.head_size;
    rope_.positions = 1024;
    const int pairs = shape_.head_size / 2;
    for (int64_t p = 0; p < rope_.positions; ++p) {
      for (int i = 0; i < pairs; ++i) {
        const double angle = p * std::pow(10000.0, -static_cast<double>(i) / pairs);
        rope_.cos.push_back(static_cast<float>(std::cos(angle)));
        rope_.sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }

  int InFeatures(LoraModule module) const {
    return module == LoraModule::kO      ? q()
           : module == LoraModule::kDown ? shape_.ffn
                                         : shape_.hidden;
  }
  int OutFeatures(LoraModule module) const {
    switch (module) {
      case LoraModule::kQ:
        return q();
      case LoraModule::kK:
      case LoraModule::kV:
        return kv();
      case LoraModule::kGate:
      case LoraModule::kUp:
        return shape_.ffn;
      default:
        return shape_.hidden;
    }
  }

  // A B x is about as large as W x, so that a fault in it shows.
  LoraPair MakePair(int layer, LoraModule module, int rank, bool dora) {
    LoraPair pair;
    pair.layer = layer;
    pair.module = module;
    pair.rank = rank;
    pair.scale = 0.5f;
    const float in = static_cast<float>(InFeatures(module));
    pair.a = RandomMatrix(DType::kBF16, rank, InFeatures(module), random_, 1.0f / std::sqrt(in));
    pair.b = RandomMatrix(DType::kBF16, OutFeatures(module), rank, random_,
                          2.0f / std::sqrt(static_cast<float>(rank)));
    if (dora) {
      std::normal_distribution<float> normal(1.0f, 0.2f);
      pair.gain.resize(OutFeatures(module));
      for (float& v : pair.gain) v = normal(random_);
    }
    return pair;
  }

  const float* Norm(bool cuda) const {
    return cuda ? static_cast<const float*>(cuda_norm_->data()) : norm_.data();
  }
  const float* Bias(bool cuda) const {
    return cuda ? static_cast<const float*>(cuda_bias_->data()) : bias_.data();
  }

  template <typename Verb>
  void Run(std::vector<Twin*> inputs, Twin& out, const std::string& what, const Verb& verb) {
    for (Twin* input : inputs) input->CopyToCpu();
    out.Poison();
    verb(
        *cuda_, [](Twin& t) { return t.cuda(); }, true);
    verb(
        *cpu_, [](Twin& t) { return t.cpu(); }, false);
    out.ExpectRows(what, out.cuda().columns, kRowTolerance);
  }

  void Product(Twin& y, Twin& x, TwinWeight& w, int layer, LoraGroup group,
               const std::string& what) {
    Run({&x}, y, what, [&](Backend& b, auto on, bool c) {
      b.LoraShrink(on(x), layer, group);
      b.Linear(on(y), on(x), c ? *w.cuda : *w.cpu);
    });
  }

  void Residual(Twin& normed, Twin& residual, Twin& projected, int layer, LoraGroup group,
                const std::string& at) {
    Run({&residual, &projected}, normed, "residual norm" + at, [&](Backend& b, auto on, bool c) {
      b.ResidualNorm(on(normed), on(residual), on(projected), nullptr, layer, group, Norm(c),
                     kEpsilon);
    });
    residual.ExpectRows("residual" + at, shape_.hidden, kRowTolerance);
  }

  void Finish(const StepBatch& batch, Twin& normed) {
    const int64_t samples = batch.samples.size();
    if (samples == 0) return;
    Twin gathered = Make(samples, shape_.hidden), logits = Make(samples, kVocabulary, true);
    Run({&normed}, gathered, "gather",
        [&](Backend& b, auto on, bool) { b.GatherRows(on(gathered), on(normed)); });
    Run({&gathered}, logits, "logits", [&](Backend& b, auto on, bool c) {
      b.Logits(on(logits), on(gathered), c ? *embedding_.cuda : *embedding_.cpu);
    });
    logits.CopyToCpu();
    std::vector<SampleResult> got(samples), want(samples);
    cuda_->Sample(logits.cuda(), kVocabulary - 3, absl::MakeSpan(got));
    ASSERT_TRUE(cuda_->Synchronize().ok());
    cpu_->Sample(logits.cpu(), kVocabulary - 3, absl::MakeSpan(want));
    for (int64_t i = 0; i < samples; ++i) EXPECT_EQ(got[i].token, want[i].token) << i;
  }

  Shape shape_;
  std::mt19937_64 random_{20261122};
  std::unique_ptr<cuda::CudaBackend> cuda_;
  std::unique_ptr<Backend> cpu_;
  AttentionShape attention_;
  std::unique_ptr<PoisonedArena> cuda_arena_, cpu_arena_;
  TwinWeight embedding_;
  LayerWeights layers_[kLayers];
  std::vector<float> norm_, bias_;
  std::unique_ptr<Buffer> cuda_norm_, cuda_bias_;
  RopeTable rope_;
  std::vector<std::unique_ptr<TwinAdapter>> adapters_;
};

class CudaVerbs : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
  }
};

// Prefill of five requests, then a step that decodes four and prefills on.
TEST_P(CudaVerbs, EqualTheCpuOnPrefillAndMixedSteps) {
  TwinModel model(GetParam());
  const std::vector<int> lengths = {37, 1, 64, 130, 15};
  std::vector<std::vector<BlockId>> pages;
  for (const int length : lengths) pages.push_back(model.TakePages(length / kBlockTokens + 2));
  const auto all = [](int rank) { return [rank](int, LoraModule) { return rank; }; };
  const int r16 = model.AddAdapter(all(16)), r8 = model.AddAdapter(all(8));
  const int odd = model.AddAdapter([](int layer, LoraModule m) {
    return layer == 0 && m == LoraModule::kK ? 0 : m == LoraModule::kDown ? 33 : 1 + layer * 6;
  });
  const int dora = model.AddAdapter(all(7), true);
  const int large = model.AddAdapter([](int layer, LoraModule m) {
    return layer == 1 && (m == LoraModule::kQ || m == LoraModule::kO) ? 256 : 0;
  });
  StepBatch first;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (i != 3) AddSpan(first, 0, lengths[i], pages[i]);
  }
  for (int64_t i = 0; i < first.rows(); ++i) first.tokens[i] = (i * 7919) % 1000;
  first.samples.resize(1);
  first.samples[0].row = 3;
  first.samples[0].slot = 5;
  StepBatch first_cpu = first;
  model.AddSegment(first, first_cpu, 0, 37, {{r16, 1.0f}});
  model.AddSegment(first, first_cpu, 38, 64, {{odd, 1.0f}, {r8, -0.5f}, {large, 0.25f}});
  model.AddSegment(first, first_cpu, 102, 15, {{dora, 1.0f}});
  model.Step(first, first_cpu);

  StepBatch second;
  AddSpan(second, 37, 1, pages[0]);
  AddSpan(second, 1, 1, pages[1]);
  AddSpan(second, 64, 3, pages[2]);
  AddSpan(second, 0, 130, pages[3]);
  AddSpan(second, 15, 1, pages[4]);
  for (int64_t i = 0; i < second.rows(); ++i) second.tokens[i] = (i * 104729) % 1000;
  second.tokens[0] = -1 - 5;  // what the first step chose
  second.samples.resize(3);
  for (int i = 0; i < 3; ++i) second.samples[i] = {.row = i * 2, .slot = i};
  StepBatch second_cpu = second;
  model.AddSegment(second, second_cpu, 0, 1, {{large, 1.0f}});
  model.AddSegment(second, second_cpu, 1, 1, {{r16, 1.0f}});
  model.AddSegment(second, second_cpu, 2, 3, {{r8, 1.0f}, {r16, 1.0f}});
  model.AddSegment(second, second_cpu, 5, 100, {{odd, 2.0f}});
  model.AddSegment(second, second_cpu, 135, 1, {{dora, 1.0f}});
  model.Step(second, second_cpu);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaVerbs,
                         ::testing::Values(Shape{"Small", 576, 9, 3, 64, 1536},
                                           Shape{"Wide", 1024, 8, 2, 128, 2816},
                                           Shape{"Large", 4096, 32, 8, 128, 6144},
                                           Shape{"Head80", 640, 8, 8, 80, 1280},
                                           Shape{"Head96", 768, 8, 4, 96, 2048},
                                           Shape{"Head256", 1024, 4, 1, 256, 2560, 0, 30.0f},
                                           Shape{"Seven", 896, 14, 2, 64, 1000},
                                           Shape{"Window", 512, 8, 4, 64, 1408, 24}),
                         [](const auto& info) { return info.param.name; });

// A row's shrink and expand have the same bits alone and among any neighbours.
TEST(CudaLora, ARowKeepsItsBitsWhateverSharesTheBatch) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
  TwinModel model({"Bits", 1024, 8, 2, 128, 2816});
  const int a = model.AddAdapter([](int, LoraModule) { return 16; });
  const int b = model.AddAdapter([](int, LoraModule) { return 40; });
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  constexpr int kRows = 77, kFfn = 2816;
  std::vector<float> x(kRows * 1024), y(kRows * 2 * kFfn);
  for (float& v : x) v = normal(random);
  for (float& v : y) v = normal(random);
  const auto run = [&](const std::vector<int>& rows, int segment_begin, int segment_rows,
                       int adapter) {
    StepBatch batch = PlainBatch(static_cast<int>(rows.size())), cpu = batch;
    if (segment_begin > 0) model.AddSegment(batch, cpu, 0, segment_begin, {{b, 1.0f}});
    model.AddSegment(batch, cpu, segment_begin, segment_rows, {{adapter, 1.0f}});
    std::vector<float> gathered_x, gathered_y;
    for (const int row : rows) {
      gathered_x.insert(gathered_x.end(), x.begin() + row * 1024, x.begin() + (row + 1) * 1024);
      gathered_y.insert(gathered_y.end(), y.begin() + row * 2 * kFfn,
                        y.begin() + (row + 1) * 2 * kFfn);
    }
    const int64_t count = rows.size();
    Twin in(model.cuda(), model.cpu(), count, 1024), up(model.cuda(), model.cpu(), count, 2 * kFfn);
    Twin out(model.cuda(), model.cpu(), count, kFfn);
    in.Set(gathered_x);
    up.Set(gathered_y);
    model.cuda().BeginStep(batch);
    model.cuda().LoraShrink(in.cuda(), 1, LoraGroup::kGateUp);
    model.cuda().GluPost(out.cuda(), up.cuda(), Activation::kSilu, 1);
    return out.Read();
  };
  std::vector<int> everyone(kRows);
  for (int i = 0; i < kRows; ++i) everyone[i] = i;
  const std::vector<float> together = run(everyone, 5, 70, a);
  for (const int row : {5, 6, 20, 40, 74}) {
    const std::vector<float> alone = run({row}, 0, 1, a);
    EXPECT_TRUE(SameBits(alone.data(), &together[row * kFfn], kFfn)) << row;
  }
}

}  // namespace
}  // namespace lorica::testing
