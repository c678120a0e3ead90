// The work of a product's LoRA warps, see linear.cu.
//
// Shrink: the work of a (layer, group) is cut into items of one tile of A, or one rank tile, and
// up to kFewRows rows, and dealt out evenly, in order, to the blocks of a grid that never
// changes. The tile's inputs are dealt out to a block's warps; their sums are added in order, and
// then those of a rank tile's tiles: in turn by one block, or by the expand, where every tile is
// an item and u has parts. The expand's runs of columns of a row tile are dealt out to all warps
// by their cost (run_dealer.cuh); they begin as soon as their u is there: numbers of u have flags.
// So the order of summation depends on the weight's shape alone, and neither atomics nor the
// mixture of adapters enter into it.
//
// While a product runs, whatever memory is asked for takes microseconds. So all that does not
// depend on x is asked for before x is there: tables, the first tiles of A, the first of B.
#pragma once

#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/run_dealer.cuh"

namespace lorica::cuda {

inline constexpr int kTileChunks = kTileWidth / kShrinkChunk;
inline constexpr int kChunkBytes = kShrinkChunk * kTileRanks * 2;
inline constexpr int kChunkSteps = kShrinkChunk / 32;
inline constexpr int kChunkStages = 2;  // a warp
static_assert(kTileWidth % kShrinkChunk == 0 && kChunkBytes == kPairBytes);

template <int kNear>
struct ExpandCursor;

// Shared memory: the stages of every warp, their barriers, the warps' parts of two items' u. The
// expand uses the stages of the shrink again, behind one of its own, which is filled before x is
// there.
template <int kLoraWarps>
struct LoraLayout {
  static constexpr int kWarps = kLoraWarps;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTurns = kTileChunks / kWarps;  // chunks of a tile that a warp takes
  static constexpr int kEarlyStages = 1;
  static constexpr int kPairStages = kEarlyStages + kChunkStages;
  // Pairs whose u is kept, in registers where there is no shared memory for it; and parts of u
  // that are asked for together.
  static constexpr bool kKeptShared = kWarps < kTileChunks;
  static constexpr int kKeptPairs = 4, kUAtOnce = kKeptShared ? 2 : 3;
  static constexpr int kWarpBytes = kPairStages * kPairBytes;
  static constexpr int kBarriers = kChunkStages + kPairStages + 1;  // of a warp
  static constexpr int kBarrierOffset = kWarps * kWarpBytes;
  static constexpr int kPartsOffset = kBarrierOffset + kWarps * kBarriers * 8;
  static constexpr int kPartFloats = kFewRows * kTileRanks;
  // Tables of a warp's first runs, which are read before x is there.
  static constexpr int kStartsOffset = kPartsOffset + 2 * kTileChunks * kPartFloats * 4;
  static constexpr int kStarts = 2;
  static constexpr int kTasksOffset = kStartsOffset + kWarps * kStarts * sizeof(TileStart);
  static constexpr int kZerosOffset = kTasksOffset + kWarps * kPairStages * sizeof(PairTask);
  static constexpr int kKeptOffset = kZerosOffset + 16;  // behind zeros for inputs beyond the last
  static constexpr int kKeptBytes = kKeptShared ? kKeptPairs * 32 * sizeof(uint4) : 0;  // a warp
  static constexpr int kBytes = kKeptOffset + kWarps * kKeptBytes;
  static_assert(kPartsOffset % 16 == 0 && kPartFloats <= kThreads);
  static_assert(sizeof(TileStart) % 16 == 0);
  using Cursor = ExpandCursor<kStarts>;
  __device__ static TileStart* StartsOf(std::byte* shared, int warp) {
    return reinterpret_cast<TileStart*>(shared + kStartsOffset) + warp * kStarts;
  }
  __device__ static PairTask* TasksOf(std::byte* shared, int warp) {
    return reinterpret_cast<PairTask*>(shared + kTasksOffset) + warp * kPairStages;
  }
};

// A warp's share of it, as addresses.
template <typename L>
struct WarpShared {
  uint32_t base, barriers;

  __device__ WarpShared(const std::byte* shared, int warp)
      : base(SharedAddress(shared) + warp * L::kWarpBytes),
        barriers(SharedAddress(shared) + L::kBarrierOffset + warp * L::kBarriers * 8) {}
  __device__ uint32_t chunk(int i) const { return base + (L::kEarlyStages + i) * kPairBytes; }
  __device__ uint32_t chunk_barrier(int i) const { return barriers + i * 8; }
  __device__ uint32_t pair(int i) const { return base + i * kPairBytes; }
  __device__ uint32_t pair_barrier(int i) const { return barriers + (kChunkStages + i) * 8; }
  __device__ uint32_t starts_barrier() const { return pair_barrier(L::kPairStages); }
};

// What the warps do: the sums of a (layer, group) into their target. Tables are the pair's own.
struct LoraWork {
  const ShrinkStart* shrink_starts;
  const TileStart* tile_starts;
  const RunCosts* run_costs;
  const StepCounts* counts;
  const PlanEntry* entries;
  const int32_t* unit_begin;
  const DeviceSegment* segments;
  const std::byte* arena;
  const Element* x;
  int columns;  // of x
  int pair;
  FlaggedU* u;
  SplitPairU* many_u;       // LoraPlan::u
  const float* down_parts;  // LoraPlan's, if they are there
  GroupOutputs outputs;
  ExpandTarget target;
  bool last;   // no tables follow
  int blocks;  // from one pair's tables to those of the next
  int tile_stride;
  int row_stride;  // of down_parts
  int entries_max;

  __device__ UTable u_table() const {
    return {u, static_cast<int32_t>(counts->u_part), counts->u_flag + pair};
  }
};

// All LoRA warps of a block, and nobody else's.
template <typename L>
__device__ __forceinline__ void LoraBarrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(L::kThreads) : "memory");
}

__device__ __forceinline__ int ModuleCount(int group) {
  return group == 0 ? 3 : group == 2 ? 2 : 1;
}

// Walks the tiles of a block's items. All threads alike.
struct ShrinkCursor {
  const LoraWork& work;
  bool parts;  // every tile is an item
  int item, last;
  int entry, entry_begin, entry_end;
  int rank_tile, wide_tile, row;  // the item's first row inside its segment
  PlanEntry plan;
  DeviceSegment segment;

  __device__ ShrinkCursor(const LoraWork& work, const ShrinkStart& start)
      : work(work),
        parts(work.counts->u_part > 0),
        item(start.item),
        last(start.last),
        entry(start.entry),
        entry_begin(start.entry_begin),
        entry_end(start.entry_end),
        plan(start.plan),
        segment(start.segment) {
    if (!done()) Locate();
  }
  __device__ bool done() const { return item >= last; }
  __device__ bool last_of_item() const { return parts || wide_tile + 1 == plan.wide_tiles; }
  __device__ int rows() const { return min(kFewRows, segment.row_count - row); }
  __device__ void Locate() {
    while (item >= entry_end) {
      ++entry;
      entry_begin = work.unit_begin[entry];
      entry_end = work.unit_begin[entry + 1];
      plan = work.entries[entry];
      segment = work.segments[plan.segment];
    }
    int inside = item - entry_begin;
    wide_tile = 0;
    if (parts) {
      // Neighbours share inputs, which are in the cache by then.
      rank_tile = inside % plan.rank_tiles;
      inside /= plan.rank_tiles;
      wide_tile = inside % plan.wide_tiles;
      row = inside / plan.wide_tiles * kFewRows;
      return;
    }
    rank_tile = inside % plan.rank_tiles;
    row = inside / plan.rank_tiles * kFewRows;
  }
  __device__ void Advance() {
    if (!last_of_item()) {
      ++wide_tile;
    } else if (++item < last) {
      Locate();
    }
  }
};

// Walks a warp's chunks of the tiles.
template <typename L>
struct ChunkCursor {
  ShrinkCursor tile;
  int turn = 0;

  __device__ explicit ChunkCursor(const ShrinkCursor& tile) : tile(tile) {}
  __device__ bool done() const { return tile.done(); }
  __device__ int chunk(int warp) const { return turn * L::kWarps + warp; }
  __device__ void Advance() {
    if (++turn < L::kTurns) return;
    turn = 0;
    tile.Advance();
  }
};

// Inputs of a chunk that begins at input `first`; less than 1: none.
__device__ __forceinline__ int ChunkWidth(int columns, int first) {
  return min(kShrinkChunk, columns - first);
}

// Starts the copy of a chunk of a tile, which may have no inputs. One lane.
__device__ __forceinline__ void LoadChunk(const ShrinkCursor& at, const std::byte* arena, int chunk,
                                          int columns, uint32_t stage, uint32_t barrier) {
  const int first = chunk * kShrinkChunk;
  const int width = ChunkWidth(columns, at.wide_tile * kTileWidth + first);
  if (width <= 0) return BarrierArrive(barrier);
  const uint32_t unit =
      TileUnit(at.plan.a_tiles, at.plan.a_run, at.rank_tile, at.wide_tile, columns);
  CopyOnce(stage, arena + int64_t{unit} * kTileUnitBytes + first * kTileRanks * 2,
           width * kTileRanks * 2, barrier);
}

// A chunk of a row of x: lane (g, t) of each 32 inputs takes [4t, 4t + 4) of both halves.
struct RowFragment {
  uint2 part[kChunkSteps][2];
};

__device__ __forceinline__ void LoadRow(RowFragment& out, const Element* row, bool inside,
                                        int width) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int step = 0; step < kChunkSteps; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = step * 32 + half * 16 + 4 * t;
      out.part[step][half] =
          inside && k < width ? *reinterpret_cast<const uint2*>(row + k) : make_uint2(0, 0);
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

// Asks for a chunk of x, for the item's rows.
__device__ __forceinline__ void LoadRows(RowFragment& out, const LoraWork& work,
                                         const ShrinkCursor& at, int chunk) {
  const int g = threadIdx.x % 32 / 4, input = at.wide_tile * kTileWidth + chunk * kShrinkChunk;
  const Element* x = work.x + (int64_t{at.segment.row_begin} + at.row) * work.columns + input;
  LoadRow(out, x + int64_t{g} * work.columns, g < at.rows(), ChunkWidth(work.columns, input));
}

// A chunk's part of a tile's u.
template <typename L>
__device__ __forceinline__ void MultiplyTile(const RowFragment& x, const LoraWork& work,
                                             const ShrinkCursor& at, int chunk,
                                             const WarpShared<L>& own, int slot, int phase,
                                             uint32_t zeros, float* part) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int width = ChunkWidth(work.columns, at.wide_tile * kTileWidth + chunk * kShrinkChunk);
  float2 sum = make_float2(0.0f, 0.0f);
  BarrierWait(own.chunk_barrier(slot), phase);
  if (width > 0) sum = MultiplyChunk(x, own.chunk(slot), zeros, width);
  *reinterpret_cast<float2*>(part + g * kTileRanks + 2 * t) = sum;
  __syncwarp();
}

// The block's share of u. `thread` counts from the first of the LoRA warps; cursors stand at the
// first tile and behind the chunks that are on their way.
template <typename L>
__device__ __forceinline__ void Shrink(const LoraWork& work, int thread, std::byte* shared,
                                       ShrinkCursor at, ChunkCursor<L> ahead) {
  const int warp = thread / 32;
  const WarpShared<L> own(shared, warp);
  const uint32_t zeros = SharedAddress(shared) + L::kZerosOffset;
  float* parts = reinterpret_cast<float*>(shared + L::kPartsOffset);
  const UTable table = work.u_table();
  float u = 0.0f;
#pragma unroll 1
  for (int tiles = 0; !at.done(); ++tiles, at.Advance()) {
    // Two sets of parts: one is added up while warps that are ahead write the other.
    float* set = parts + tiles % 2 * kTileChunks * L::kPartFloats;
    RowFragment x[L::kTurns];
#pragma unroll
    for (int turn = 0; turn < L::kTurns; ++turn) {
      LoadRows(x[turn], work, at, turn * L::kWarps + warp);
    }
#pragma unroll
    for (int turn = 0; turn < L::kTurns; ++turn) {
      const int chunk = turn * L::kWarps + warp, use = tiles * L::kTurns + turn;
      const int slot = use % kChunkStages;
      MultiplyTile(x[turn], work, at, chunk, own, slot, use / kChunkStages & 1, zeros,
                   set + chunk * L::kPartFloats);
      if (ahead.done()) continue;
      if (thread % 32 == 0) {
        LoadChunk(ahead.tile, work.arena, ahead.chunk(warp), work.columns, own.chunk(slot),
                  own.chunk_barrier(slot));
      }
      ahead.Advance();
    }
    LoraBarrier<L>();
    if (thread >= at.rows() * kTileRanks) continue;
    float sum = set[thread];
#pragma unroll
    for (int c = 1; c < kTileChunks; ++c) sum += set[c * L::kPartFloats + thread];
    u = at.parts || at.wide_tile == 0 ? sum : u + sum;
    if (!at.last_of_item()) continue;
    const int row = at.row + thread / kTileRanks;
    const int column = at.plan.u_column + at.rank_tile * kTileRanks + thread % kTileRanks;
    const int64_t to = (at.parts ? at.wide_tile * table.part : 0) + at.segment.u_begin +
                       int64_t{row} * at.segment.u_width + column;
    StoreFlaggedU(work.u + to, u, table.flag);
  }
}

// Walks a warp's share of the expand: runs of columns of one module for one row tile, their
// terms, and pairs of rank tiles. All lanes alike.
template <int kNear>
struct ExpandCursor {
  const LoraWork& work;
  const TileStart* near;  // tables of the warp's first kNear tiles, in shared memory
  int kept_max;           // pairs whose u is kept
  bool parts;             // u is there in parts
  int modules;
  int run, end, runs_per_tile, near_tile;

  RowTile tile;
  int module, column, width;
  int module_begin;  // the module's first column in the target
  int term, rank_tile;
  bool fresh;  // the warp's run before it was of another tile or module, or there was none
  PlanEntry entry;

  __device__ ExpandCursor(const LoraWork& work, int2 runs, const TileStart* near, int kept_max)
      : work(work),
        near(near),
        kept_max(kept_max),
        parts(work.counts->u_part > 0),
        modules(ModuleCount(work.pair % 4)),
        run(runs.x),
        end(runs.y),
        runs_per_tile(RunsPerTile(work)),
        near_tile(run / runs_per_tile) {
    if (done()) return;
    EnterRun();
    fresh = true;
  }
  __device__ static int RunsPerTile(const LoraWork& work) {
    int runs = 0;
    for (int m = 0; m < ModuleCount(work.pair % 4); ++m) {
      runs += RunDealer::ModuleRuns(work.outputs, m);
    }
    return runs;
  }
  // Starts the copy of tables to `near`, whether there are such tiles or not. All lanes.
  __device__ static void FetchNear(const LoraWork& work, int run, TileStart* near,
                                   uint32_t barrier) {
    const int lane = threadIdx.x % 32;
    if (lane == 0) BarrierExpect(barrier, kNear * sizeof(TileStart));
    __syncwarp();
    if (lane >= kNear) return;
    const int tile = min(run / RunsPerTile(work) + lane, work.tile_stride - 1);
    CopyBytes(SharedAddress(near + lane), work.tile_starts + tile, sizeof(TileStart), barrier);
  }
  __device__ bool done() const { return run >= end; }
  __device__ bool last_of_term() const { return rank_tile + 2 >= entry.rank_tiles; }
  __device__ void EnterRun() {
    const int at = run / runs_per_tile;
    const TileStart& start = at - near_tile < kNear ? near[at - near_tile] : work.tile_starts[at];
    int inside = run % runs_per_tile;
    module_begin = 0;
    for (module = 0;; ++module) {
      width = work.outputs.features[module];
      const int module_runs = RunDealer::ModuleRuns(work.outputs, module);
      if (inside < module_runs || module + 1 == modules) break;
      inside -= module_runs;
      module_begin += width;
    }
    fresh = inside == 0;
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
      entry = work.entries[(tile.term_begin + term) * modules + module];
      return;
    }
    if (++run >= end) return;
    column += kRunColumns;
    if (term > 1 || column >= width) return EnterRun();
    term = 0;
    fresh = false;
  }
  // Starts the copy of a pair and says what it is. All lanes.
  __device__ void Load(uint32_t shared, uint32_t barrier, PairTask* task) const {
    LoadPair(entry, work.arena, rank_tile, column, width, shared, barrier);
    if (threadIdx.x % 32 != 0) return;
    const int pair = rank_tile / 2;
    const bool kept = tile.term_count == 1 && pair < kept_max;
    *task = {{entry.rank_tiles - rank_tile, kept ? pair : -1, fresh || !kept,
              term == 0 && rank_tile == 0, last_of_term() && term + 1 == tile.term_count},
             static_cast<int>(tile.u_begin) + entry.u_column + rank_tile * kTileRanks,
             tile.u_width,
             parts ? entry.wide_tiles : 1,
             entry.scale,
             {tile.row_begin, tile.row_count, column, width, module_begin}};
  }
};

// u of the pairs that a warp meets again, each lane's own: in shared memory, or in registers where
// those are what there is more of.
template <typename L>
struct KeptU {
  uint4* shared;
  SplitU own[L::kKeptShared ? 1 : L::kKeptPairs] = {};

  __device__ KeptU(std::byte* base, int warp)
      : shared(reinterpret_cast<uint4*>(base + L::kKeptOffset + warp * L::kKeptBytes) +
               threadIdx.x % 32) {}
  // Keeps the pair's u if it is fresh, else brings it back.
  __device__ __forceinline__ void Exchange(SplitU& u, const PairTask::Head& head) {
    if constexpr (L::kKeptShared) {
      if (head.kept < 0) return;
      uint4& at = shared[head.kept * 32];
      if (head.fresh) {
        at = make_uint4(u.high[0], u.high[1], u.low[0], u.low[1]);
      } else {
        u = {{at.x, at.y}, {at.z, at.w}};
      }
    } else {
#pragma unroll
      for (int i = 0; i < L::kKeptPairs; ++i) {
        own[i].Keep(u, head.kept == i && head.fresh);
        u.Keep(own[i], head.kept == i);
      }
    }
  }
};

// The warp's share of the expand: while a pair of rank tiles is multiplied, the next are on
// their way. The first kEarlyStages are already.
template <typename L>
__device__ __forceinline__ void Expand(const LoraWork& work, int2 runs, int thread,
                                       std::byte* shared) {
  const int warp = thread / 32;
  const ExpandTarget& target = work.target;
  const WarpShared<L> own(shared, warp);
  const std::byte* stages = shared + warp * L::kWarpBytes;
  PairTask* tasks = L::TasksOf(shared, warp);
  const UTable table = work.u_table();
  typename L::Cursor ahead(work, runs, L::StartsOf(shared, warp), L::kKeptPairs);
  int loaded = 0;
  for (; loaded < L::kPairStages && !ahead.done(); ++loaded, ahead.Advance()) {
    if (loaded >= L::kEarlyStages) {
      ahead.Load(own.pair(loaded), own.pair_barrier(loaded), tasks + loaded);
    }
  }
  __syncwarp();
  float d[kRunGroups][4][4];
  KeptU<L> kept(shared, warp);
  int slot = 0, phase = 0;
  AskedU<L::kUAtOnce> asked;
  if (loaded > 0) asked.Ask(table, tasks[0]);
#pragma unroll 1
  for (; loaded > 0; --loaded) {
    const int next = slot + 1 == L::kPairStages ? 0 : slot + 1;
    const PairTask& task = tasks[slot];
    const PairTask::Head head = task.head;
    SplitU u = {};
    if (head.fresh) u = asked.Take(table, task);
    kept.Exchange(u, head);
    if (loaded > 1 && tasks[next].head.fresh) asked.Ask(table, tasks[next]);
    // Not where they were stored: sums that are zero on some ways and kept on others are moved
    // about.
    if (head.first) {
#pragma unroll
      for (int i = 0; i < kRunGroups * 16; ++i) d[i / 16][i / 4 % 4][i % 4] = 0.0f;
    }
    BarrierWait(own.pair_barrier(slot), phase);
    if (head.rank_tiles > 0) {
      RankRows w[kRunGroups];
#pragma unroll
      for (int j = 0; j < kRunGroups; ++j) {
        ReadRanks(w[j], stages + slot * kPairBytes, j, head.rank_tiles > 1);
      }
#pragma unroll
      for (int j = 0; j < kRunGroups; ++j) MultiplyRanks(d[j], w[j], u.high, u.low);
    }
    if (head.last) StoreRun(target, task.place, d);
    __syncwarp();
    if (!ahead.done()) {
      ahead.Load(own.pair(slot), own.pair_barrier(slot), tasks + slot);
      ahead.Advance();
      ++loaded;
      __syncwarp();
    }
    slot = next;
    phase ^= slot == 0;
  }
}

// Brings the tables of the next (layer, group) into the second-level cache, from which keys,
// values and adapters have pushed them since they were made.
__device__ __forceinline__ void Prefetch(const void* begin, int64_t bytes) {
  constexpr int kLineBytes = 128;
  const auto* from = static_cast<const std::byte*>(begin);
  const int64_t stride = int64_t{gridDim.x} * 32 * kLineBytes;
  for (int64_t at = (int64_t{blockIdx.x} + int64_t{gridDim.x} * (threadIdx.x % 32)) * kLineBytes;
       at < bytes; at += stride) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + at));
  }
}
// One warp of every block.
__device__ __forceinline__ void PrefetchNext(const LoraWork& work) {
  if (work.last) return;
  const int entries = work.counts->terms * ModuleCount((work.pair + 1) % 4);
  Prefetch(work.shrink_starts + work.blocks, work.blocks * sizeof(ShrinkStart));
  Prefetch(work.tile_starts + work.tile_stride, work.counts->row_tiles * sizeof(TileStart));
  Prefetch(work.run_costs + work.tile_stride, kStreamRowsMax * sizeof(RunCosts));
  Prefetch(work.entries + work.entries_max, entries * sizeof(PlanEntry));
  Prefetch(work.unit_begin + work.entries_max + 1, (entries + 1) * 4);
}

// All of it. `thread` counts from the first of the LoRA warps.
template <typename L>
__device__ __forceinline__ void RunLora(const LoraWork& work, int thread, std::byte* shared) {
  const int warp = thread / 32, lane = thread % 32;
  const WarpShared<L> own(shared, warp);
  if (lane == 0) {
    for (int i = 0; i < kChunkStages; ++i) BarrierInit(own.chunk_barrier(i), 1);
    for (int i = 0; i < L::kPairStages; ++i) BarrierInit(own.pair_barrier(i), 32);
    BarrierInit(own.starts_barrier(), 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
  __syncwarp();
  // All tables at once: each takes a while.
  const RunDealer dealer(work.run_costs, work.tile_stride);
  const ShrinkCursor at(work, work.shrink_starts[blockIdx.x]);
  ChunkCursor<L> ahead(at);
  for (int i = 0; i < kChunkStages && !ahead.done(); ++i, ahead.Advance()) {
    if (lane != 0) continue;
    LoadChunk(ahead.tile, work.arena, ahead.chunk(warp), work.columns, own.chunk(i),
              own.chunk_barrier(i));
  }
  const int2 runs = dealer.Deal(work.outputs, blockIdx.x * L::kWarps + warp,
                                static_cast<int>(gridDim.x) * L::kWarps);
  L::Cursor::FetchNear(work, runs.x, L::StartsOf(shared, warp), own.starts_barrier());
  if (thread < 4) reinterpret_cast<uint32_t*>(shared + L::kZerosOffset)[thread] = 0;
  BarrierWait(own.starts_barrier(), 0);
  const typename L::Cursor first(work, runs, L::StartsOf(shared, warp), L::kKeptPairs);
  if (!first.done()) first.Load(own.pair(0), own.pair_barrier(0), L::TasksOf(shared, warp));
  LoraBarrier<L>();
  WaitForPredecessor();
  Shrink<L>(work, thread, shared, at, ahead);
  Expand<L>(work, runs, thread, shared);
}

inline LoraWork MakeLoraWork(const LoraArgs& args, const StepTables& step, const LoraPlan& plan) {
  const int group = static_cast<int>(args.group);
  const int64_t pair = args.layer * 4 + group, entries = EntriesBefore(plan, pair);
  LoraWork work{};
  work.shrink_starts = plan.shrink_starts + pair * plan.blocks;
  work.tile_starts = plan.tile_starts + pair * plan.tile_stride;
  work.run_costs = plan.run_costs + pair * plan.tile_stride;
  work.counts = step.counts;
  work.entries = plan.entries + entries;
  work.unit_begin = plan.unit_begin + entries + pair;
  work.segments = step.segments;
  work.arena = plan.arena;
  work.x = static_cast<const Element*>(args.x);
  work.columns = static_cast<int>(args.in_features);
  work.pair = static_cast<int>(pair);
  work.u = plan.flagged_u;
  work.many_u = plan.u;
  work.down_parts = args.down_parts ? plan.down_parts : nullptr;
  work.outputs = args.outputs;
  int columns = 0;
  for (const int features : args.outputs.features) columns += features;
  work.target = {static_cast<uint4*>(args.sums), columns};
  work.last = pair + 1 >= plan.pairs;
  work.blocks = plan.blocks;
  work.tile_stride = plan.tile_stride;
  work.row_stride = plan.row_stride;
  work.entries_max = static_cast<int>(EntriesBefore(plan, pair + 1) - entries);
  return work;
}

}  // namespace lorica::cuda
