// The LoRA plan of a step, and the shrink of steps of many rows; in those of few a product's own
// warps shrink and expand, see linear.cu.
//
// Many rows: a block takes a row tile and all its ranks, some at a time, since x is what has to be
// read. Its warps share the inputs, and their sums are added in order. Where there are too few
// tiles for all multiprocessors, the blocks of a cluster share a tile's inputs likewise. The expand
// is part of the kernel behind the product (post_many.cu), which is bound by the bytes of the
// product.
#include <cooperative_groups.h>

#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/lora.cuh"

namespace lorica::cuda {
namespace {

constexpr int kPlanThreads = 256;

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
  const int64_t first = EntriesBefore(plan, blockIdx.x);
  PlanEntry* out = plan.entries + first;
  int32_t* unit_begin = plan.unit_begin + first + blockIdx.x;
  int32_t* rank_begin = plan.rank_begin + first + blockIdx.x;
  UnitsAndRanks carry = {0, 0};
  for (int base = 0; base < entries; base += kPlanThreads) {
    const int e = base + threadIdx.x;
    UnitsAndRanks mine = {0, 0};
    if (e < entries) {
      const DeviceTerm term = step.terms[e / modules];
      const DeviceModule linear =
          term.modules[layer * kLoraModuleCount + ModuleFirst(group) + e % modules];
      const int rows = step.segments[term.segment].row_count;
      const int row_tiles = (rows + kFewRows - 1) / kFewRows;
      const int parts = step.counts->u_part > 0 ? linear.wide_tiles : 1;
      mine = {linear.rank_tiles * row_tiles * parts, linear.rank_tiles * kTileRanks};
      out[e] = {linear.a_tiles,    linear.b_tiles,
                linear.gain,       linear.scale * term.weight,
                linear.rank_tiles, 0,
                term.segment,      linear.a_run,
                linear.b_run,      linear.wide_tiles};
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
    const int of_segment = step.segments[out[e].segment].term_begin * modules;
    out[e].u_column = rank_begin[e] - rank_begin[of_segment];
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

// What a run of the expand costs for a tile and each module.
__device__ RunCosts RunCostsOf(const RowTile& tile, const PlanEntry* all, int modules) {
  RunCosts costs = 0;
  for (int m = 0; m < modules; ++m) {
    int pairs = 0;
    for (int t = tile.term_begin; t < tile.term_begin + tile.term_count; ++t) {
      pairs += max(1, (all[t * modules + m].rank_tiles + 1) / 2);
    }
    costs |= pairs << m * kRunCostBits;
  }
  return costs;
}

__global__ void __launch_bounds__(kPlanThreads) PlanKernel(StepTables step, LoraPlan plan) {
  const int layer = blockIdx.x / 4, group = blockIdx.x % 4;
  const int modules = ModuleCount(group);
  const StepCounts counts = *step.counts;
  const int entries = counts.terms * modules;
  PlanEntries(step, plan, layer, group, entries);
  const int64_t first = EntriesBefore(plan, blockIdx.x);
  const PlanEntry* all = plan.entries + first;
  const int32_t* unit_begin = plan.unit_begin + first + blockIdx.x;
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
  for (int i = threadIdx.x; i < counts.all_tiles; i += kPlanThreads) {
    TileStart& start = plan.tile_starts[int64_t{blockIdx.x} * plan.tile_stride + i];
    const RowTile tile = step.row_tiles[i];
    start.tile = tile;
    if (tile.term_count == 0) continue;
    for (int m = 0; m < modules; ++m) start.entries[m] = all[tile.term_begin * modules + m];
  }
  if (counts.rows > kStreamRowsMax) return;
  RunCosts* costs = plan.run_costs + int64_t{blockIdx.x} * plan.tile_stride;
  for (int i = threadIdx.x; i < min(kStreamRowsMax, plan.tile_stride); i += kPlanThreads) {
    costs[i] = i < counts.row_tiles ? RunCostsOf(step.row_tiles[i], all, modules) : 0;
  }
}

constexpr int kManyThreads = 256;
constexpr int kManyWarps = kManyThreads / 32;
constexpr int kSlabTiles = 8;  // rank tiles whose sums a block keeps at a time
constexpr int kStageInputs = 256;
constexpr int kWarpInputs = kStageInputs / kManyWarps;
constexpr int kStages = 4;
constexpr int kRowHalves = kManyRows / 16;
static_assert(kWarpInputs == 32 && kTileWidth % kStageInputs == 0);

// A rank tile of a row tile's terms and modules.
struct SlabTile {
  const uint32_t* a_tiles;
  uint32_t a_run;
  int rank_tile;
  float scale;
};

struct ManyStage {
  Element x[kManyRows][kStageInputs + 8];  // so that the banks of neighbouring rows differ
  Element a[kSlabTiles][kStageInputs][kTileRanks];
};

struct ManyShared {
  ManyStage stages[kStages];
  SlabTile slab[kSlabTiles];
  int slab_tiles;
};
using ManySums = float[kManyWarps][kManyRows][kSlabTiles * kTileRanks];
static_assert(sizeof(ManySums) <= sizeof(ManyShared::stages) && sizeof(ManyStage) % 16 == 0);

// Rank tiles of the row tile from `first` on: those of its terms and modules in their order, as
// u has them. Returns how many, kSlabTiles at most. One warp, an entry each; `own` is the lane's
// if there is but one term.
__device__ int FillSlab(SlabTile* slab, const LoraWork& work, const RowTile& tile,
                        const ShrinkEntry& own, int first) {
  static_assert(kMixTermsMax * kGroupModulesMax <= 32);
  const int modules = ModuleCount(work.pair % 4), lane = threadIdx.x;
  ShrinkEntry entry = own;
  if (tile.term_count > 1 && lane < tile.term_count * modules) {
    entry = ShrinkEntryOf(work.entries[tile.term_begin * modules + lane]);
  }
  if (lane >= tile.term_count * modules) entry.rank_tiles = 0;
  int end = entry.rank_tiles;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(~0u, end, offset);
    if (lane >= offset) end += before;
  }
  const int begin = end - entry.rank_tiles;
  for (int i = max(begin, first); i < min(end, first + kSlabTiles); ++i) {
    slab[i - first] = {entry.a_tiles, entry.a_run, i - begin, entry.scale};
  }
  return max(0, min(__shfl_sync(~0u, end, 31) - first, kSlabTiles));
}

// Starts the copy of inputs [first, first + kStageInputs) of x and of the slab; what is not there
// becomes zeros. All threads.
__device__ __forceinline__ void FillStage(ManyStage& to, const ManyShared& shared,
                                          const LoraWork& work, const RowTile& tile, int first) {
  constexpr int kPieces = kStageInputs / 8;  // of a row of x, 16 bytes each
  const int piece = threadIdx.x % kPieces, input = first + piece * 8;
#pragma unroll
  for (int row = threadIdx.x / kPieces; row < kManyRows; row += kManyThreads / kPieces) {
    const bool there = row < tile.row_count && input < work.columns;
    const Element* from = work.x + (int64_t{tile.row_begin} + row) * work.columns + input;
    CopyPiece(SharedAddress(&to.x[row][piece * 8]), there ? from : work.x, there);
  }
  static_assert(kManyThreads == kStageInputs);
  const bool there = first + threadIdx.x < work.columns;
#pragma unroll
  for (int i = 0; i < kSlabTiles; ++i) {
    if (i >= shared.slab_tiles) continue;
    const SlabTile& slab = shared.slab[i];
    const uint32_t unit =
        TileUnit(slab.a_tiles, slab.a_run, slab.rank_tile, first / kTileWidth, work.columns);
    const std::byte* from = work.arena + int64_t{unit} * kTileUnitBytes +
                            (first % kTileWidth + threadIdx.x) * kTileRanks * 2;
    CopyPiece(SharedAddress(to.a[i][threadIdx.x]), there ? from : work.arena, there);
  }
}

// The warp's inputs of a stage.
__device__ __forceinline__ void MultiplyStage(float (&d)[kSlabTiles][kRowHalves][4],
                                              const ManyStage& stage, int tiles) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, r = lane % 8;
  const int begin = threadIdx.x / 32 * kWarpInputs;
  uint32_t x[kRowHalves][2][4];
#pragma unroll
  for (int m = 0; m < kRowHalves; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int input = begin + half * 16 + matrix / 2 * 8;
      LoadMatrix(x[m][half], SharedAddress(&stage.x[m * 16 + matrix % 2 * 8 + r][input]));
    }
  }
#pragma unroll
  for (int i = 0; i < kSlabTiles; ++i) {
    if (i >= tiles) continue;
    uint32_t b[4];
    LoadMatrixTransposed(b, SharedAddress(stage.a[i][begin + lane]));
#pragma unroll
    for (int m = 0; m < kRowHalves; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t(&a)[4] = x[m][half];
        Mma(d[i][m], a[0], a[1], a[2], a[3], b[2 * half], b[2 * half + 1]);
      }
    }
  }
}

// The sums of a slab over the part'th of kParts runs of inputs, while the next stages are on their
// way.
template <int kParts>
__device__ __forceinline__ void MultiplySlab(float (&d)[kSlabTiles][kRowHalves][4],
                                             ManyShared& shared, const LoraWork& work,
                                             const RowTile& tile, int part) {
  const int tiles = shared.slab_tiles, all = (work.columns + kStageInputs - 1) / kStageInputs;
  const int first = all * part / kParts, stages = all * (part + 1) / kParts - first;
  const auto fill = [&](int i) {
    if (i < stages) {
      FillStage(shared.stages[i % kStages], shared, work, tile, (first + i) * kStageInputs);
    }
    CommitCopies();
  };
  for (int i = 0; i < kStages - 1; ++i) fill(i);
#pragma unroll 1
  for (int i = 0; i < stages; ++i) {
    AwaitCopies<kStages - 2>();
    __syncthreads();
    fill(i + kStages - 1);
    MultiplyStage(d, shared.stages[i % kStages], tiles);
  }
  AwaitCopies<0>();
  __syncthreads();
}

// Adds up what each of kParts blocks has in sums[0], each block a share of the numbers. A thread
// stores when all have read: whoever waits for the cluster waits for his stores as well.
template <int kParts, typename Store>
__device__ __forceinline__ void AddParts(ManySums& sums, int rows, int pairs, int part,
                                         const Store& store) {
  const auto cluster = cooperative_groups::this_cluster();
  constexpr int kMost = (kManyRows * kSlabTiles * kTileRanks / 2 + kParts * kManyThreads - 1) /
                        (kParts * kManyThreads);
  float2 sums_of_all[kMost];
  cluster.sync();
#pragma unroll
  for (int k = 0; k < kMost; ++k) {
    const int i = (k * kParts + part) * kManyThreads + threadIdx.x;
    sums_of_all[k] = make_float2(0.0f, 0.0f);
    if (i >= rows * pairs) continue;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const float2 more = *reinterpret_cast<const float2*>(
          cluster.map_shared_rank(&sums[0][i / pairs][2 * (i % pairs)], p));
      sums_of_all[k].x += more.x;
      sums_of_all[k].y += more.y;
    }
  }
  cluster.sync();
#pragma unroll
  for (int k = 0; k < kMost; ++k) {
    const int i = (k * kParts + part) * kManyThreads + threadIdx.x;
    if (i < rows * pairs) store(i / pairs, i % pairs, sums_of_all[k]);
  }
}

// Adds up the warps' sums and writes u: ranks [column, ...) of the tile's rows.
template <int kParts>
__device__ __forceinline__ void StoreSlab(const float (&d)[kSlabTiles][kRowHalves][4],
                                          ManyShared& shared, const LoraWork& work,
                                          const RowTile& tile, int column, int part) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int tiles = shared.slab_tiles, pairs = tiles * kTileRanks / 2;
  ManySums& sums = reinterpret_cast<ManySums&>(shared.stages);
#pragma unroll
  for (int r = 0; r < kSlabTiles; ++r) {
    if (r >= tiles) continue;
#pragma unroll
    for (int i = 0; i < 2 * kRowHalves; ++i) {
      float* to = &sums[warp][i * 8 + g][r * kTileRanks + 2 * t];
      *reinterpret_cast<float2*>(to) =
          make_float2(d[r][i / 2][i % 2 * 2], d[r][i / 2][i % 2 * 2 + 1]);
    }
  }
  __syncthreads();
  const auto store = [&](int row, int pair, float2 sum) {
    const float scale = shared.slab[pair * 2 / kTileRanks].scale;
    SplitPairU u;
    SplitPair(sum.x * scale, sum.y * scale, u.high, u.low);
    work.many_u[(tile.u_begin + int64_t{row} * tile.u_width + column) / 2 + pair] = u;
  };
  for (int i = threadIdx.x; i < tile.row_count * pairs; i += kManyThreads) {
    const int row = i / pairs, pair = i % pairs;
    float2& first = *reinterpret_cast<float2*>(&sums[0][row][2 * pair]);
    float2 sum = first;
#pragma unroll
    for (int w = 1; w < kManyWarps; ++w) {
      const float2 more = *reinterpret_cast<const float2*>(&sums[w][row][2 * pair]);
      sum.x += more.x;
      sum.y += more.y;
    }
    if constexpr (kParts == 1) {
      store(row, pair, sum);
    } else {
      first = sum;
    }
  }
  if constexpr (kParts > 1) AddParts<kParts>(sums, tile.row_count, pairs, part, store);
  __syncthreads();
}

// u of a tile whose sums GluPostMany has left in parts. One block.
__device__ __forceinline__ void AddDownParts(const LoraWork& work, const RowTile& tile,
                                             const ShrinkEntry& entry) {
  constexpr int kPairs = kDownRanks / 2;
  static_assert(kManyThreads == kManyRows * kPairs);
  const int row = threadIdx.x / kPairs, pair = threadIdx.x % kPairs;
  if (row >= tile.row_count || pair * 2 >= entry.rank_tiles * kTileRanks) return;
  const int parts = (work.columns + kDownColumns - 1) / kDownColumns;
  const float* from = work.down_parts + int64_t{tile.row_begin + row} * kDownRanks + 2 * pair;
  float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 14
  for (int i = 0; i < parts; ++i) {
    const float2 more =
        *reinterpret_cast<const float2*>(from + int64_t{i} * work.row_stride * kDownRanks);
    sum.x += more.x;
    sum.y += more.y;
  }
  SplitPairU u;
  SplitPair(sum.x * entry.scale, sum.y * entry.scale, u.high, u.low);
  work.many_u[(tile.u_begin + int64_t{row} * tile.u_width) / 2 + pair] = u;
}

// Grid [parts of a tile, in a cluster, then tiles].
template <int kParts>
__global__ void __launch_bounds__(kManyThreads, 1)
    ShrinkManyKernel(const __grid_constant__ LoraWork work) {
  extern __shared__ __align__(128) std::byte memory[];
  ManyShared& shared = *reinterpret_cast<ManyShared*>(memory);
  const int at = blockIdx.x / kParts, part = blockIdx.x % kParts;
  const TileStart& start = work.tile_starts[at];  // read before it is known whether it is there
  const RowTile tile = start.tile;
  const ShrinkEntry own = ShrinkEntryOf(start.entries[min(threadIdx.x, kGroupModulesMax - 1u)]);
  const ShrinkEntry down = DownEntryOf(start);
  if (at >= work.counts->row_tiles) return;
  WaitForPredecessor();
  if (work.down_parts && down.rank_tiles > 0) {
    if (part == 0) AddDownParts(work, tile, down);
    return;
  }
  for (int first = 0;; first += kSlabTiles) {
    if (threadIdx.x < 32) {
      const int tiles = FillSlab(shared.slab, work, tile, own, first);
      if (threadIdx.x == 0) shared.slab_tiles = tiles;
    }
    __syncthreads();
    if (shared.slab_tiles == 0) return;
    float d[kSlabTiles][kRowHalves][4] = {};
    MultiplySlab<kParts>(d, shared, work, tile, part);
    StoreSlab<kParts>(d, shared, work, tile, first * kTileRanks, part);
  }
}

template <int kParts>
void LaunchShrinkParts(const LoraWork& work, int tiles, cudaStream_t stream) {
  static const bool prepared = PrepareShared(ShrinkManyKernel<kParts>, sizeof(ManyShared));
  static_cast<void>(prepared);
  LaunchDependentClusters(kParts, ShrinkManyKernel<kParts>, tiles * kParts, kManyThreads,
                          sizeof(ManyShared), stream, work);
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

void LaunchShrinkMany(const LoraArgs& args, const StepTables& step, const LoraPlan& plan, int tiles,
                      cudaStream_t stream) {
  const LoraWork work = MakeLoraWork(args, step, plan);
  const int blocks = MultiprocessorCount();  // at a time
  if (tiles * 8 <= blocks) return LaunchShrinkParts<8>(work, tiles, stream);
  if (tiles * 4 <= blocks) return LaunchShrinkParts<4>(work, tiles, stream);
  if (tiles * 2 <= blocks) return LaunchShrinkParts<2>(work, tiles, stream);
  LaunchShrinkParts<1>(work, tiles, stream);
}

}  // namespace lorica::cuda
