// Biases of lora_B, LoRA on the embedding and on the output head: kernels of steps whose adapters
// have them, beside those of all steps.
//
// A block takes a tile of rows with the same terms. An output is one chain of fused multiply-adds
// over terms and ranks in order, and a number of u is added up in an order that depends on the
// width of x alone, so a row's bits do not depend on the rows beside it. A tile of one row, the
// usual one where every request has an adapter of its own, has code of its own that does the same.
//
// A vocabulary is no multiple of anything: threads take columns that are neighbours of each
// other's, one at a time, so that nothing has to be aligned.
#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/lora_extras.h"
#include "kernels/cuda/packed_sums.cuh"
#include "kernels/cuda/post.cuh"

namespace lorica::cuda {
namespace {

constexpr int kBiasThreads = 128;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kColumns = kTileWidth / kThreads;  // of a thread, kThreads apart
static_assert(kTileRanks == kEight && kTileWidth % kThreads == 0);

// Grid [columns, row tiles]; a thread takes 8 columns of all rows of a tile. Every thread waits:
// the kernel behind relies on it that all before this one has ended. Sums to which nothing is added
// are left alone: packing what was packed may take a bit away, and neighbours have no say in it.
__global__ void __launch_bounds__(kBiasThreads)
    AddBiasesKernel(uint4* sums, int columns, GroupOutputs outputs, StepBiases biases,
                    const RowTile* tiles) {
  const int column = (blockIdx.x * kBiasThreads + threadIdx.x) * kEight;
  const RowTile tile = tiles[blockIdx.y];
  int module = 0, inside = column;  // modules lie side by side
  for (; module + 1 < kGroupModulesMax && inside >= outputs.features[module]; ++module) {
    inside -= outputs.features[module];
  }
  float more[8] = {};
  const bool any = column < columns && AddTermBiases(more, biases, tile, module, inside);
  WaitForPredecessor();
  if (!any) return;
  for (int r = 0; r < tile.row_count; ++r) {
    uint4& to = sums[(int64_t{tile.row_begin + r} * columns + column) / kEight];
    float v[8];
    UnpackSums(v, to);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] += more[k];
    to = PackSums(v);
  }
}

__device__ __forceinline__ const Element* Tile(const std::byte* arena, const uint32_t* tiles,
                                               uint32_t run, int rank_tile, int wide_tile,
                                               int width) {
  const uint32_t unit = TileUnit(tiles, run, rank_tile, wide_tile, width);
  return reinterpret_cast<const Element*>(arena + int64_t{unit} * kTileUnitBytes);
}

// u of one term for a tile's rows, scaled; zeros for rows that are not there.
using TermU = float[kLoraRankMax][kExtraRows];

// The block's wide tile of a tile's rows: y += B u + s b over its terms, y *= g. `fill(term)` puts
// a term's u where it belongs.
template <int kRows, typename Fill>
__device__ __forceinline__ void ExpandTile(float* y, const ExtraTile& tile,
                                           const OutsideModule* terms, const std::byte* arena,
                                           const TermU& u, const Fill& fill) {
  constexpr int kRanksAtOnce = kRows == 1 ? kTileRanks : 2;  // whose weights are on their way
  const int width = terms[tile.term_begin].out_features, wide_tile = blockIdx.x;
  const int first = wide_tile * kTileWidth + threadIdx.x;
  const int tile_width = min(kTileWidth, width - wide_tile * kTileWidth);
  const auto inside = [&](int i) { return threadIdx.x + i * kThreads < tile_width; };
  float d[kRows][kColumns] = {};
  for (int t = 0; t < tile.term_count; ++t) {
    const OutsideModule& term = terms[tile.term_begin + t];
    const DeviceModule& module = term.module;
    __syncthreads();
    fill(term);
    __syncthreads();
    if (term.bias) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const float bias = inside(i) ? term.bias[first + i * kThreads] : 0.0f;
#pragma unroll
        for (int r = 0; r < kRows; ++r) d[r][i] = fmaf(bias, module.scale, d[r][i]);
      }
    }
#pragma unroll 1
    for (int rank_tile = 0; rank_tile < module.rank_tiles; ++rank_tile) {
      const Element* b =
          Tile(arena, module.b_tiles, module.b_run, rank_tile, wide_tile, width) + threadIdx.x;
#pragma unroll kRanksAtOnce
      for (int rank = 0; rank < kTileRanks; ++rank) {
        float w[kColumns];
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          w[i] = inside(i) ? static_cast<float>(b[rank * tile_width + i * kThreads]) : 0.0f;
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float v = u[rank_tile * kTileRanks + rank][r];
#pragma unroll
          for (int i = 0; i < kColumns; ++i) d[r][i] = fmaf(w[i], v, d[r][i]);
        }
      }
    }
  }
  const float* gain = terms[tile.term_begin].module.gain;  // only a lone term may have one
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    if (!inside(i)) continue;
    const int column = first + i * kThreads;
    const float factor = gain ? gain[column] : 1.0f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= tile.row_count) continue;
      float& to = y[int64_t{tile.row_begin + r} * width + column];
      to = (to + d[r][i]) * factor;
    }
  }
}

// Grid [wide tiles of the hidden size, tiles]. A x is the token's column of A.
__global__ void __launch_bounds__(kThreads, 2)
    EmbedLoraKernel(float* out, ExtraTable table, StepTables step, const std::byte* arena) {
  __shared__ TermU u;
  __shared__ int32_t tokens[kExtraRows];
  const ExtraTile tile = table.tiles[blockIdx.y];
  if (threadIdx.x < tile.row_count) {
    const int32_t written = step.tokens[tile.row_begin + threadIdx.x];
    tokens[threadIdx.x] = written >= 0 ? written : step.token_slots[-1 - written];
  }
  const auto fill = [&](const OutsideModule& term) {
    const DeviceModule& module = term.module;
    for (int i = threadIdx.x; i < module.rank_tiles * kExtraRows; i += kThreads) {
      const int rank_tile = i / kExtraRows, r = i % kExtraRows;
      float ranks[8] = {};
      if (r < tile.row_count) {
        const int token = tokens[r];
        LoadEight(ranks, Tile(arena, module.a_tiles, module.a_run, rank_tile, token / kTileWidth,
                              term.in_features) +
                             token % kTileWidth * kTileRanks);
      }
#pragma unroll
      for (int k = 0; k < kTileRanks; ++k) {
        u[rank_tile * kTileRanks + k][r] = ranks[k] * module.scale;
      }
    }
  };
  if (tile.row_count == 1) {
    ExpandTile<1>(out, tile, table.terms, arena, u, fill);
  } else {
    ExpandTile<kExtraRows>(out, tile, table.terms, arena, u, fill);
  }
}

// u of a rank tile for a tile's rows, [rank][row]. Threads take inputs kThreads apart.
template <int kRows>
__device__ __forceinline__ void ShrinkTile(float* u, const Element* x, int columns,
                                           const ExtraTile& tile, const DeviceModule& module,
                                           int rank_tile, const std::byte* arena) {
  __shared__ float parts[kWarps][kTileRanks][kRows];
  float d[kRows][kTileRanks] = {};
#pragma unroll 2
  for (int k = threadIdx.x; k < columns; k += kThreads) {
    float a[8];
    LoadEight(a, Tile(arena, module.a_tiles, module.a_run, rank_tile, k / kTileWidth, columns) +
                     k % kTileWidth * kTileRanks);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = tile.row_begin + min(r, tile.row_count - 1);
      const float v = static_cast<float>(x[row * columns + k]);
#pragma unroll
      for (int j = 0; j < kTileRanks; ++j) d[r][j] = fmaf(a[j], v, d[r][j]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int j = 0; j < kTileRanks; ++j) {
      for (int offset = 16; offset > 0; offset /= 2) {
        d[r][j] += __shfl_xor_sync(~0u, d[r][j], offset);
      }
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][j][r] = d[r][j];
    }
  }
  __syncthreads();
  const int j = threadIdx.x / kRows, r = threadIdx.x % kRows;
  if (j >= kTileRanks || r >= tile.row_count) return;
  float sum = parts[0][j][r];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) sum += parts[warp][j][r];
  u[j * tile.row_count + r] = sum * module.scale;
}

// Grid [most rank tiles, tiles].
__global__ void __launch_bounds__(kThreads)
    HeadShrinkKernel(float* u, const Element* x, int hidden, ExtraTable table,
                     const std::byte* arena) {
  const ExtraTile tile = table.tiles[blockIdx.y];
  const OutsideModule* term = table.terms + tile.term_begin;
  const OutsideModule* const end = term + tile.term_count;
  int rank_tile = blockIdx.x;
  for (; term != end && rank_tile >= term->module.rank_tiles; ++term) {
    rank_tile -= term->module.rank_tiles;
  }
  if (term == end) return;
  const DeviceModule module = term->module;
  u += tile.u_begin + int64_t{blockIdx.x} * kTileRanks * tile.row_count;
  if (tile.row_count == 1) {
    ShrinkTile<1>(u, x, hidden, tile, module, rank_tile, arena);
  } else {
    ShrinkTile<kExtraRows>(u, x, hidden, tile, module, rank_tile, arena);
  }
}

// Grid [wide tiles of the vocabulary, tiles].
__global__ void __launch_bounds__(kThreads, 2)
    HeadExpandKernel(float* logits, const float* all_u, ExtraTable table, const std::byte* arena) {
  __shared__ TermU u;
  const ExtraTile tile = table.tiles[blockIdx.y];
  const float* from = all_u + tile.u_begin;
  const auto fill = [&](const OutsideModule& term) {
    const int ranks = term.module.rank_tiles * kTileRanks;
    for (int i = threadIdx.x; i < ranks * kExtraRows; i += kThreads) {
      const int rank = i / kExtraRows, r = i % kExtraRows;
      u[rank][r] = r < tile.row_count ? from[rank * tile.row_count + r] : 0.0f;
    }
    from += ranks * tile.row_count;
  };
  if (tile.row_count == 1) {
    ExpandTile<1>(logits, tile, table.terms, arena, u, fill);
  } else {
    ExpandTile<kExtraRows>(logits, tile, table.terms, arena, u, fill);
  }
}

dim3 ExpandGrid(int64_t width, int tiles) {
  return dim3(static_cast<unsigned>((width + kTileWidth - 1) / kTileWidth), tiles);
}

}  // namespace

void LaunchAddBiases(void* sums, const GroupOutputs& outputs, const StepBiases& biases,
                     const StepTables& step, int tiles, cudaStream_t stream) {
  if (!biases.terms || tiles == 0) return;
  constexpr int kBlockColumns = kBiasThreads * kEight;
  int columns = 0;
  for (const int features : outputs.features) columns += features;
  const dim3 grid((columns + kBlockColumns - 1) / kBlockColumns, tiles);
  LaunchDependent(AddBiasesKernel, grid, kBiasThreads, 0, stream, static_cast<uint4*>(sums),
                  columns, outputs, biases, step.row_tiles);
}

void LaunchEmbedLora(void* out, const ExtraTable& table, const StepTables& step,
                     const std::byte* arena, int64_t hidden, cudaStream_t stream) {
  if (table.count == 0) return;
  EmbedLoraKernel<<<ExpandGrid(hidden, table.count), kThreads, 0, stream>>>(
      static_cast<float*>(out), table, step, arena);
}

void LaunchHeadLora(void* logits, int64_t vocabulary, const void* x, int64_t hidden,
                    const ExtraTable& table, float* u, const std::byte* arena,
                    cudaStream_t stream) {
  if (table.count == 0) return;
  HeadShrinkKernel<<<dim3(table.rank_tiles_max, table.count), kThreads, 0, stream>>>(
      u, static_cast<const Element*>(x), static_cast<int>(hidden), table, arena);
  HeadExpandKernel<<<ExpandGrid(vocabulary, table.count), kThreads, 0, stream>>>(
      static_cast<float*>(logits), u, table, arena);
}

}  // namespace lorica::cuda
