#include "kernels/cpu/dora.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/linear.h"

namespace lorica {
namespace {

// Below this share of its parts a squared norm has lost too many digits of its fp32 products.
constexpr double kCancellation = 0.1;

double Dot(const float* a, const float* b, int64_t count) {
  double sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += double{a[i + j]} * b[i + j];
  }
  for (; i < count; ++i) sums[0] += double{a[i]} * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// A A^T, [rank, rank].
std::vector<double> Gram(const DoraInput& input) {
  std::vector<double> gram(size_t(input.rank) * input.rank);
  for (int i = 0; i < input.rank; ++i) {
    for (int j = 0; j <= i; ++j) {
      const double dot =
          Dot(input.a + i * input.in_features, input.a + j * input.in_features, input.in_features);
      gram[i * input.rank + j] = gram[j * input.rank + i] = dot;
    }
  }
  return gram;
}

double QuadraticForm(const std::vector<double>& gram, const float* b, int rank) {
  double sum = 0.0;
  for (int i = 0; i < rank; ++i) {
    double row = 0.0;
    for (int j = 0; j < rank; ++j) row += gram[i * rank + j] * b[j];
    sum += row * b[i];
  }
  return sum;
}

double DirectSquare(const DoraInput& input, const float* w, const float* b) {
  double sum = 0.0;
  for (int64_t k = 0; k < input.in_features; ++k) {
    double delta = 0.0;
    for (int r = 0; r < input.rank; ++r) delta += double{b[r]} * input.a[r * input.in_features + k];
    const double value = w[k] + input.scale * delta;
    sum += value * value;
  }
  return sum;
}

}  // namespace

absl::StatusOr<std::vector<float>> ComputeDoraGain(const DoraInput& input) {
  const std::vector<double> gram = Gram(input);
  const double scale = input.scale;
  const int64_t stacked = input.weight->out_features();
  std::vector<float> a_w(input.rank * stacked);  // [rank, rows of the stacked weight]
  RunLinearAlone({input.weight, input.a, input.rank, a_w.data()});
  std::vector<float> w(input.in_features);
  std::vector<float> gain(input.out_features);
  for (int64_t i = 0; i < input.out_features; ++i) {
    const float* b = input.b + i * input.rank;
    UnpackRow(*input.weight, input.row_begin + i, w.data());
    const double base = Dot(w.data(), w.data(), input.in_features);
    double cross = 0.0;
    for (int r = 0; r < input.rank; ++r) {
      cross += double{b[r]} * a_w[r * stacked + input.row_begin + i];
    }
    const double delta = scale * scale * QuadraticForm(gram, b, input.rank);
    double square = base + 2.0 * scale * cross + delta;
    if (square < kCancellation * (base + delta)) square = DirectSquare(input, w.data(), b);
    const double value = input.magnitude[i] / std::sqrt(square);
    if (!(square > 0.0) || !std::isfinite(value)) {
      return absl::DataLossError(absl::StrCat("the DoRA norm of output ", i,
                                              " is zero or not finite: its weights are damaged"));
    }
    gain[i] = static_cast<float>(value);
  }
  return gain;
}

}  // namespace lorica
