// The LoRA plan of a step and the LoRA kernel, which runs beside a product.
//
// The kernel is launched behind the product that reads the same x. It begins when all blocks
// of the product have seen x finished, and ends after the product, so that who waits for it
// waits for both: what adapters cost is bytes, not time of their own.
//
// Shrink: the work of a (layer, group) is cut into items of one rank tile and up to
// kShrinkRowTileMax rows, and dealt out evenly, in order, to the blocks of a grid that never
// changes. A block's warps take chunks of kShrinkChunk inputs in turns; their sums are added in
// order. When all blocks have written their u, the expand takes runs of columns of a row tile
// in turns. So the order of summation depends on the weight's shape alone, and neither atomics
// nor the mixture of adapters enter into it.
#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {
namespace {

constexpr int kPlanThreads = 256;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kStageBytes = kShrinkChunk * kTileRanks * 2;
constexpr int kChunkSteps = kShrinkChunk / 32;
constexpr int kXRows = 8;  // of x in one matrix instruction
// A stage a warp, its barriers, and the warps' parts of an item's u.
constexpr int kPairStages = kStageBytes / kPairBytes;  // that the expand cuts a stage into
constexpr int kWarpBarriers = 1 + kPairStages;
constexpr int kBarrierOffset = kWarps * kStageBytes;
constexpr int kPartsOffset = kBarrierOffset + kWarps * kWarpBarriers * 8;
static_assert(kPairStages == 2 && kPartsOffset % 16 == 0);
constexpr int kPartFloats = kShrinkRowTileMax * kTileRanks;
constexpr int kSharedBytes = kPartsOffset + kWarps * kPartFloats * 4 + 16;
constexpr int kZerosOffset = kSharedBytes - 16;  // for inputs beyond the last

__device__ int ModuleFirst(int group) {
  return group == 0 ? 0 : group == 1 ? 3 : group == 2 ? 4 : 6;
}
__device__ int ModuleCount(int group) { return group == 0 ? 3 : group == 2 ? 2 : 1; }

struct UnitsAndRanks {
  int units;
  int ranks;
};

// Exclusive sums over the block; `total` receives the sums of all threads.
__device__ UnitsAndRanks BlockScan(UnitsAndRanks value, UnitsAndRanks* warp_sums,
                                   UnitsAndRanks* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  UnitsAndRanks sum = value;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int units = __shfl_up_sync(~0u, sum.units, offset);
    const int ranks = __shfl_up_sync(~0u, sum.ranks, offset);
    if (lane >= offset) sum = {sum.units + units, sum.ranks + ranks};
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  UnitsAndRanks before = {0, 0}, all = {0, 0};
  for (int i = 0; i < kPlanThreads / 32; ++i) {
    if (i == warp) before = all;
    all = {all.units + warp_sums[i].units, all.ranks + warp_sums[i].ranks};
  }
  __syncthreads();
  *total = all;
  return {before.units + sum.units - value.units, before.ranks + sum.ranks - value.ranks};
}

// Entries of one (layer, group) with their places in the sums. All threads of the block.
__device__ void PlanEntries(const StepTables& step, const LoraPlan& plan, int layer, int group,
                            int entries) {
  __shared__ UnitsAndRanks warp_sums[kPlanThreads / 32];
  const int modules = ModuleCount(group);
  PlanEntry* out = plan.entries + blockIdx.x * plan.stride;
  int32_t* unit_begin = plan.unit_begin + blockIdx.x * (plan.stride + 1);
  int32_t* rank_begin = plan.rank_begin + blockIdx.x * (plan.stride + 1);
  UnitsAndRanks carry = {0, 0};
  for (int base = 0; base < entries; base += kPlanThreads) {
    const int e = base + threadIdx.x;
    UnitsAndRanks mine = {0, 0};
    if (e < entries) {
      const DeviceTerm term = step.terms[e / modules];
      const DeviceModule linear =
          term.modules[layer * kLoraModuleCount + ModuleFirst(group) + e % modules];
      const int rows = step.segments[term.segment].row_count;
      const int row_tiles = (rows + step.counts->shrink_rows - 1) / step.counts->shrink_rows;
      mine = {linear.rank_tiles * row_tiles, linear.rank_tiles * kTileRanks};
      out[e] = {linear.a_tiles,    linear.b_tiles,
                linear.gain,       linear.scale * term.weight,
                linear.rank_tiles, 0,
                term.segment,      linear.a_run,
                linear.b_run};
    }
    UnitsAndRanks total;
    const UnitsAndRanks before = BlockScan(mine, warp_sums, &total);
    if (e < entries) {
      unit_begin[e] = carry.units + before.units;
      rank_begin[e] = carry.ranks + before.ranks;
    }
    carry = {carry.units + total.units, carry.ranks + total.ranks};
  }
  if (threadIdx.x == 0) {
    unit_begin[entries] = carry.units;
    rank_begin[entries] = carry.ranks;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < entries; e += kPlanThreads) {
    const int first = step.segments[out[e].segment].term_begin * modules;
    out[e].u_column = rank_begin[e] - rank_begin[first];
  }
  __syncthreads();
}

// The last entry that begins at or before `unit`.
__device__ int FindEntry(const int32_t* unit_begin, int entries, int unit) {
  int low = 0, high = entries;  // unit_begin[low] <= unit < unit_begin[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (unit_begin[middle] <= unit ? low : high) = middle;
  }
  return low;
}

__global__ void __launch_bounds__(kPlanThreads) PlanKernel(StepTables step, LoraPlan plan) {
  const int layer = blockIdx.x / 4, group = blockIdx.x % 4;
  const int modules = ModuleCount(group);
  const StepCounts counts = *step.counts;
  const int entries = counts.terms * modules;
  PlanEntries(step, plan, layer, group, entries);
  const PlanEntry* all = plan.entries + blockIdx.x * plan.stride;
  const int32_t* unit_begin = plan.unit_begin + blockIdx.x * (plan.stride + 1);
  if (threadIdx.x == 0) plan.shrunk[blockIdx.x] = 0;
  const int64_t items = entries > 0 ? unit_begin[entries] : 0;
  for (int block = threadIdx.x; block < plan.blocks; block += kPlanThreads) {
    ShrinkStart start{};
    start.item = static_cast<int>(items * block / plan.blocks);
    start.last = static_cast<int>(items * (block + 1) / plan.blocks);
    if (start.item < start.last) {
      start.entry = FindEntry(unit_begin, entries, start.item);
      start.entry_begin = unit_begin[start.entry];
      start.entry_end = unit_begin[start.entry + 1];
      start.plan = all[start.entry];
      start.segment = step.segments[start.plan.segment];
    }
    plan.shrink_starts[int64_t{blockIdx.x} * plan.blocks + block] = start;
  }
  for (int i = threadIdx.x; i < counts.row_tiles; i += kPlanThreads) {
    TileStart& start = plan.tile_starts[int64_t{blockIdx.x} * plan.tile_stride + i];
    const RowTile tile = step.row_tiles[i];
    start.tile = tile;
    for (int m = 0; m < modules; ++m) start.entries[m] = all[tile.term_begin * modules + m];
  }
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
                                       float* u) {
  for (int i = threadIdx.x; i < rows * kTileRanks; i += kThreads) {
    float sum = parts[i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += parts[w * kPartFloats + i];
    const int row = at.row + i / kTileRanks;
    const int column = at.plan.u_column + at.rank_tile * kTileRanks + i % kTileRanks;
    u[at.segment.u_begin + int64_t{row} * at.segment.u_width + column] = sum;
  }
}

// The block's share of u.
__device__ __forceinline__ void Shrink(const bf16* x, int columns, const StepTables& step,
                                       const LoraPlan& plan, int pair, std::byte* shared,
                                       bool x_ready) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int chunks = (columns + kShrinkChunk - 1) / kShrinkChunk;
  const uint32_t stage = SharedAddress(shared) + warp * kStageBytes;
  const uint32_t barrier = SharedAddress(shared) + kBarrierOffset + warp * kWarpBarriers * 8;
  const uint32_t zeros = SharedAddress(shared) + kZerosOffset;
  float* parts = reinterpret_cast<float*>(shared + kPartsOffset);
  ShrinkCursor at(step, plan, pair);
  if (threadIdx.x < 4) reinterpret_cast<uint32_t*>(shared + kZerosOffset)[threadIdx.x] = 0;
  if (lane == 0) {
    for (int i = 0; i < kWarpBarriers; ++i) BarrierInit(barrier + i * 8, 1);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (at.item < at.last && warp < chunks) {
      LoadChunk(at, plan.arena, warp, columns, stage, barrier);
    }
  }
  __syncthreads();
  ReleaseSuccessor();
  if (!x_ready) WaitForPredecessor();
  int phase = 0;
#pragma unroll 1
  while (at.item < at.last) {
    const ShrinkCursor now = at;
    at.Advance();
    const int rows = min(now.row_tile, now.segment.row_count - now.row);
    const bf16* x_rows = x + (int64_t{now.segment.row_begin} + now.row) * columns;
    float* mine = parts + warp * kPartFloats;
    __syncthreads();  // the item before has been added up
#pragma unroll 1
    for (int chunk = warp; chunk < chunks; chunk += kWarps) {
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
      if (chunk + kWarps < chunks) {
        LoadChunk(now, plan.arena, chunk + kWarps, columns, stage, barrier);
      } else if (at.item < at.last) {
        LoadChunk(at, plan.arena, warp, columns, stage, barrier);
      }
    }
    if (warp >= chunks) {
      for (int i = lane; i < kPartFloats; i += 32) mine[i] = 0.0f;
    }
    __syncthreads();
    StoreU(now, parts, rows, plan.u);
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
                          int pair)
      : plan(plan), outputs(outputs), pair(pair), modules(ModuleCount(pair % 4)) {
    runs_per_tile = 0;
    for (int m = 0; m < modules; ++m) {
      runs_per_tile += (outputs.features[m] + kRunColumns - 1) / kRunColumns;
    }
    runs = step.counts->row_tiles * runs_per_tile;
    warps = gridDim.x * kWarps;
    run = threadIdx.x / 32 * gridDim.x + blockIdx.x;
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
// the device, and nobody whom a waiting block keeps from running is waited for.
__device__ __forceinline__ void AnnounceShrunk(int32_t* shrunk) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(shrunk) : "memory");
  }
}
__device__ __forceinline__ void WaitForShrunk(const int32_t* shrunk) {
  int32_t blocks = 0;
  while (blocks < gridDim.x) {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(blocks) : "l"(shrunk) : "memory");
  }
  __syncwarp();
}

// The warp's share of the expand. Its stage holds two pairs of rank tiles: while one is
// multiplied, the next is on its way.
__device__ __forceinline__ void Expand(const StepTables& step, const LoraPlan& plan, int pair,
                                       const GroupOutputs& outputs, std::byte* shared,
                                       const ExpandTarget& target) {
  const int warp = threadIdx.x / 32;
  const std::byte* stage = shared + warp * kStageBytes;
  const uint32_t barriers = SharedAddress(shared) + kBarrierOffset + (warp * kWarpBarriers + 1) * 8;
  ExpandCursor at(step, plan, outputs, pair), ahead = at;
  __syncwarp();
  for (int i = 0; i < kPairStages && !ahead.done(); ++i, ahead.Advance()) {
    ahead.Load(SharedAddress(stage) + i * kPairBytes, barriers + i * 8);
  }
  AnnounceShrunk(plan.shrunk + pair);
  if (at.done()) return;
  WaitForShrunk(plan.shrunk + pair);
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

__global__ void __launch_bounds__(kThreads, 2)
    LoraKernel(const bf16* x, int columns, StepTables step, LoraPlan plan, int pair,
               GroupOutputs outputs, ExpandTarget target, bool x_ready) {
  extern __shared__ __align__(128) std::byte shared[];
  Shrink(x, columns, step, plan, pair, shared, x_ready);
  Expand(step, plan, pair, outputs, shared, target);
  WaitForPredecessor();
}

}  // namespace

int MultiprocessorCount() {
  static const int count = [] {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value;
  }();
  return count;
}

void LaunchLoraPlan(const StepTables& step, const LoraPlan& plan, int layers, cudaStream_t stream) {
  PlanKernel<<<layers * 4, kPlanThreads, 0, stream>>>(step, plan);
}

void LaunchLora(const LoraArgs& args, const StepTables& step, const LoraPlan& plan,
                cudaStream_t stream) {
  static const bool prepared = PrepareShared(LoraKernel, kSharedBytes);
  static_cast<void>(prepared);
  int columns = 0;
  for (const int features : args.outputs.features) columns += features;
  const ExpandTarget target = {args.sums, static_cast<bf16*>(args.product), columns};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = plan.blocks;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, LoraKernel, static_cast<const bf16*>(args.x),
                     static_cast<int>(args.in_features), step, plan,
                     args.layer * 4 + static_cast<int>(args.group), args.outputs, target,
                     args.x_ready);
}

}  // namespace lorica::cuda
