// RmsNorm, GluPost and ResidualNorm without adapters, against doubles.
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

class PostTest : public KernelTest {
 protected:
  // Of 1 + |value|: sums in fp32; with bf16 the output is rounded, by up to 2^-8 of it.
  double tolerance() const { return Tolerance(1e-6, 4e-3); }
};

TEST_P(PostTest, RmsNormEqualsDoublesForAnyWidth) {
  for (const int columns : {1, 7, 16, 100, 576, 4096}) {
    if (!Serves(columns)) continue;
    const int rows = 33;
    const auto x = Normals(rows * columns, 3.0f), weight = Normals(columns);
    const auto in = UploadWide(rows, columns, x);
    const auto out = Zeros(rows, columns);
    const StepBatch batch = PlainBatch(rows);
    backend_->BeginStep(batch);
    backend_->RmsNorm(out.tensor(), in.tensor(), Floats(weight), 1e-5f);
    std::vector<double> want;
    for (int r = 0; r < rows; ++r) {
      double square = 0;
      for (int c = 0; c < columns; ++c) square += double{x[r * columns + c]} * x[r * columns + c];
      const double scale = 1 / std::sqrt(square / columns + 1e-5);
      for (int c = 0; c < columns; ++c) want.push_back(x[r * columns + c] * scale * weight[c]);
    }
    ExpectNear(out.Read(), want, tolerance());
  }
}

TEST_P(PostTest, ActivationsEqualDoublesOverTheirWholeRange) {
  const int columns = 2008;
  std::vector<float> base;
  for (int i = 0; i < columns; ++i) base.push_back((i - 1004) * 0.12f);
  base.insert(base.end(), columns, 1.0f);
  base = Rounded(base);
  const StepBatch batch = PlainBatch(1);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    const auto in = Upload(1, 2 * columns, base);
    const auto out = Zeros(1, columns);
    backend_->BeginStep(batch);
    backend_->GluPost(out.tensor(), in.tensor(), activation, 0);
    std::vector<double> want;
    for (int i = 0; i < columns; ++i) {
      const double x = base[i];
      const double inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
      want.push_back(activation == Activation::kSilu ? x / (1 + std::exp(-x))
                                                     : 0.5 * x * (1 + std::tanh(inner)));
    }
    ExpectNear(out.Read(), want, tolerance());
  }
}

TEST_P(PostTest, ResidualWithoutNormAddsOnly) {
  const auto residual = Normals(4 * 56), projection = Normals(4 * 56);
  const auto sum = UploadWide(4, 56, residual);
  const auto projected = Upload(4, 56, projection);
  const StepBatch batch = PlainBatch(4);
  backend_->BeginStep(batch);
  backend_->ResidualNorm({}, sum.tensor(), projected.tensor(), nullptr, 0, LoraGroup::kDown,
                         nullptr, 1e-5f);
  std::vector<double> want;
  for (int i = 0; i < 224; ++i) want.push_back(double{residual[i]} + projection[i]);
  ExpectNear(sum.Read(), want, tolerance());
}

TEST_P(PostTest, NotANumberIsNotHidden) {
  std::vector<float> base(2 * 16, 1.0f);
  base[3] = std::nanf("");
  const auto in = Upload(1, 32, base);
  const auto out = Zeros(1, 16);
  const StepBatch batch = PlainBatch(1);
  backend_->BeginStep(batch);
  backend_->GluPost(out.tensor(), in.tensor(), Activation::kSilu, 0);
  EXPECT_TRUE(std::isnan(out.Read()[3]));
  EXPECT_FALSE(std::isnan(out.Read()[4]));
}

INSTANTIATE_TEST_SUITE_P(Backends, PostTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
