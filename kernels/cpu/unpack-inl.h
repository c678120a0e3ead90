// From packed panels to fp32: whole pieces of a panel, or one block at a time while
// a single row multiplies it.
//
// d * q is exact in fp32 (an f16 times at most 8 bits), so fma(d, q, m) rounds once,
// where d * q + m rounds, and equals Dequantize bit by bit.
#if defined(LORICA_KERNELS_CPU_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORICA_KERNELS_CPU_UNPACK_INL_H_
#undef LORICA_KERNELS_CPU_UNPACK_INL_H_
#else
#define LORICA_KERNELS_CPU_UNPACK_INL_H_
#endif

#include "kernels/cpu/simd-inl.h"
#include "kernels/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

// Each format: kItems columns in kBytes; VisitBlock calls visit(k, vectors) with the
// kStripVectors vectors of weights of column k, in order of k.

template <typename T>
struct FloatFormat {
  static constexpr size_t kItems = 1;
  static constexpr size_t kBytes = kStrip * sizeof(T);

  template <class Visit>
  static HWY_INLINE void VisitBlock(const std::byte* block, const Visit& visit) {
    V w[kStripVectors];
    const T* from = reinterpret_cast<const T*>(block);
    for (size_t i = 0; i < kStripVectors; ++i) w[i] = LoadVector(from + i * kLanes);
    visit(0, w);
  }
};

HWY_INLINE void LoadScales(const std::byte* from, V (&scale)[kStripVectors]) {
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
  for (size_t i = 0; i < kStripVectors; ++i) scale[i] = LoadVector(halves + i * kLanes);
}

struct Q8Format {
  static constexpr size_t kItems = 32;
  static constexpr size_t kBytes = kStrip * (2 + kItems);

  template <class Visit>
  static HWY_INLINE void VisitBlock(const std::byte* block, const Visit& visit) {
    V d[kStripVectors];
    LoadScales(block, d);
    const auto* q = reinterpret_cast<const int8_t*>(block + 2 * kStrip);
    for (size_t k = 0; k < kItems; ++k) {
      V w[kStripVectors];
      for (size_t i = 0; i < kStripVectors; ++i) {
        const auto bytes = hn::LoadU(hn::Rebind<int8_t, Ints>(), q + k * kStrip + i * kLanes);
        w[i] = hn::Mul(d[i], hn::ConvertTo(Floats(), hn::PromoteTo(Ints(), bytes)));
      }
      visit(k, w);
    }
  }
};

template <bool kHasMinimum>
struct Q4Format {
  static constexpr size_t kItems = 32;
  static constexpr size_t kScales = kHasMinimum ? 2 : 1;
  static constexpr size_t kBytes = kStrip * (2 * kScales + kItems / 2);

  template <int kIndex>
  static HWY_INLINE V Nibble(hn::Vec<hn::RebindToUnsigned<Floats>> words) {
    auto q = hn::ShiftRight<4 * kIndex>(words);
    if constexpr (kIndex < 7) q = hn::And(q, hn::Set(hn::RebindToUnsigned<Floats>(), 15u));
    return hn::ConvertTo(Floats(), hn::BitCast(Ints(), q));
  }

  template <class Visit>
  static HWY_INLINE void VisitBlock(const std::byte* block, const Visit& visit) {
    V d[kStripVectors], m[kStripVectors];
    LoadScales(block, d);
    if constexpr (kHasMinimum) {
      LoadScales(block + 2 * kStrip, m);
    } else {
      for (size_t i = 0; i < kStripVectors; ++i) m[i] = hn::Mul(d[i], Splat(-8.0f));
    }
    const auto* words = reinterpret_cast<const uint32_t*>(block + 2 * kStrip * kScales);
    for (size_t j = 0; j < kItems / 8; ++j) VisitWords(words + j * kStrip, 8 * j, d, m, visit);
  }

  template <class Visit>
  static HWY_INLINE void VisitWords(const uint32_t* words, size_t k, const V (&d)[kStripVectors],
                                    const V (&m)[kStripVectors], const Visit& visit) {
    hn::Vec<hn::RebindToUnsigned<Floats>> q[kStripVectors];
    for (size_t i = 0; i < kStripVectors; ++i) {
      q[i] = hn::LoadU(hn::RebindToUnsigned<Floats>(), words + i * kLanes);
    }
    VisitNibble<0>(q, k, d, m, visit);
    VisitNibble<1>(q, k, d, m, visit);
    VisitNibble<2>(q, k, d, m, visit);
    VisitNibble<3>(q, k, d, m, visit);
    VisitNibble<4>(q, k, d, m, visit);
    VisitNibble<5>(q, k, d, m, visit);
    VisitNibble<6>(q, k, d, m, visit);
    VisitNibble<7>(q, k, d, m, visit);
  }

  template <int kIndex, class Words, class Visit>
  static HWY_INLINE void VisitNibble(const Words& q, size_t k, const V (&d)[kStripVectors],
                                     const V (&m)[kStripVectors], const Visit& visit) {
    V w[kStripVectors];
    for (size_t i = 0; i < kStripVectors; ++i) {
      w[i] = hn::MulAdd(Nibble<kIndex>(q[i]), d[i], m[i]);
    }
    visit(k + kIndex, w);
  }
};

struct StoreColumns {
  float* to;

  HWY_INLINE void operator()(size_t k, const V (&w)[kStripVectors]) const {
    for (size_t i = 0; i < kStripVectors; ++i) StoreVector(w[i], to + k * kStrip + i * kLanes);
  }
};

// Columns [begin, begin + count) of a panel to out [count][16].
template <class Format>
HWY_INLINE void UnpackBlocks(const std::byte* panel, size_t begin, size_t count, float* out) {
  const std::byte* block = panel + begin / Format::kItems * Format::kBytes;
  for (size_t k = 0; k < count; k += Format::kItems, block += Format::kBytes) {
    Format::VisitBlock(block, StoreColumns{out + k * kStrip});
  }
}

// REQUIRES: begin and count are whole blocks of the dtype.
HWY_INLINE void UnpackPanel(DType dtype, const std::byte* panel, size_t begin, size_t count,
                            float* out) {
  switch (dtype) {
    case DType::kF32:
      return UnpackBlocks<FloatFormat<float>>(panel, begin, count, out);
    case DType::kF16:
      return UnpackBlocks<FloatFormat<hwy::float16_t>>(panel, begin, count, out);
    case DType::kBF16:
      return UnpackBlocks<FloatFormat<hwy::bfloat16_t>>(panel, begin, count, out);
    case DType::kQ8_0:
      return UnpackBlocks<Q8Format>(panel, begin, count, out);
    case DType::kQ4_0:
      return UnpackBlocks<Q4Format<false>>(panel, begin, count, out);
    case DType::kQ4_1:
      return UnpackBlocks<Q4Format<true>>(panel, begin, count, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#endif
