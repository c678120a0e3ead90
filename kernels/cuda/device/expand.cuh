// The LoRA expand inside a post kernel: adds sum over terms of s B u to columns that
// a warp holds, for a tile of at most kPostRowTile rows.
//
// The weights are the left operand of the matrix instruction: its 16 rows are output
// columns, its 16 k are ranks, its 8 columns are rows of the batch. Which physical column
// an operand row stands for is free, so lane (g, t) takes columns [8g, 8g + 8) of a group
// of 64 and reads four ranks of them, 16 bytes each, straight from the tiles. In the end
// it holds those 8 columns for rows 2t and 2t + 1. u stays fp32: it enters as the sum of
// two bf16 values.
#pragma once

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/tables.h"
#include "kernels/lora_tiles.h"

namespace lorica::cuda {

inline constexpr int kGroupColumns = 64;  // columns that a warp's lanes cover at once
inline constexpr int kUStride = kLoraRankMax + 8;

// What a warp adds to: kGroups groups of 64 columns, each with its first column inside
// the module and the module's width.
template <int kModules, int kGroups>
struct ExpandTarget {
  int module[kModules];  // which module of the group of linears
  int column[kModules];  // first column of group 0; group j is 64 j further on
  int width[kModules];   // out_features
};

template <int kModules, int kGroups>
struct Accumulators {
  // [module][group][i][c]: columns 8g + 2i (c < 2) and 8g + 2i + 1, row 2t + c % 2.
  float d[kModules][kGroups][4][4];

  __device__ void Clear() {
#pragma unroll
    for (int i = 0; i < kModules * kGroups * 16; ++i) (&d[0][0][0][0])[i] = 0.0f;
  }
  // Column 8g + i of a group, row 2t + half.
  __device__ float& At(int m, int group, int i, int half) {
    return d[m][group][i / 2][i % 2 * 2 + half];
  }
};

struct RankRows {
  uint4 row[4];  // ranks 2t, 2t + 1 of the first tile, 2t, 2t + 1 of the second
};

__device__ __forceinline__ void LoadRanks(RankRows& out, const PlanEntry& entry,
                                          const std::byte* arena, int tile, int column, int width) {
  const int t = threadIdx.x % 4;
  const int wide = column / kTileWidth;
  const int tile_width = min(kTileWidth, width - wide * kTileWidth);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool valid = tile + half < entry.rank_tiles && column < width;
    if (!valid) {
      out.row[2 * half] = out.row[2 * half + 1] = make_uint4(0, 0, 0, 0);
      continue;
    }
    const uint32_t unit = TileUnit(entry.b_tiles, entry.b_run, tile + half, wide, width);
    const std::byte* address = arena + int64_t{unit} * kTileUnitBytes +
                               (2 * t * tile_width + column - wide * kTileWidth) * 2;
    out.row[2 * half] = LoadStream(address);
    out.row[2 * half + 1] = LoadStream(address + tile_width * 2);
  }
}

__device__ __forceinline__ void MultiplyRanks(float (&d)[4][4], const RankRows& w,
                                              const uint32_t (&high)[2], const uint32_t (&low)[2]) {
  const uint32_t* r0 = &w.row[0].x;
  const uint32_t* r1 = &w.row[1].x;
  const uint32_t* r2 = &w.row[2].x;
  const uint32_t* r3 = &w.row[3].x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t a0 = LowHalves(r0[i], r1[i]), a1 = HighHalves(r0[i], r1[i]);
    const uint32_t a2 = LowHalves(r2[i], r3[i]), a3 = HighHalves(r2[i], r3[i]);
    Mma(d[i], a0, a1, a2, a3, high[0], high[1]);
    Mma(d[i], a0, a1, a2, a3, low[0], low[1]);
  }
}

// u of one entry into shared memory, [kPostRowTile][kUStride], splits added in order and
// scaled. Ranks are filled up to a multiple of 16 with zeros. All threads of the block.
__device__ __forceinline__ void GatherU(float* out, const PlanEntry& entry, const RowTile& tile,
                                        const float* u, int splits) {
  const int ranks = entry.rank_tiles * kTileRanks;
  const int columns = (ranks + 15) / 16 * 16;
  const int64_t split_stride = int64_t{tile.u_rows} * tile.u_width;
  for (int i = threadIdx.x; i < kPostRowTile * columns; i += blockDim.x) {
    const int row = i / columns, rank = i % columns;
    float sum = 0.0f;
    if (row < tile.row_count && rank < ranks) {
      const float* from = u + tile.u_begin + row * tile.u_width + entry.u_column + rank;
#pragma unroll 8
      for (int s = 0; s < splits; ++s) sum += __ldcg(from + s * split_stride);
    }
    out[row * kUStride + rank] = sum * entry.scale;
  }
}

__device__ __forceinline__ void SplitU(uint32_t (&high)[2], uint32_t (&low)[2], const float* u,
                                       int rank) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 v = *reinterpret_cast<const float2*>(u + g * kUStride + rank + 8 * half + 2 * t);
    high[half] = PackBf16(v.x, v.y);
    low[half] = PackBf16(v.x - LowFloat(high[half]), v.y - HighFloat(high[half]));
  }
}

// Adds all terms of the tile. `shared_u` holds kModules * kPostRowTile * kUStride floats.
// Every thread of the block must call it with the same tile and modules; `wait` is called
// once, by all, when the first weights are on their way.
template <int kModules, int kGroups, typename Wait>
__device__ __forceinline__ void Expand(Accumulators<kModules, kGroups>& sums,
                                       const ExpandTarget<kModules, kGroups>& target,
                                       const RowTile& tile, const TileStart* start,
                                       const LoraPlan& plan, int pair, int group_modules,
                                       int splits, float* shared_u, Wait&& wait) {
  constexpr int kUFloats = kPostRowTile * kUStride;
  const int lane_column = threadIdx.x % 32 / 4 * 8;
  bool waited = false;
  for (int term = 0; term < tile.term_count; ++term) {
    PlanEntry entries[kModules];
    int tiles = 0;
#pragma unroll
    for (int m = 0; m < kModules; ++m) {
      entries[m] = term == 0
                       ? start->entries[target.module[m]]
                       : plan.entries[pair * plan.stride +
                                      (tile.term_begin + term) * group_modules + target.module[m]];
      tiles = max(tiles, entries[m].rank_tiles);
    }
    for (int rank_tile = 0; rank_tile < tiles; rank_tile += 2) {
      RankRows weights[kModules][kGroups];
#pragma unroll
      for (int m = 0; m < kModules; ++m) {
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
          LoadRanks(weights[m][j], entries[m], plan.arena, rank_tile,
                    target.column[m] + j * kGroupColumns + lane_column, target.width[m]);
        }
      }
      if (rank_tile == 0) {
        if (!waited) wait();
        waited = true;
        __syncthreads();
#pragma unroll
        for (int m = 0; m < kModules; ++m) {
          GatherU(shared_u + m * kUFloats, entries[m], tile, plan.u, splits);
        }
        __syncthreads();
      }
#pragma unroll
      for (int m = 0; m < kModules; ++m) {
        if (rank_tile >= entries[m].rank_tiles) continue;
        uint32_t high[2], low[2];
        SplitU(high, low, shared_u + m * kUFloats, rank_tile * kTileRanks);
#pragma unroll
        for (int j = 0; j < kGroups; ++j) MultiplyRanks(sums.d[m][j], weights[m][j], high, low);
      }
    }
  }
  if (!waited) wait();
}

// DoRA's gain of a tile's module; null without. Only a lone term may have one.
__device__ __forceinline__ const float* GainOf(const RowTile& tile, const TileStart* start, int m) {
  const bool any = tile.term_count == 1 && start->entries[m].rank_tiles > 0;
  return any ? start->entries[m].gain : nullptr;
}

}  // namespace lorica::cuda
