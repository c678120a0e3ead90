#include "adapters/element_convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace lorica {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

absl::Span<const std::byte> Bytes(const float* values, int64_t count) {
  return {reinterpret_cast<const std::byte*>(values), count * sizeof(float)};
}

float RoundTrip(DType to, float value) {
  const std::vector<std::byte> bits = ConvertElements(DType::kF32, to, Bytes(&value, 1));
  float back = 0;
  Dequantize(to, bits.data(), 1, &back);
  return back;
}

TEST(ElementConvertTest, FindsNanAndInfinityInEveryType) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
      const float values[] = {1, -2, bad, 0};
      std::vector<std::byte> bits = ConvertElements(DType::kF32, dtype, Bytes(values, 2));
      EXPECT_TRUE(AllFinite(dtype, bits));
      bits = ConvertElements(DType::kF32, dtype, Bytes(values, 4));
      EXPECT_FALSE(AllFinite(dtype, bits)) << DTypeName(dtype) << bad;
    }
  }
  const float edges[] = {std::numeric_limits<float>::max(),
                         std::numeric_limits<float>::denorm_min()};
  EXPECT_TRUE(AllFinite(DType::kF32, Bytes(edges, 2)));
}

// Every half and every bfloat comes back as it was.
TEST(ElementConvertTest, IsExactForValuesThatFit) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (uint32_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<uint16_t>(i);
      const absl::Span<const std::byte> stored(reinterpret_cast<const std::byte*>(&bits), 2);
      if (!AllFinite(dtype, stored)) continue;
      const auto wide = ConvertElements(dtype, DType::kF32, stored);
      const auto back = ConvertElements(DType::kF32, dtype, wide);
      ASSERT_EQ(std::memcmp(back.data(), &bits, 2), 0) << i;
    }
  }
}

// Of all representable values the nearest one, the even one when two are as near.
TEST(ElementConvertTest, RoundsToNearestEven) {
  const uint32_t seed = 3;
  std::mt19937 random(seed);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (int i = 0; i < 20000; ++i) {
      const uint16_t low = random() % 0x7bff;
      const uint16_t pair[] = {low, static_cast<uint16_t>(low + 1)};
      float ends[2];
      Dequantize(dtype, pair, 2, ends);
      const float even = low % 2 == 0 ? ends[0] : ends[1];
      const float middle = ends[0] + (ends[1] - ends[0]) / 2;
      ASSERT_EQ(RoundTrip(dtype, middle), even) << "seed " << seed;
      ASSERT_EQ(RoundTrip(dtype, -middle), -even);
      if (middle < std::numeric_limits<float>::min()) continue;
      ASSERT_EQ(RoundTrip(dtype, std::nextafter(middle, 0.0f)), ends[0]);
      ASSERT_EQ(RoundTrip(dtype, std::nextafter(middle, kInfinity)), ends[1]);
    }
  }
}

TEST(ElementConvertTest, TooLargeBecomesInfinity) {
  EXPECT_EQ(RoundTrip(DType::kF16, 65519.0f), 65504.0f);
  EXPECT_EQ(RoundTrip(DType::kF16, 65520.0f), kInfinity);
  EXPECT_EQ(RoundTrip(DType::kF16, -1e30f), -kInfinity);
  EXPECT_EQ(RoundTrip(DType::kBF16, std::numeric_limits<float>::max()), kInfinity);
}

}  // namespace
}  // namespace lorica
