// Warp-wide pieces: the matrix instruction, packing, asynchronous copies and
// programmatic dependent launch.
//
// mma m16n8k16. Lane l has g = l / 4 and t = l % 4:
//   A: a0 (row g, k 2t..), a1 (row g + 8, k 2t..), a2 (row g, k 2t + 8..), a3 (row g + 8, ..)
//   B: b0 (k 2t.., column g), b1 (k 2t + 8.., column g)
//   D: d0 (row g, column 2t), d1 (row g, 2t + 1), d2 (row g + 8, 2t), d3 (row g + 8, 2t + 1)
#pragma once

#include <cstdint>

#include "kernels/cuda/element.h"

namespace lorica::cuda {

__device__ __forceinline__ void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col." LORICA_PTX_TYPES
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
               "{%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Low halves of two words, then their high halves: turns two rows of pairs into
// two columns of pairs.
__device__ __forceinline__ uint32_t LowHalves(uint32_t first, uint32_t second) {
  return __byte_perm(first, second, 0x5410);
}
__device__ __forceinline__ uint32_t HighHalves(uint32_t first, uint32_t second) {
  return __byte_perm(first, second, 0x7632);
}

__device__ __forceinline__ uint32_t PackElements(float low, float high) {
#ifdef LORICA_CUDA_F16
  const __half2 pair = __floats2half2_rn(low, high);
#else
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
#endif
  return *reinterpret_cast<const uint32_t*>(&pair);
}
#ifdef LORICA_CUDA_F16
__device__ __forceinline__ float LowFloat(uint32_t pair) {
  return __low2float(*reinterpret_cast<const __half2*>(&pair));
}
__device__ __forceinline__ float HighFloat(uint32_t pair) {
  return __high2float(*reinterpret_cast<const __half2*>(&pair));
}
#else
__device__ __forceinline__ float LowFloat(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighFloat(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
#endif

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void LoadMatrix(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ __forceinline__ void LoadMatrixTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ __forceinline__ void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void BarrierExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void BarrierArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// What to do with a line of the second-level cache once it was read. What a step reads once leaves
// first, weights, keys, values and adapters: sums, activations and tables stay, which the next
// launches write again or read.
inline constexpr uint64_t kEvictFirst = 0x12f0000000000000ull;
inline constexpr uint64_t kEvictLast = 0x14f0000000000000ull;

// One contiguous copy to shared memory, whose bytes `barrier` has been told to expect.
// REQUIRES: both addresses and bytes are multiples of 16.
__device__ __forceinline__ void CopyBytes(uint32_t shared, const void* global, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}

// The same of what is read once, and completes on `barrier`.
__device__ __forceinline__ void CopyOnce(uint32_t shared, const void* global, uint32_t bytes,
                                         uint32_t barrier) {
  BarrierExpect(barrier, bytes);
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(kEvictFirst)
      : "memory");
}

// 16 bytes to shared memory, zeros where `there` is false; later steps wait for what was
// committed, in groups.
__device__ __forceinline__ void CopyPiece(uint32_t shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
}
// The same of what is there, and read once.
__device__ __forceinline__ void CopyPieceOnce(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared),
               "l"(global), "l"(kEvictFirst)
               : "memory");
}
// The thread arrives at `barrier`, one of those that it expects, when its copies are there.
__device__ __forceinline__ void ArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All but the last kGroups committed groups are there.
template <int kGroups>
__device__ __forceinline__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

__device__ __forceinline__ void BarrierWait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Blocks until the launch before this one in the stream has completed and its
// writes are visible. Code above it may touch only what no running launch writes.
__device__ __forceinline__ void WaitForPredecessor() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
// Lets the next launch of the stream start its prologue.
__device__ __forceinline__ void ReleaseSuccessor() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace lorica::cuda
