// The CUDA products: every number of rows that takes another path, widths that fill no
// tile, bits that do not depend on the other rows.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cuda/backend_cuda.h"
#include "kernels/cuda/linear.h"
#include "kernels/half.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

constexpr double kRowTolerance = 4e-3;  // ||got - want|| / ||want||, outputs rounded to bf16
constexpr int kRowsMax = 300;

struct Shape {
  std::string name;
  int out_features, in_features;
};

class CudaLinear : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
    cuda_ = *cuda::CudaBackend::Make({.rows_max = kRowsMax});
    const int out = GetParam().out_features, in = GetParam().in_features;
    const StoredMatrix matrix = RandomMatrix(DType::kBF16, out, in, random_, 1.0f);
    w_ = matrix.values;
    const HostMatrix views[] = {matrix.view()};
    weight_ = *cuda_->PackWeight(views);
    std::normal_distribution<float> normal;
    x_.resize(int64_t{kRowsMax} * in);
    for (uint16_t& v : x_) v = BfloatFromFloat(normal(random_));
    y_ = *cuda_->Allocate(cuda_->TensorBytes(kRowsMax, out));
  }

  // y as stored, of `rows` rows of x from `begin` on; all of y's memory, poisoned before.
  std::vector<uint16_t> Product(int begin, int rows) {
    const int out = GetParam().out_features, in = GetParam().in_features;
    auto x = *cuda_->Allocate(cuda_->TensorBytes(rows, in));
    cuda_->Upload(x->data(), x_.data() + int64_t{begin} * in, int64_t{rows} * in * 2);
    std::vector<uint16_t> y(int64_t{kRowsMax} * out, BfloatFromFloat(std::nanf("")));
    cuda_->Upload(y_->data(), y.data(), y.size() * 2);
    cuda_->Linear({y_->data(), rows, out}, {x->data(), rows, in}, *weight_);
    EXPECT_TRUE(cuda_->Synchronize().ok());
    cuda_->Download(y.data(), y_->data(), y.size() * 2);
    return y;
  }

  std::mt19937_64 random_{20261127};
  std::unique_ptr<cuda::CudaBackend> cuda_;
  std::unique_ptr<Weight> weight_;
  std::unique_ptr<Buffer> y_;
  std::unique_ptr<Buffer> x_device_;
  std::vector<float> w_;
  std::vector<uint16_t> x_;
};

TEST_P(CudaLinear, EqualsDoublesForAnyNumberOfRows) {
  const int out = GetParam().out_features, in = GetParam().in_features;
  for (const int rows : {1, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, kRowsMax}) {
    const std::vector<uint16_t> y = Product(0, rows);
    for (const int row : {0, rows / 2, rows - 1}) {
      double error = 0, size = 0;
      for (int f = 0; f < out; ++f) {
        double want = 0;
        for (int k = 0; k < in; ++k) {
          want += double{w_[int64_t{f} * in + k]} * FloatFromBfloat(x_[int64_t{row} * in + k]);
        }
        const double difference = FloatFromBfloat(y[int64_t{row} * out + f]) - want;
        error += difference * difference;
        size += want * want;
      }
      EXPECT_LE(std::sqrt(error / size), kRowTolerance) << rows << " rows, row " << row;
    }
    for (int64_t i = int64_t{rows} * out; i < y.size(); ++i) {
      ASSERT_TRUE(std::isnan(FloatFromBfloat(y[i]))) << "written beyond " << rows << " rows";
    }
  }
}

TEST_P(CudaLinear, ChoicesAreMeasuredOnceAndKept) {
  const TemporaryFolder folder;
  const cuda::ProductWeight weight = static_cast<cuda::CudaWeight&>(*weight_).product();
  const int out = GetParam().out_features;
  const auto choose = [&] {
    auto products = *cuda::LibraryProducts::Make(folder.path());
    const auto count = products->Choose({&weight, 1}, kRowsMax, cuda_->stream());
    products->Run(y_->data(), CUDA_R_16BF, x_device_->data(), kRowsMax, weight, cuda_->stream());
    return count;
  };
  const std::vector<uint16_t> want = Product(0, kRowsMax);
  x_device_ = *cuda_->Allocate(x_.size() * 2);
  cuda_->Upload(x_device_->data(), x_.data(), x_.size() * 2);
  for (const int measured : {2, 0}) {  // for 256 and 512 rows
    const auto count = choose();
    ASSERT_TRUE(count.ok()) << count.status();
    EXPECT_EQ(*count, measured);
    std::vector<uint16_t> y(int64_t{kRowsMax} * out);
    cuda_->Download(y.data(), y_->data(), y.size() * 2);
    double error = 0, size = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      const double difference = FloatFromBfloat(y[i]) - FloatFromBfloat(want[i]);
      error += difference * difference;
      size += double{FloatFromBfloat(want[i])} * FloatFromBfloat(want[i]);
    }
    EXPECT_LE(std::sqrt(error / size), kRowTolerance);
  }
}

TEST_P(CudaLinear, ARowKeepsItsBitsWhateverSharesTheStep) {
  const int out = GetParam().out_features;
  if (out % 4 != 0) GTEST_SKIP() << "such widths go to the library, but for logits";
  const std::vector<uint16_t> all = Product(0, 128);
  for (const int rows : {1, 8, 9, 16, 33, 65}) {
    const std::vector<uint16_t> y = Product(30, rows);
    for (int64_t i = 0; i < int64_t{rows} * out; ++i) {
      ASSERT_EQ(y[i], all[int64_t{30} * out + i]) << rows << " rows, element " << i;
    }
  }
}

TEST_P(CudaLinear, LogitsOfAnyWidthAreRightAndKeepTheirBits) {
  const int out = GetParam().out_features, in = GetParam().in_features;
  const auto logits = [&](int begin, int rows) {
    const auto x = cuda_->Allocate(cuda_->TensorBytes(rows, in));
    cuda_->Upload((*x)->data(), x_.data() + int64_t{begin} * in, int64_t{rows} * in * 2);
    std::vector<float> y(int64_t{rows + 1} * out, std::nanf(""));
    const auto wide = cuda_->Allocate(y.size() * sizeof(float));
    cuda_->Upload((*wide)->data(), y.data(), y.size() * sizeof(float));
    cuda_->Logits({(*wide)->data(), rows, out}, {(*x)->data(), rows, in}, *weight_);
    EXPECT_TRUE(cuda_->Synchronize().ok());
    cuda_->Download(y.data(), (*wide)->data(), y.size() * sizeof(float));
    for (int i = 0; i < out; ++i) EXPECT_TRUE(std::isnan(y[int64_t{rows} * out + i]));
    return y;
  };
  const std::vector<float> all = logits(0, 128);
  double error = 0, size = 0;
  for (int f = 0; f < out; ++f) {
    double want = 0;
    for (int k = 0; k < in; ++k) want += double{w_[int64_t{f} * in + k]} * FloatFromBfloat(x_[k]);
    error += (all[f] - want) * (all[f] - want);
    size += want * want;
  }
  EXPECT_LE(std::sqrt(error / size), kRowTolerance / 100) << "sums of fp32 lose no more";
  for (const int rows : {1, 9, 33}) {
    const std::vector<float> y = logits(30, rows);
    ASSERT_TRUE(SameBits(y.data(), &all[int64_t{30} * out], int64_t{rows} * out)) << rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaLinear,
                         ::testing::Values(Shape{"Square", 1024, 1024}, Shape{"Qkv", 6144, 4096},
                                           Shape{"Deep", 512, 14336}, Shape{"Odd", 1100, 1000},
                                           Shape{"Narrow", 36, 72}, Shape{"Unaligned", 1001, 576},
                                           Shape{"Tall", 33000, 256}, Shape{"Wide160", 20000, 64},
                                           Shape{"Wide192", 25000, 64},
                                           Shape{"Wide224", 28672, 64}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
