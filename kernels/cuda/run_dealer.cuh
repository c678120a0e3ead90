// Deals the runs of an expand out to all warps of a grid, evenly by what they cost, in their order:
// a warp that stays with a row tile needs no more tables, and keeps the u that it had to wait for.
#pragma once

#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {

// All lanes alike.
struct RunDealer {
  static constexpr int kLaneTiles = kStreamRowsMax / 32;
  RunCosts costs[kLaneTiles];  // of tiles lane, lane + 32, ...

  __device__ RunDealer(const RunCosts* tile_costs, int tiles) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kLaneTiles; ++i) {
      costs[i] = i * 32 + lane < tiles ? tile_costs[i * 32 + lane] : 0;
    }
  }
  __device__ static int ModuleRuns(const GroupOutputs& outputs, int module) {
    return (outputs.features[module] + kRunColumns - 1) / kRunColumns;
  }
  __device__ static int CostOf(RunCosts costs, int module) {
    return costs >> module * kRunCostBits & ((1 << kRunCostBits) - 1);
  }
  // Runs [first, second) are the warp's, of `warps` in all.
  __device__ int2 Deal(const GroupOutputs& outputs, int warp, int warps) const {
    const int lane = threadIdx.x % 32;
    int runs[kGroupModulesMax], tile_runs = 0, ends[kLaneTiles], total = 0, tiles = 0;
#pragma unroll
    for (int m = 0; m < kGroupModulesMax; ++m) tile_runs += runs[m] = ModuleRuns(outputs, m);
#pragma unroll
    for (int i = 0; i < kLaneTiles; ++i) {
      int sum = 0;
#pragma unroll
      for (int m = 0; m < kGroupModulesMax; ++m) sum += runs[m] * CostOf(costs[i], m);
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int before = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += before;
      }
      ends[i] = total + sum;
      tiles += __popc(__ballot_sync(~0u, costs[i] != 0));
      total += __shfl_sync(~0u, sum, 31);
    }
    // The first run that begins at or behind a place among the costs.
    const auto locate = [&](int place) {
      int tile = 0, end = 0;
      RunCosts tile_costs = 0;
#pragma unroll
      for (int i = 0; i < kLaneTiles; ++i) tile += __popc(__ballot_sync(~0u, ends[i] <= place));
#pragma unroll
      for (int i = 0; i < kLaneTiles; ++i) {
        const int lane_end = __shfl_sync(~0u, ends[i], tile % 32);
        const RunCosts lane_costs = __shfl_sync(~0u, costs[i], tile % 32);
        end = tile / 32 == i ? lane_end : end;
        tile_costs = tile / 32 == i ? lane_costs : tile_costs;
      }
      int behind = end - place, run = (tile + 1) * tile_runs;  // from the tile's end
#pragma unroll
      for (int m = kGroupModulesMax - 1; m >= 0; --m) {
        const int cost = CostOf(tile_costs, m), all = runs[m] * cost;
        if (cost == 0) continue;
        run -= min(behind, all) / cost;
        behind -= min(behind, all);
      }
      return place < total ? run : tiles * tile_runs;
    };
    return make_int2(locate(static_cast<int>(int64_t{total} * warp / warps)),
                     locate(static_cast<int>(int64_t{total} * (warp + 1) / warps)));
  }
};

}  // namespace lorica::cuda
