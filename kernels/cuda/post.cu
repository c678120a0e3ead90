// The kernels between products: LoRA expand with bias, rotation, KV store, gate and
// norm, each fused into one pass over its rows.
//
// A block takes a tile of rows with the same adapters and a range of columns. The expand
// leaves its sums in shared memory; then each thread takes 8 columns of a row at a time. A
// row's result depends on neither its place in the tile nor its neighbours.
#include <cooperative_groups.h>

#include <utility>

#include "kernels/cuda/expand.cuh"
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

// 8 numbers of a product, `at` from its first row.
__device__ __forceinline__ void LoadProduct(float (&out)[8], const Product& product, int64_t at) {
  if (!product.parts) return LoadEight(out, static_cast<const bf16*>(product.y) + at);
  float part[kStreamSplitsMax][8];
#pragma unroll
  for (int s = 0; s < kStreamSplitsMax; ++s) {
    if (s < product.splits) LoadEight(part[s], product.parts + s * product.part_stride + at);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    out[i] = part[0][i];
#pragma unroll
    for (int s = 1; s < kStreamSplitsMax; ++s) out[i] += s < product.splits ? part[s][i] : 0.0f;
  }
}

constexpr int kBlockColumns = 2 * kWarps * kGroupColumns;  // that a block's groups cover
constexpr int kEight = 8;                                  // columns of a thread

// out = gain * (product + lora) + bias for 8 columns of one row. Null: there is none.
__device__ __forceinline__ void Finish(float (&out)[8], const Product& product, int64_t at,
                                       const float* lora, const float* gain, const float* bias) {
  LoadProduct(out, product, at);
  float more[8];
  if (lora) {
    LoadEight(more, lora);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] += more[i];
  }
  if (gain) {
    LoadEight(more, gain);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] *= more[i];
  }
  if (bias) {
    LoadEight(more, bias);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] += more[i];
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
    GluPostKernel(bf16* out, Product gate_up, int ffn, int hidden, Activation activation, int layer,
                  StepTables step, LoraPlan plan) {
  constexpr int kColumns = kWarps * kGroupColumns;
  __shared__ float shared_u[2 * kPostRowTile * kUStride];
  __shared__ __align__(16) float lora[kPostRowTile][2 * kColumns];  // gate, then up
  const int pair = layer * 4 + static_cast<int>(LoraGroup::kGateUp);
  const TileStart* start = StartOf(plan, pair);
  const RowTile tile = start ? start->tile : step.row_tiles[blockIdx.y];
  if (blockIdx.y >= step.counts->row_tiles) return;
  const int first = blockIdx.x * kColumns, warp = threadIdx.x / 32;
  const bool any = tile.term_count > 0;
  if (any) {
    const int inside = warp * kGroupColumns;
    const ExpandGroup groups[2] = {{0, 0, first + inside, ffn, &lora[0][inside]},
                                   {1, 1, first + inside, ffn, &lora[0][kColumns + inside]}};
    Expand(groups, {0, 2}, tile, *start, plan, pair, 2, SplitsOf(step, hidden), shared_u,
           2 * kColumns);
  } else {
    WaitForPredecessor();
    ReleaseSuccessor();
  }
  const float* gate_gain = GainOf(tile, start, 0);
  const float* up_gain = GainOf(tile, start, 1);
  const int chunks = kColumns / kEight;
  for (int i = threadIdx.x; i < tile.row_count * chunks; i += kWarps * 32) {
    const int local = i / chunks, inside = i % chunks * kEight, column = first + inside;
    if (column >= ffn) continue;
    const int64_t row = tile.row_begin + local;
    const int64_t at = row * 2 * ffn + column;
    float gate[8], up[8];
    Finish(gate, gate_up, at, any ? &lora[local][inside] : nullptr,
           gate_gain ? gate_gain + column : nullptr, nullptr);
    Finish(up, gate_up, at + ffn, any ? &lora[local][kColumns + inside] : nullptr,
           up_gain ? up_gain + column : nullptr, nullptr);
#pragma unroll
    for (int k = 0; k < 8; ++k) gate[k] = Activate(gate[k], activation) * up[k];
    *reinterpret_cast<uint4*>(out + row * ffn + column) = PackEight(gate);
  }
}

// Sums of squares of a row's 32 threads, one of the row's parts in this block.
__device__ __forceinline__ float WarpSum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// A cluster of blocks holds whole rows between them, kBlockColumns each. `passes` > 1 where
// a cluster's blocks take several ranges: columns beyond kClusterMax * kBlockColumns.
template <int kPasses>
__global__ void __launch_bounds__(kWarps * 32)
    ResidualNormKernel(ResidualNormArgs args, StepTables step, LoraPlan plan) {
  constexpr int kChunks = kBlockColumns / kEight;  // of a row in one pass
  constexpr int kParts = kChunks / 32;
  __shared__ float shared_u[kPostRowTile * kUStride];
  __shared__ __align__(16) float values[kPasses][kPostRowTile][kBlockColumns];
  __shared__ float part_squares[kPasses][kPostRowTile][kParts];
  __shared__ float block_squares[kPostRowTile];
  __shared__ float scales[kPostRowTile];
  auto cluster = cooperative_groups::this_cluster();
  const int pair = args.layer * 4 + static_cast<int>(args.group);
  const TileStart* start = StartOf(plan, pair);
  const RowTile tile = start ? start->tile : step.row_tiles[blockIdx.y];
  if (blockIdx.y >= step.counts->row_tiles) return;  // the same for a whole cluster
  const int columns = static_cast<int>(args.columns);
  const bool any = tile.term_count > 0;
  const float* gain = GainOf(tile, start, 0);
  bf16* residual = static_cast<bf16*>(args.residual);
#pragma unroll 1
  for (int pass = 0; pass < kPasses; ++pass) {
    const int first = (pass * gridDim.x + blockIdx.x) * kBlockColumns;
    if (any) {
      const int inside = threadIdx.x / 32 * 2 * kGroupColumns;
      const ExpandGroup groups[2] = {{0, 0, first + inside, columns, &values[pass][0][inside]},
                                     {0, 0, first + inside + kGroupColumns, columns,
                                      &values[pass][0][inside + kGroupColumns]}};
      Expand(groups, {0, 1}, tile, *start, plan, pair, 1, SplitsOf(step, args.in_features),
             shared_u, kBlockColumns);
    } else {
      WaitForPredecessor();
      ReleaseSuccessor();
    }
    for (int i = threadIdx.x; i < tile.row_count * kChunks; i += kWarps * 32) {
      const int local = i / kChunks, inside = i % kChunks * kEight, column = first + inside;
      float squares = 0.0f;
      if (column < columns) {
        const int64_t at = int64_t{tile.row_begin + local} * columns + column;
        float v[8], old[8];
        Finish(v, args.projection, at, any ? &values[pass][local][inside] : nullptr,
               gain ? gain + column : nullptr, args.bias ? args.bias + column : nullptr);
        LoadEight(old, residual + at);
#pragma unroll
        for (int k = 0; k < 8; ++k) v[k] += old[k];
        const uint4 rounded = PackEight(v);
        *reinterpret_cast<uint4*>(residual + at) = rounded;
        LoadEight(v, reinterpret_cast<const bf16*>(&rounded));
        float4* kept = reinterpret_cast<float4*>(&values[pass][local][inside]);
        kept[0] = make_float4(v[0], v[1], v[2], v[3]);
        kept[1] = make_float4(v[4], v[5], v[6], v[7]);
#pragma unroll
        for (int k = 0; k < 8; ++k) squares += v[k] * v[k];
      }
      squares = WarpSum(squares);
      if (threadIdx.x % 32 == 0) part_squares[pass][local][i % kChunks / 32] = squares;
    }
  }
  if (!args.norm) return;
  __syncthreads();
  if (threadIdx.x < tile.row_count) {
    float sum = 0.0f;
    for (int i = 0; i < kPasses * kParts; ++i) {
      sum += part_squares[i / kParts][threadIdx.x][i % kParts];
    }
    block_squares[threadIdx.x] = sum;
  }
  cluster.sync();
  if (threadIdx.x < tile.row_count) {
    float parts[kClusterMax], sum = 0.0f;
#pragma unroll
    for (int b = 0; b < kClusterMax; ++b) {
      const bool there = b < cluster.num_blocks();
      parts[b] = there ? cluster.map_shared_rank(block_squares, b)[threadIdx.x] : 0.0f;
    }
#pragma unroll
    for (int b = 0; b < kClusterMax; ++b) sum += parts[b];
    scales[threadIdx.x] = rsqrtf(sum / columns + args.epsilon);
  }
  __syncthreads();
  auto left = cluster.barrier_arrive();  // no block may leave while others read it
  for (int i = threadIdx.x; i < kPasses * tile.row_count * kChunks; i += kWarps * 32) {
    const int pass = i / (tile.row_count * kChunks), rest = i % (tile.row_count * kChunks);
    const int local = rest / kChunks, inside = rest % kChunks * kEight;
    const int column = (pass * gridDim.x + blockIdx.x) * kBlockColumns + inside;
    if (column >= columns) continue;
    float v[8], weight[8];
    LoadEight(v, &values[pass][local][inside]);
    LoadEight(weight, args.norm + column);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] *= scales[local] * weight[k];
    *reinterpret_cast<uint4*>(static_cast<bf16*>(args.out) +
                              int64_t{tile.row_begin + local} * columns + column) = PackEight(v);
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

// Rotates 8 values of a head: pairs (i, i + rotary / 2) of `head`, a row of one head.
__device__ __forceinline__ void Rotate(float (&v)[8], const float* head, int inside,
                                       const QkvPostArgs& args, int position) {
  const int pairs = args.rotary_size / 2;
  const int64_t angles = int64_t{position} * pairs;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int d = inside + k;
    if (d >= 2 * pairs) continue;  // not rotated, or past the head's end
    const bool low = d < pairs;
    const int angle = low ? d : d - pairs;
    const float other = head[low ? d + pairs : d - pairs];
    v[k] = v[k] * args.cos[angles + angle] + (low ? -other : other) * args.sin[angles + angle];
  }
}

// A block's warps take 64 columns each of the heads' padded sizes; all its heads are of one
// module.
__global__ void __launch_bounds__(kWarps * 32)
    QkvPostKernel(QkvPostArgs args, int hidden, int padded, StepTables step, LoraPlan plan) {
  constexpr int kColumns = kWarps * kGroupColumns;
  __shared__ float shared_u[kPostRowTile * kUStride];
  __shared__ __align__(16) float values[kPostRowTile][kColumns];
  const int pair = args.layer * 4 + static_cast<int>(LoraGroup::kQkv);
  const TileStart* start = StartOf(plan, pair);
  const RowTile tile = start ? start->tile : step.row_tiles[blockIdx.y];
  if (blockIdx.y >= step.counts->row_tiles) return;
  const AttentionShape& shape = args.shape;
  const int size = shape.head_size, block_columns = blockDim.x / 32 * kGroupColumns;
  const HeadPlace place = PlaceOf(blockIdx.x * (block_columns / padded), shape);
  const int module_width = (place.module == 0 ? shape.heads : shape.kv_heads) * size;
  const bool any = tile.term_count > 0;
  if (any) {
    const int column = threadIdx.x / 32 * kGroupColumns, head = column / padded;
    const int inside = column % padded, lane = threadIdx.x % 32 / 4 * 8;
    const ExpandGroup groups[1] = {{place.module, 0, (place.head + head) * size + inside,
                                    inside + lane < size ? module_width : 0, &values[0][column]}};
    Expand(groups, {place.module, 1}, tile, *start, plan, pair, 3, SplitsOf(step, hidden), shared_u,
           kColumns);
  } else {
    WaitForPredecessor();
    ReleaseSuccessor();
  }
  const int before = place.module == 0   ? 0
                     : place.module == 1 ? shape.heads
                                         : shape.heads + shape.kv_heads;
  const int64_t row_columns = int64_t{shape.heads + 2 * shape.kv_heads} * size;
  const float* gain = GainOf(tile, start, place.module);
  bf16* qkv = static_cast<bf16*>(args.qkv);
  const int chunks = block_columns / kEight;
  for (int i = threadIdx.x; i < tile.row_count * chunks; i += blockDim.x) {
    const int local = i / chunks, at = i % chunks * kEight;
    const int head = place.head + at / padded, inside = at % padded;
    float v[8] = {};
    if (inside < size) {
      const int column = (before + head) * size + inside;
      Finish(v, args.product, (tile.row_begin + local) * row_columns + column,
             any ? &values[local][at] : nullptr, gain ? gain + head * size + inside : nullptr,
             args.bias ? args.bias + column : nullptr);
    }
    float4* kept = reinterpret_cast<float4*>(&values[local][at]);
    kept[0] = make_float4(v[0], v[1], v[2], v[3]);
    kept[1] = make_float4(v[4], v[5], v[6], v[7]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tile.row_count * chunks; i += blockDim.x) {
    const int local = i / chunks, at = i % chunks * kEight;
    const int head = place.head + at / padded, inside = at % padded;
    const int row = tile.row_begin + local, position = step.positions[row];
    float v[8];
    LoadEight(v, &values[local][at]);
    if (place.module < 2) Rotate(v, &values[local][at - inside], inside, args, position);
    const uint4 packed = PackEight(v);
    if (place.module == 0) {
      if (inside >= size) continue;
      *reinterpret_cast<uint4*>(qkv + row * row_columns + head * size + inside) = packed;
    } else {
      // Padding is stored too, as zeros: the block may hold anything.
      const int page = step.pages[step.row_spans[row].page_begin + position / kBlockTokens];
      bf16* target_row = CacheRow(args, padded, page, position, place.module - 1, head);
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

void LaunchGluPost(void* out, const Product& gate_up, int64_t ffn, int64_t hidden,
                   Activation activation, int layer, const StepTables& step, const LoraPlan& plan,
                   int row_tiles, cudaStream_t stream) {
  constexpr int kColumns = kWarps * kGroupColumns;
  cudaLaunchAttribute attributes[] = {EarlyStart()};
  const dim3 grid((ffn + kColumns - 1) / kColumns, row_tiles);
  const auto config = Config(grid, kWarps * 32, stream, attributes, 1);
  cudaLaunchKernelEx(&config, GluPostKernel, static_cast<bf16*>(out), gate_up,
                     static_cast<int>(ffn), static_cast<int>(hidden), activation, layer, step,
                     plan);
}

void LaunchResidualNorm(const ResidualNormArgs& args, const StepTables& step, const LoraPlan& plan,
                        int row_tiles, cudaStream_t stream) {
  const auto launch = [&](auto kernel, int passes) {
    const int per_block = passes * kBlockColumns;
    const int blocks = static_cast<int>((args.columns + per_block - 1) / per_block);
    cudaLaunchAttribute attributes[] = {EarlyStart(), ClusterOf(blocks)};
    const auto config = Config(dim3(blocks, row_tiles), kWarps * 32, stream, attributes, 2);
    cudaLaunchKernelEx(&config, kernel, args, step, plan);
  };
  if (args.columns <= kClusterMax * kBlockColumns) {
    launch(ResidualNormKernel<1>, 1);
  } else {
    launch(ResidualNormKernel<2>, 2);
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
  cudaLaunchKernelEx(&config, QkvPostKernel, args, static_cast<int>(hidden), padded, step, plan);
}

}  // namespace lorica::cuda
