// The expand of a row tile in steps of many rows, for the kernels that read a product anyway.
//
// A warp takes 8 rows of a row tile and 64 columns at a time, as expand.cuh lays them out: lane
// (g, t) ends with columns [8g, 8g + 8) of rows 2t and 2t + 1. Nothing is read from memory that
// way: eight lanes with neighbouring bytes are one request of the second-level cache, and lanes of
// four rows are four of them. So all comes by copies to shared memory, row by row. Weights of an
// adapter's first pair of rank tiles stay in registers for all rows of a tile.
#pragma once

#include "kernels/cuda/expand.cuh"
#include "kernels/cuda/post.cuh"

namespace lorica::cuda {

inline constexpr int kWarpRows = 8;
inline constexpr int kSets = kManyRows / kWarpRows;

// A module of a tile's first term.
struct FirstModule {
  const uint32_t* b_tiles;
  const float* gain;  // DoRA's; null without. Only a lone term may have one
  int rank_tiles;     // 0: there is nothing to add
  int u_column;
  uint32_t b_run;
};

// A row tile and what is needed for its adapters. Everything but u is there before the launch ahead
// has ended. All is read at once, whether the step has such a tile or not: a look at a table costs
// as long as one at memory, and a kernel that asks for one thing after the other waits each time.
template <int kModules>
struct TileLora {
  const LoraPlan& plan;
  RowTile tile;
  FirstModule first[kModules];
  int pair;

  __device__ TileLora(const LoraPlan& plan, int pair, int index) : plan(plan), pair(pair) {
    const TileStart& start = plan.tile_starts[int64_t{pair} * plan.tile_stride + index];
    tile = start.tile;
#pragma unroll
    for (int m = 0; m < kModules; ++m) {
      const PlanEntry& entry = start.entries[m];
      first[m] = {entry.b_tiles, entry.gain, entry.rank_tiles, entry.u_column, entry.b_run};
    }
#pragma unroll
    for (FirstModule& module : first) {
      if (!any()) module.rank_tiles = 0;
      if (tile.term_count != 1 || module.rank_tiles == 0) module.gain = nullptr;
    }
  }
  __device__ bool any() const { return tile.term_count > 0; }
  // Whether a module has more than a first pair.
  __device__ bool More(const FirstModule& module) const {
    return tile.term_count > 1 || module.rank_tiles > 2;
  }
  __device__ const PlanEntry& Entry(int term, int module) const {
    return plan.entries[EntriesBefore(plan, pair) + (tile.term_begin + term) * kModules + module];
  }
  // The numbers of ranks 2t and 2t + 1 of a rank tile.
  __device__ const SplitPairU* U(int u_column, int rank_tile, int row, int t) const {
    const int64_t at =
        tile.u_begin + int64_t{row} * tile.u_width + u_column + rank_tile * kTileRanks;
    return plan.u + at / 2 + t;
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

// 8 rows of 64 columns in shared memory, of elements (8 pieces of 16 bytes) or floats (16): pieces
// are permuted so that neither a row's copy nor what lanes read has bank conflicts.
template <int kPieces>
struct SharedRows {
  uint4 pieces[kWarpRows][kPieces];

  __device__ static __forceinline__ int Place(int row, int piece) {
    const int t = row / 2 % 4;
    return piece ^ (kPieces == 8 ? 2 * t : (t & 1) | (t & 2) << 1);
  }
  // Starts the copy of `rows` rows, `bytes` of each; what is not there becomes zeros. All lanes.
  __device__ __forceinline__ void Copy(const void* from, int64_t stride_bytes, int rows,
                                       int bytes) {
    constexpr int kAtOnce = 32 / kPieces;
    const int piece = threadIdx.x % kPieces;
#pragma unroll
    for (int i = 0; i < kWarpRows / kAtOnce; ++i) {
      const int row = i * kAtOnce + threadIdx.x % 32 / kPieces;
      const bool there = row < rows && piece * 16 < bytes;
      CopyPiece(SharedAddress(&pieces[row][Place(row, piece)]),
                static_cast<const std::byte*>(from) + (there ? row * stride_bytes + piece * 16 : 0),
                there);
    }
  }
  __device__ __forceinline__ const uint4& At(int row, int piece) const {
    return pieces[row][Place(row, piece)];
  }
  __device__ __forceinline__ uint4& At(int row, int piece) {
    return pieces[row][Place(row, piece)];
  }
  // Floats [8g, 8g + 8) of a row.
  __device__ __forceinline__ void ReadEight(float (&out)[8], int row, int g) const {
    static_assert(kPieces == 16);
    const uint4 a = At(row, 2 * g), b = At(row, 2 * g + 1);
    const uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = __uint_as_float(words[i]);
  }
  __device__ __forceinline__ void WriteEight(const float (&v)[8], int row, int g) {
    static_assert(kPieces == 16);
    *reinterpret_cast<float4*>(&At(row, 2 * g)) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4*>(&At(row, 2 * g + 1)) = make_float4(v[4], v[5], v[6], v[7]);
  }
};

// Weights of two rank tiles for 64 columns.
struct SharedPair {
  SharedRows<8> halves[2];

  // Of a module's first pair, columns [column, end). All lanes.
  __device__ __forceinline__ void Copy(const FirstModule& module, const std::byte* arena,
                                       int column, int end, int width) {
    const int piece = threadIdx.x % 8, at = column + piece * 8, wide = at / kTileWidth;
    const int tile_width = min(kTileWidth, width - wide * kTileWidth);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool is = half < module.rank_tiles && at < end;
      const uint32_t unit = is ? TileUnit(module.b_tiles, module.b_run, half, wide, width) : 0;
      const std::byte* from = arena + int64_t{unit} * kTileUnitBytes;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int rank = i * 4 + threadIdx.x % 32 / 8;
        CopyPiece(SharedAddress(&halves[half].pieces[rank][SharedRows<8>::Place(rank, piece)]),
                  from + (is ? (rank * tile_width + at - wide * kTileWidth) * 2 : 0), is);
      }
    }
  }
  __device__ __forceinline__ RankFragments Read() const {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    RankRows rows;
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.row[i] = halves[i / 2].At(2 * t + i % 2, g);
    return FragmentsOf(rows);
  }
};

// The lane's numbers of u for two rank tiles of row g.
struct LaneU {
  uint32_t high[2], low[2];

  __device__ __forceinline__ void Set(int half, SplitPairU u) {
    high[half] = u.high;
    low[half] = u.low;
  }
  template <typename Lora, typename Module>
  __device__ __forceinline__ void Fetch(const Lora& lora, const Module& module, int rank_tile,
                                        int row) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool inside = row < lora.tile.row_count && rank_tile + half < module.rank_tiles;
      Set(half,
          inside ? *lora.U(module.u_column, rank_tile + half, row, threadIdx.x % 4) : SplitPairU{});
    }
  }
};

// u of all first pairs of a tile: [half][row][t].
template <int kModules>
struct FirstU {
  SplitPairU u[kModules][2][kManyRows][kTileRanks / 2];

  // Starts the copy. All threads of the block, kThreads.
  static constexpr int kThreads = kManyRows * 4;
  __device__ __forceinline__ void Fill(const TileLora<kModules>& lora) {
    if (!lora.any()) return;
    const int row = threadIdx.x / 4, half = threadIdx.x / 2 % 2, t = threadIdx.x % 2 * 2;
#pragma unroll
    for (int m = 0; m < kModules; ++m) {
      const FirstModule& module = lora.first[m];
      const bool inside = half < module.rank_tiles && row < lora.tile.row_count;
      CopyPiece(SharedAddress(&u[m][half][row][t]),
                inside ? lora.U(module.u_column, half, row, t) : lora.plan.u, inside);
    }
  }
  __device__ __forceinline__ LaneU Read(int module, int row) const {
    LaneU out;
#pragma unroll
    for (int half = 0; half < 2; ++half) out.Set(half, u[module][half][row][threadIdx.x % 4]);
    return out;
  }
};

// d += what the tile's pairs behind the first add, for 8 rows from first_row and 64 columns of a
// module. All lanes.
template <int kModules>
__device__ __forceinline__ void ExpandRest(float (&d)[4][4], const TileLora<kModules>& lora,
                                           int module, int first_row, int column, int width) {
  const int row = first_row + threadIdx.x % 32 / 4;
#pragma unroll 1
  for (int term = 0; term < lora.tile.term_count; ++term) {
    const PlanEntry& entry = lora.Entry(term, module);
    const int rank_tiles = entry.rank_tiles;
#pragma unroll 1
    for (int rank_tile = term == 0 ? 2 : 0; rank_tile < rank_tiles; rank_tile += 2) {
      LaneU u;
      u.Fetch(lora, entry, rank_tile, row);
      RankRows w;
      FetchRanks(w, entry, lora.plan.arena, rank_tile, column, width);
      MultiplyRanks(d, w, u.high, u.low);
    }
  }
}

// Where a kernel's sums begin. Steps whose adapters have no biases of lora_B have kernels without.
struct NoBiases {
  __device__ __forceinline__ void Add(float (&)[4][4], const RowTile&, int, int, int) const {}
};
struct TileBiases {
  StepBiases step;

  // d += s w b for a tile's rows and 8 columns of a module of the group; none where column = width.
  __device__ __forceinline__ void Add(float (&d)[4][4], const RowTile& tile, int module, int column,
                                      int width) const {
    if (column >= width) return;
    float sums[8] = {};
    AddTermBiases(sums, step, tile, module, column);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      d[i / 2][i % 2 * 2] += sums[i];
      d[i / 2][i % 2 * 2 + 1] += sums[i];
    }
  }
};

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

}  // namespace lorica::cuda
