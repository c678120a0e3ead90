#include "adapters/element_convert.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/half.h"

namespace lorica {
namespace {

// An element is finite unless all bits of its exponent are set. The largest exponent is looked
// for, which compilers turn into vector instructions.
template <typename Bits>
bool AllBelow(absl::Span<const std::byte> elements, Bits exponent_mask) {
  Bits largest = 0;
  for (size_t i = 0; i < elements.size(); i += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, elements.data() + i, sizeof(bits));
    largest = std::max<Bits>(largest, bits & exponent_mask);
  }
  return largest < exponent_mask;
}

}  // namespace

bool AllFinite(DType dtype, absl::Span<const std::byte> elements) {
  switch (dtype) {
    case DType::kF32:
      return AllBelow<int32_t>(elements, 0x7f800000);
    case DType::kF16:
      return AllBelow<int16_t>(elements, 0x7c00);
    case DType::kBF16:
      return AllBelow<int16_t>(elements, 0x7f80);
    default:
      LORICA_CHECK(false, "not an adapter's dtype", DTypeName(dtype));
  }
}

std::vector<std::byte> ConvertElements(DType from, DType to, absl::Span<const std::byte> elements) {
  LORICA_CHECK(BlockElements(from) == 1 && BlockElements(to) == 1);
  const int64_t count = std::ssize(elements) / BlockBytes(from);
  std::vector<std::byte> converted(count * BlockBytes(to));
  for (int64_t i = 0; i < count; ++i) {
    float value = 0;
    Dequantize(from, elements.data() + i * BlockBytes(from), 1, &value);
    if (to == DType::kF32) {
      std::memcpy(converted.data() + i * sizeof(value), &value, sizeof(value));
      continue;
    }
    const uint16_t bits = to == DType::kF16 ? HalfFromFloat(value) : BfloatFromFloat(value);
    std::memcpy(converted.data() + i * sizeof(bits), &bits, sizeof(bits));
  }
  return converted;
}

}  // namespace lorica
