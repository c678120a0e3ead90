#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "adapters/transpose.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// After it.
#include <hwy/highway.h>

#include "adapters/transpose.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET != HWY_SCALAR
namespace hn = hwy::HWY_NAMESPACE;
using Eight = hn::Full128<uint16_t>;
using V = hn::Vec<Eight>;

// Pairs of elements, then of pairs, then of fours: each round interleaves rows of the one before.
template <typename Lane>
HWY_INLINE V Lower(V a, V b) {
  const hn::Full128<Lane> d;
  return hn::BitCast(Eight(), hn::InterleaveLower(d, hn::BitCast(d, a), hn::BitCast(d, b)));
}
template <typename Lane>
HWY_INLINE V Upper(V a, V b) {
  const hn::Full128<Lane> d;
  return hn::BitCast(Eight(), hn::InterleaveUpper(d, hn::BitCast(d, a), hn::BitCast(d, b)));
}

HWY_INLINE void Transpose(const uint16_t* from, int64_t from_stride, uint16_t* to,
                          int64_t to_stride) {
  const Eight d;
  V pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    const V a = hn::LoadU(d, from + i * from_stride),
            b = hn::LoadU(d, from + (i + 1) * from_stride);
    pairs[i] = Lower<uint16_t>(a, b);
    pairs[i + 1] = Upper<uint16_t>(a, b);
  }
  for (int half = 0; half < 8; half += 4) {
    for (int i = 0; i < 2; ++i) {
      fours[half + 2 * i] = Lower<uint32_t>(pairs[half + i], pairs[half + i + 2]);
      fours[half + 2 * i + 1] = Upper<uint32_t>(pairs[half + i], pairs[half + i + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    hn::StoreU(Lower<uint64_t>(fours[i], fours[i + 4]), d, to + 2 * i * to_stride);
    hn::StoreU(Upper<uint64_t>(fours[i], fours[i + 4]), d, to + (2 * i + 1) * to_stride);
  }
}
#else
HWY_INLINE void Transpose(const uint16_t* from, int64_t from_stride, uint16_t* to,
                          int64_t to_stride) {
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}
#endif

void Squares(const std::byte* from, const SquareSteps& from_steps, std::byte* to,
             const SquareSteps& to_steps, int count) {
  const auto* source = reinterpret_cast<const uint16_t*>(from);
  auto* target = reinterpret_cast<uint16_t*>(to);
  for (int i = 0; i < count; ++i) {
    Transpose(source, from_steps.stride, target, to_steps.stride);
    source += from_steps.step;
    target += to_steps.step;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorica {
HWY_EXPORT(Squares);

void TransposeSquares(const std::byte* from, const SquareSteps& from_steps, std::byte* to,
                      const SquareSteps& to_steps, int count) {
  HWY_DYNAMIC_DISPATCH(Squares)(from, from_steps, to, to_steps, count);
}

}  // namespace lorica
#endif
