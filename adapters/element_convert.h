// Elements of weight files: finite or not, and from one type to another.
//
// F32, F16 and BF16 only. Pure functions; data needs no alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace lorica {

// No NaN, no infinity. REQUIRES: whole elements.
bool AllFinite(DType dtype, absl::Span<const std::byte> elements);
// What is wrong with a tensor that is not, and what helps; its name comes before.
inline constexpr char kNotFinite[] =
    " holds NaN or infinity: save the adapter again from weights that are finite";

// Rounded to nearest, ties to even. A finite value that is too large for `to` becomes
// an infinity: check the result with AllFinite.
std::vector<std::byte> ConvertElements(DType from, DType to, absl::Span<const std::byte> elements);

}  // namespace lorica
