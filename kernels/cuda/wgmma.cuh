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

// d[64, kColumns] += left[64, 16] right[kColumns, 16]^T. Specialised for the counts of columns in
// use.
template <int kColumns>
__device__ void ProductOf(float* d, uint64_t left, uint64_t right);

// A product's sums as operands, 16 at a time: their numbers as text, and themselves.
#define LORICA_NAMES_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LORICA_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LORICA_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define LORICA_NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LORICA_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define LORICA_NAMES_80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define LORICA_NAMES_96                  \
  ",%96,%97,%98,%99,%100,%101,%102,%103" \
  ",%104,%105,%106,%107,%108,%109,%110,%111"
#define LORICA_NAMES_112                     \
  ",%112,%113,%114,%115,%116,%117,%118,%119" \
  ",%120,%121,%122,%123,%124,%125,%126,%127"
#define LORICA_NAMES_48_TO_56 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define LORICA_FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LORICA_EIGHT(d, i) LORICA_FOUR(d, i), LORICA_FOUR(d, i + 4)
#define LORICA_SUMS(d, i) LORICA_EIGHT(d, i), LORICA_EIGHT(d, i + 8)
// `matrices`: the numbers of the operands behind the sums.
#define LORICA_PRODUCT(columns, names, matrices, ...)                                            \
  template <>                                                                                    \
  __device__ __forceinline__ void ProductOf<columns>(float* d, uint64_t left, uint64_t right) {  \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16." LORICA_PTX_TYPES " {" names \
                 "}, " matrices ", 1, 1, 1, 0, 0;"                                               \
                 : __VA_ARGS__                                                                   \
                 : "l"(left), "l"(right));                                                       \
  }

LORICA_PRODUCT(8, "%0,%1,%2,%3", "%4, %5", LORICA_FOUR(d, 0))
LORICA_PRODUCT(16, "%0,%1,%2,%3,%4,%5,%6,%7", "%8, %9", LORICA_EIGHT(d, 0))
LORICA_PRODUCT(32, LORICA_NAMES_0, "%16, %17", LORICA_SUMS(d, 0))
LORICA_PRODUCT(64, LORICA_NAMES_0 LORICA_NAMES_16, "%32, %33", LORICA_SUMS(d, 0),
               LORICA_SUMS(d, 16))
LORICA_PRODUCT(96, LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32, "%48, %49", LORICA_SUMS(d, 0),
               LORICA_SUMS(d, 16), LORICA_SUMS(d, 32))
LORICA_PRODUCT(112, LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32 LORICA_NAMES_48_TO_56,
               "%56, %57", LORICA_SUMS(d, 0), LORICA_SUMS(d, 16), LORICA_SUMS(d, 32),
               LORICA_EIGHT(d, 48))
LORICA_PRODUCT(128, LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32 LORICA_NAMES_48, "%64, %65",
               LORICA_SUMS(d, 0), LORICA_SUMS(d, 16), LORICA_SUMS(d, 32), LORICA_SUMS(d, 48))
LORICA_PRODUCT(160, LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32 LORICA_NAMES_48 LORICA_NAMES_64,
               "%80, %81", LORICA_SUMS(d, 0), LORICA_SUMS(d, 16), LORICA_SUMS(d, 32),
               LORICA_SUMS(d, 48), LORICA_SUMS(d, 64))
LORICA_PRODUCT(192,
               LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32 LORICA_NAMES_48 LORICA_NAMES_64
                   LORICA_NAMES_80,
               "%96, %97", LORICA_SUMS(d, 0), LORICA_SUMS(d, 16), LORICA_SUMS(d, 32),
               LORICA_SUMS(d, 48), LORICA_SUMS(d, 64), LORICA_SUMS(d, 80))
LORICA_PRODUCT(224,
               LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32 LORICA_NAMES_48 LORICA_NAMES_64
                   LORICA_NAMES_80 LORICA_NAMES_96,
               "%112, %113", LORICA_SUMS(d, 0), LORICA_SUMS(d, 16), LORICA_SUMS(d, 32),
               LORICA_SUMS(d, 48), LORICA_SUMS(d, 64), LORICA_SUMS(d, 80), LORICA_SUMS(d, 96))
LORICA_PRODUCT(256,
               LORICA_NAMES_0 LORICA_NAMES_16 LORICA_NAMES_32 LORICA_NAMES_48 LORICA_NAMES_64
                   LORICA_NAMES_80 LORICA_NAMES_96 LORICA_NAMES_112,
               "%128, %129", LORICA_SUMS(d, 0), LORICA_SUMS(d, 16), LORICA_SUMS(d, 32),
               LORICA_SUMS(d, 48), LORICA_SUMS(d, 64), LORICA_SUMS(d, 80), LORICA_SUMS(d, 96),
               LORICA_SUMS(d, 112))

#undef LORICA_PRODUCT
#undef LORICA_SUMS
#undef LORICA_EIGHT
#undef LORICA_FOUR
#undef LORICA_NAMES_0
#undef LORICA_NAMES_16
#undef LORICA_NAMES_32
#undef LORICA_NAMES_48
#undef LORICA_NAMES_64
#undef LORICA_NAMES_80
#undef LORICA_NAMES_96
#undef LORICA_NAMES_112
#undef LORICA_NAMES_48_TO_56

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
