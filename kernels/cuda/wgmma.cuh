// Warpgroup matrix products from shared memory, and the tensor copies that feed them.
//
// Operands are 16-bit elements, K along the fast axis, 64 elements (128 bytes) a row, in the
// 128-byte swizzle that the tensor copy engine writes: groups of 8 rows, 1,024 bytes each, aligned
// so. The layouts are those of the PTX ISA, "Asynchronous warpgroup level matrix instructions".
//
// D is [64, columns] fp32. Of a warpgroup's warp w, lane l, with g = l / 4 and t = l % 4,
// d[4 j + 2 h + i] is row 16 w + 8 h + g, column 8 j + 2 t + i.
#pragma once

#include <cuda.h>

#include "kernels/cuda/mma.cuh"

namespace lorica::cuda {

// Copies one tile of a tensor map, its corner at (column, row); completes on `barrier`.
__device__ __forceinline__ void CopyTile(uint32_t shared, const CUtensorMap& map, int column,
                                         int row, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}

// The left or right operand at `shared`, which lies 0, 32, 64 or 96 bytes into a row.
__device__ __forceinline__ uint64_t SwizzledMatrix(uint32_t shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 >> 4} << 32;  // from 8 rows to the next 8
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kGroupStride | kUnused | (shared & 0x3ffff) >> 4;
}

__device__ __forceinline__ void FenceRegisters() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All but the last kGroups committed groups are done.
template <int kGroups = 0>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

__device__ __forceinline__ void ProductOf8(float* d, uint64_t left, uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16." LORICA_PTX_TYPES
               " {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(left), "l"(right));
}

__device__ __forceinline__ void ProductOf16(float* d, uint64_t left, uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n16k16." LORICA_PTX_TYPES
               " {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, "
               "1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
                 "+f"(d[7])
               : "l"(left), "l"(right));
}

#define LORICA_FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])

__device__ __forceinline__ void ProductOf32(float* d, uint64_t left, uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16." LORICA_PTX_TYPES
               " "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, 1, 0, 0;"
               : LORICA_FOUR(d, 0), LORICA_FOUR(d, 4), LORICA_FOUR(d, 8), LORICA_FOUR(d, 12)
               : "l"(left), "l"(right));
}

__device__ __forceinline__ void ProductOf64(float* d, uint64_t left, uint64_t right) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16." LORICA_PTX_TYPES
      " "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
      "%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, 0;"
      : LORICA_FOUR(d, 0), LORICA_FOUR(d, 4), LORICA_FOUR(d, 8), LORICA_FOUR(d, 12),
        LORICA_FOUR(d, 16), LORICA_FOUR(d, 20), LORICA_FOUR(d, 24), LORICA_FOUR(d, 28)
      : "l"(left), "l"(right));
}

__device__ __forceinline__ void ProductOf128(float* d, uint64_t left, uint64_t right) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16." LORICA_PTX_TYPES
      " "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
      "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,"
      "%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, "
      "1, 1, 1, 0, 0;"
      : LORICA_FOUR(d, 0), LORICA_FOUR(d, 4), LORICA_FOUR(d, 8), LORICA_FOUR(d, 12),
        LORICA_FOUR(d, 16), LORICA_FOUR(d, 20), LORICA_FOUR(d, 24), LORICA_FOUR(d, 28),
        LORICA_FOUR(d, 32), LORICA_FOUR(d, 36), LORICA_FOUR(d, 40), LORICA_FOUR(d, 44),
        LORICA_FOUR(d, 48), LORICA_FOUR(d, 52), LORICA_FOUR(d, 56), LORICA_FOUR(d, 60)
      : "l"(left), "l"(right));
}

#undef LORICA_FOUR

// d[64, kColumns] += left[64, 16] right[kColumns, 16]^T.
template <int kColumns>
__device__ __forceinline__ void WarpgroupMma(float (&d)[kColumns / 2], uint64_t left,
                                             uint32_t right) {
  static_assert(kColumns == 8 || kColumns == 16 || kColumns == 32 || kColumns == 64 ||
                kColumns == 128);
  const uint64_t matrix = SwizzledMatrix(right);
  if constexpr (kColumns == 8) {
    ProductOf8(d, left, matrix);
  } else if constexpr (kColumns == 16) {
    ProductOf16(d, left, matrix);
  } else if constexpr (kColumns == 32) {
    ProductOf32(d, left, matrix);
  } else if constexpr (kColumns == 64) {
    ProductOf64(d, left, matrix);
  } else {
    ProductOf128(d, left, matrix);
  }
}

// Gives each thread of a warpgroup kTo registers in place of the kFrom of its launch. All four
// warps; those that take more wait until others have given theirs.
template <int kFrom, int kTo>
__device__ __forceinline__ void SetRegisters() {
  static_assert(kTo % 8 == 0 && kTo >= 24 && kTo <= 256);
  if constexpr (kTo < kFrom) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kTo));
  } else if constexpr (kTo > kFrom) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kTo));
  }
}

}  // namespace lorica::cuda
