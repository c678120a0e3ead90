// Values for weights that nobody trained, the same on every backend.
//
// A value depends on (seed, index) alone: uniform in (-bound, bound), rounded to bf16.
// Pure functions, for host and device code.
#pragma once

#include <cstdint>

#include "kernels/half.h"

namespace lorica {

// Sebastiano Vigna's SplitMix64 (https://prng.di.unimi.it/splitmix64.c), its `index`th output.
constexpr uint64_t SplitMix64(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Bits of a bf16.
constexpr uint16_t NoiseBf16(uint64_t seed, uint64_t index, float bound) {
  const int32_t whole = static_cast<int32_t>(SplitMix64(seed, index) >> 40) - (1 << 23);
  const float value = static_cast<float>(whole) * (bound / (1 << 23));
  return BfloatFromFloat(value);
}

}  // namespace lorica
