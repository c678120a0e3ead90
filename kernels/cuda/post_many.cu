// The kernels between products in steps of many rows with adapters: the expand, gain and bias,
// then what post.cu does, so that a product is read once. tile_expand.cuh says how rows and columns
// are dealt out. A row's result depends on nothing else in the step.
#include <cooperative_groups.h>

#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/post.cuh"
#include "kernels/cuda/tile_expand.cuh"

namespace lorica::cuda {
namespace {

constexpr int kGluThreads = 128;
static_assert(kGluThreads / 32 * kGroupColumns == kDownColumns);
constexpr int kQkvThreads = 128;
constexpr int kResidualThreads = 512;
constexpr int kResidualWarps = kResidualThreads / 32;
constexpr int kResidualRuns = 4;   // of 64 columns a warp
constexpr int kResidualAhead = 2;  // whose products and weights are on their way
constexpr int kResidualStripe = kResidualWarps * kGroupColumns;
constexpr int kResidualColumns = kResidualRuns * kResidualStripe;  // of a block
constexpr int kPaddedHeadMax = 256;
constexpr int kHeadStride = kPaddedHeadMax + 8;  // floats; so that the banks of rows differ

// A weight of the down product's shrink for 64 inputs, as the matrix instruction takes it.
struct DownWeights {
  uint4 tiles[2][kGroupColumns];  // an input's ranks, 16 bytes

  // Starts the copy of inputs [first, ffn). All lanes.
  __device__ __forceinline__ void Copy(const ShrinkEntry& entry, const std::byte* arena, int first,
                                       int ffn) {
    const int lane = threadIdx.x % 32, wide = first / kTileWidth;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int tile = i / 2, input = i % 2 * 32 + lane;
      const bool is = tile < entry.rank_tiles && first + input < ffn;
      const uint32_t unit = is ? TileUnit(entry.a_tiles, entry.a_run, tile, wide, ffn) : 0;
      const std::byte* from = arena + int64_t{unit} * kTileUnitBytes;
      CopyPiece(SharedAddress(&tiles[tile][input]),
                from + (is ? (first % kTileWidth + input) * kTileRanks * 2 : 0), is);
    }
  }
  // d[set] += for 8 rows of 64 inputs: ranks g and g + 8 of rows 2t and 2t + 1.
  __device__ __forceinline__ void Multiply(float (&d)[kSets][4],
                                           const SharedRows<8> (&rows)[kSets][2]) const {
    const int lane = threadIdx.x % 32, matrix = lane / 8, r = lane % 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[kSets][4];
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        LoadMatrix(b[set], SharedAddress(&rows[set][0].At(r, half * 4 + matrix)));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t a[4];
        const int input = half * 32 + i * 16 + matrix / 2 * 8 + r;
        LoadMatrixTransposed(a, SharedAddress(&tiles[matrix % 2][input]));
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
          Mma(d[set], a[0], a[1], a[2], a[3], b[set][2 * i], b[set][2 * i + 1]);
        }
      }
    }
  }
};
static_assert(sizeof(DownWeights) <= sizeof(SharedPair));
using DownSums = float[kWarpRows][kDownRanks];
static_assert(sizeof(DownSums) <= sizeof(SharedRows<8>));

struct GluWarp {
  SharedRows<8> products[kSets][2];  // gate, up; then what they become, and its sums
  SharedPair weights[2];             // later those of the down product's shrink

  __device__ DownWeights& down() { return reinterpret_cast<DownWeights&>(weights); }
  __device__ DownSums& sums(int set) { return reinterpret_cast<DownSums&>(products[set][1]); }
};
struct GluShared {
  GluWarp warps[kGluThreads / 32];
  FirstU<2> u;
};

// The shrink of the down product over the block's columns, of what they have become. All threads.
__device__ __forceinline__ void StoreDownPart(GluShared& shared, const LoraPlan& plan,
                                              const RowTile& tile) {
  GluWarp& own = shared.warps[threadIdx.x / 32];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  AwaitCopies<0>();
  __syncwarp();
  float d[kSets][4] = {};
  own.down().Multiply(d, own.products);
#pragma unroll
  for (int i = 0; i < 4 * kSets; ++i) {
    own.sums(i / 4)[2 * t + i % 2][g + i / 2 % 2 * 8] = d[i / 4][i % 4];
  }
  static_assert(kGluThreads * 4 == kManyRows * kDownRanks);
  const int row = threadIdx.x / 4, rank = threadIdx.x % 4 * 4;
  __syncthreads();
  if (row >= tile.row_count) return;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (GluWarp& warp : shared.warps) {
    const float4 v =
        *reinterpret_cast<const float4*>(&warp.sums(row / kWarpRows)[row % kWarpRows][rank]);
    sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
  }
  const int64_t at = int64_t{blockIdx.x} * plan.row_stride + tile.row_begin + row;
  *reinterpret_cast<float4*>(plan.down_parts + at * kDownRanks + rank) = sum;
}

// Grid [columns of all warps of a block, tiles]. The shrink of the product that follows is done
// here where it is the plain case, so that nobody has to read the rows again for it.
template <typename Biases>
__global__ void __launch_bounds__(kGluThreads, 4)
    GluPostManyKernel(Element* out, Product gate_up, int ffn, Activation activation, int layer,
                      StepTables step, LoraPlan plan, Biases biases) {
  extern __shared__ __align__(128) std::byte memory[];
  GluShared& shared = *reinterpret_cast<GluShared*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int first = (blockIdx.x * (kGluThreads / 32) + warp) * kGroupColumns;
  const int column = first + 8 * g;
  const TileLora<2> lora(plan, PairOf(layer, LoraGroup::kGateUp), blockIdx.y);
  const ShrinkEntry down = DownEntryOf(plan, layer, blockIdx.y);
  if (blockIdx.y >= step.counts->all_tiles) return;
  const RowTile& tile = lora.tile;
  GluWarp& own = shared.warps[warp];
  if (lora.any()) {
#pragma unroll
    for (int m = 0; m < 2; ++m) own.weights[m].Copy(lora.first[m], plan.arena, first, ffn, ffn);
  }
  WaitForPredecessor();
  const Element* y =
      static_cast<const Element*>(gate_up.y) + int64_t{tile.row_begin} * 2 * ffn + first;
#pragma unroll
  for (int i = 0; i < 2 * kSets; ++i) {
    const int row = i / 2 * kWarpRows;
    own.products[i / 2][i % 2].Copy(y + int64_t{row} * 2 * ffn + i % 2 * ffn, int64_t{4} * ffn,
                                    tile.row_count - row, (ffn - first) * 2);
  }
  shared.u.Fill(lora);
  CommitCopies();
  AwaitCopies<0>();
  __syncthreads();
  const RankFragments weights[2] = {own.weights[0].Read(), own.weights[1].Read()};
  __syncwarp();
  if (down.rank_tiles > 0) own.down().Copy(down, plan.arena, first, ffn);
  CommitCopies();
  const int rows = column < ffn ? tile.row_count - 2 * t : 0;
#pragma unroll 1
  for (int set = 0; set * kWarpRows < tile.row_count; ++set) {
    float values[2][2][8];  // [gate, up][half]
#pragma unroll
    for (int module = 0; module < 2; ++module) {
      float sums[4][4] = {};
      if (lora.any()) {
        biases.Add(sums, tile, module, column, ffn);
        const LaneU u = shared.u.Read(module, set * kWarpRows + g);
        MultiplyRanks(sums, weights[module], u.high, u.low);
        if (lora.More(lora.first[module])) {
          ExpandRest(sums, lora, module, set * kWarpRows, column, ffn);
        }
      }
      const float* gain = column < ffn ? lora.first[module].gain : nullptr;
      if (gain) gain += column;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        FinishRow(values[module][half], sums, half, own.products[set][module].At(2 * t + half, g),
                  gain, nullptr);
      }
    }
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = set * kWarpRows + half;
      float(&up)[8] = values[1][half];
#pragma unroll
      for (int k = 0; k < 8; ++k) up[k] *= Activate(values[0][half][k], activation);
      const uint4 packed = PackEight(up);
      own.products[set][0].At(2 * t + half, g) = packed;
      if (row >= rows) continue;
      *reinterpret_cast<uint4*>(out + int64_t{tile.row_begin + row + 2 * t} * ffn + column) =
          packed;
    }
  }
  if (down.rank_tiles > 0) StoreDownPart(shared, plan, tile);
}

struct ResidualInput {
  SharedRows<8> product;
  SharedPair weights;
};
struct ResidualShared {
  SharedRows<16> residual[kResidualWarps][kResidualRuns];  // what was there, then what is
  ResidualInput inputs[kResidualWarps][kResidualAhead];
  float squares[kResidualWarps][kWarpRows];  // of a warp's columns
  float sums[kWarpRows];                     // of the block's
};

// Adds up rows' `squares` over the cluster: of rows 2t and 2t + 1 for lane (g, t). The cluster has
// to stay until all have read, see barrier_wait below.
__device__ __forceinline__ void SumRows(float (&squares)[2], ResidualShared& shared) {
  auto cluster = cooperative_groups::this_cluster();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int offset = 4; offset < 32; offset *= 2) {
      squares[half] += __shfl_xor_sync(~0u, squares[half], offset);
    }
    if (lane < 4) shared.squares[warp][2 * t + half] = squares[half];
  }
  __syncthreads();
  if (threadIdx.x < kWarpRows) {
    float sum = shared.squares[0][threadIdx.x];
    for (int w = 1; w < kResidualWarps; ++w) sum += shared.squares[w][threadIdx.x];
    shared.sums[threadIdx.x] = sum;
  }
  cluster.sync();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    squares[half] = 0.0f;
    for (unsigned part = 0; part < cluster.num_blocks(); ++part) {
      squares[half] += *cluster.map_shared_rank(&shared.sums[2 * t + half], part);
    }
  }
  cluster.barrier_arrive();
}

// Adds 8 columns of a row to the residual, in shared memory and where it belongs; returns the sum
// of the squares.
__device__ __forceinline__ float AddToResidual(SharedRows<16>& shared, float* to, int row, int g,
                                               const float (&more)[8]) {
  float v[8], squares = 0.0f;
  shared.ReadEight(v, row, g);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    v[k] += more[k];
    squares += v[k] * v[k];
  }
  StoreEight(to, v);
  shared.WriteEight(v, row, g);
  return squares;
}

// Grid [kSets times the blocks of a cluster, tiles]: a cluster holds 8 rows, a block
// kResidualColumns of them, one multiprocessor a block. The residual is read once, and all of it
// asked for at once.
template <typename Biases>
__global__ void __launch_bounds__(kResidualThreads, 1)
    ResidualNormManyKernel(ResidualNormArgs args, StepTables step, LoraPlan plan, Biases biases) {
  extern __shared__ __align__(128) std::byte memory[];
  ResidualShared& shared = *reinterpret_cast<ResidualShared*>(memory);
  const int parts = gridDim.x / kSets, part = blockIdx.x % parts;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const TileLora<1> lora(plan, PairOf(args.layer, args.group), blockIdx.y);
  if (blockIdx.y >= step.counts->all_tiles) return;
  const FirstModule& module = lora.first[0];
  const int from = blockIdx.x / parts * kWarpRows, rows = lora.tile.row_count - from;
  if (rows <= 0) return;
  const int columns = static_cast<int>(args.columns);
  const int first = part * kResidualColumns + warp * kGroupColumns;
  const int64_t at = int64_t{lora.tile.row_begin + from} * columns;
  float* residual = static_cast<float*>(args.residual) + at;
  const Element* y = static_cast<const Element*>(args.projection.y) + at;
  const auto copy_residual = [&](int run) {
    const int column = first + run * kResidualStripe;
    if (column >= columns) return;
    shared.residual[warp][run].Copy(residual + column, int64_t{columns} * 4, rows,
                                    (columns - column) * 4);
  };
  const auto copy_input = [&](int run) {
    const int column = first + run * kResidualStripe;
    if (column >= columns || run >= kResidualRuns) return;
    ResidualInput& input = shared.inputs[warp][run % kResidualAhead];
    input.product.Copy(y + column, int64_t{columns} * 2, rows, (columns - column) * 2);
    if (lora.any()) input.weights.Copy(module, plan.arena, column, columns, columns);
  };
  WaitForPredecessor();
  copy_input(0);
  copy_residual(0);
  CommitCopies();
  copy_input(1);
#pragma unroll
  for (int run = 1; run < kResidualRuns; ++run) copy_residual(run);
  CommitCopies();
  LaneU u = {};
  if (lora.any()) u.Fetch(lora, module, 0, from + g);
  float squares[2] = {};
#pragma unroll 1
  for (int run = 0; run < kResidualRuns; ++run) {
    const int column = first + run * kResidualStripe + 8 * g;
    if (column - 8 * g >= columns) break;
    const ResidualInput& input = shared.inputs[warp][run % kResidualAhead];
    AwaitCopies<kResidualAhead - 1>();
    __syncwarp();
    float sums[4][4] = {};
    if (lora.any()) {
      biases.Add(sums, lora.tile, 0, column, columns);
      MultiplyRanks(sums, input.weights.Read(), u.high, u.low);
      if (lora.More(module)) ExpandRest(sums, lora, 0, from, column, columns);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 2 * t + half;
      if (row >= rows || column >= columns) continue;
      const float* gain = module.gain ? module.gain + column : nullptr;
      float v[8];
      FinishRow(v, sums, half, input.product.At(row, g), gain,
                args.bias ? args.bias + column : nullptr);
      squares[half] += AddToResidual(shared.residual[warp][run],
                                     residual + row * int64_t{columns} + column, row, g, v);
    }
    __syncwarp();
    copy_input(run + kResidualAhead);
    CommitCopies();
  }
  if (!args.norm) return;
  SumRows(squares, shared);
  Element* out = static_cast<Element*>(args.out) + at;
#pragma unroll
  for (int run = 0; run < kResidualRuns; ++run) {
    const int column = first + run * kResidualStripe + 8 * g;
    if (column >= columns) continue;
    float weight[8];
    LoadEight(weight, args.norm + column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = 2 * t + half;
      if (row >= rows) continue;
      const float scale = rsqrtf(squares[half] / columns + args.epsilon);
      float v[8];
      shared.residual[warp][run].ReadEight(v, row, g);
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] *= scale * weight[k];
      *reinterpret_cast<uint4*>(out + row * int64_t{columns} + column) = PackEight(v);
    }
  }
  cooperative_groups::this_cluster().barrier_wait();
}
static_assert(2 * kResidualColumns >= kResidualColumnsMax);

// A row's position and the page of the cache that takes its K and V.
struct RowPlace {
  int position, page;
};

// kHeadSets times 64 columns are a head. With kPaired a head is rotated whole and its halves
// are a lane's two sets.
template <int kHeadSets, bool kPaired>
struct QkvShared {
  static constexpr int kWarps = kQkvThreads / 32;
  SharedRows<8> products[kWarps][kSets][kHeadSets];
  SharedPair weights[kWarps][kHeadSets];
  SharedRows<16> angles[kPaired ? kSets : 0][2];  // cosines, sines
  FirstU<3> u;
  RowPlace places[kManyRows];
  float values[kPaired ? 0 : kWarps][kWarpRows * kHeadStride];
};

// Starts the copy of the cosines and sines of the tile's rows. All threads.
template <typename Shared>
__device__ __forceinline__ void FillAngles(Shared& shared, const QkvPostArgs& args,
                                           const RowTile& tile, const StepTables& step) {
  constexpr int kPieces = 16;
#pragma unroll
  for (int i = threadIdx.x; i < kManyRows * kPieces; i += kQkvThreads) {
    const int row = i / kPieces, piece = i % kPieces, in_set = row % kWarpRows;
    const bool there = row < tile.row_count;
    const int64_t at = (there ? int64_t{step.positions[tile.row_begin + row]} * 64 : 0) + piece * 4;
    auto& set = shared.angles[row / kWarpRows];
    const int place = SharedRows<16>::Place(in_set, piece);
    CopyPiece(SharedAddress(&set[0].pieces[in_set][place]), args.cos + at, there);
    CopyPiece(SharedAddress(&set[1].pieces[in_set][place]), args.sin + at, there);
  }
}

// Puts 8 columns of a head where they belong.
__device__ __forceinline__ void StoreColumns(const float (&v)[8], int inside, int row,
                                             const RowPlace& where, const QkvPostArgs& args,
                                             int padded, const HeadPlace& place, int head) {
  const AttentionShape& shape = args.shape;
  const int size = shape.head_size, heads = shape.heads + 2 * shape.kv_heads;
  const uint4 packed = PackEight(v);
  if (place.module > 0) {
    Element* target =
        CacheRow(args, padded, where.page, where.position, place.module - 1, place.head);
    *reinterpret_cast<uint4*>(target + inside) = packed;
  } else if (inside < size) {
    const int64_t at = int64_t{row} * heads * size + head * size + inside;
    *reinterpret_cast<uint4*>(static_cast<Element*>(args.qkv) + at) = packed;
  }
}

// Turns pairs (first[k], second[k]) by a row's angles.
__device__ __forceinline__ void RotatePairs(float (&first)[8], float (&second)[8],
                                            const SharedRows<16> (&angles)[2], int row, int g) {
  float cos[8], sin[8];
  angles[0].ReadEight(cos, row, g);
  angles[1].ReadEight(sin, row, g);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float x = first[k], y = second[k];
    first[k] = x * cos[k] - y * sin[k];
    second[k] = y * cos[k] + x * sin[k];
  }
}

// Grid [heads of all warps of a block, tiles].
template <int kHeadSets, bool kPaired, typename Biases>
__global__ void __launch_bounds__(kQkvThreads)
    QkvPostManyKernel(QkvPostArgs args, StepTables step, LoraPlan plan, Biases biases) {
  using Shared = QkvShared<kHeadSets, kPaired>;
  constexpr int kPadded = kHeadSets * kGroupColumns;
  extern __shared__ __align__(16) std::byte memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const AttentionShape& shape = args.shape;
  const int size = shape.head_size, heads = shape.heads + 2 * shape.kv_heads;
  const int head = blockIdx.x * (kQkvThreads / 32) + warp;
  const TileLora<3> lora(plan, PairOf(args.layer, LoraGroup::kQkv), blockIdx.y);
  if (blockIdx.y >= step.counts->all_tiles) return;
  const RowTile& tile = lora.tile;
  const HeadPlace place = PlaceOf(min(head, heads - 1), shape);
  const FirstModule module = place.module == 0   ? lora.first[0]
                             : place.module == 1 ? lora.first[1]
                                                 : lora.first[2];
  const int width = (place.module == 0 ? shape.heads : shape.kv_heads) * size;
  if (lora.any()) {
    for (int j = 0; j < kHeadSets; ++j) {
      shared.weights[warp][j].Copy(module, plan.arena, place.head * size + j * kGroupColumns,
                                   (place.head + 1) * size, width);
    }
  }
  if (threadIdx.x < tile.row_count) {
    const int row = tile.row_begin + threadIdx.x, position = step.positions[row];
    const int first = step.row_spans[row].page_begin;
    shared.places[threadIdx.x] = {position, step.pages[first + position / kBlockTokens]};
  }
  if constexpr (kPaired) FillAngles(shared, args, tile, step);
  WaitForPredecessor();
  const Element* y = static_cast<const Element*>(args.product.y) +
                     (int64_t{tile.row_begin} * heads + min(head, heads - 1)) * size;
#pragma unroll
  for (int i = 0; i < kSets * kHeadSets; ++i) {
    const int row = i / kHeadSets * kWarpRows, inside = i % kHeadSets * kGroupColumns;
    shared.products[warp][i / kHeadSets][i % kHeadSets].Copy(
        y + int64_t{row} * heads * size + inside, int64_t{heads} * size * 2, tile.row_count - row,
        head < heads ? (size - inside) * 2 : 0);
  }
  shared.u.Fill(lora);
  CommitCopies();
  AwaitCopies<0>();
  __syncthreads();
  if (head >= heads) return;
  RankFragments weights[kHeadSets];
#pragma unroll
  for (int j = 0; j < kHeadSets; ++j) weights[j] = shared.weights[warp][j].Read();
#pragma unroll 1
  for (int set = 0; set * kWarpRows < tile.row_count; ++set) {
    const int row = set * kWarpRows + 2 * t, there = tile.row_count - row;
    float values[kHeadSets][2][8];
#pragma unroll
    for (int j = 0; j < kHeadSets; ++j) {
      const int inside = j * kGroupColumns + 8 * g;
      const bool is = inside < size;
      const int column = is ? place.head * size + inside : width;  // outside: zeros
      float sums[4][4] = {};
      if (lora.any()) {
        biases.Add(sums, tile, place.module, column, width);
        const LaneU u = shared.u.Read(place.module, set * kWarpRows + g);
        MultiplyRanks(sums, weights[j], u.high, u.low);
        if (lora.More(module)) {
          ExpandRest(sums, lora, place.module, set * kWarpRows, column, width);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        FinishRow(values[j][half], sums, half, shared.products[warp][set][j].At(2 * t + half, g),
                  is && module.gain ? module.gain + column : nullptr,
                  is && args.bias ? args.bias + head * size + inside : nullptr);
      }
    }
    if constexpr (kPaired) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (half >= there) continue;
        if (place.module < 2) {
          RotatePairs(values[0][half], values[1][half], shared.angles[set], 2 * t + half, g);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          StoreColumns(values[j][half], j * kGroupColumns + 8 * g, tile.row_begin + row + half,
                       shared.places[row + half], args, kPadded, place, head);
        }
      }
    } else {
      float* own = shared.values[warp];
#pragma unroll
      for (int i = 0; i < 2 * kHeadSets; ++i) {
        StoreEight(own + (2 * t + i % 2) * kHeadStride + i / 2 * kGroupColumns + 8 * g,
                   values[i / 2][i % 2]);
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 2 * kHeadSets; ++i) {
        const int half = i % 2, inside = i / 2 * kGroupColumns + 8 * g;
        if (half >= there) continue;
        const RowPlace where = shared.places[row + half];
        float(&v)[8] = values[i / 2][half];
        if (place.module < 2) {
          Rotate(v, own + (2 * t + half) * kHeadStride, inside, args, where.position);
        }
        StoreColumns(v, inside, tile.row_begin + row + half, where, args, kPadded, place, head);
      }
      __syncwarp();
    }
  }
}

template <int kHeadSets, bool kPaired, typename Biases>
void LaunchQkv(const QkvPostArgs& args, const StepTables& step, const LoraPlan& plan,
               const Biases& biases, cudaStream_t stream) {
  constexpr int kHeads = kQkvThreads / 32, kBytes = sizeof(QkvShared<kHeadSets, kPaired>);
  const auto kernel = QkvPostManyKernel<kHeadSets, kPaired, Biases>;
  static const bool prepared = PrepareShared(kernel, kBytes);
  static_cast<void>(prepared);
  const int heads = args.shape.heads + 2 * args.shape.kv_heads;
  const dim3 grid((heads + kHeads - 1) / kHeads, args.product.expand_tiles);
  LaunchDependent(kernel, grid, kQkvThreads, kBytes, stream, args, step, plan, biases);
}

// Calls launch with the biases of the step, or with none.
template <typename Launch>
void WithBiases(const StepBiases& biases, const Launch& launch) {
  biases.terms ? launch(TileBiases{biases}) : launch(NoBiases{});
}

template <typename Biases>
void LaunchGlu(Element* out, const Product& gate_up, int64_t ffn, Activation activation, int layer,
               const StepTables& step, const LoraPlan& plan, const Biases& biases,
               cudaStream_t stream) {
  const auto kernel = GluPostManyKernel<Biases>;
  static const bool prepared = PrepareShared(kernel, sizeof(GluShared));
  static_cast<void>(prepared);
  constexpr int kColumns = kGluThreads / 32 * kGroupColumns;
  const dim3 grid(static_cast<unsigned>((ffn + kColumns - 1) / kColumns), gate_up.expand_tiles);
  LaunchDependent(kernel, grid, kGluThreads, sizeof(GluShared), stream, out, gate_up,
                  static_cast<int>(ffn), activation, layer, step, plan, biases);
}

template <typename Biases>
void LaunchResidual(const ResidualNormArgs& args, const StepTables& step, const LoraPlan& plan,
                    const Biases& biases, cudaStream_t stream) {
  const auto kernel = ResidualNormManyKernel<Biases>;
  static const bool prepared = PrepareShared(kernel, sizeof(ResidualShared));
  static_cast<void>(prepared);
  const int parts = static_cast<int>((args.columns + kResidualColumns - 1) / kResidualColumns);
  const dim3 grid(kSets * parts, args.projection.expand_tiles);
  LaunchDependentClusters(parts, kernel, grid, kResidualThreads, sizeof(ResidualShared), stream,
                          args, step, plan, biases);
}

}  // namespace

void LaunchGluPostMany(void* out, const Product& gate_up, int64_t ffn, Activation activation,
                       int layer, const StepTables& step, const LoraPlan& plan,
                       const StepBiases& biases, cudaStream_t stream) {
  WithBiases(biases, [&](const auto& own) {
    LaunchGlu(static_cast<Element*>(out), gate_up, ffn, activation, layer, step, plan, own, stream);
  });
}

void LaunchResidualNormMany(const ResidualNormArgs& args, const StepTables& step,
                            const LoraPlan& plan, const StepBiases& biases, cudaStream_t stream) {
  WithBiases(biases, [&](const auto& own) { LaunchResidual(args, step, plan, own, stream); });
}

void LaunchQkvPostMany(const QkvPostArgs& args, const StepTables& step, const LoraPlan& plan,
                       const StepBiases& biases, cudaStream_t stream) {
  const int padded = PaddedHeadSize(args.shape.head_size);
  const bool paired = args.shape.head_size == 128 && args.rotary_size == 128;
  WithBiases(biases, [&](const auto& own) {
    if (padded == 64) return LaunchQkv<1, false>(args, step, plan, own, stream);
    if (padded == 256) return LaunchQkv<4, false>(args, step, plan, own, stream);
    if (paired) return LaunchQkv<2, true>(args, step, plan, own, stream);
    LaunchQkv<2, false>(args, step, plan, own, stream);
  });
}

}  // namespace lorica::cuda
