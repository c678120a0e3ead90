// bf16 on the host: round to nearest even, and back.
#pragma once

#include <bit>
#include <cstdint>

namespace lorica::cuda {

inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline float FromBf16(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

}  // namespace lorica::cuda
