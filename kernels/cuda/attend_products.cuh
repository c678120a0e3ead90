// What the tiles of attend_prefill.cu need beyond wgmma.cuh: products wide enough for a tile,
// with the left operand in registers or the right one transposed, and barriers between roles.
//
// Products run beside what follows them until WaitProducts; until then nothing may touch their
// registers.
#pragma once

#include "kernels/cuda/wgmma.cuh"

namespace lorica::cuda {

inline constexpr int kSwizzleRowBytes = 128;
inline constexpr int kSwizzleColumns = kSwizzleRowBytes / 2;

// An operand that begins at `address`; `leading_bytes`: between its blocks of 64 columns,
// where the columns are not what is summed over.
__device__ __forceinline__ uint64_t Operand(uint32_t address, uint32_t leading_bytes = 16) {
  constexpr uint64_t kEightRows = 8 * kSwizzleRowBytes, kSwizzle128 = 1;
  return (address & 0x3ffff) >> 4 | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         (kEightRows >> 4) << 32 | kSwizzle128 << 62;
}

// Until at most `kPending` of the committed groups still run.
template <int kPending>
__device__ __forceinline__ void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps what touches the values on its side of products and waits.
template <int kCount>
__device__ __forceinline__ void Pin(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

template <int kCount>
__device__ __forceinline__ void Pin(uint32_t (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

#define LORICA_EIGHT(d, i)                                                                    \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])

// d = A B^T (+ d where `keep`), A [64][16] and B [N][16] in shared memory.
__device__ __forceinline__ void WgmmaShared(float (&d)[32], uint64_t a, uint64_t b, int keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16." LORICA_PTX_TYPES
      " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : LORICA_EIGHT(d, 0), LORICA_EIGHT(d, 8), LORICA_EIGHT(d, 16), LORICA_EIGHT(d, 24)
      : "l"(a), "l"(b), "r"(keep));
}
__device__ __forceinline__ void WgmmaShared(float (&d)[64], uint64_t a, uint64_t b, int keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16." LORICA_PTX_TYPES
      " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : LORICA_EIGHT(d, 0), LORICA_EIGHT(d, 8), LORICA_EIGHT(d, 16), LORICA_EIGHT(d, 24),
        LORICA_EIGHT(d, 32), LORICA_EIGHT(d, 40), LORICA_EIGHT(d, 48), LORICA_EIGHT(d, 56)
      : "l"(a), "l"(b), "r"(keep));
}

// d = A B (+ d where `keep`), A [64][16] in registers, B [16][N] in shared memory.
__device__ __forceinline__ void WgmmaRegisters(float (&d)[32], const uint32_t* a, uint64_t b,
                                               int keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16." LORICA_PTX_TYPES
      " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : LORICA_EIGHT(d, 0), LORICA_EIGHT(d, 8), LORICA_EIGHT(d, 16), LORICA_EIGHT(d, 24)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));
}
__device__ __forceinline__ void WgmmaRegisters(float (&d)[64], const uint32_t* a, uint64_t b,
                                               int keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16." LORICA_PTX_TYPES
      " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : LORICA_EIGHT(d, 0), LORICA_EIGHT(d, 8), LORICA_EIGHT(d, 16), LORICA_EIGHT(d, 24),
        LORICA_EIGHT(d, 32), LORICA_EIGHT(d, 40), LORICA_EIGHT(d, 48), LORICA_EIGHT(d, 56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));
}

#undef LORICA_EIGHT

// Fewer registers for the warps that copy, more for those that multiply.
template <int kCount>
__device__ __forceinline__ void ReleaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void ClaimRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Ordinary accesses before it, those of copies and products after it.
__device__ __forceinline__ void ProxyFence() { asm volatile("fence.proxy.async;" ::: "memory"); }
// Barrier `id` of the block among `threads` threads.
__device__ __forceinline__ void BarrierOf(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void CopyBox3(uint32_t shared, const CUtensorMap& map, int x, int y,
                                         int z, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void CopyBox4(uint32_t shared, const CUtensorMap& map, int x, int y,
                                         int z, int w, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier)
      : "memory");
}

}  // namespace lorica::cuda
