// Eight neighbouring fp32 numbers in 16 bytes: 15 bits each and the exponent of the largest.
//
// Each is within 2^-14 of the largest, where bf16 would be within 2^-9 of itself. Where one is
// infinite or NaN, all eight are NaN. A word holds two numbers and two bits of the exponent.
#pragma once

#include <cstdint>

namespace lorica::cuda {

// The larger one; NaN if one is.
__device__ __forceinline__ float LargerOrNan(float a, float b) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

__device__ __forceinline__ uint4 PackSums(const float (&v)[8]) {
  constexpr uint32_t kBias = 127, kExponentMin = 14;  // so that no factor is subnormal
  constexpr int kBits = 13, kLargest = (1 << 14) - 1;
  // Added to a small number it rounds to a whole one, in the lower bits of the sum.
  constexpr float kWhole = 12582912.0f;
  constexpr int kWholeBits = 0x4b400000;
  float largest[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) largest[i] = LargerOrNan(fabsf(v[i]), fabsf(v[i + 4]));
  const float all = LargerOrNan(LargerOrNan(largest[0], largest[1]),
                                LargerOrNan(largest[2], largest[3]));
  const uint32_t exponent = max((__float_as_uint(all) & 0x7fffffff) >> 23, kExponentMin);
  const float factor = __uint_as_float((2 * kBias + kBits - min(exponent, 254u)) << 23);
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int low = min(__float_as_int(fmaf(v[2 * i], factor, kWhole)), kWholeBits + kLargest);
    const int high = min(__float_as_int(fmaf(v[2 * i + 1], factor, kWhole)), kWholeBits + kLargest);
    words[i] = (low & 0x7fff) | (high & 0x7fff) << 15 | (exponent >> 2 * i & 3) << 30;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ void UnpackSums(float (&v)[8], const uint4& packed) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  uint32_t exponent = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) exponent |= words[i] >> 30 << 2 * i;
  const float factor = __uint_as_float(exponent == 255 ? ~0u : (exponent - 13) << 23);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = (static_cast<int>(words[i] << 17) >> 17) * factor;
    v[2 * i + 1] = (static_cast<int>(words[i] << 2) >> 17) * factor;
  }
}

}  // namespace lorica::cuda
