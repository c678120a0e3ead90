#include "kernels/tensor.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(Tensor, BlockSizesAreThoseOfGguf) {
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68);
  EXPECT_EQ(RowBytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(RowBytes(DType::kQ4_1, 64), 40);
  EXPECT_EQ(RowBytes(DType::kBF16, 3), 6);
}

TEST(Tensor, WhatAQuantisedTypeLosesIsAllowedForIt) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(PackingShare(dtype), 1.0f / 128);
  }
  EXPECT_EQ(PackingShare(DType::kQ8_0), 1.0f / 32);
  EXPECT_EQ(PackingShare(DType::kQ4_0), 1.0f / 4);
  EXPECT_EQ(PackingShare(DType::kQ4_1), 1.0f / 4);
}

TEST(Tensor, HalfsOfEveryKindExpand) {
  const uint16_t halfs[] = {0x0000, 0x8000, 0x0001, 0x03ff, 0x3c00, 0xc000, 0x7bff, 0x7c00};
  float out[8];
  Dequantize(DType::kF16, halfs, 8, out);
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_TRUE(std::signbit(out[1]));
  EXPECT_EQ(out[2], std::ldexp(1.0f, -24));
  EXPECT_EQ(out[3], std::ldexp(1023.0f, -24));
  EXPECT_EQ(out[4], 1.0f);
  EXPECT_EQ(out[5], -2.0f);
  EXPECT_EQ(out[6], 65504.0f);
  EXPECT_TRUE(std::isinf(out[7]));
}

TEST(Tensor, NibblesExpandLowHalfFirst) {
  std::vector<uint8_t> block(20, 0);
  const uint16_t d = 0x3800, m = 0xbc00;  // 0.5, -1
  std::memcpy(&block[0], &d, 2);
  std::memcpy(&block[2], &m, 2);
  block[4] = 0xf3;
  float out[32];
  Dequantize(DType::kQ4_1, block.data(), 32, out);
  EXPECT_EQ(out[0], 0.5f * 3 - 1);
  EXPECT_EQ(out[16], 0.5f * 15 - 1);
  EXPECT_EQ(out[1], -1.0f);
}

TEST(Tensor, SignedNibblesAndBytesExpand) {
  std::vector<uint8_t> four(18, 0x80), eight(34, 0xff);
  const uint16_t d = 0x4000;  // 2
  std::memcpy(&four[0], &d, 2);
  std::memcpy(&eight[0], &d, 2);
  float out[32];
  Dequantize(DType::kQ4_0, four.data(), 32, out);
  EXPECT_EQ(out[0], -16.0f);
  EXPECT_EQ(out[31], 0.0f);
  Dequantize(DType::kQ8_0, eight.data(), 32, out);
  EXPECT_EQ(out[7], -2.0f);
}

}  // namespace
}  // namespace lorica
