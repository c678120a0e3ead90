// The kernels between products: LoRA expand with bias, rotation, KV store, gate and
// norm, each fused into one pass over its rows.
//
// A block takes a tile of rows with the same adapters. Sums are kept in registers in the
// layout of device/expand.cuh; the product's bf16 is added last, so a row's result
// depends on neither its place in the tile nor its neighbours.
#include <cooperative_groups.h>

#include <utility>

#include "kernels/cuda/device/expand.cuh"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kClusterMax = 8;

__device__ __forceinline__ int SplitsOf(const StepTables& step, int64_t in_features) {
  return step.counts->split_u ? (static_cast<int>(in_features) + kShrinkChunk - 1) / kShrinkChunk
                              : 1;
}

__device__ __forceinline__ void LoadEight(float (&out)[8], const bf16* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = LowFloat(words[i]);
    out[2 * i + 1] = HighFloat(words[i]);
  }
}

__device__ __forceinline__ void LoadEight(float (&out)[8], const float* from) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 v = reinterpret_cast<const float4*>(from)[i];
    out[4 * i] = v.x;
    out[4 * i + 1] = v.y;
    out[4 * i + 2] = v.z;
    out[4 * i + 3] = v.w;
  }
}

__device__ __forceinline__ uint4 PackEight(const float (&v)[8]) {
  return make_uint4(PackBf16(v[0], v[1]), PackBf16(v[2], v[3]), PackBf16(v[4], v[5]),
                    PackBf16(v[6], v[7]));
}

// out = gain * (product + lora) + bias for 8 columns of one row.
template <int kModules, int kGroups>
__device__ __forceinline__ void Finish(float (&out)[8], Accumulators<kModules, kGroups>& sums,
                                       int m, int group, int half, const bf16* product,
                                       const float* gain, const float* bias) {
  LoadEight(out, product);
  float factors[8], offsets[8];
  if (gain) LoadEight(factors, gain);
  if (bias) LoadEight(offsets, bias);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float v = out[i] + sums.At(m, group, i, half);
    if (gain) v *= factors[i];
    if (bias) v += offsets[i];
    out[i] = v;
  }
}

// Read beside the step's counts, not after them.
__device__ __forceinline__ const TileStart* StartOf(const LoraPlan& plan, int pair) {
  if (!plan.tile_starts) return nullptr;
  return &plan.tile_starts[int64_t{pair} * plan.tile_stride + blockIdx.y];
}

__device__ __forceinline__ float Activate(float v, Activation activation) {
  if (activation == Activation::kSilu) return v / (1.0f + __expf(-v));
  const float inner = 0.7978845608028654f * (v + 0.044715f * v * v * v);
  return 0.5f * v * (1.0f + tanhf(inner));
}

__global__ void __launch_bounds__(kWarps * 32)
    GluPostKernel(bf16* out, const bf16* gate_up, int ffn, int hidden, Activation activation,
                  int layer, StepTables step, LoraPlan plan) {
  __shared__ float shared_u[2 * kPostRowTile * kUStride];
  const int pair = layer * 4 + static_cast<int>(LoraGroup::kGateUp);
  ReleaseSuccessor();
  const TileStart* start = StartOf(plan, pair);
  const RowTile tile = start ? start->tile : step.row_tiles[blockIdx.y];
  if (blockIdx.y >= step.counts->row_tiles) return;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int column = (blockIdx.x * kWarps + threadIdx.x / 32) * kGroupColumns;
  const ExpandTarget<2, 1> target = {{0, 1}, {column, column}, {ffn, ffn}};
  Accumulators<2, 1> sums;
  sums.Clear();
  Expand(sums, target, tile, start, plan, pair, 2, SplitsOf(step, hidden), shared_u,
         [] { WaitForPredecessor(); });
  const int mine = column + g * 8;
  if (mine >= ffn) return;
  const float* gate_gain = GainOf(tile, start, 0);
  const float* up_gain = GainOf(tile, start, 1);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (2 * t + half >= tile.row_count) continue;
    const int64_t row = tile.row_begin + 2 * t + half;
    const bf16* from = gate_up + row * 2 * ffn + mine;
    float gate[8], up[8];
    Finish(gate, sums, 0, 0, half, from, gate_gain ? gate_gain + mine : nullptr, nullptr);
    Finish(up, sums, 1, 0, half, from + ffn, up_gain ? up_gain + mine : nullptr, nullptr);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate[i] = Activate(gate[i], activation) * up[i];
    *reinterpret_cast<uint4*>(out + row * ffn + mine) = PackEight(gate);
  }
}

// A cluster of blocks holds whole rows between them: kWarps * kGroups * 64 columns a block.
template <int kGroups>
__global__ void __launch_bounds__(kWarps * 32)
    ResidualNormKernel(ResidualNormArgs args, StepTables step, LoraPlan plan) {
  __shared__ float shared_u[kPostRowTile * kUStride];
  __shared__ float warp_squares[kWarps][kPostRowTile];
  __shared__ float block_squares[kPostRowTile];
  __shared__ float cluster_squares[kClusterMax][kPostRowTile];
  auto cluster = cooperative_groups::this_cluster();
  const int pair = args.layer * 4 + static_cast<int>(args.group);
  ReleaseSuccessor();
  const TileStart* start = StartOf(plan, pair);
  const RowTile tile = start ? start->tile : step.row_tiles[blockIdx.y];
  if (blockIdx.y >= step.counts->row_tiles) return;  // the same for a whole cluster
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int columns = static_cast<int>(args.columns);
  const int column = (blockIdx.x * kWarps + warp) * kGroups * kGroupColumns;
  const ExpandTarget<1, kGroups> target = {{0}, {column}, {columns}};
  Accumulators<1, kGroups> sums;
  sums.Clear();
  Expand(sums, target, tile, start, plan, pair, 1, SplitsOf(step, args.in_features), shared_u,
         [] { WaitForPredecessor(); });
  const float* gain = GainOf(tile, start, 0);
  bf16* residual = static_cast<bf16*>(args.residual);
  float squares[2] = {0.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    const int mine = column + j * kGroupColumns + g * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (2 * t + half >= tile.row_count || mine >= columns) continue;
      const int64_t at = int64_t{tile.row_begin + 2 * t + half} * columns + mine;
      float v[8], old[8];
      Finish(v, sums, 0, j, half, static_cast<const bf16*>(args.projection) + at,
             gain ? gain + mine : nullptr, args.bias ? args.bias + mine : nullptr);
      LoadEight(old, residual + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] = __bfloat162float(__float2bfloat16(v[i] + old[i]));
        squares[half] += v[i] * v[i];
        sums.At(0, j, i, half) = v[i];
      }
      *reinterpret_cast<uint4*>(residual + at) = PackEight(v);
    }
  }
  if (!args.norm) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int offset = 4; offset < 32; offset *= 2) {
      squares[half] += __shfl_xor_sync(~0u, squares[half], offset);
    }
    if (g == 0) warp_squares[warp][2 * t + half] = squares[half];
  }
  __syncthreads();
  if (threadIdx.x < kPostRowTile) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += warp_squares[w][threadIdx.x];
    block_squares[threadIdx.x] = sum;
  }
  cluster.sync();
  if (threadIdx.x < cluster.num_blocks() * kPostRowTile) {
    const int block = threadIdx.x / kPostRowTile, row = threadIdx.x % kPostRowTile;
    cluster_squares[block][row] = cluster.map_shared_rank(block_squares, block)[row];
  }
  __syncthreads();
  auto left = cluster.barrier_arrive();  // no block may leave while others read it
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = 0.0f;
    for (unsigned rank = 0; rank < cluster.num_blocks(); ++rank) {
      sum += cluster_squares[rank][2 * t + half];
    }
    scale[half] = rsqrtf(sum / columns + args.epsilon);
  }
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    const int mine = column + j * kGroupColumns + g * 8;
    if (mine >= columns) continue;
    float weight[8];
    LoadEight(weight, args.norm + mine);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (2 * t + half >= tile.row_count) continue;
      const int64_t at = int64_t{tile.row_begin + 2 * t + half} * columns + mine;
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = sums.At(0, j, i, half) * scale[half] * weight[i];
      *reinterpret_cast<uint4*>(static_cast<bf16*>(args.out) + at) = PackEight(v);
    }
  }
  cluster.barrier_wait(std::move(left));
}

struct HeadPlace {
  int module;  // 0 q, 1 k, 2 v
  int head;    // inside the module
};

__device__ HeadPlace PlaceOf(int head, const AttentionShape& shape) {
  if (head < shape.heads) return {0, head};
  if (head < shape.heads + shape.kv_heads) return {1, head - shape.heads};
  return {2, head - shape.heads - shape.kv_heads};
}

// First element of a token's K or V of one head: [layer][K, V][kv_head][token][head size].
__device__ bf16* CacheRow(const QkvPostArgs& args, int padded, int page, int position, int value,
                          int head) {
  const int64_t matrix = int64_t{args.layer} * 2 + value;
  const int64_t row =
      (matrix * args.shape.kv_heads + head) * kBlockTokens + position % kBlockTokens;
  return reinterpret_cast<bf16*>(static_cast<std::byte*>(args.arena) + page * args.block_bytes) +
         row * padded;
}

// Heads of a block's warps: `warps_per_head` warps of 64 columns each.
__global__ void __launch_bounds__(kWarps * 32)
    QkvPostKernel(QkvPostArgs args, int hidden, int padded, int warps_per_head, StepTables step,
                  LoraPlan plan) {
  __shared__ float shared_u[kPostRowTile * kUStride];
  __shared__ float turned[kWarps][kPostRowTile][kGroupColumns];
  const int pair = args.layer * 4 + static_cast<int>(LoraGroup::kQkv);
  ReleaseSuccessor();
  const TileStart* start = StartOf(plan, pair);
  const RowTile tile = start ? start->tile : step.row_tiles[blockIdx.y];
  if (blockIdx.y >= step.counts->row_tiles) return;
  const AttentionShape& shape = args.shape;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int heads_per_block = blockDim.x / 32 / warps_per_head;
  const HeadPlace place = PlaceOf(blockIdx.x * heads_per_block + warp / warps_per_head, shape);
  const int size = shape.head_size;
  const int inside = warp % warps_per_head * kGroupColumns + g * 8;  // column in the head
  const int module_heads = place.module == 0 ? shape.heads : shape.kv_heads;
  // Columns past the head's end are beyond the target's width for this lane.
  const bool mine = inside < size;
  const ExpandTarget<1, 1> target = {
      {place.module}, {place.head * size + inside - g * 8}, {mine ? module_heads * size : 0}};
  Accumulators<1, 1> sums;
  sums.Clear();
  Expand(sums, target, tile, start, plan, pair, 3, SplitsOf(step, hidden), shared_u,
         [] { WaitForPredecessor(); });
  const int before = place.module == 0   ? 0
                     : place.module == 1 ? shape.heads
                                         : shape.heads + shape.kv_heads;
  const int column = (before + place.head) * size + inside;
  const int64_t columns = int64_t{shape.heads + 2 * shape.kv_heads} * size;
  bf16* qkv = static_cast<bf16*>(args.qkv);
  const float* gain = GainOf(tile, start, place.module);
  float value[2][8] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!mine || 2 * t + half >= tile.row_count) continue;
    Finish(value[half], sums, 0, 0, half, qkv + (tile.row_begin + 2 * t + half) * columns + column,
           gain ? gain + place.head * size + inside : nullptr,
           args.bias ? args.bias + column : nullptr);
#pragma unroll
    for (int i = 0; i < 8; ++i) turned[warp][2 * t + half][g * 8 + i] = value[half][i];
  }
  __syncthreads();
  const int first_warp = warp - warp % warps_per_head;
  const int pairs = args.rotary_size / 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int local = 2 * t + half;
    if (local >= tile.row_count) continue;
    const int row = tile.row_begin + local;
    const int position = step.positions[row];
    if (place.module < 2) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int d = inside + i;
        if (d >= 2 * pairs) continue;  // not rotated, or past the head's end
        const int partner = d < pairs ? d + pairs : d - pairs;
        const float other =
            turned[first_warp + partner / kGroupColumns][local][partner % kGroupColumns];
        const int64_t angle = int64_t{position} * pairs + (d < pairs ? d : partner);
        const float c = args.cos[angle], s = args.sin[angle];
        value[half][i] = value[half][i] * c + (d < pairs ? -other : other) * s;
      }
    }
    const uint4 packed = PackEight(value[half]);
    if (place.module == 0) {
      if (mine) *reinterpret_cast<uint4*>(qkv + row * columns + column) = packed;
    } else {
      const int page = step.pages[step.row_spans[row].page_begin + position / kBlockTokens];
      // Padding is stored too, as zeros: the block may hold anything.
      bf16* target_row = CacheRow(args, padded, page, position, place.module - 1, place.head);
      *reinterpret_cast<uint4*>(target_row + inside) = packed;
    }
  }
}

cudaLaunchConfig_t Config(dim3 grid, int threads, cudaStream_t stream,
                          cudaLaunchAttribute* attributes, int count) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return config;
}

cudaLaunchAttribute EarlyStart() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

cudaLaunchAttribute ClusterOf(int blocks) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = blocks;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  return attribute;
}

}  // namespace

void LaunchGluPost(void* out, const void* gate_up, int64_t ffn, int64_t hidden,
                   Activation activation, int layer, const StepTables& step, const LoraPlan& plan,
                   int row_tiles, cudaStream_t stream) {
  constexpr int kColumns = kWarps * kGroupColumns;
  cudaLaunchAttribute attributes[] = {EarlyStart()};
  const dim3 grid((ffn + kColumns - 1) / kColumns, row_tiles);
  const auto config = Config(grid, kWarps * 32, stream, attributes, 1);
  cudaLaunchKernelEx(&config, GluPostKernel, static_cast<bf16*>(out),
                     static_cast<const bf16*>(gate_up), static_cast<int>(ffn),
                     static_cast<int>(hidden), activation, layer, step, plan);
}

void LaunchResidualNorm(const ResidualNormArgs& args, const StepTables& step, const LoraPlan& plan,
                        int row_tiles, cudaStream_t stream) {
  const auto launch = [&](auto kernel, int groups) {
    const int per_block = kWarps * groups * kGroupColumns;
    const int blocks = static_cast<int>((args.columns + per_block - 1) / per_block);
    cudaLaunchAttribute attributes[] = {EarlyStart(), ClusterOf(blocks)};
    const auto config = Config(dim3(blocks, row_tiles), kWarps * 32, stream, attributes, 2);
    cudaLaunchKernelEx(&config, kernel, args, step, plan);
  };
  constexpr int kColumnsPerGroup = kWarps * kGroupColumns * kClusterMax;
  if (args.columns <= 2 * kColumnsPerGroup) {
    launch(ResidualNormKernel<2>, 2);
  } else if (args.columns <= 4 * kColumnsPerGroup) {
    launch(ResidualNormKernel<4>, 4);
  } else {
    launch(ResidualNormKernel<8>, 8);
  }
}

void LaunchQkvPost(const QkvPostArgs& args, int64_t hidden, const StepTables& step,
                   const LoraPlan& plan, int row_tiles, cudaStream_t stream) {
  const AttentionShape& shape = args.shape;
  const int padded = PaddedHeadSize(shape.head_size);
  const int warps_per_head = padded / kGroupColumns;
  int heads = kWarps / warps_per_head;
  while (shape.heads % heads != 0 || shape.kv_heads % heads != 0) heads /= 2;
  cudaLaunchAttribute attributes[] = {EarlyStart()};
  const dim3 grid((shape.heads + 2 * shape.kv_heads) / heads, row_tiles);
  const auto config = Config(grid, heads * warps_per_head * 32, stream, attributes, 1);
  cudaLaunchKernelEx(&config, QkvPostKernel, args, static_cast<int>(hidden), padded, warps_per_head,
                     step, plan);
}

}  // namespace lorica::cuda
