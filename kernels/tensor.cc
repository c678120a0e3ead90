#include "kernels/tensor.h"

#include <cstring>

#include "kernels/check.h"
#include "kernels/half.h"

namespace lorica {
namespace {

constexpr int kQuantItems = 32;  // weights of one storage block of the quantised types

template <typename T>
T Read(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof(T));
  return value;
}

void DequantizeQ8(const std::byte* block, float* out) {
  const float d = FloatFromHalf(Read<uint16_t>(block));
  for (int i = 0; i < kQuantItems; ++i) {
    out[i] = d * static_cast<float>(Read<int8_t>(block + 2 + i));
  }
}

// w = d * (q - offset) + m.
void DequantizeQ4(const std::byte* nibbles, float d, int offset, float m, float* out) {
  for (int i = 0; i < kQuantItems / 2; ++i) {
    const int byte = std::to_integer<int>(nibbles[i]);
    const float low = d * static_cast<float>((byte & 15) - offset);
    const float high = d * static_cast<float>((byte >> 4) - offset);
    out[i] = low + m;
    out[i + kQuantItems / 2] = high + m;
  }
}

void DequantizeBlock(DType dtype, const std::byte* block, float* out) {
  switch (dtype) {
    case DType::kF32:
      *out = Read<float>(block);
      return;
    case DType::kF16:
      *out = FloatFromHalf(Read<uint16_t>(block));
      return;
    case DType::kBF16:
      *out = FloatFromBfloat(Read<uint16_t>(block));
      return;
    case DType::kQ8_0:
      return DequantizeQ8(block, out);
    case DType::kQ4_0:
      return DequantizeQ4(block + 2, FloatFromHalf(Read<uint16_t>(block)), 8, 0.0f, out);
    case DType::kQ4_1:
      return DequantizeQ4(block + 4, FloatFromHalf(Read<uint16_t>(block)), 0,
                          FloatFromHalf(Read<uint16_t>(block + 2)), out);
  }
  LORICA_CHECK(false, "unknown dtype", static_cast<int>(dtype));
}

}  // namespace

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kQ8_0:
      return "Q8_0";
    case DType::kQ4_0:
      return "Q4_0";
    case DType::kQ4_1:
      return "Q4_1";
  }
  return "unknown";
}

int64_t BlockElements(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ4_1:
      return kQuantItems;
    default:
      return 1;
  }
}

int64_t BlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_0:
      return 18;
    case DType::kQ4_1:
      return 20;
  }
  LORICA_CHECK(false, "unknown dtype", static_cast<int>(dtype));
}

float PackingShare(DType dtype) {
  if (BlockElements(dtype) == 1) return 1.0f / 128;
  return dtype == DType::kQ8_0 ? 1.0f / 32 : 1.0f / 4;
}

int64_t RowBytes(DType dtype, int64_t elements) {
  LORICA_CHECK(elements % BlockElements(dtype) == 0, DTypeName(dtype), elements);
  return elements / BlockElements(dtype) * BlockBytes(dtype);
}

void Dequantize(DType dtype, const void* source, int64_t count, float* out) {
  const int64_t items = BlockElements(dtype);
  const int64_t bytes = BlockBytes(dtype);
  LORICA_CHECK(count % items == 0, DTypeName(dtype), count);
  const auto* block = static_cast<const std::byte*>(source);
  for (int64_t i = 0; i < count; i += items, block += bytes) {
    DequantizeBlock(dtype, block, out + i);
  }
}

}  // namespace lorica
