// The LoRA kernel's work, for a kernel of its own or for warps of a product's kernel.
//
// Shrink: the work of a (layer, group) is cut into items of one rank tile and up to
// kShrinkRowTileMax rows, and dealt out evenly, in order, to the blocks of a grid that never
// changes. A block's warps take chunks of kShrinkChunk inputs in turns; their sums are added in
// order. When all blocks have written their u, the expand takes runs of columns of a row tile
// in turns. So the order of summation depends on the weight's shape alone, and neither atomics
// nor the mixture of adapters enter into it.
#pragma once

#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {

inline constexpr int kLoraWarps = 8;
inline constexpr int kLoraThreads = kLoraWarps * 32;
inline constexpr int kStageBytes = kShrinkChunk * kTileRanks * 2;
inline constexpr int kChunkSteps = kShrinkChunk / 32;
inline constexpr int kXRows = 8;  // of x in one matrix instruction
// A stage a warp, its barriers, and the warps' parts of an item's u.
inline constexpr int kPairStages = kStageBytes / kPairBytes;  // that the expand cuts a stage into
inline constexpr int kWarpBarriers = 1 + kPairStages;
inline constexpr int kBarrierOffset = kLoraWarps * kStageBytes;
inline constexpr int kPartsOffset = kBarrierOffset + kLoraWarps * kWarpBarriers * 8;
static_assert(kPairStages == 2 && kPartsOffset % 16 == 0);
inline constexpr int kPartFloats = kShrinkRowTileMax * kTileRanks;
inline constexpr int kLoraSharedBytes = kPartsOffset + kLoraWarps * kPartFloats * 4 + 16;
inline constexpr int kZerosOffset = kLoraSharedBytes - 16;  // for inputs beyond the last

// What the warps do: the sums of a (layer, group) into their target.
struct LoraWork {
  const bf16* x;
  int columns;  // of x
  int pair;
  StepTables step;
  LoraPlan plan;
  GroupOutputs outputs;
  ExpandTarget target;
};

// All LoRA warps of a block, and nobody else's.
__device__ __forceinline__ void LoraBarrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kLoraThreads) : "memory");
}

__device__ __forceinline__ int ModuleCount(int group) {
  return group == 0 ? 3 : group == 2 ? 2 : 1;
}

// Walks the items of a block. All threads alike.
struct ShrinkCursor {
  const PlanEntry* entries;
  const int32_t* unit_begin;
  const DeviceSegment* segments;
  int item, last;
  int entry, entry_begin, entry_end;
  int rank_tile, row;  // the item's first row inside its segment
  int row_tile;        // most rows of an item
  PlanEntry plan;
  DeviceSegment segment;

  __device__ ShrinkCursor(const StepTables& step, const LoraPlan& lora, int pair) {
    const ShrinkStart start = lora.shrink_starts[int64_t{pair} * lora.blocks + blockIdx.x];
    entries = lora.entries + pair * lora.stride;
    unit_begin = lora.unit_begin + pair * (lora.stride + 1);
    segments = step.segments;
    row_tile = step.counts->shrink_rows;
    item = start.item;
    last = start.last;
    entry = start.entry;
    entry_begin = start.entry_begin;
    entry_end = start.entry_end;
    plan = start.plan;
    segment = start.segment;
    if (item < last) Locate();
  }
  __device__ void Locate() {
    while (item >= entry_end) {
      ++entry;
      entry_begin = unit_begin[entry];
      entry_end = unit_begin[entry + 1];
      plan = entries[entry];
      segment = segments[plan.segment];
    }
    rank_tile = (item - entry_begin) % plan.rank_tiles;
    row = (item - entry_begin) / plan.rank_tiles * row_tile;
  }
  __device__ void Advance() {
    if (++item < last) Locate();
  }
};

// Starts one warp's copy of a chunk of the item's A.
__device__ __forceinline__ void LoadChunk(const ShrinkCursor& at, const std::byte* arena, int chunk,
                                          int columns, uint32_t stage, uint32_t barrier) {
  constexpr int kChunksPerTile = kTileWidth / kShrinkChunk;
  const uint32_t unit =
      TileUnit(at.plan.a_tiles, at.plan.a_run, at.rank_tile, chunk / kChunksPerTile, columns);
  const int64_t offset = int64_t{unit} * kTileUnitBytes + chunk % kChunksPerTile * kStageBytes;
  const int width = min(kShrinkChunk, columns - chunk * kShrinkChunk);
  CopyBulk(stage, arena + offset, width * kTileRanks * 2, barrier);
}

// A chunk of a row of x: lane (g, t) of each 32 inputs takes [4t, 4t + 4) of both halves.
struct RowFragment {
  uint2 part[kChunkSteps][2];
};

__device__ __forceinline__ void LoadRow(RowFragment& out, const bf16* row, bool inside, int width) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int step = 0; step < kChunkSteps; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = step * 32 + half * 16 + 4 * t;
      out.part[step][half] =
          inside && k < width ? __ldcg(reinterpret_cast<const uint2*>(row + k)) : make_uint2(0, 0);
    }
  }
}

// x[8 rows, chunk] A[chunk, 8 ranks] in four interleaved sums: rows g, ranks 2t and 2t + 1.
__device__ __forceinline__ float2 MultiplyChunk(const RowFragment& x, uint32_t stage,
                                                uint32_t zeros, int width) {
  // Row r of matrix m of the four that a step loads: inputs in the order in which x has them.
  const int lane = threadIdx.x % 32, m = lane / 8, r = lane % 8;
  const int mine = m / 2 * 16 + r / 2 * 4 + r % 2 + m % 2 * 2;
  float d[4][4] = {};
#pragma unroll
  for (int step = 0; step < kChunkSteps; ++step) {
    const int k = step * 32 + mine;
    uint32_t b[4];
    LoadMatrixTransposed(b, k < width ? stage + k * 16 : zeros);
    const uint2 first = x.part[step][0], second = x.part[step][1];
    Mma(d[step % 2 * 2], first.x, 0u, first.y, 0u, b[0], b[1]);
    Mma(d[step % 2 * 2 + 1], second.x, 0u, second.y, 0u, b[2], b[3]);
  }
  return make_float2((d[0][0] + d[1][0]) + (d[2][0] + d[3][0]),
                     (d[0][1] + d[1][1]) + (d[2][1] + d[3][1]));
}

// The warps' parts of an item, added in order, into u.
__device__ __forceinline__ void StoreU(const ShrinkCursor& at, const float* parts, int rows,
                                       int thread, float* u) {
  for (int i = thread; i < rows * kTileRanks; i += kLoraThreads) {
    float sum = parts[i];
#pragma unroll
    for (int w = 1; w < kLoraWarps; ++w) sum += parts[w * kPartFloats + i];
    const int row = at.row + i / kTileRanks;
    const int column = at.plan.u_column + at.rank_tile * kTileRanks + i % kTileRanks;
    u[at.segment.u_begin + int64_t{row} * at.segment.u_width + column] = sum;
  }
}

// The block's share of u. `thread` counts from the first of the LoRA warps.
__device__ __forceinline__ void Shrink(const LoraWork& work, int thread, std::byte* shared) {
  const int warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int columns = work.columns, chunks = (columns + kShrinkChunk - 1) / kShrinkChunk;
  const uint32_t stage = SharedAddress(shared) + warp * kStageBytes;
  const uint32_t barrier = SharedAddress(shared) + kBarrierOffset + warp * kWarpBarriers * 8;
  const uint32_t zeros = SharedAddress(shared) + kZerosOffset;
  float* parts = reinterpret_cast<float*>(shared + kPartsOffset);
  ShrinkCursor at(work.step, work.plan, work.pair);
  if (thread < 4) reinterpret_cast<uint32_t*>(shared + kZerosOffset)[thread] = 0;
  if (lane == 0) {
    for (int i = 0; i < kWarpBarriers; ++i) BarrierInit(barrier + i * 8, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (at.item < at.last && warp < chunks) {
      LoadChunk(at, work.plan.arena, warp, columns, stage, barrier);
    }
  }
  LoraBarrier();
  WaitForPredecessor();
  int phase = 0;
#pragma unroll 1
  while (at.item < at.last) {
    const ShrinkCursor now = at;
    at.Advance();
    const int rows = min(now.row_tile, now.segment.row_count - now.row);
    const bf16* x_rows = work.x + (int64_t{now.segment.row_begin} + now.row) * columns;
    float* mine = parts + warp * kPartFloats;
    LoraBarrier();  // the item before has been added up
#pragma unroll 1
    for (int chunk = warp; chunk < chunks; chunk += kLoraWarps) {
      const int width = min(kShrinkChunk, columns - chunk * kShrinkChunk);
#pragma unroll 1
      for (int row = 0; row < rows; row += kXRows) {
        RowFragment fragment;
        LoadRow(fragment, x_rows + int64_t{row + g} * columns + chunk * kShrinkChunk,
                row + g < rows, width);
        if (row == 0) BarrierWait(barrier, phase);
        float2 sum = MultiplyChunk(fragment, stage, zeros, width);
        float2* to = reinterpret_cast<float2*>(mine + (row + g) * kTileRanks + 2 * t);
        if (chunk != warp) sum = make_float2(to->x + sum.x, to->y + sum.y);
        *to = sum;
      }
      phase ^= 1;
      __syncwarp();
      if (lane != 0) continue;
      if (chunk + kLoraWarps < chunks) {
        LoadChunk(now, work.plan.arena, chunk + kLoraWarps, columns, stage, barrier);
      } else if (at.item < at.last) {
        LoadChunk(at, work.plan.arena, warp, columns, stage, barrier);
      }
    }
    if (warp >= chunks) {
      for (int i = lane; i < kPartFloats; i += 32) mine[i] = 0.0f;
    }
    LoraBarrier();
    StoreU(now, parts, rows, thread, work.plan.u);
  }
}

// Walks a warp's share of the expand: runs of columns of one module for one row tile, their
// terms, and pairs of rank tiles. All lanes alike.
struct ExpandCursor {
  const LoraPlan& plan;
  const GroupOutputs& outputs;
  int pair, modules;
  int runs, runs_per_tile, warps;

  int run;
  RowTile tile;
  int module, column, width;
  int64_t module_begin;  // the module's first column in the target
  int term, rank_tile;
  PlanEntry entry;

  __device__ ExpandCursor(const StepTables& step, const LoraPlan& plan, const GroupOutputs& outputs,
                          int pair, int warp)
      : plan(plan), outputs(outputs), pair(pair), modules(ModuleCount(pair % 4)) {
    runs_per_tile = 0;
    for (int m = 0; m < modules; ++m) {
      runs_per_tile += (outputs.features[m] + kRunColumns - 1) / kRunColumns;
    }
    runs = step.counts->row_tiles * runs_per_tile;
    warps = gridDim.x * kLoraWarps;
    run = warp * gridDim.x + blockIdx.x;
    EnterRun();
  }
  __device__ bool done() const { return run >= runs; }
  __device__ bool last_of_term() const { return rank_tile + 2 >= entry.rank_tiles; }
  __device__ void EnterRun() {
    if (done()) return;
    const TileStart& start =
        plan.tile_starts[int64_t{pair} * plan.tile_stride + run / runs_per_tile];
    int inside = run % runs_per_tile;
    module_begin = 0;
    for (module = 0;; ++module) {
      width = outputs.features[module];
      const int module_runs = (width + kRunColumns - 1) / kRunColumns;
      if (inside < module_runs || module + 1 == modules) break;
      inside -= module_runs;
      module_begin += width;
    }
    column = inside * kRunColumns;
    tile = start.tile;
    entry = start.entries[module];
    term = rank_tile = 0;
  }
  __device__ void Advance() {
    if (!last_of_term()) {
      rank_tile += 2;
      return;
    }
    rank_tile = 0;
    if (++term < tile.term_count) {
      entry = plan.entries[pair * plan.stride + (tile.term_begin + term) * modules + module];
      return;
    }
    run += warps;
    EnterRun();
  }
  __device__ void Load(uint32_t shared, uint32_t barrier) const {
    LoadPair(entry, plan.arena, rank_tile, column, width, shared, barrier);
  }
};

// Every block of the grid writes its share of u before any reads it. The grid is no larger than
// the device, and nobody whom a waiting block keeps from running is waited for. One thread of a
// block asks, so that those who announce are not kept waiting by those who ask.
__device__ __forceinline__ void WaitForShrunk(int32_t* shrunk, int thread) {
  LoraBarrier();
  if (thread == 0) {
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(shrunk) : "memory");
    int32_t blocks = 0;
    while (blocks < gridDim.x) {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(blocks) : "l"(shrunk) : "memory");
    }
  }
  LoraBarrier();
}

// The warp's share of the expand. Its stage holds two pairs of rank tiles: while one is
// multiplied, the next is on its way.
__device__ __forceinline__ void Expand(const LoraWork& work, int thread, std::byte* shared) {
  const int warp = thread / 32, pair = work.pair;
  const LoraPlan& plan = work.plan;
  const ExpandTarget& target = work.target;
  const std::byte* stage = shared + warp * kStageBytes;
  const uint32_t barriers = SharedAddress(shared) + kBarrierOffset + (warp * kWarpBarriers + 1) * 8;
  ExpandCursor at(work.step, plan, work.outputs, pair, warp), ahead = at;
  __syncwarp();
  for (int i = 0; i < kPairStages && !ahead.done(); ++i, ahead.Advance()) {
    ahead.Load(SharedAddress(stage) + i * kPairBytes, barriers + i * 8);
  }
  WaitForShrunk(plan.shrunk + pair, thread);
  float d[kRunGroups][4][4] = {};
#pragma unroll 1
  for (int uses = 0; !at.done(); ++uses) {
    const int slot = uses % kPairStages;
    const std::byte* weights = stage + slot * kPairBytes;
    uint32_t high[2], low[2];
    SplitU(high, low, plan.u, at.tile, at.entry, at.rank_tile);
    BarrierWait(barriers + slot * 8, uses / kPairStages & 1);
    const bool any = at.rank_tile < at.entry.rank_tiles;
    const bool second = at.rank_tile + 1 < at.entry.rank_tiles;
#pragma unroll
    for (int j = 0; j < kRunGroups; ++j) {
      if (!any) continue;
      RankRows w;
      ReadRanks(w, weights, j, second);
      MultiplyRanks(d[j], w, high, low);
    }
    __syncwarp();
    if (!ahead.done()) {
      ahead.Load(SharedAddress(weights), barriers + slot * 8);
      ahead.Advance();
    }
    if (at.last_of_term()) {
#pragma unroll
      for (int j = 0; j < kRunGroups; ++j) {
        const int column = at.column + j * kGroupColumns + threadIdx.x % 32 / 4 * 8;
        if (any || !target.product) {
          StoreGroup(target, at.tile, at.module_begin, column, at.width, at.term > 0, d[j]);
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) d[j][i / 4][i % 4] = 0.0f;
      }
    }
    at.Advance();
  }
}

inline LoraWork MakeLoraWork(const LoraArgs& args, const StepTables& step, const LoraPlan& plan) {
  int columns = 0;
  for (const int features : args.outputs.features) columns += features;
  return {static_cast<const bf16*>(args.x),
          static_cast<int>(args.in_features),
          args.layer * 4 + static_cast<int>(args.group),
          step,
          plan,
          args.outputs,
          {args.sums, static_cast<bf16*>(args.product), columns}};
}

}  // namespace lorica::cuda
