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

// A format stores kItems columns of a panel in kBytes: scales, then kGroups groups of
// kGroupItems columns. VisitGroup calls visit(k, weights) for each column k of the
// block in group `group`, in order, with its kStripVectors vectors of weights.

template <typename T>
struct FloatFormat {
  static constexpr size_t kItems = 1;
  static constexpr size_t kGroups = 1;
  static constexpr size_t kBytes = kStrip * sizeof(T);
  struct Scales {};

  static HWY_INLINE Scales LoadScales(const std::byte*) { return {}; }

  template <class Visit>
  static HWY_INLINE void VisitGroup(const std::byte* block, size_t, const Scales&,
                                    const Visit& visit) {
    V w[kStripVectors];
    const T* from = reinterpret_cast<const T*>(block);
    for (size_t i = 0; i < kStripVectors; ++i) w[i] = LoadVector(from + i * kLanes);
    visit(0, w);
  }
};

HWY_INLINE void LoadHalves(const std::byte* from, V (&to)[kStripVectors]) {
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
  for (size_t i = 0; i < kStripVectors; ++i) to[i] = LoadVector(halves + i * kLanes);
}

struct Q8Format {
  static constexpr size_t kItems = 32;
  static constexpr size_t kGroupItems = 8;
  static constexpr size_t kGroups = kItems / kGroupItems;
  static constexpr size_t kBytes = kStrip * (2 + kItems);
  struct Scales {
    V d[kStripVectors];
  };

  static HWY_INLINE Scales LoadScales(const std::byte* block) {
    Scales scales;
    LoadHalves(block, scales.d);
    return scales;
  }

  template <class Visit>
  static HWY_INLINE void VisitGroup(const std::byte* block, size_t group, const Scales& scales,
                                    const Visit& visit) {
    const auto* q = reinterpret_cast<const int8_t*>(block + 2 * kStrip);
    for (size_t k = group * kGroupItems; k < (group + 1) * kGroupItems; ++k) {
      V w[kStripVectors];
      for (size_t i = 0; i < kStripVectors; ++i) {
        const auto bytes = hn::LoadU(hn::Rebind<int8_t, Ints>(), q + k * kStrip + i * kLanes);
        w[i] = hn::Mul(scales.d[i], hn::ConvertTo(Floats(), hn::PromoteTo(Ints(), bytes)));
      }
      visit(k, w);
    }
  }
};

// Odd nibbles stay where they are, four bits up, and meet a d of a sixteenth: exact,
// and half of the shifts fall away.
template <bool kHasMinimum>
struct Q4Format {
  static constexpr size_t kItems = 32;
  static constexpr size_t kGroupItems = 8;
  static constexpr size_t kGroups = kItems / kGroupItems;
  static constexpr size_t kScaleArrays = kHasMinimum ? 2 : 1;
  static constexpr size_t kBytes = kStrip * (2 * kScaleArrays + kItems / 2);
  using Words = hn::RebindToUnsigned<Floats>;
  struct Scales {
    V d[kStripVectors];
    V d_sixteenth[kStripVectors];
    V m[kStripVectors];
  };

  static HWY_INLINE Scales LoadScales(const std::byte* block) {
    Scales scales;
    LoadHalves(block, scales.d);
    if constexpr (kHasMinimum) LoadHalves(block + 2 * kStrip, scales.m);
    for (size_t i = 0; i < kStripVectors; ++i) {
      if constexpr (!kHasMinimum) scales.m[i] = hn::Mul(scales.d[i], Splat(-8.0f));
      scales.d_sixteenth[i] = hn::Mul(scales.d[i], Splat(0.0625f));
    }
    return scales;
  }

  template <class Visit>
  static HWY_INLINE void VisitGroup(const std::byte* block, size_t group, const Scales& scales,
                                    const Visit& visit) {
    const auto* words =
        reinterpret_cast<const uint32_t*>(block + 2 * kStrip * kScaleArrays) + group * kStrip;
    hn::Vec<Words> q[kStripVectors];
    for (size_t i = 0; i < kStripVectors; ++i) q[i] = hn::LoadU(Words(), words + i * kLanes);
    const size_t k = group * kGroupItems;
    VisitPair<0>(q, k, scales, visit);
    VisitPair<1>(q, k, scales, visit);
    VisitPair<2>(q, k, scales, visit);
    VisitPair<3>(q, k, scales, visit);
  }

 private:
  static HWY_INLINE V Convert(hn::Vec<Words> word, uint32_t mask) {
    return hn::ConvertTo(Floats(), hn::BitCast(Ints(), hn::And(word, hn::Set(Words(), mask))));
  }

  template <int kPair, class Visit>
  static HWY_INLINE void VisitPair(const hn::Vec<Words> (&q)[kStripVectors], size_t k,
                                   const Scales& scales, const Visit& visit) {
    V even[kStripVectors], odd[kStripVectors];
    for (size_t i = 0; i < kStripVectors; ++i) {
      const auto pair = hn::ShiftRight<8 * kPair>(q[i]);
      even[i] = hn::MulAdd(Convert(pair, 0x0f), scales.d[i], scales.m[i]);
      odd[i] = hn::MulAdd(Convert(pair, 0xf0), scales.d_sixteenth[i], scales.m[i]);
    }
    visit(k + 2 * kPair, even);
    visit(k + 2 * kPair + 1, odd);
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
    const auto scales = Format::LoadScales(block);
    for (size_t group = 0; group < Format::kGroups; ++group) {
      Format::VisitGroup(block, group, scales, StoreColumns{out + k * kStrip});
    }
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
