// Linear and Embed against doubles, for every dtype, and their bits against themselves.
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

// Of the sum of |w x|. In fp32 weights are expanded exactly, so only the sum differs; bf16
// rounds the output by up to 2^-8 of it, and as much the weight where the file has more bits.
struct DTypeTolerance {
  DType dtype;
  double f32, bf16;
};
constexpr DTypeTolerance kDTypes[] = {{DType::kF32, 3e-7, 8e-3},  {DType::kF16, 3e-7, 8e-3},
                                      {DType::kBF16, 3e-7, 4e-3}, {DType::kQ8_0, 3e-7, 8e-3},
                                      {DType::kQ4_0, 3e-7, 8e-3}, {DType::kQ4_1, 3e-7, 8e-3}};

class LinearTest : public KernelTest {
 protected:
  std::vector<float> Multiply(const Weight& weight, const std::vector<float>& x, int rows) {
    const auto in = Upload(rows, weight.in_features(), x);
    const auto out = Zeros(rows, weight.out_features());
    const StepBatch batch = PlainBatch(rows);
    backend_->BeginStep(batch);
    backend_->Linear(out.tensor(), in.tensor(), weight);
    return out.Read();
  }
};

TEST_P(LinearTest, EqualsTheProductInDoublesForEveryType) {
  for (const auto& [dtype, f32, bf16] : kDTypes) {
    for (const int64_t out : {1, 16, 50, 200}) {
      for (const int64_t in : {32, 576, 1536}) {
        if (!Serves(out)) continue;
        SCOPED_TRACE(std::string(DTypeName(dtype)) + " " + std::to_string(out) + "x" +
                     std::to_string(in));
        const StoredMatrix w = RandomMatrix(dtype, out, in, random_);
        const HostMatrix part = w.view();
        const auto packed = backend_->PackWeight({&part, 1});
        ASSERT_TRUE(packed.ok()) << packed.status();
        for (const int rows : {1, 2, 5, 9}) {
          const auto x = Normals(rows * in);
          ExpectProduct(Multiply(**packed, x, rows), x, w.values, rows, out, in,
                        Tolerance(f32, bf16));
        }
      }
    }
  }
}

// The weights are exactly those of Dequantize and the order is that of k.
TEST_P(LinearTest, OnFusedHardwareItIsOneChainOfFusedMultiplyAdds) {
  if (backend_->name().find("avx2") == std::string::npos) GTEST_SKIP();
  for (const auto& [dtype, f32, bf16] : kDTypes) {
    constexpr int64_t kOut = 20, kIn = 672;
    const StoredMatrix w = RandomMatrix(dtype, kOut, kIn, random_);
    const HostMatrix part = w.view();
    const auto packed = *backend_->PackWeight({&part, 1});
    for (const int rows : {1, 2, 7}) {
      const auto x = Normals(rows * kIn);
      const auto y = Multiply(*packed, x, rows);
      for (int64_t i = 0; i < rows * kOut; ++i) {
        float sum = 0.0f;
        for (int64_t k = 0; k < kIn; ++k) {
          sum = std::fma(x[i / kOut * kIn + k], w.values[i % kOut * kIn + k], sum);
        }
        ASSERT_EQ(y[i], sum) << DTypeName(dtype) << " " << i;
      }
    }
  }
}

TEST_P(LinearTest, FloatWeightsMayHaveAnyColumns) {
  if (!Serves(77)) GTEST_SKIP();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const StoredMatrix w = RandomMatrix(dtype, 33, 77, random_);
    const HostMatrix part = w.view();
    const auto packed = *backend_->PackWeight({&part, 1});
    const auto x = Normals(3 * 77);
    ExpectProduct(Multiply(*packed, x, 3), x, w.values, 3, 33, 77, 3e-7);
  }
}

TEST_P(LinearTest, StackedPartsMayDifferInType) {
  const StoredMatrix parts[] = {RandomMatrix(DType::kQ4_1, 40, 96, random_),
                                RandomMatrix(DType::kF16, 8, 96, random_),
                                RandomMatrix(DType::kQ8_0, 16, 96, random_)};
  const HostMatrix views[] = {parts[0].view(), parts[1].view(), parts[2].view()};
  const auto packed = *backend_->PackWeight(views);
  std::vector<float> all;
  for (const auto& p : parts) all.insert(all.end(), p.values.begin(), p.values.end());
  for (const int rows : {1, 4}) {
    const auto x = Normals(rows * 96);
    ExpectProduct(Multiply(*packed, x, rows), x, all, rows, 64, 96, Tolerance(3e-7, 8e-3));
  }
}

TEST_P(LinearTest, ARowHasTheSameBitsAloneAndAmongOthers) {
  if (!GetParam().bit_equal_forward) GTEST_SKIP();
  for (const auto& [dtype, f32, bf16] : kDTypes) {
    SCOPED_TRACE(std::string(DTypeName(dtype)));
    constexpr int64_t kOut = 150, kIn = 704;
    constexpr int kRows = 40;
    const StoredMatrix w = RandomMatrix(dtype, kOut, kIn, random_);
    const HostMatrix part = w.view();
    const auto packed = *backend_->PackWeight({&part, 1});
    const auto x = Normals(kRows * kIn);
    std::vector<std::vector<float>> alone;
    for (int r = 0; r < kRows; ++r) {
      alone.push_back(Multiply(*packed, {x.begin() + r * kIn, x.begin() + (r + 1) * kIn}, 1));
    }
    for (int rows = 1; rows <= kRows; ++rows) {
      const int first = kRows - rows;
      const auto y = Multiply(*packed, {x.begin() + first * kIn, x.end()}, rows);
      for (int r = 0; r < rows; ++r) {
        ASSERT_TRUE(SameBits(&y[r * kOut], alone[first + r].data(), kOut)) << rows << " " << r;
      }
    }
  }
}

TEST_P(LinearTest, MisfitShapesAreRefused) {
  const StoredMatrix a = RandomMatrix(DType::kF32, 4, 8, random_);
  const StoredMatrix b = RandomMatrix(DType::kF32, 4, 9, random_);
  const HostMatrix views[] = {a.view(), b.view()};
  EXPECT_EQ(backend_->PackWeight(views).status().code(), absl::StatusCode::kInvalidArgument);
  const HostMatrix odd = {DType::kQ4_1, 1, 40, a.bytes.data()};
  EXPECT_EQ(backend_->PackWeight({&odd, 1}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(LinearTest, PackedQuantisedWeightsStaySmall) {
  if (!GetParam().keeps_quantised) GTEST_SKIP();
  const StoredMatrix w = RandomMatrix(DType::kQ4_1, 160, 576, random_);
  const HostMatrix part = w.view();
  EXPECT_EQ((*backend_->PackWeight({&part, 1}))->resident_bytes(),
            static_cast<int64_t>(w.bytes.size()));
}

TEST_P(LinearTest, ReadRowGivesARowAsItIsPackedAndSaysHowFarThatMayBe) {
  constexpr int64_t kRows = 24, kColumns = 64;
  for (const auto& [dtype, f32, bf16] : kDTypes) {
    SCOPED_TRACE(std::string(DTypeName(dtype)));
    const StoredMatrix w = RandomMatrix(dtype, kRows, kColumns, random_);
    const HostMatrix part = w.view();
    const auto packed = *backend_->PackWeight({&part, 1});
    for (const int64_t row : {int64_t{0}, int64_t{7}, kRows - 1}) {
      std::vector<float> got(kColumns);
      const auto share = backend_->ReadRow(*packed, row, absl::MakeSpan(got));
      ASSERT_TRUE(share.ok()) << share.status();
      EXPECT_EQ(*share, PackingShare(dtype));
      for (int64_t k = 0; k < kColumns; ++k) {
        const float stored = w.values[row * kColumns + k];
        EXPECT_EQ(got[k], testing::Rounded(compute(), stored)) << row << " " << k;
      }
    }
  }
}

TEST_P(LinearTest, EmbedGivesTheStoredRowsExactly) {
  for (const auto& [dtype, f32, bf16] : kDTypes) {
    const StoredMatrix w = RandomMatrix(dtype, 50, 288, random_);
    const HostMatrix part = w.view();
    const auto packed = *backend_->PackWeight({&part, 1});
    StepBatch batch = PlainBatch(20);
    for (auto& token : batch.tokens) token = Below(50);
    const auto out = UploadWide(20, 288, {});
    backend_->BeginStep(batch);
    backend_->Embed(out.tensor(), *packed);
    const auto rows = out.Read(), stored = Rounded(w.values);
    for (int r = 0; r < 20; ++r) {
      EXPECT_TRUE(SameBits(&rows[r * 288], &stored[batch.tokens[r] * 288], 288))
          << DTypeName(dtype);
    }
  }
}

TEST_P(LinearTest, GatherPicksTheSampleRows) {
  const auto x = Normals(6 * 24);
  const auto in = Upload(6, 24, x);
  const auto out = Zeros(2, 24);
  StepBatch batch = PlainBatch(6);
  batch.samples.resize(2);
  batch.samples[0].row = 1;
  batch.samples[1].row = 5;
  backend_->BeginStep(batch);
  backend_->GatherRows(out.tensor(), in.tensor());
  EXPECT_TRUE(SameBits(&out.Read()[0], &x[1 * 24], 24));
  EXPECT_TRUE(SameBits(&out.Read()[24], &x[5 * 24], 24));
}

INSTANTIATE_TEST_SUITE_P(Backends, LinearTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
