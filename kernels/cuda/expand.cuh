// The LoRA expand inside a post kernel: the sum over terms of s B u, for the block's columns
// and a tile of at most kPostRowTile rows, left in shared memory.
//
// The weights are the left operand of the matrix instruction: its 16 rows are output
// columns, its 16 k are ranks, its 8 columns are rows of the batch. Which physical column
// an operand row stands for is free, so lane (g, t) takes columns [8g, 8g + 8) of a group
// of 64 and reads four ranks of them, 16 bytes each, straight from the tiles. In the end
// it holds those 8 columns for rows 2t and 2t + 1. u stays fp32: it enters as the sum of
// two bf16 values.
//
// Code is kept short here: between two launches the products stream gigabytes through the
// cache, so every instruction is fetched from memory again.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tables.h"
#include "kernels/lora_tiles.h"

namespace lorica::cuda {

inline constexpr int kGroupColumns = 64;  // columns that a warp's lanes cover at once
inline constexpr int kUStride = kLoraRankMax + 8;

// 64 columns of one module that a warp computes.
struct ExpandGroup {
  int module;  // which of the linears that share x
  int u;       // which of the block's u buffers: one for each module it holds
  int column;  // first column inside the module
  int width;   // of the module; 0 = nothing for this lane
  float* out;  // [kPostRowTile][out_stride], the group's first column
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
    out.row[2 * half] = out.row[2 * half + 1] = make_uint4(0, 0, 0, 0);
    if (tile + half >= entry.rank_tiles || column >= width) continue;
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
// scaled; zeros where the tile has no row and up to a multiple of 16 ranks.
__device__ __forceinline__ void GatherU(float* out, const PlanEntry& entry, const RowTile& tile,
                                        const float* u, int splits) {
  const int ranks = entry.rank_tiles * kTileRanks;
  const int columns = (ranks + 15) / 16 * 16;
  const int64_t split_stride = int64_t{tile.u_rows} * tile.u_width;
  const float* from_tile = u + tile.u_begin + entry.u_column;
  for (int row = threadIdx.x / 16; row < kPostRowTile; row += blockDim.x / 16) {
    for (int rank = threadIdx.x % 16; rank < columns; rank += 16) {
      float sum = 0.0f;
      const float* from = from_tile + row * tile.u_width + rank;
      if (row < tile.row_count && rank < ranks) {
#pragma unroll 8
        for (int s = 0; s < splits; ++s) sum += __ldcg(from + s * split_stride);
      }
      out[row * kUStride + rank] = sum * entry.scale;
    }
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

// Lane (g, t) writes columns [8g, 8g + 8) of rows 2t and 2t + 1.
__device__ __forceinline__ void StoreGroup(const ExpandGroup& group, const float (&d)[4][4],
                                           int out_stride) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float4* to = reinterpret_cast<float4*>(group.out + (2 * t + half) * out_stride + 8 * g);
    to[0] = make_float4(d[0][half], d[0][2 + half], d[1][half], d[1][2 + half]);
    to[1] = make_float4(d[2][half], d[2][2 + half], d[3][half], d[3][2 + half]);
  }
}

// Where the block's u buffers come from: `count` modules from `first`.
struct ExpandModules {
  int first;
  int count;
};

// All threads of the block, same tile and modules. Waits for the launch ahead once the
// first weights are on their way and lets the next begin; ends with a barrier. REQUIRES:
// tile.term_count > 0.
template <int kGroups>
__device__ __forceinline__ void Expand(const ExpandGroup (&groups)[kGroups], ExpandModules modules,
                                       const RowTile& tile, const TileStart& start,
                                       const LoraPlan& plan, int pair, int group_modules,
                                       int splits, float* shared_u, int out_stride) {
  const int lane_column = threadIdx.x % 32 / 4 * 8;
  float d[kGroups][4][4] = {};
#pragma unroll 1
  for (int term = 0; term < tile.term_count; ++term) {
    const PlanEntry* entries =
        term == 0 ? start.entries
                  : plan.entries + pair * plan.stride + (tile.term_begin + term) * group_modules;
    int tiles = 0;
    for (int m = 0; m < modules.count; ++m) {
      tiles = max(tiles, entries[modules.first + m].rank_tiles);
    }
#pragma unroll 1
    for (int rank_tile = 0; rank_tile < max(tiles, 1); rank_tile += 2) {
      RankRows weights[kGroups];
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        LoadRanks(weights[j], entries[groups[j].module], plan.arena, rank_tile,
                  groups[j].column + lane_column, groups[j].width);
      }
      if (rank_tile == 0) {
        if (term == 0) {
          WaitForPredecessor();
          ReleaseSuccessor();
        }
        __syncthreads();
#pragma unroll 1
        for (int m = 0; m < modules.count; ++m) {
          GatherU(shared_u + m * kPostRowTile * kUStride, entries[modules.first + m], tile, plan.u,
                  splits);
        }
        __syncthreads();
      }
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        if (rank_tile >= entries[groups[j].module].rank_tiles) continue;
        uint32_t high[2], low[2];
        SplitU(high, low, shared_u + groups[j].u * kPostRowTile * kUStride, rank_tile * kTileRanks);
        MultiplyRanks(d[j], weights[j], high, low);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kGroups; ++j) StoreGroup(groups[j], d[j], out_stride);
  __syncthreads();
}

// DoRA's gain of a tile's module; null without. Only a lone term may have one.
__device__ __forceinline__ const float* GainOf(const RowTile& tile, const TileStart* start, int m) {
  const bool any = tile.term_count == 1 && start->entries[m].rank_tiles > 0;
  return any ? start->entries[m].gain : nullptr;
}

}  // namespace lorica::cuda
