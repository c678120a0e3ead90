// The kernels between products in steps of many rows with adapters: the expand, gain and bias,
// then what post.cu does, so that a product is read once.
//
// A warp takes 8 rows of a row tile and 64 columns at a time, as expand.cuh lays them out: lane
// (g, t) ends with columns [8g, 8g + 8) of rows 2t and 2t + 1. Weights come straight from the
// arena: blocks of a multiprocessor find them in its cache, since all rows of a tile want the
// same. A row's result depends on nothing else in the step.
#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/post.cuh"

namespace lorica::cuda {
namespace {

constexpr int kWarpRows = 8;
constexpr int kGluThreads = 256;
constexpr int kResidualThreads = 256;
constexpr int kResidualWarps = kResidualThreads / 32;
constexpr int kQkvWarps = 4;
constexpr int kPaddedHeadMax = 256;
constexpr int kHeadStride = kPaddedHeadMax + 8;  // floats; so that the banks of rows differ

// A row tile and what is needed for its adapters.
struct TileLora {
  const LoraPlan& plan;
  const TileStart& start;
  int pair, modules;

  __device__ TileLora(const LoraPlan& plan, int pair, int modules, int tile)
      : plan(plan),
        start(plan.tile_starts[int64_t{pair} * plan.tile_stride + tile]),
        pair(pair),
        modules(modules) {}
  __device__ const RowTile& tile() const { return start.tile; }
  __device__ const PlanEntry& Entry(int term, int module) const {
    if (term == 0) return start.entries[module];
    return plan.entries[pair * plan.stride + (tile().term_begin + term) * modules + module];
  }
  // DoRA's gain of a module for columns from `column` on; null without. Only a lone term may have
  // one.
  __device__ const float* Gain(int module, int column) const {
    const PlanEntry& entry = start.entries[module];
    const bool has = tile().term_count == 1 && entry.rank_tiles > 0 && entry.gain;
    return has ? entry.gain + column : nullptr;
  }
};

// The lane's weights of two rank tiles for 8 columns from `column`; zeros outside.
__device__ __forceinline__ void FetchRanks(RankRows& out, const PlanEntry& entry,
                                           const std::byte* arena, int rank_tile, int column,
                                           int width) {
  const int t = threadIdx.x % 4, wide = column / kTileWidth;
  const int tile_width = min(kTileWidth, width - wide * kTileWidth);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool inside = rank_tile + half < entry.rank_tiles && column < width;
    const uint32_t unit =
        inside ? TileUnit(entry.b_tiles, entry.b_run, rank_tile + half, wide, width) : 0;
    const std::byte* from = arena + int64_t{unit} * kTileUnitBytes +
                            (2 * t * tile_width + column - wide * kTileWidth) * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      out.row[2 * half + i] = inside
                                  ? __ldg(reinterpret_cast<const uint4*>(from + i * tile_width * 2))
                                  : make_uint4(0, 0, 0, 0);
    }
  }
}

// The lane's numbers of u for two rank tiles, scaled: row g, ranks 2t and 2t + 1 of each.
__device__ __forceinline__ void FetchU(uint32_t (&high)[2], uint32_t (&low)[2], const float* u,
                                       bool inside, int rank_tiles, float scale) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float2 v = make_float2(0.0f, 0.0f);
    if (inside && half < rank_tiles) {
      v = *reinterpret_cast<const float2*>(u + half * kTileRanks);
    }
    SplitPair(v.x * scale, v.y * scale, high[half], low[half]);
  }
}

// d += the sum over the tile's terms, for kRowSets times 8 rows from first_row and kColumnSets
// times 64 columns of a module. All lanes.
template <int kRowSets, int kColumnSets>
__device__ __forceinline__ void ExpandRows(float (&d)[kRowSets][kColumnSets][4][4],
                                           const TileLora& lora, int module, int first_row,
                                           int column, int width) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const RowTile& tile = lora.tile();
  const int rows = tile.row_count - first_row;
  const float* u = lora.plan.u + tile.u_begin + int64_t{first_row + g} * tile.u_width + 2 * t;
#pragma unroll 1
  for (int term = 0; term < tile.term_count; ++term) {
    const PlanEntry& entry = lora.Entry(term, module);
    const int rank_tiles = entry.rank_tiles;
    const float scale = entry.scale;
#pragma unroll 1
    for (int rank_tile = 0; rank_tile < rank_tiles; rank_tile += 2) {
      uint32_t high[kRowSets][2], low[kRowSets][2];
#pragma unroll
      for (int i = 0; i < kRowSets; ++i) {
        FetchU(high[i], low[i],
               u + i * kWarpRows * tile.u_width + entry.u_column + rank_tile * kTileRanks,
               i * kWarpRows + g < rows, rank_tiles - rank_tile, scale);
      }
#pragma unroll
      for (int j = 0; j < kColumnSets; ++j) {
        RankRows w;
        FetchRanks(w, entry, lora.plan.arena, rank_tile, column + j * kGroupColumns + 8 * g, width);
#pragma unroll
        for (int i = 0; i < kRowSets; ++i) MultiplyRanks(d[i][j], w, high[i], low[i]);
      }
    }
  }
}

// out = gain * (y + sums) + bias for the 8 columns of row 2t + half.
__device__ __forceinline__ void FinishRow(float (&out)[8], const float (&d)[4][4], int half,
                                          const uint4& y, const float* gain, const float* bias) {
  const uint32_t words[4] = {y.x, y.y, y.z, y.w};
  float factors[8], terms[8];
  if (gain) LoadEight(factors, gain);
  if (bias) LoadEight(terms, bias);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float base = i % 2 == 0 ? LowFloat(words[i / 2]) : HighFloat(words[i / 2]);
    float v = base + d[i / 2][i % 2 * 2 + half];
    if (gain) v *= factors[i];
    if (bias) v += terms[i];
    out[i] = v;
  }
}

// Two rows' 16 bytes from `from`, of rows that are there.
__device__ __forceinline__ void LoadRows(uint4 (&out)[2], const Element* from, int64_t stride,
                                         int rows) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    out[half] = half < rows ? *reinterpret_cast<const uint4*>(from + half * stride)
                            : make_uint4(0, 0, 0, 0);
  }
}

// Grid [columns of all warps of a block, tiles].
__global__ void __launch_bounds__(kGluThreads, 2)
    GluPostManyKernel(Element* out, Product gate_up, int ffn, Activation activation, int layer,
                      StepTables step, LoraPlan plan) {
  constexpr int kSets = 2;  // of 8 rows at a time
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first = (blockIdx.x * (kGluThreads / 32) + threadIdx.x / 32) * kGroupColumns;
  const int column = first + 8 * g;
  if (blockIdx.y >= step.counts->all_tiles || first >= ffn) return;
  const TileLora lora(plan, PairOf(layer, LoraGroup::kGateUp), 2, blockIdx.y);
  const RowTile& tile = lora.tile();
  const Element* y = static_cast<const Element*>(gate_up.y);
  WaitForPredecessor();
#pragma unroll 1
  for (int from = 0; from < tile.row_count; from += kSets * kWarpRows) {
    const int rows = column < ffn ? tile.row_count - from - 2 * t : 0;
    const int64_t row = tile.row_begin + from + 2 * t;
    uint4 products[2][kSets][2];
#pragma unroll
    for (int i = 0; i < kSets; ++i) {
      const Element* of_set = y + (row + i * kWarpRows) * 2 * ffn + column;
      LoadRows(products[0][i], of_set, 2 * ffn, rows - i * kWarpRows);
      LoadRows(products[1][i], of_set + ffn, 2 * ffn, rows - i * kWarpRows);
    }
    float gates[kSets][2][8];
    {
      float sums[kSets][1][4][4] = {};
      ExpandRows(sums, lora, 0, from, first, ffn);
#pragma unroll
      for (int i = 0; i < 2 * kSets; ++i) {
        float(&gate)[8] = gates[i / 2][i % 2];
        FinishRow(gate, sums[i / 2][0], i % 2, products[0][i / 2][i % 2],
                  rows > 0 ? lora.Gain(0, column) : nullptr, nullptr);
#pragma unroll
        for (int k = 0; k < 8; ++k) gate[k] = Activate(gate[k], activation);
      }
    }
    float sums[kSets][1][4][4] = {};
    ExpandRows(sums, lora, 1, from, first, ffn);
#pragma unroll
    for (int i = 0; i < 2 * kSets; ++i) {
      const int set = i / 2, half = i % 2;
      if (set * kWarpRows + half >= rows) continue;
      float up[8];
      FinishRow(up, sums[set][0], half, products[1][set][half], lora.Gain(1, column), nullptr);
#pragma unroll
      for (int k = 0; k < 8; ++k) up[k] *= gates[set][half][k];
      *reinterpret_cast<uint4*>(out + (row + set * kWarpRows + half) * ffn + column) =
          PackEight(up);
    }
  }
}

// Adds up a row's `squares` over the block: of rows 2t and 2t + 1 for lane (g, t).
__device__ __forceinline__ void SumRows(float (&squares)[2]) {
  __shared__ float sums[kResidualWarps][kWarpRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int offset = 4; offset < 32; offset *= 2) {
      squares[half] += __shfl_xor_sync(~0u, squares[half], offset);
    }
    if (lane < 4) sums[warp][2 * t + half] = squares[half];
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    squares[half] = sums[0][2 * t + half];
    for (int w = 1; w < kResidualWarps; ++w) squares[half] += sums[w][2 * t + half];
  }
}

// Adds 8 columns of a row to its residual; returns the sum of the squares of what is there then.
__device__ __forceinline__ float AddToResidual(float* residual, const float (&more)[8]) {
  float v[8], squares = 0.0f;
  LoadEight(v, residual);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    v[i] += more[i];
    squares += v[i] * v[i];
  }
  StoreEight(residual, v);
  return squares;
}

// Grid [kManyRows / kWarpRows, tiles]: a block holds 8 rows. The residual, once written, is read
// again by the threads that wrote it.
__global__ void __launch_bounds__(kResidualThreads, 2)
    ResidualNormManyKernel(ResidualNormArgs args, StepTables step, LoraPlan plan) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if (blockIdx.y >= step.counts->all_tiles) return;
  const TileLora lora(plan, PairOf(args.layer, args.group), 1, blockIdx.y);
  const RowTile& tile = lora.tile();
  const int from = blockIdx.x * kWarpRows, rows = tile.row_count - from - 2 * t;
  if (from >= tile.row_count) return;
  const int columns = static_cast<int>(args.columns);
  const int64_t first_row = int64_t{tile.row_begin + from + 2 * t} * columns;
  float* residual = static_cast<float*>(args.residual) + first_row;
  const Element* y = static_cast<const Element*>(args.projection.y) + first_row;
  const int begin = threadIdx.x / 32 * kGroupColumns, stride = kResidualWarps * kGroupColumns;
  float squares[2] = {};
  WaitForPredecessor();
#pragma unroll 1
  for (int at = begin; at < columns; at += stride) {
    const int column = at + 8 * g, there = column < columns ? rows : 0;
    uint4 products[2];
    LoadRows(products, y + column, columns, there);
    float sums[1][1][4][4] = {};
    ExpandRows(sums, lora, 0, from, at, columns);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half >= there) continue;
      float v[8];
      FinishRow(v, sums[0][0], half, products[half], lora.Gain(0, column),
                args.bias ? args.bias + column : nullptr);
      squares[half] += AddToResidual(residual + half * int64_t{columns} + column, v);
    }
  }
  if (!args.norm) return;
  SumRows(squares);
  Element* out = static_cast<Element*>(args.out) + first_row;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    squares[half] = rsqrtf(squares[half] / columns + args.epsilon);  // the row's scale
  }
#pragma unroll 2
  for (int column = begin + 8 * g; column < columns; column += stride) {
    float weight[8];
    LoadEight(weight, args.norm + column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (half >= rows) continue;
      float v[8];
      LoadEight(v, residual + half * int64_t{columns} + column);
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] *= squares[half] * weight[k];
      *reinterpret_cast<uint4*>(out + half * int64_t{columns} + column) = PackEight(v);
    }
  }
}

// The finished columns of a head for 8 rows, before rotation: [row][kHeadStride].
template <int kSets>
__device__ __forceinline__ void FinishHead(float* values, const QkvPostArgs& args, int padded,
                                           const TileLora& lora, const HeadPlace& place, int head,
                                           int from, int there) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const AttentionShape& shape = args.shape;
  const int size = shape.head_size, columns = (shape.heads + 2 * shape.kv_heads) * size;
  const int width = (place.module == 0 ? shape.heads : shape.kv_heads) * size;
  const Element* y = static_cast<const Element*>(args.product.y) +
                     int64_t{lora.tile().row_begin + from + 2 * t} * columns + head * size;
#pragma unroll 1
  for (int group = 0; group < padded; group += kSets * kGroupColumns) {
    uint4 products[kSets][2];
    float sums[1][kSets][4][4] = {};
#pragma unroll
    for (int j = 0; j < kSets; ++j) {
      const int inside = group + j * kGroupColumns + 8 * g;
      LoadRows(products[j], y + inside, columns, inside < size ? there : 0);
    }
    ExpandRows(sums, lora, place.module, from, place.head * size + group, width);
#pragma unroll
    for (int i = 0; i < 2 * kSets; ++i) {
      const int j = i / 2, half = i % 2, inside = group + j * kGroupColumns + 8 * g;
      float v[8] = {};
      if (inside < size && half < there) {
        FinishRow(v, sums[0][j], half, products[j][half],
                  lora.Gain(place.module, place.head * size + inside),
                  args.bias ? args.bias + head * size + inside : nullptr);
      }
      StoreEight(values + (2 * t + half) * kHeadStride + inside, v);
    }
  }
  __syncwarp();
}

// Rotates a row's 8 columns of a head and puts them where they belong.
__device__ __forceinline__ void StoreHead(const float* head_row, int inside, int row,
                                          const QkvPostArgs& args, int padded,
                                          const HeadPlace& place, int head,
                                          const StepTables& step) {
  const AttentionShape& shape = args.shape;
  const int size = shape.head_size, heads = shape.heads + 2 * shape.kv_heads;
  const int position = step.positions[row];
  float v[8];
  LoadEight(v, head_row + inside);
  if (place.module < 2) Rotate(v, head_row, inside, args, position);
  const uint4 packed = PackEight(v);
  if (place.module > 0) {
    const int page = step.pages[step.row_spans[row].page_begin + position / kBlockTokens];
    Element* target = CacheRow(args, padded, page, position, place.module - 1, place.head);
    *reinterpret_cast<uint4*>(target + inside) = packed;
  } else if (inside < size) {
    const int64_t at = int64_t{row} * heads * size + head * size + inside;
    *reinterpret_cast<uint4*>(static_cast<Element*>(args.qkv) + at) = packed;
  }
}

// Grid [heads of all warps of a block, tiles]. kSets times 64 columns at a time.
template <int kSets>
__global__ void __launch_bounds__(kQkvWarps * 32)
    QkvPostManyKernel(QkvPostArgs args, int padded, StepTables step, LoraPlan plan) {
  __shared__ __align__(16) float values[kQkvWarps][kWarpRows * kHeadStride];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const AttentionShape& shape = args.shape;
  const int head = blockIdx.x * kQkvWarps + threadIdx.x / 32;
  if (blockIdx.y >= step.counts->all_tiles || head >= shape.heads + 2 * shape.kv_heads) return;
  const TileLora lora(plan, PairOf(args.layer, LoraGroup::kQkv), 3, blockIdx.y);
  const RowTile& tile = lora.tile();
  const HeadPlace place = PlaceOf(head, shape);
  float* own = values[threadIdx.x / 32];
  WaitForPredecessor();
#pragma unroll 1
  for (int from = 0; from < tile.row_count; from += kWarpRows) {
    const int rows = tile.row_count - from - 2 * t;
    FinishHead<kSets>(own, args, padded, lora, place, head, from, rows);
#pragma unroll 1
    for (int inside = 8 * g; inside < padded; inside += kGroupColumns) {
      for (int half = 0; half < min(rows, 2); ++half) {
        StoreHead(own + (2 * t + half) * kHeadStride, inside, tile.row_begin + from + 2 * t + half,
                  args, padded, place, head, step);
      }
    }
    __syncwarp();
  }
}

}  // namespace

void LaunchGluPostMany(void* out, const Product& gate_up, int64_t ffn, Activation activation,
                       int layer, const StepTables& step, const LoraPlan& plan,
                       cudaStream_t stream) {
  constexpr int kColumns = kGluThreads / 32 * kGroupColumns;
  const dim3 grid(static_cast<unsigned>((ffn + kColumns - 1) / kColumns), gate_up.expand_tiles);
  LaunchDependent(GluPostManyKernel, grid, kGluThreads, 0, stream, static_cast<Element*>(out),
                  gate_up, static_cast<int>(ffn), activation, layer, step, plan);
}

void LaunchResidualNormMany(const ResidualNormArgs& args, const StepTables& step,
                            const LoraPlan& plan, cudaStream_t stream) {
  const dim3 grid(kManyRows / kWarpRows, args.projection.expand_tiles);
  LaunchDependent(ResidualNormManyKernel, grid, kResidualThreads, 0, stream, args, step, plan);
}

void LaunchQkvPostMany(const QkvPostArgs& args, const StepTables& step, const LoraPlan& plan,
                       cudaStream_t stream) {
  const int padded = PaddedHeadSize(args.shape.head_size);
  const int heads = args.shape.heads + 2 * args.shape.kv_heads;
  const dim3 grid((heads + kQkvWarps - 1) / kQkvWarps, args.product.expand_tiles);
  const auto kernel = padded > kGroupColumns ? QkvPostManyKernel<2> : QkvPostManyKernel<1>;
  LaunchDependent(kernel, grid, kQkvWarps * 32, 0, stream, args, padded, step, plan);
}

}  // namespace lorica::cuda
