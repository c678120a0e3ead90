// Attention on CUDA against the CPU backend: every group, head size and mask, contexts of
// one token to thousands, chunks and decoding rows in one step, pages full of NaN.
//
// Keys are not rotated and have no bias, so both backends hold the same bf16 values.
#include <gtest/gtest.h>

#include "kernels/cuda/backend_cuda.h"
#include "kernels/half.h"
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

// ||got - want|| / ||want|| of a row: probabilities and outputs are rounded to bf16.
constexpr double kRowTolerance = 4e-3;
constexpr int kLayers = 2, kLayer = 1, kRowsMax = 512, kBlocks = 520;

struct Shape {
  std::string name;
  int heads, kv_heads, head_size;
  int window = 0;
  float softcap = 0.0f;
  int longest = 700;
};

// A span of a request's rows.
struct Part {
  int request, begin, rows;
};

class Twins {
 public:
  explicit Twins(const Shape& shape)
      : shape_(shape),
        attention_{kLayers,
                   shape.heads,
                   shape.kv_heads,
                   shape.head_size,
                   1.0f / std::sqrt(static_cast<float>(shape.head_size)),
                   shape.window,
                   shape.softcap},
        cuda_(*cuda::CudaBackend::Make({.rows_max = kRowsMax})),
        cpu_(*MakeCpuBackend({.threads = 0, .rows_max = kRowsMax})),
        cuda_arena_(*cuda_, attention_, kBlocks),
        cpu_arena_(*cpu_, attention_, kBlocks) {
    rope_.rotary_size = shape.head_size;
    rope_.positions = 4096;
    rope_.cos.assign(rope_.positions * shape.head_size / 2, 1.0f);
    rope_.sin.assign(rope_.positions * shape.head_size / 2, 0.0f);
  }

  int q() const { return shape_.heads * shape_.head_size; }
  int columns() const { return q() + 2 * shape_.kv_heads * shape_.head_size; }

  // A request whose tokens up to `tokens` have K and V in both caches.
  int AddRequest(int tokens, int room) {
    Request request;
    request.pages = cuda_arena_.Take((tokens + room + kBlockTokens - 1) / kBlockTokens);
    EXPECT_EQ(cpu_arena_.Take(static_cast<int>(request.pages.size())), request.pages);
    std::normal_distribution<float> normal;
    request.qkv.resize(int64_t{tokens + room} * columns());
    for (float& v : request.qkv) v = FloatFromBfloat(BfloatFromFloat(normal(random_)));
    requests_.push_back(std::move(request));
    const int id = static_cast<int>(requests_.size()) - 1;
    for (int at = 0; at < tokens; at += kRowsMax) {
      Run({{id, at, std::min(kRowsMax, tokens - at)}}, false);
    }
    return id;
  }

  // K and V of the parts' rows are written, then all are attended. [rows][q] of CUDA, each
  // row compared with the CPU's.
  std::vector<float> Run(const std::vector<Part>& parts, bool attend = true) {
    StepBatch batch;
    std::vector<float> rows;
    for (const Part& part : parts) {
      const Request& request = requests_[part.request];
      AddSpan(batch, part.begin, part.rows, request.pages);
      rows.insert(rows.end(), request.qkv.begin() + int64_t{part.begin} * columns(),
                  request.qkv.begin() + int64_t{part.begin + part.rows} * columns());
    }
    const std::vector<float> want = attend ? OnCpu(batch, rows) : (OnCpu(batch, rows, false), rows);
    std::vector<float> got = OnCuda(batch, rows, attend);
    if (attend) Compare(got, want, batch);
    return got;
  }

 private:
  struct Request {
    std::vector<BlockId> pages;
    std::vector<float> qkv;  // [token][columns]
  };

  void Verbs(Backend& backend, const StepBatch& batch, Tensor qkv, Tensor out, const KvCache& cache,
             bool attend) {
    backend.BeginStep(batch);
    backend.LoraShrink(qkv, kLayer, LoraGroup::kQkv);
    backend.QkvPost(qkv, nullptr, rope_, kLayer, cache);
    if (attend) backend.Attend(out, qkv, kLayer, cache);
    ASSERT_TRUE(backend.Synchronize().ok());
  }

  std::vector<float> OnCpu(const StepBatch& batch, std::vector<float> qkv, bool attend = true) {
    std::vector<float> out(batch.rows() * q());
    Verbs(*cpu_, batch, {qkv.data(), batch.rows(), columns()}, {out.data(), batch.rows(), q()},
          cpu_arena_.cache(), attend);
    return out;
  }

  std::vector<float> OnCuda(const StepBatch& batch, const std::vector<float>& qkv, bool attend) {
    std::vector<uint16_t> bits(qkv.size());
    for (size_t i = 0; i < qkv.size(); ++i) bits[i] = BfloatFromFloat(qkv[i]);
    const auto in = *cuda_->Allocate(bits.size() * 2);
    cuda_->Upload(in->data(), bits.data(), bits.size() * 2);
    bits.assign(batch.rows() * q(), BfloatFromFloat(std::nanf("")));
    const auto out = *cuda_->Allocate(bits.size() * 2);
    cuda_->Upload(out->data(), bits.data(), bits.size() * 2);
    Verbs(*cuda_, batch, {in->data(), batch.rows(), columns()}, {out->data(), batch.rows(), q()},
          cuda_arena_.cache(), attend);
    cuda_->Download(bits.data(), out->data(), bits.size() * 2);
    std::vector<float> values(bits.size());
    for (size_t i = 0; i < bits.size(); ++i) values[i] = FloatFromBfloat(bits[i]);
    return values;
  }

  void Compare(const std::vector<float>& got, const std::vector<float>& want,
               const StepBatch& batch) const {
    const int size = shape_.head_size;
    for (size_t at = 0; at < got.size(); at += size) {
      double error = 0, norm = 0;
      for (size_t i = at; i < at + size; ++i) {
        error += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
        norm += double{want[i]} * want[i];
      }
      const double relative = std::sqrt(error / std::max(norm, 1e-30));
      const int64_t row = at / q();
      ASSERT_TRUE(relative < kRowTolerance)
          << "row " << row << " at position " << batch.positions[row] << ", head "
          << at % q() / size << ": " << relative;
    }
  }

  Shape shape_;
  AttentionShape attention_;
  std::mt19937_64 random_{20261127};
  std::unique_ptr<cuda::CudaBackend> cuda_;
  std::unique_ptr<Backend> cpu_;
  PoisonedArena cuda_arena_, cpu_arena_;
  RopeTable rope_;
  std::vector<Request> requests_;
};

bool HasDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

class CudaAttend : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasDevice()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_P(CudaAttend, EqualsTheCpuOnRowsThatDecode) {
  Twins twins(GetParam());
  std::vector<Part> parts;
  for (const int tokens : {0, 1, 15, 16, 255, 256, 300, GetParam().longest}) {
    parts.push_back({twins.AddRequest(tokens, 8), tokens, 1});
  }
  parts[4].rows = 5;  // a short chunk decodes too
  twins.Run(parts);
}

TEST_P(CudaAttend, EqualsTheCpuOnChunks) {
  Twins twins(GetParam());
  const int longest = GetParam().longest;
  twins.Run({{twins.AddRequest(0, 130), 0, 130},
             {twins.AddRequest(5, 9), 5, 9},
             {twins.AddRequest(longest, 77), longest, 77},
             {twins.AddRequest(128, 64), 128, 64},
             {twins.AddRequest(0, 16), 0, 16}});
}

TEST_P(CudaAttend, EqualsTheCpuOnMixedSteps) {
  Twins twins(GetParam());
  const int chunked = twins.AddRequest(100, 60);
  twins.Run({{twins.AddRequest(33, 1), 33, 1},
             {twins.AddRequest(200, 50), 200, 50},
             {twins.AddRequest(500, 3), 500, 3},
             // One request twice: the second span sees what the first writes.
             {chunked, 100, 20},
             {chunked, 120, 1},
             {twins.AddRequest(0, 1), 0, 1}});
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaAttend,
    ::testing::Values(Shape{"Group1", 4, 4, 64}, Shape{"Group4", 8, 2, 128, 0, 0, 3000},
                      Shape{"Group5", 10, 2, 128}, Shape{"Group7", 14, 2, 64},
                      Shape{"Group8", 16, 2, 128}, Shape{"Group16", 32, 2, 128},
                      Shape{"Group16Head256", 16, 1, 256}, Shape{"Group32", 32, 1, 64},
                      Shape{"Group32Head128", 32, 1, 128}, Shape{"Head80", 8, 8, 80},
                      Shape{"Head96", 8, 4, 96}, Shape{"Head256", 8, 2, 256, 0, 30.0f, 1500},
                      Shape{"Head40", 4, 2, 40}, Shape{"Window", 8, 2, 128, 100},
                      Shape{"WindowAndCap", 6, 2, 64, 24, 20.0f}),
    [](const auto& info) { return info.param.name; });

bool SameRow(const std::vector<float>& a, int row_a, const std::vector<float>& b, int row_b,
             int columns) {
  return SameBits(&a[int64_t{row_a} * columns], &b[int64_t{row_b} * columns], columns);
}

TEST(CudaAttendBits, ARowThatDecodesKeepsItsBitsAmongAnyNeighbours) {
  if (!HasDevice()) GTEST_SKIP() << "no CUDA device";
  Twins twins({"Bits", 8, 2, 128});
  const int a = twins.AddRequest(290, 8), b = twins.AddRequest(900, 8), c = twins.AddRequest(7, 60);
  const auto alone = twins.Run({{b, 900, 1}});
  const auto among = twins.Run({{a, 290, 1}, {c, 7, 60}, {b, 900, 1}});
  const auto last = twins.Run({{b, 900, 1}, {a, 290, 3}});
  EXPECT_TRUE(SameRow(alone, 0, among, 61, twins.q()));
  EXPECT_TRUE(SameRow(alone, 0, last, 0, twins.q()));
  EXPECT_TRUE(SameRow(among, 0, last, 1, twins.q()));
}

TEST(CudaAttendBits, ChunksKeepTheirBitsHoweverTheyAreCut) {
  if (!HasDevice()) GTEST_SKIP() << "no CUDA device";
  for (const int window : {0, 90}) {
    Twins twins({"Bits", 10, 2, 128, window});
    const int a = twins.AddRequest(0, 400), b = twins.AddRequest(11, 40);
    const auto whole = twins.Run({{a, 0, 400}});
    int at = 0;
    for (const int rows : {9, 150, 31, 64, 17, 129}) {
      const auto part = twins.Run({{b, 11, 40}, {a, at, rows}});
      for (int r = 0; r < rows; ++r) {
        ASSERT_TRUE(SameRow(whole, at + r, part, 40 + r, twins.q())) << at + r;
      }
      at += rows;
    }
    EXPECT_EQ(at, 400);
  }
}

}  // namespace
}  // namespace lorica::testing
