// How attend_decode.cu brings together what its warps have of a piece, and the pieces of a row.
#pragma once

#include "kernels/cuda/attend_work.cuh"

namespace lorica::cuda {

// What the warps leave for the merge, with room for as many heads as a unit has. Rows are longer
// than a head, so that lanes that store together meet no bank twice.
template <int kHeadSize>
class Partials {
 public:
  static constexpr int kRow = kHeadSize + 8;
  __host__ __device__ static constexpr int Bytes(int heads) {
    return kAttendWarps * heads * (kRow + 2) * static_cast<int>(sizeof(float));
  }
  __device__ __forceinline__ Partials(void* memory, int heads)
      : o_(static_cast<float*>(memory)), heads_(heads) {}

  __device__ __forceinline__ float* o(int warp, int head) const {
    return o_ + (warp * heads_ + head) * kRow;
  }
  __device__ __forceinline__ float& max(int warp, int head) const {
    return o_[kAttendWarps * heads_ * kRow + warp * heads_ + head];
  }
  __device__ __forceinline__ float& sum(int warp, int head) const {
    return o_[kAttendWarps * heads_ * (kRow + 1) + warp * heads_ + head];
  }
  __device__ __forceinline__ float2* stats() const { return reinterpret_cast<float2*>(o_); }

 private:
  float* const o_;
  const int heads_;
};

__device__ __forceinline__ void AddScaled(float4& sum, float weight, const float4& part) {
  sum.x += weight * part.x;
  sum.y += weight * part.y;
  sum.z += weight * part.z;
  sum.w += weight * part.w;
}

// Four columns of one head.
__device__ __forceinline__ void Store(const AttendArgs& args, int row, int head, int d, float4 o,
                                      float sum) {
  if (d >= args.shape.head_size) return;
  const float scale = 1.0f / sum;
  Element* out = static_cast<Element*>(args.out) +
                 (int64_t{row} * args.shape.heads + head) * args.shape.head_size + d;
  *reinterpret_cast<uint2*>(out) =
      make_uint2(PackElements(o.x * scale, o.y * scale), PackElements(o.z * scale, o.w * scale));
}

// Among the warps that attend.
__device__ __forceinline__ void SyncAttending() {
  asm volatile("bar.sync 1, %0;" ::"n"(kAttendThreads) : "memory");
}

// Adds the warps' parts in order; the row's result where the piece is all of it.
template <int kHeadSize>
__device__ __forceinline__ void MergeWarps(const Partials<kHeadSize>& parts, const AttendArgs& args,
                                           const AttendScratch& scratch, const Work& work,
                                           const Unit& unit) {
  constexpr int kQuads = kHeadSize / 4;
  for (int i = threadIdx.x; i < unit.heads * kQuads; i += kAttendThreads) {
    const int head = i / kQuads, d = i % kQuads * 4;
    float max = -INFINITY;
#pragma unroll
    for (int w = 0; w < kAttendWarps; ++w) max = fmaxf(max, parts.max(w, head));
    float4 o = make_float4(0, 0, 0, 0);
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kAttendWarps; ++w) {
      const float weight = Exp2(parts.max(w, head) - ExpBase(max));
      AddScaled(o, weight, *reinterpret_cast<const float4*>(parts.o(w, head) + d));
      sum += weight * parts.sum(w, head);
    }
    if (work.row.pieces == 1) {
      Store(args, work.row.row, unit.head_begin + head, d, o, sum);
      continue;
    }
    const int64_t place =
        int64_t{work.row.slot + work.piece} * args.shape.heads + unit.head_begin + head;
    __stcg(reinterpret_cast<float4*>(scratch.sums + place * kHeadSize + d), o);
    if (d == 0) __stcg(scratch.stats + place, make_float2(max, sum));
  }
}

// `stats` has room for those of all pieces.
template <int kHeadSize>
__device__ __forceinline__ void MergePieces(float2* stats, const AttendArgs& args,
                                            const AttendScratch& scratch, const RowWork& row,
                                            const Unit& unit) {
  constexpr int kQuads = kHeadSize / 4;
  const int pieces = row.pieces, heads = args.shape.heads;
  const int64_t first = int64_t{row.slot} * heads + unit.head_begin;
  for (int i = threadIdx.x; i < unit.heads * pieces; i += kAttendThreads) {
    stats[i] = __ldcg(scratch.stats + first + int64_t{i / unit.heads} * heads + i % unit.heads);
  }
  SyncAttending();
  for (int i = threadIdx.x; i < unit.heads * kQuads; i += kAttendThreads) {
    const int head = i / kQuads, d = i % kQuads * 4;
    float max = -INFINITY;
    for (int p = 0; p < pieces; ++p) max = fmaxf(max, stats[p * unit.heads + head].x);
    float4 o = make_float4(0, 0, 0, 0);
    float sum = 0.0f;
    const float* from = scratch.sums + (first + head) * kHeadSize + d;
#pragma unroll 16
    for (int p = 0; p < pieces; ++p) {
      const float2 stat = stats[p * unit.heads + head];
      const float weight = Exp2(stat.x - max);
      AddScaled(o, weight,
                __ldcg(reinterpret_cast<const float4*>(from + int64_t{p} * heads * kHeadSize)));
      sum += weight * stat.y;
    }
    Store(args, row.row, unit.head_begin + head, d, o, sum);
  }
}

// Counts pieces of a row that the block has stored. True in the block that finishes last, which
// then sees them all.
__device__ __forceinline__ bool IsLast(uint32_t* ticket, int count, int pieces) {
  __shared__ bool last;
  __threadfence();
  SyncAttending();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, count) + count == pieces;
    if (last) *ticket = 0;  // ready for the next launch
  }
  SyncAttending();
  __threadfence();
  return last;
}

}  // namespace lorica::cuda
