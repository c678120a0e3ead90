// The LoRA expand: the sum over terms of s B u for a run of columns and a tile of at most
// kFewRows rows, by one warp.
//
// The weights are the left operand of the matrix instruction: its 16 rows are output
// columns, its 16 k are ranks, its 8 columns are rows of the batch. Which physical column
// an operand row stands for is free, so lane (g, t) takes columns [8g, 8g + 8) of a group
// of 64 and reads four ranks of them, 16 bytes each. In the end it holds those 8 columns for rows
// 2t and 2t + 1. u stays fp32: it enters as the sum of two 16-bit values.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/packed_sums.cuh"
#include "kernels/cuda/tables.h"
#include "kernels/lora_tiles.h"

namespace lorica::cuda {

inline constexpr int kGroupColumns = 64;  // columns that a warp's lanes cover at once
inline constexpr int kRunGroups = 2;
inline constexpr int kRunColumns = kRunGroups * kGroupColumns;

inline constexpr int kPairRanks = 2 * kTileRanks;  // of one matrix instruction
inline constexpr int kPairBytes = kPairRanks * kRunColumns * 2;

struct RankRows {
  uint4 row[4];  // ranks 2t, 2t + 1 of the first tile, 2t, 2t + 1 of the second
};

// Starts the copy of two rank tiles of a run of columns, [kPairRanks][kRunColumns], which
// completes on `barrier` with an arrival of every lane. All lanes, 16 bytes each at a time: ranks
// are 256 bytes, which are little for a copy of the tensor copy engine.
__device__ __forceinline__ void LoadPair(const PlanEntry& entry, const std::byte* arena,
                                         int rank_tile, int column, int width, uint32_t shared,
                                         uint32_t barrier) {
  constexpr int kPieces = kRunColumns / 8, kRanksAtOnce = 32 / kPieces;
  const int lane = threadIdx.x % 32, rank = lane / kPieces, piece = lane % kPieces;
  const int wide = column / kTileWidth;
  const int tile_width = min(kTileWidth, width - wide * kTileWidth);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tile = rank_tile + half;
    if (tile >= entry.rank_tiles || column + piece * 8 >= width) continue;
    const uint32_t unit = TileUnit(entry.b_tiles, entry.b_run, tile, wide, width);
    const std::byte* from = arena + int64_t{unit} * kTileUnitBytes +
                            (rank * tile_width + column - wide * kTileWidth + piece * 8) * 2;
    const uint32_t to = shared + (half * kTileRanks + rank) * kRunColumns * 2 + piece * 16;
#pragma unroll
    for (int i = 0; i < kTileRanks; i += kRanksAtOnce) {
      CopyPieceOnce(to + i * kRunColumns * 2, from + i * tile_width * 2);
    }
  }
  ArriveAfterCopies(barrier);
}

// The lane's share of 64 columns; zeros for ranks that the adapter has not.
__device__ __forceinline__ void ReadRanks(RankRows& out, const std::byte* shared, int group,
                                          bool second) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const std::byte* from = shared + (2 * t * kRunColumns + group * kGroupColumns + 8 * g) * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int rank = i / 2 * kTileRanks + i % 2;
    out.row[i] = i < 2 || second ? *reinterpret_cast<const uint4*>(from + rank * kRunColumns * 2)
                                 : make_uint4(0, 0, 0, 0);
  }
}

// The same as left operands of the matrix instruction, for 16 columns each.
struct RankFragments {
  uint32_t a[4][4];
};

__device__ __forceinline__ RankFragments FragmentsOf(const RankRows& w) {
  const uint32_t* r0 = &w.row[0].x;
  const uint32_t* r1 = &w.row[1].x;
  const uint32_t* r2 = &w.row[2].x;
  const uint32_t* r3 = &w.row[3].x;
  RankFragments out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.a[i][0] = LowHalves(r0[i], r1[i]);
    out.a[i][1] = HighHalves(r0[i], r1[i]);
    out.a[i][2] = LowHalves(r2[i], r3[i]);
    out.a[i][3] = HighHalves(r2[i], r3[i]);
  }
  return out;
}

__device__ __forceinline__ void MultiplyRanks(float (&d)[4][4], const RankFragments& w,
                                              const uint32_t (&high)[2], const uint32_t (&low)[2]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t(&a)[4] = w.a[i];
    Mma(d[i], a[0], a[1], a[2], a[3], high[0], high[1]);
    Mma(d[i], a[0], a[1], a[2], a[3], low[0], low[1]);
  }
}
__device__ __forceinline__ void MultiplyRanks(float (&d)[4][4], const RankRows& w,
                                              const uint32_t (&high)[2], const uint32_t (&low)[2]) {
  MultiplyRanks(d, FragmentsOf(w), high, low);
}

// Two numbers as sums of two 16-bit values.
__device__ __forceinline__ void SplitPair(float first, float second, uint32_t& high,
                                          uint32_t& low) {
  high = PackElements(first, second);
  low = PackElements(first - LowFloat(high), second - HighFloat(high));
}

// Where to find u.
struct UTable {
  const FlaggedU* u;
  int32_t part;   // StepCounts::u_part
  uint32_t flag;  // that the numbers of this (layer, group) have
};

__device__ __forceinline__ void StoreFlaggedU(FlaggedU* to, float u, uint32_t flag) {
  const FlaggedU value = FlaggedU{flag} << 32 | __float_as_uint(u);
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

// Two neighbouring numbers of kParts parts of u, maybe on their way. Of an index of `count`
// parts and more nothing is read.
template <int kParts>
struct UParts {
  FlaggedU numbers[kParts][2];

  __device__ __forceinline__ void Ask(const UTable& table, int32_t at, int count) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      if (i >= count) continue;
      asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                   : "=l"(numbers[i][0]), "=l"(numbers[i][1])
                   : "l"(table.u + at + i * table.part));
    }
  }
  __device__ __forceinline__ bool There(const UTable& table, int count) const {
    bool there = true;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      if (i >= count) continue;
      there = there && numbers[i][0] >> 32 == table.flag && numbers[i][1] >> 32 == table.flag;
    }
    return there;
  }
  // Asks again until all are there, then adds them up behind `sum`.
  __device__ __forceinline__ float2 Take(const UTable& table, int32_t at, int count, float2 sum) {
    constexpr int kAskAgain_ns = 20;
    while (!There(table, count)) {
      __nanosleep(kAskAgain_ns);
      Ask(table, at, count);
    }
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      if (i >= count) continue;
      sum.x += __uint_as_float(static_cast<uint32_t>(numbers[i][0]));
      sum.y += __uint_as_float(static_cast<uint32_t>(numbers[i][1]));
    }
    return sum;
  }
};

// Rows of a tile and columns of a module.
struct ExpandPlace {
  int row_begin, row_count;
  int column, width;  // inside the module, and the module's
  int module_begin;   // its first column in the target
};

// A pair of rank tiles of a run, as the warp finds it beside the weights in shared memory.
struct alignas(16) PairTask {
  struct alignas(16) Head {
    int rank_tiles;  // 1, 2 or more; less: none
    int kept;        // where the pair's u is kept for the runs that follow, -1: not kept
    bool fresh;      // it is not kept yet
    bool first;      // of its run
    bool last;
  } head;
  int u_at;     // the first row's first number
  int u_width;  // from one row to the next
  int parts;
  float scale;
  ExpandPlace place;
};

// The lane's numbers of u for a pair, scaled, as sums of two 16-bit values.
struct SplitU {
  uint32_t high[2], low[2];

  __device__ __forceinline__ void Keep(const SplitU& other, bool take) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      high[i] = take ? other.high[i] : high[i];
      low[i] = take ? other.low[i] : low[i];
    }
  }
};

// The same on their way: asked for while something else is done.
template <int kAtOnce>
struct AskedU {
  static constexpr int kAhead = 2;  // parts: asked for early; then kAtOnce together
  UParts<kAhead> early[2];

  __device__ static __forceinline__ bool Inside(const PairTask& task, int half) {
    return threadIdx.x % 32 / 4 < task.place.row_count && half < task.head.rank_tiles;
  }
  __device__ static __forceinline__ int32_t At(const PairTask& task, int half) {
    const int lane = threadIdx.x % 32;
    return task.u_at + lane / 4 * task.u_width + half * kTileRanks + 2 * (lane % 4);
  }
  __device__ __forceinline__ void Ask(const UTable& table, const PairTask& task) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (Inside(task, half)) early[half].Ask(table, At(task, half), task.parts);
    }
  }
  // Zeros where nothing is. Parts are added in order.
  __device__ __forceinline__ SplitU Take(const UTable& table, const PairTask& task) {
    float2 v[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (Inside(task, half)) {
        v[half] = early[half].Take(table, At(task, half), task.parts, v[half]);
      }
    }
#pragma unroll 1
    for (int part = kAhead; part < task.parts; part += kAtOnce) {
      UParts<kAtOnce> more[2];
      const int32_t skip = part * table.part;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (Inside(task, half)) more[half].Ask(table, At(task, half) + skip, task.parts - part);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (!Inside(task, half)) continue;
        v[half] = more[half].Take(table, At(task, half) + skip, task.parts - part, v[half]);
      }
    }
    SplitU u;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      SplitPair(v[half].x * task.scale, v[half].y * task.scale, u.high[half], u.low[half]);
    }
    __syncwarp();
    return u;
  }
};

// Where the sums go, packed (packed_sums.cuh). Rows are `columns` apart.
struct ExpandTarget {
  uint4* sums;
  int columns;
};

// The sums of a run.
__device__ __forceinline__ void StoreRun(const ExpandTarget& target, const ExpandPlace& place,
                                         const float (&d)[kRunGroups][4][4]) {
  const int lane = threadIdx.x % 32;
  const int row = 2 * (lane % 4), column = place.column + lane / 4 * 8, stride = target.columns / 8;
  uint4* to = target.sums + (place.row_begin + row) * stride + (place.module_begin + column) / 8;
#pragma unroll
  for (int half = 0; half < 2; ++half, to += stride) {
    if (row + half >= place.row_count) return;
#pragma unroll
    for (int j = 0; j < kRunGroups; ++j) {
      if (column + j * kGroupColumns >= place.width) continue;
      const float(&e)[4][4] = d[j];
      const float v[8] = {e[0][half], e[0][2 + half], e[1][half], e[1][2 + half],
                          e[2][half], e[2][2 + half], e[3][half], e[3][2 + half]};
      to[j * kGroupColumns / 8] = PackSums(v);
    }
  }
}

}  // namespace lorica::cuda
