// The LoRA plan of a step, and the LoRA kernel for steps of so many rows that the library
// multiplies them; else a product's own warps do its work, see linear.cu.
#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/lora.cuh"

namespace lorica::cuda {
namespace {

constexpr int kPlanThreads = 256;

__device__ int ModuleFirst(int group) {
  return group == 0 ? 0 : group == 1 ? 3 : group == 2 ? 4 : 6;
}

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

using Layout = LoraLayout<kShrinkRowTileMax, false, false>;

__global__ void __launch_bounds__(kLoraThreads, 2)
    LoraKernel(const __grid_constant__ LoraWork work) {
  extern __shared__ __align__(128) std::byte shared[];
  RunLora<Layout>(work, threadIdx.x, shared);
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
  static const bool prepared = PrepareShared(LoraKernel, Layout::kBytes);
  static_cast<void>(prepared);
  LaunchDependent(LoraKernel, plan.blocks, kLoraThreads, Layout::kBytes, stream,
                  MakeLoraWork(args, step, plan));
}

}  // namespace lorica::cuda
