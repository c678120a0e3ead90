// The one product loop of linear and attention:
//
//   y[r][c] = y[r][c] + sum over k of x[r][k] * w[k][c]
//
// for a few rows r and one strip of columns c, every element one chain of
// fused multiply-adds in order of k.
#if defined(LORICA_KERNELS_CPU_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORICA_KERNELS_CPU_PANELS_INL_H_
#undef LORICA_KERNELS_CPU_PANELS_INL_H_
#else
#define LORICA_KERNELS_CPU_PANELS_INL_H_
#endif

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

// Rows whose accumulators fit into registers beside the weights: 6 x 2 vectors of 8
// (x86 has 16 registers), 6 x 4 of 4 where there are 32 registers.
#if HWY_TARGET == HWY_SSE4
inline constexpr size_t kRowsAtOnce = 3;
#elif HWY_TARGET == HWY_SCALAR
inline constexpr size_t kRowsAtOnce = 1;
#else
inline constexpr size_t kRowsAtOnce = 6;
#endif

// Columns of one strip; `fresh` starts from zero instead of y.
template <size_t kRows>
HWY_INLINE void MultiplyTile(const float* HWY_RESTRICT x, size_t x_stride,
                             const float* HWY_RESTRICT w, size_t w_step, size_t count,
                             float* HWY_RESTRICT y, size_t y_stride, bool fresh) {
  V sum[kRows][kStripVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t c = 0; c < kStripVectors; ++c) {
      sum[r][c] = fresh ? hn::Zero(Floats()) : LoadVector(y + r * y_stride + c * kLanes);
    }
  }
  for (size_t k = 0; k < count; ++k, w += w_step) {
    V b[kStripVectors];
    for (size_t c = 0; c < kStripVectors; ++c) b[c] = LoadVector(w + c * kLanes);
    for (size_t r = 0; r < kRows; ++r) {
      const V a = Splat(x[r * x_stride + k]);
      for (size_t c = 0; c < kStripVectors; ++c) sum[r][c] = hn::MulAdd(a, b[c], sum[r][c]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t c = 0; c < kStripVectors; ++c) {
      StoreVector(sum[r][c], y + r * y_stride + c * kLanes);
    }
  }
}

// REQUIRES: rows <= kRowsAtOnce.
HWY_INLINE void MultiplyRowsAtOnce(size_t rows, const float* x, size_t x_stride, const float* w,
                                   size_t w_step, size_t count, float* y, size_t y_stride,
                                   bool fresh) {
#define LORICA_ROWS(n)                                                    \
  case n:                                                                 \
    if constexpr (n <= kRowsAtOnce) {                                     \
      MultiplyTile<n>(x, x_stride, w, w_step, count, y, y_stride, fresh); \
    }                                                                     \
    break
  switch (rows) {
    LORICA_ROWS(1);
    LORICA_ROWS(2);
    LORICA_ROWS(3);
    LORICA_ROWS(4);
    LORICA_ROWS(5);
    LORICA_ROWS(6);
  }
#undef LORICA_ROWS
}

// Any number of rows, in groups that differ by at most one row.
HWY_INLINE void MultiplyRows(size_t rows, const float* x, size_t x_stride, const float* w,
                             size_t w_step, size_t count, float* y, size_t y_stride, bool fresh) {
  size_t groups = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
  while (rows > 0) {
    const size_t some = (rows + groups - 1) / groups;
    MultiplyRowsAtOnce(some, x, x_stride, w, w_step, count, y, y_stride, fresh);
    x += some * x_stride;
    y += some * y_stride;
    rows -= some;
    --groups;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#endif
