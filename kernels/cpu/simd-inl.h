// Vectors of at most 8 floats, loads of stored types, fixed-order sums and exp.
//
// Compiled once per instruction set, so the guard toggles instead of `#pragma once`.
// A "strip" is 16 floats = kStripVectors vectors: the unit of every layout here.
#if defined(LORICA_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORICA_KERNELS_CPU_SIMD_INL_H_
#undef LORICA_KERNELS_CPU_SIMD_INL_H_
#else
#define LORICA_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 8>;
using Ints = hn::RebindToSigned<Floats>;
using V = hn::Vec<Floats>;
using VI = hn::Vec<Ints>;

inline constexpr size_t kLanes = hn::MaxLanes(Floats());
inline constexpr size_t kStrip = 16;
inline constexpr size_t kStripVectors = kStrip / kLanes;

HWY_INLINE V Splat(float value) { return hn::Set(Floats(), value); }
HWY_INLINE V LoadVector(const float* from) { return hn::LoadU(Floats(), from); }
HWY_INLINE V LoadVector(const hwy::float16_t* from) {
  return hn::PromoteTo(Floats(), hn::LoadU(hn::Rebind<hwy::float16_t, Floats>(), from));
}
HWY_INLINE V LoadVector(const hwy::bfloat16_t* from) {
  return hn::PromoteTo(Floats(), hn::LoadU(hn::Rebind<hwy::bfloat16_t, Floats>(), from));
}
HWY_INLINE void StoreVector(V v, float* to) { hn::StoreU(v, Floats(), to); }

// Asks for bytes that are read once, in bursts too short for the hardware to foresee.
HWY_INLINE void Prefetch(const std::byte* from, size_t bytes) {
  constexpr size_t kLineBytes = 64;
  constexpr int kSecondLevelCache = 2;
  for (size_t i = 0; i < bytes; i += kLineBytes) {
    __builtin_prefetch(from + i, 0, kSecondLevelCache);
  }
}

// The first `count` < kLanes elements, zeros behind them.
template <typename T>
HWY_INLINE V LoadSome(const T* from, size_t count) {
  T padded[kLanes];
  memset(padded, 0, sizeof(padded));
  memcpy(padded, from, count * sizeof(T));
  return LoadVector(padded);
}

HWY_INLINE void StoreSome(V v, float* to, size_t count) {
  float padded[kLanes];
  StoreVector(v, padded);
  memcpy(to, padded, count * sizeof(float));
}

// The sum of one strip, in the same order on every instruction set.
HWY_INLINE float SumStrip(const V (&v)[kStripVectors]) {
  float t[kStrip];
  for (size_t i = 0; i < kStripVectors; ++i) StoreVector(v[i], t + i * kLanes);
  for (size_t half = kStrip / 2; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) t[i] += t[i + half];
  }
  return t[0];
}

HWY_INLINE float MaxStrip(const V (&v)[kStripVectors]) {
  V max = v[0];
  for (size_t i = 1; i < kStripVectors; ++i) max = hn::Max(max, v[i]);
  float t[kLanes];
  StoreVector(max, t);
  for (size_t i = 1; i < kLanes; ++i) t[0] = t[i] > t[0] ? t[i] : t[0];
  return t[0];
}

// exp(x) - 1 for |x| <= ln(2) / 2: the series to the eighth power.
HWY_INLINE V SmallExpMinusOne(V r) {
  V p = Splat(1.0f / 40320.0f);
  p = hn::MulAdd(p, r, Splat(1.0f / 5040.0f));
  p = hn::MulAdd(p, r, Splat(1.0f / 720.0f));
  p = hn::MulAdd(p, r, Splat(1.0f / 120.0f));
  p = hn::MulAdd(p, r, Splat(1.0f / 24.0f));
  p = hn::MulAdd(p, r, Splat(1.0f / 6.0f));
  p = hn::MulAdd(p, r, Splat(0.5f));
  return hn::MulAdd(hn::Mul(r, r), p, r);
}

// exp(x) = power * (1 + rest). NaN stays NaN: the bounds are first operands because
// x86 min and max give back their second one.
HWY_INLINE void SplitExp(V x, V& power, V& rest) {
  x = hn::Min(Splat(88.0f), hn::Max(Splat(-87.0f), x));
  const VI n = hn::NearestInt(hn::Mul(x, Splat(1.44269504f)));
  const V whole = hn::ConvertTo(Floats(), n);
  V r = hn::NegMulAdd(whole, Splat(0.693145752f), x);
  r = hn::NegMulAdd(whole, Splat(1.42860682e-6f), r);
  power = hn::BitCast(Floats(), hn::ShiftLeft<23>(hn::Add(n, hn::Set(Ints(), 127))));
  rest = SmallExpMinusOne(r);
}

// Zero below -87, where floats become subnormal.
HWY_INLINE V Exp(V x) {
  V power, rest;
  SplitExp(x, power, rest);
  const V e = hn::MulAdd(power, rest, power);
  return hn::IfThenElse(hn::Lt(x, Splat(-87.0f)), hn::Zero(Floats()), e);
}

HWY_INLINE V Tanh(V x) {
  V power, rest;
  SplitExp(hn::Add(x, x), power, rest);
  const V one = Splat(1.0f);
  const V e = hn::MulAdd(power, rest, hn::Sub(power, one));
  return hn::Div(e, hn::Add(e, Splat(2.0f)));
}

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#endif
