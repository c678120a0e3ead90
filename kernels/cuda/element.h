// The 16-bit type of weights, activations, K, V and tiles on a CUDA device: bf16, or fp16 in the
// library that is compiled with LORICA_CUDA_F16. The library is compiled once for each, and a
// process opens one of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <library_types.h>

#include <cstdint>

#include "kernels/half.h"
#include "kernels/tensor.h"

#ifdef LORICA_CUDA_F16
#define LORICA_PTX_TYPES "f32.f16.f16"  // of sums and of both operands
#else
#define LORICA_PTX_TYPES "f32.bf16.bf16"
#endif

namespace lorica::cuda {

#ifdef LORICA_CUDA_F16

using Element = __half;
inline constexpr DType kElementDType = DType::kF16;
inline constexpr char kElementName[] = "fp16";
inline constexpr cudaDataType kLibraryElement = CUDA_R_16F;

constexpr uint16_t BitsOf(float value) { return HalfFromFloat(value); }
constexpr float ValueOf(uint16_t bits) { return FloatFromHalf(bits); }

#else

using Element = __nv_bfloat16;
inline constexpr DType kElementDType = DType::kBF16;
inline constexpr char kElementName[] = "bf16";
inline constexpr cudaDataType kLibraryElement = CUDA_R_16BF;

constexpr uint16_t BitsOf(float value) { return BfloatFromFloat(value); }
constexpr float ValueOf(uint16_t bits) { return FloatFromBfloat(bits); }

#endif

}  // namespace lorica::cuda
