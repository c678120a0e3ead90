// Pages of the cache in shared memory, for attend_decode.cu: where their parts lie there, and each
// warp's ring of them.
#pragma once

#include "kernels/cuda/attend_work.cuh"

namespace lorica::cuda {

inline constexpr int kRingPages = 2;  // of a warp

// K or V of one page and KV head in shared memory: boxes of 64 columns, [16 tokens][64] each, whose
// 16-byte groups are swizzled: group i of a token lies at i ^ token % 8.
template <int kHeadSize>
inline constexpr int kMatrixBytes = 2 * kHeadSize* kBlockTokens;
inline constexpr int kBoxColumns = 64, kRowBytes = kBoxColumns * 2;
inline constexpr int kBoxBytes = kBlockTokens * kRowBytes;

// What a lane adds to the address of a matrix, to load 16 tokens by 16 columns with others: tokens
// 0 to 7, 8 to 15, then of the next 8 columns (K), or columns first (V).
__device__ __forceinline__ uint32_t LaneOffset(bool value) {
  const int lane = threadIdx.x % 32, fast = lane / 8 % 2, slow = lane / 16;
  const int token = lane % 8 + 8 * (value ? slow : fast), group = value ? fast : slow;
  return token * kRowBytes + (group ^ token % 8) * 16;
}
// The same for columns 16 `step`.
__device__ __forceinline__ uint32_t StepAddress(uint32_t address, int step) {
  constexpr int kSteps = kBoxColumns / 16;
  return (address ^ step % kSteps * 32) + step / kSteps * kBoxBytes;
}

// Beyond the context a page may hold anything, NaN too: V of tokens from `tokens` on becomes zero.
template <int kHeadSize>
__device__ __forceinline__ void ZeroValues(std::byte* values, int tokens) {
  constexpr int kGroups = kHeadSize / 8;
  for (int i = tokens * kGroups + threadIdx.x % 32; i < kBlockTokens * kGroups; i += 32) {
    const int box = i % kGroups / 8, group = i % 8;
    auto* row = values + box * kBoxBytes + i / kGroups * kRowBytes;
    *reinterpret_cast<uint4*>(row + group * 16) = make_uint4(0, 0, 0, 0);
  }
  __syncwarp();
}

// Pages that are still to be asked for. Up to 32 of their ids are held by the lanes.
struct Wanted {
  PageRange range;
  const int32_t* ids;
  int32_t id;
  int turn = 0;
  int kv_head;

  __device__ __forceinline__ Wanted(const AttentionShape& shape, const Work& work, int kv_head,
                                    const int32_t* pages)
      : range(shape, work), ids(pages + work.row.page_begin), kv_head(kv_head) {
    FetchIds();
  }
  __device__ __forceinline__ void FetchIds() {
    const int at = range.page + threadIdx.x % 32 * kAttendWarps;
    id = at < range.end ? ids[at] : 0;
  }
  __device__ __forceinline__ void Advance() {
    range.page += kAttendWarps;
    if (++turn % 32 == 0) FetchIds();
  }
};

// K and V of a warp's pages, on their way and at hand.
template <int kHeadSize>
class Ring {
 public:
  __device__ __forceinline__ Ring(std::byte* pages, const AttendArgs& args)
      : to_(SharedAddress(pages) + Place()),
        from_(static_cast<const std::byte*>(args.arena) +
              int64_t{args.layer} * 2 * args.shape.kv_heads * kMatrix + threadIdx.x % 32 * 16),
        block_bytes_(args.block_bytes),
        values_(args.shape.kv_heads * kMatrix) {}

  // Asks for what is wanted of pages below `end` while there is room.
  __device__ __forceinline__ void Ask(Wanted& wanted, int end) {
    while (asked_ < kRingPages && wanted.range.page < end) {
      const int64_t id = __shfl_sync(~0u, wanted.id, wanted.turn % 32);
      const std::byte* keys = from_ + id * block_bytes_ + wanted.kv_head * kMatrix;
      Copy(to_ + next_ * 2 * kMatrix, keys);
      Copy(to_ + next_ * 2 * kMatrix + kMatrix, keys + values_);
      CommitCopies();
      wanted.Advance();
      next_ = next_ + 1 < kRingPages ? next_ + 1 : 0;
      ++asked_;
    }
  }
  // Awaits the page that was asked for first and returns its place.
  __device__ __forceinline__ int Take() {
    if (asked_ == kRingPages) {
      AwaitCopies<kRingPages - 1>();
    } else {
      AwaitCopies<0>();
    }
    __syncwarp();
    const int first = next_ - asked_;
    return first < 0 ? first + kRingPages : first;
  }
  // All lanes have read it.
  __device__ __forceinline__ void Release() {
    __syncwarp();
    --asked_;
  }

 private:
  static constexpr int kMatrix = kMatrixBytes<kHeadSize>;
  static constexpr int kGroups = kHeadSize / 8;  // of a token, 16 bytes each
  static constexpr int kTokens = 32 / kGroups;   // that the warp copies at once

  // Of the lane's first group in a matrix.
  __device__ __forceinline__ static int Place() {
    const int lane = threadIdx.x % 32, token = lane / kGroups, group = lane % kGroups;
    return group / 8 * kBoxBytes + token * kRowBytes + (group % 8 ^ token) * 16;
  }
  __device__ __forceinline__ static void Copy(uint32_t to, const std::byte* from) {
#pragma unroll
    for (int i = 0; i < kBlockTokens / kTokens; ++i) {
      const uint32_t place = (to ^ i * kTokens % 8 * 16) + i * kTokens * kRowBytes;
      CopyPieceOnce(place, from + i * 512);
    }
  }

  const uint32_t to_;
  const std::byte* const from_;
  const int64_t block_bytes_;
  const int values_;  // bytes from K to V
  int next_ = 0;      // place of the next page that is asked for
  int asked_ = 0;
};

}  // namespace lorica::cuda
