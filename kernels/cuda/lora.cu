// The LoRA plan and the shrink. The expand is part of the post kernels.
//
// Shrink: the work of a (layer, group) is cut into items of one rank tile, one chunk of
// kShrinkChunk inputs and up to kShrinkRowTile rows, and dealt out evenly, in order, to
// the warps of a grid that never changes. An item writes its own partial sum; the post
// kernel adds the chunks in order. So the order of summation depends on the weight's
// shape alone, and neither atomics nor the mixture of adapters enter into it.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kPlanThreads = 256;
constexpr int kShrinkWarps = 4;
constexpr int kShrinkStages = 3;
constexpr int kShrinkBlocks = 2;  // of a multiprocessor
constexpr int kStageBytes = kShrinkChunk * kTileRanks * 2;
constexpr int kChunkSteps = kShrinkChunk / 32;
constexpr int kHeldSteps = kChunkSteps / 2;  // steps whose inputs are in registers together
// A warp's part: stages, a row of zeros, a barrier a stage.
constexpr int kWarpSharedBytes = kShrinkStages * (kStageBytes + 8) + 16 + 8;
static_assert(kWarpSharedBytes % 16 == 0);
constexpr int kShrinkSharedBytes = kShrinkWarps * kWarpSharedBytes;

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
      const int row_tiles = (rows + kShrinkRowTile - 1) / kShrinkRowTile;
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

__device__ int Chunks(int inputs) { return (inputs + kShrinkChunk - 1) / kShrinkChunk; }

__global__ void __launch_bounds__(kPlanThreads)
    PlanKernel(StepTables step, LoraPlan plan, GroupInputs inputs) {
  const int layer = blockIdx.x / 4, group = blockIdx.x % 4;
  const int modules = ModuleCount(group);
  const StepCounts counts = *step.counts;
  const int entries = counts.terms * modules;
  PlanEntries(step, plan, layer, group, entries);
  const PlanEntry* all = plan.entries + blockIdx.x * plan.stride;
  const int32_t* unit_begin = plan.unit_begin + blockIdx.x * (plan.stride + 1);
  const int unit_items = counts.split_u ? Chunks(inputs.features[group]) : 1;
  const int64_t items = entries > 0 ? int64_t{unit_begin[entries]} * unit_items : 0;
  for (int warp = threadIdx.x; warp < plan.shrink_warps; warp += kPlanThreads) {
    ShrinkStart start{};
    start.item = static_cast<int>(items * warp / plan.shrink_warps);
    start.last = static_cast<int>(items * (warp + 1) / plan.shrink_warps);
    if (start.item < start.last) {
      start.entry = FindEntry(unit_begin, entries, start.item / unit_items);
      start.entry_begin = unit_begin[start.entry] * unit_items;
      start.entry_end = unit_begin[start.entry + 1] * unit_items;
      start.plan = all[start.entry];
      start.segment = step.segments[start.plan.segment];
    }
    plan.shrink_starts[int64_t{blockIdx.x} * plan.shrink_warps + warp] = start;
  }
  for (int i = threadIdx.x; i < counts.row_tiles; i += kPlanThreads) {
    TileStart& start = plan.tile_starts[int64_t{blockIdx.x} * plan.tile_stride + i];
    const RowTile tile = step.row_tiles[i];
    start.tile = tile;
    if (tile.term_count == 0) continue;
    for (int m = 0; m < modules; ++m) start.entries[m] = all[tile.term_begin * modules + m];
  }
}

// Walks the items of one warp, chunk by chunk.
struct ShrinkCursor {
  const PlanEntry* entries;
  const int32_t* unit_begin;
  int chunks;      // of the inputs
  int unit_items;  // items of a unit: chunks where every chunk is an item of its own, else 1
  int item;
  int chunk;  // of the current item
  int entry;
  int entry_begin, entry_end;
  int rank_tile, row_tile;
  PlanEntry plan;

  __device__ void Locate() {
    while (item >= entry_end) EnterEntry(entry + 1);
    const int inside = item - entry_begin;
    rank_tile = inside % plan.rank_tiles;
    const int rest = inside / plan.rank_tiles;
    row_tile = rest / unit_items;
    chunk = rest % unit_items;
  }
  __device__ void EnterEntry(int e) {
    entry = e;
    entry_begin = unit_begin[e] * unit_items;
    entry_end = unit_begin[e + 1] * unit_items;
    plan = entries[e];
  }
  // To the next chunk; true when that began a new item.
  __device__ bool Advance(int last) {
    if (unit_items == 1 && ++chunk < chunks) return false;
    if (++item < last) Locate();
    return true;
  }
};

__device__ void LoadTile(const ShrinkCursor& at, const std::byte* arena, int64_t columns,
                         uint32_t shared, uint32_t barrier) {
  constexpr int kChunksPerTile = kTileWidth / kShrinkChunk;
  const int wide = at.chunk / kChunksPerTile;
  const uint32_t unit = TileUnit(at.plan.a_tiles, at.plan.a_run, at.rank_tile, wide, columns);
  const int64_t offset = int64_t{unit} * kTileUnitBytes + (at.chunk % kChunksPerTile) * kStageBytes;
  const int width = min(kShrinkChunk, static_cast<int>(columns) - at.chunk * kShrinkChunk);
  CopyBulk(shared, arena + offset, width * kTileRanks * 2, barrier);
}

// Two words of x for each of two matrix steps, rows beyond the segment and inputs
// beyond the last as zeros.
__device__ __forceinline__ void LoadRow(uint32_t (&out)[4], const bf16* row, bool inside, int k,
                                        int columns) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool valid = inside && k + 8 * i < columns;
    out[i] = valid ? *reinterpret_cast<const uint32_t*>(row + k + 8 * i) : 0u;
  }
}

// Inputs of 16 rows for half a chunk.
struct RowFragments {
  uint32_t low[kHeldSteps][4];
  uint32_t high[kHeldSteps][4];
};

__device__ __forceinline__ void LoadRows(RowFragments& x, const bf16* rows, int row_count,
                                         int64_t columns, int k_begin) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int step = 0; step < kHeldSteps; ++step) {
    const int k = k_begin + step * 32 + 2 * t;
    LoadRow(x.low[step], rows + g * columns, g < row_count, k, static_cast<int>(columns));
    LoadRow(x.high[step], rows + (g + 8) * columns, g + 8 < row_count, k,
            static_cast<int>(columns));
  }
}

// d += x[16 rows, half a chunk] A[half a chunk, 8 ranks], in four interleaved sums.
__device__ __forceinline__ void MultiplyHalf(float (&d)[4][4], const RowFragments& x,
                                             uint32_t shared, uint32_t zeros, int first_step,
                                             int width) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kHeldSteps; ++step) {
    const int k = (first_step + step) * 32 + lane;
    uint32_t b[4];
    LoadMatrixTransposed(b, k < width ? shared + k * 16 : zeros);
    Mma(d[step % 2 * 2], x.low[step][0], x.high[step][0], x.low[step][1], x.high[step][1], b[0],
        b[1]);
    Mma(d[step % 2 * 2 + 1], x.low[step][2], x.high[step][2], x.low[step][3], x.high[step][3], b[2],
        b[3]);
  }
}

__device__ void StoreU(const ShrinkCursor& at, const DeviceSegment& segment, float* u, int split,
                       int row, const float (&sum)[4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int column = at.plan.u_column + at.rank_tile * kTileRanks + 2 * t;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int local = row + g + 8 * half;
    if (local >= segment.row_count) continue;
    const int64_t at_row = (int64_t{split} * segment.row_count + local) * segment.u_width;
    *reinterpret_cast<float2*>(u + segment.u_begin + at_row + column) =
        make_float2(sum[2 * half], sum[2 * half + 1]);
  }
}

__global__ void __launch_bounds__(kShrinkWarps * 32, 2)
    ShrinkKernel(const bf16* x, int64_t columns, StepTables step, LoraPlan plan, int pair) {
  extern __shared__ __align__(128) std::byte shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int me = blockIdx.x * kShrinkWarps + warp;
  const ShrinkStart start = plan.shrink_starts[int64_t{pair} * plan.shrink_warps + me];
  const bool split = step.counts->split_u != 0;
  const int first = start.item, last = start.last;

  const uint32_t stages = SharedAddress(shared) + warp * kWarpSharedBytes;
  std::byte* tail = shared + warp * kWarpSharedBytes + kShrinkStages * kStageBytes;
  const uint32_t zeros = SharedAddress(tail);
  const uint32_t barriers = zeros + 16;
  if (lane < 4) reinterpret_cast<uint32_t*>(tail)[lane] = 0;
  if (lane < kShrinkStages) BarrierInit(barriers + lane * 8, 1);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (first >= last) {
    WaitForPredecessor();  // so that whoever waits for this launch waits for those before it
    return;
  }

  ShrinkCursor at;
  at.entries = plan.entries + pair * plan.stride;
  at.unit_begin = plan.unit_begin + pair * (plan.stride + 1);
  at.chunks = Chunks(static_cast<int>(columns));
  at.unit_items = split ? at.chunks : 1;
  at.item = first;
  at.entry = start.entry;
  at.entry_begin = start.entry_begin;
  at.entry_end = start.entry_end;
  at.plan = start.plan;
  at.Locate();
  ShrinkCursor ahead = at;
  int uses = 0;
#pragma unroll 1
  for (int loads = 0; loads < kShrinkStages && ahead.item < last; ++loads) {
    if (lane == 0) {
      LoadTile(ahead, plan.arena, columns, stages + loads * kStageBytes, barriers + loads * 8);
    }
    ahead.Advance(last);
  }
  ReleaseSuccessor();
  WaitForPredecessor();

  float sum[4] = {};
#pragma unroll 1
  while (at.item < last) {
    const DeviceSegment segment =
        at.entry == start.entry ? start.segment : step.segments[at.plan.segment];
    const int row = at.row_tile * kShrinkRowTile;
    const bf16* x_rows = x + (int64_t{segment.row_begin} + row) * columns;
    const int stage = uses % kShrinkStages;
    const int width = min(kShrinkChunk, static_cast<int>(columns) - at.chunk * kShrinkChunk);
    float d[4][4] = {};
#pragma unroll 1
    for (int first_step = 0; first_step < kChunkSteps; first_step += kHeldSteps) {
      RowFragments held;
      LoadRows(held, x_rows, segment.row_count - row, columns,
               at.chunk * kShrinkChunk + first_step * 32);
      if (first_step == 0) BarrierWait(barriers + stage * 8, uses / kShrinkStages & 1);
      MultiplyHalf(d, held, stages + stage * kStageBytes, zeros, first_step, width);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += (d[0][i] + d[1][i]) + (d[2][i] + d[3][i]);
    __syncwarp();
    ++uses;
    if (ahead.item < last) {
      if (lane == 0) {
        LoadTile(ahead, plan.arena, columns, stages + stage * kStageBytes, barriers + stage * 8);
      }
      ahead.Advance(last);
    }
    if (split || at.chunk + 1 == at.chunks) {
      StoreU(at, segment, plan.u, split ? at.chunk : 0, row, sum);
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] = 0.0f;
    }
    at.Advance(last);
  }
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

int ShrinkWarps() { return MultiprocessorCount() * kShrinkBlocks * kShrinkWarps; }

void LaunchLoraPlan(const StepTables& step, const LoraPlan& plan, int layers,
                    const GroupInputs& inputs, cudaStream_t stream) {
  PlanKernel<<<layers * 4, kPlanThreads, 0, stream>>>(step, plan, inputs);
}

void LaunchLoraShrink(const void* x, int64_t columns, const StepTables& step, const LoraPlan& plan,
                      int layer, LoraGroup group, bool early, cudaStream_t stream) {
  static const cudaError_t raised = cudaFuncSetAttribute(
      ShrinkKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShrinkSharedBytes);
  static_cast<void>(raised);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = MultiprocessorCount() * kShrinkBlocks;
  config.blockDim = kShrinkWarps * 32;
  config.dynamicSmemBytes = kShrinkSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  cudaLaunchKernelEx(&config, ShrinkKernel, static_cast<const bf16*>(x), columns, step, plan,
                     layer * 4 + static_cast<int>(group));
}

}  // namespace lorica::cuda
