// Attention of rows that decode.
//
// A block takes one piece of one row's context for the heads of one KV head, which share
// what they read. The piece's pages go round the block's warps by absolute index, each warp
// keeps its own running softmax, and the warps are merged in order. The pieces of a row are
// merged in order too, by the block that finishes last: a ticket only says who that is. A block's
// pieces follow each other, so that it counts all that it has of a row at once: each count waits
// until memory has what was stored, some microseconds.
//
// Each warp has a ring of pages in shared memory, those of its next piece behind those of this
// one. Its lanes copy 16 bytes each: a copy engine's instruction costs whoever issues it more time
// than a page's products. Settled pages are asked for before the launch ahead has ended. Keys are
// the rows of both products and heads their columns, of which a tile has eight.
//
// One warp more fetches the queries of the next piece while the others are at this one's keys.
#include <algorithm>
#include <array>

#include "kernels/cuda/attend_merge.cuh"
#include "kernels/cuda/attend_ring.cuh"
#include "kernels/cuda/launch_dependent.cuh"

namespace lorica::cuda {
namespace {

constexpr int kThreads = kAttendThreads + 32;

// Heads of a tile.
constexpr int TileHeads(int head_size, int group) { return group > 8 && head_size <= 128 ? 16 : 8; }

// Rows become columns of an 8 x 8 matrix over the warp.
__device__ __forceinline__ uint32_t Transposed(uint32_t v) {
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
  return v;
}

// Of head 16 columns at a time: B of products over the head size.
template <int kHeadSize, int kHeads>
using Queries = uint32_t[kHeads / 8][kHeadSize / 16][2];

// A warp's sums so far. A lane has heads 2t and 2t + 1 of each eight.
template <int kHeadSize, int kHeads>
struct Running {
  float o[kHeads / 8][kHeadSize / 16][4] = {};  // columns 16j + g of both heads, then 16j + 8 + g
  float max[kHeads / 8][2];
  float sum[kHeads / 8][2] = {};
};

// Of 16 keys: key g of both heads, then key g + 8.
template <int kHeads>
using PageScores = float[kHeads / 8][4];

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void Scores(PageScores<kHeads>& s, const Queries<kHeadSize, kHeads>& q,
                                       uint32_t keys) {
  PageScores<kHeads> odd = {};  // two chains of products are done sooner than one
#pragma unroll
  for (int j = 0; j < kHeadSize / 16; ++j) {
    uint32_t k[4];
    LoadMatrix(k, StepAddress(keys, j));
#pragma unroll
    for (int h = 0; h < kHeads / 8; ++h) {
      Mma(j % 2 ? odd[h] : s[h], k[0], k[1], k[2], k[3], q[h][j][0], q[h][j][1]);
    }
  }
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[h][i] += odd[h][i];
  }
}

// Scores of keys [begin, end) as weights of the map; others weigh nothing.
template <int kHeads>
__device__ __forceinline__ void KeepKeys(PageScores<kHeads>& s, int begin, int end) {
  const int g = threadIdx.x % 32 / 4;
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = g + i / 2 * 8;
      if (key < begin || key >= end) s[h][i] = -INFINITY;
    }
  }
}

// s = exp(score - running maximum); rescales what was summed before.
template <int kHeadSize, int kHeads>
__device__ __forceinline__ void Soften(PageScores<kHeads>& s, Running<kHeadSize, kHeads>& run) {
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
    float keep[2], base[2];
    bool larger = false;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float best = fmaxf(s[h][c], s[h][c + 2]);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        best = fmaxf(best, __shfl_xor_sync(~0u, best, offset));
      }
      const float max = fmaxf(run.max[h][c], best);
      larger = larger || max > run.max[h][c];
      base[c] = ExpBase(max);
      keep[c] = Exp2(run.max[h][c] - base[c]);
      run.max[h][c] = max;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) s[h][i] = Exp2(s[h][i] - base[i % 2]);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      run.sum[h][c] = run.sum[h][c] * keep[c] + (s[h][c] + s[h][c + 2]);
    }
    if (!__any_sync(~0u, larger)) continue;
#pragma unroll
    for (int j = 0; j < kHeadSize / 16; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) run.o[h][j][i] *= keep[i % 2];
    }
  }
}

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void AddValues(Running<kHeadSize, kHeads>& run,
                                          const PageScores<kHeads>& p, uint32_t values) {
  uint32_t weights[kHeads / 8][2];
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
    weights[h][0] = Transposed(PackElements(p[h][0], p[h][1]));
    weights[h][1] = Transposed(PackElements(p[h][2], p[h][3]));
  }
#pragma unroll
  for (int j = 0; j < kHeadSize / 16; ++j) {
    uint32_t v[4];
    LoadMatrixTransposed(v, StepAddress(values, j));
#pragma unroll
    for (int h = 0; h < kHeads / 8; ++h) {
      Mma(run.o[h][j], v[0], v[1], v[2], v[3], weights[h][0], weights[h][1]);
    }
  }
}

// Adds the page of keys from `key_begin` on, of which the row sees [first_key, keys). The lane
// loads from `key_page` and `value_page`, the latter in `values`.
template <int kHeadSize, int kHeads>
__device__ __forceinline__ void AddPage(Running<kHeadSize, kHeads>& run,
                                        const Queries<kHeadSize, kHeads>& q, const ScoreMap& map,
                                        uint32_t key_page, uint32_t value_page, std::byte* values,
                                        int key_begin, int first_key, int keys) {
  PageScores<kHeads> s = {};
  Scores<kHeadSize, kHeads>(s, q, key_page);
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[h][i] = map(s[h][i]);
  }
  if (key_begin < first_key || key_begin + kBlockTokens > keys) {
    KeepKeys<kHeads>(s, first_key - key_begin, keys - key_begin);
    ZeroValues<kHeadSize>(values, keys - key_begin);
  }
  Soften<kHeadSize, kHeads>(s, run);
  AddValues<kHeadSize, kHeads>(run, s, value_page);
}

// The queries of a unit in shared memory.
template <int kHeadSize>
struct UnitQueries {
  static constexpr int kRow = kHeadSize + 8;  // so that rows begin in different banks
  __host__ __device__ static constexpr int Bytes(int heads) {
    return heads * kRow * static_cast<int>(sizeof(Element));
  }
  Element* memory;

  __device__ __forceinline__ Element* row(int head) const { return memory + head * kRow; }
};

// Fetches queries; thread `rank` of `threads`.
template <int kHeadSize>
__device__ __forceinline__ void FetchQueries(const UnitQueries<kHeadSize>& to,
                                             const AttendArgs& args, int row, const Unit& unit,
                                             int rank, int threads) {
  constexpr int kGroups = kHeadSize / 8;
  const int size = args.shape.head_size;
  const Element* from = static_cast<const Element*>(args.qkv) + int64_t{row} * args.qkv_columns +
                        unit.head_begin * size;
  for (int i = rank; i < unit.heads * kGroups; i += threads) {
    const int head = i / kGroups, d = i % kGroups * 8;
    const auto* q = reinterpret_cast<const uint4*>(from + head * size + d);
    *reinterpret_cast<uint4*>(to.row(head) + d) = d < size ? *q : make_uint4(0, 0, 0, 0);
  }
}

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void LoadQueries(Queries<kHeadSize, kHeads>& q,
                                            const UnitQueries<kHeadSize>& from, int heads) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
    // Columns beyond the heads may hold anything.
    const Element* row = from.row(min(lane % 8 + 8 * h, heads - 1)) + lane / 8 * 8;
#pragma unroll
    for (int j = 0; j < kHeadSize / 32; ++j) {
      uint32_t v[4];
      LoadMatrix(v, SharedAddress(row + j * 32));
      q[h][2 * j][0] = v[0];
      q[h][2 * j][1] = v[1];
      q[h][2 * j + 1][0] = v[2];
      q[h][2 * j + 1][1] = v[3];
    }
  }
}

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void Leave(const Partials<kHeadSize>& out,
                                      Running<kHeadSize, kHeads>& run, int heads) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int head = 8 * h + 2 * t + c;
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        run.sum[h][c] += __shfl_xor_sync(~0u, run.sum[h][c], offset);
      }
      if (head >= heads) continue;
      if (g == 0) {
        out.max(warp, head) = run.max[h][c];
        out.sum(warp, head) = run.sum[h][c];
      }
#pragma unroll
      for (int i = 0; i < kHeadSize / 8; ++i) {
        out.o(warp, head)[8 * i + g] = run.o[h][i / 2][i % 2 * 2 + c];
      }
    }
  }
}

// Shared memory: the warps' rings, then partials and queries, twice: pieces take turns.
template <int kHeadSize>
using RingPages = std::byte[kAttendWarps][kRingPages][2][kMatrixBytes<kHeadSize>];
constexpr int kRingAlignment = 1024;  // for the swizzle

template <int kHeadSize>
struct Room {
  std::byte* memory;  // aligned
  int heads;          // of a unit, at most

  __device__ __forceinline__ RingPages<kHeadSize>& pages() const {
    return *reinterpret_cast<RingPages<kHeadSize>*>(memory);
  }
  __device__ __forceinline__ Partials<kHeadSize> parts(int turn) const {
    return {memory + sizeof(RingPages<kHeadSize>) + turn % 2 * Partials<kHeadSize>::Bytes(heads),
            heads};
  }
  __device__ __forceinline__ UnitQueries<kHeadSize> queries(int turn) const {
    std::byte* const first =
        memory + sizeof(RingPages<kHeadSize>) + 2 * Partials<kHeadSize>::Bytes(heads);
    return {reinterpret_cast<Element*>(first + turn % 2 * UnitQueries<kHeadSize>::Bytes(heads))};
  }
  static int Bytes(int heads) {
    return sizeof(RingPages<kHeadSize>) + 2 * Partials<kHeadSize>::Bytes(heads) +
           2 * UnitQueries<kHeadSize>::Bytes(heads) + kRingAlignment;
  }
};

template <int kHeadSize, int kHeads>
__global__ void __launch_bounds__(kThreads, kHeadSize == 64    ? 3
                                            : kHeadSize == 128 ? 2
                                                               : 1)
    AttendDecodeKernel(AttendArgs args, StepTables step, AttendScratch scratch) {
  static_assert(Partials<kHeadSize>::Bytes(1) >= kAttendPiecesMax * sizeof(float2));
  extern __shared__ std::byte memory[];
  ReleaseSuccessor();
  const AttentionShape& shape = args.shape;
  const int warp = threadIdx.x / 32, units = Units<kHeads>(shape);
  const int64_t all = int64_t{step.counts->attend_items} * units;
  const int begin = static_cast<int>(all * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  if (begin == end) {
    // Who waits for this launch waits for the one before it too.
    if (blockIdx.x == 0) WaitForPredecessor();
    return;
  }
  const Room<kHeadSize> room{
      memory + (kRingAlignment - SharedAddress(memory) % kRingAlignment) % kRingAlignment,
      min(kHeads, shape.heads / shape.kv_heads)};
  Work work(step.attend_items, units, begin);
  Unit unit = UnitOf<kHeads>(shape, work.unit);
  const auto next_row = [&](const Work& of) {
    return of.EndsRow(units) ? step.attend_items[of.first + of.row.pieces] : AttendItem{};
  };
  Ring<kHeadSize> ring(room.pages()[warp % kAttendWarps][0][0], args);
  Wanted wanted(shape, work, unit.kv_head, step.pages);
  if (warp == kAttendWarps) wanted.range.page = wanted.range.end;
  ring.Ask(wanted, min(wanted.range.end, work.row.settled / kBlockTokens));
  WaitForPredecessor();
  FetchQueries(room.queries(0), args, work.row.row, unit, threadIdx.x, kThreads);
  ring.Ask(wanted, wanted.range.end);
  __syncthreads();
  if (warp == kAttendWarps) {
    for (int turn = 1; turn < end - begin; ++turn) {
      work.Advance(units, RowWork(next_row(work)));
      unit = UnitOf<kHeads>(shape, work.unit);
      FetchQueries(room.queries(turn), args, work.row.row, unit, threadIdx.x % 32, 32);
      __syncthreads();
    }
    __syncthreads();
    return;
  }
  const ScoreMap map(shape);
  auto& pages = room.pages()[warp];
  const uint32_t keys_lane = SharedAddress(pages[0][0]) + LaneOffset(false);
  const uint32_t values_lane = SharedAddress(pages[0][1]) + LaneOffset(true);
  for (int turn = 0, counted = 0; turn < end - begin; ++turn) {
    const bool more = turn + 1 < end - begin;
    const AttendItem following = more ? next_row(work) : AttendItem{};
    Queries<kHeadSize, kHeads> q;
    LoadQueries<kHeadSize, kHeads>(q, room.queries(turn), unit.heads);
    Running<kHeadSize, kHeads> run;
#pragma unroll
    for (int h = 0; h < kHeads / 8; ++h) run.max[h][0] = run.max[h][1] = -INFINITY;
    Work next = work;
    Unit next_unit = unit;
    Wanted after = wanted;
    bool ready = !more;
    const auto prepare = [&] {
      next.Advance(units, RowWork(following));
      next_unit = UnitOf<kHeads>(shape, next.unit);
      after = Wanted(shape, next, next_unit.kv_head, step.pages);
      ready = true;
    };
    const int keys = work.row.keys, first_key = FirstKey(shape, keys);
    for (PageRange at(shape, work); at.page < at.end; at.page += kAttendWarps) {
      const int key_begin = at.page * kBlockTokens;
      const int stage = ring.Take();
      AddPage<kHeadSize, kHeads>(run, q, map, keys_lane + stage * 2 * kMatrixBytes<kHeadSize>,
                                 values_lane + stage * 2 * kMatrixBytes<kHeadSize>, pages[stage][1],
                                 key_begin, first_key, keys);
      ring.Release();
      if (!ready) prepare();
      ring.Ask(wanted, wanted.range.end);
      if (more) ring.Ask(after, after.range.end);
    }
    if (!ready) {
      prepare();
      ring.Ask(after, after.range.end);
    }
    const Partials<kHeadSize> parts = room.parts(turn);
    Leave(parts, run, unit.heads);
    __syncthreads();  // all have merged the piece before, and the next one's queries are there
    MergeWarps(parts, args, scratch, work, unit);
    ++counted;
    if (!more || work.piece + 1 == work.row.pieces) {
      const int pieces = work.row.pieces;
      uint32_t* ticket = scratch.tickets + work.row.row * units + work.unit;
      if (pieces > 1 && IsLast(ticket, counted, pieces)) {
        MergePieces<kHeadSize>(parts.stats(), args, scratch, work.row, unit);
      }
      counted = 0;
    }
    wanted = after;
    work = next;
    unit = next_unit;
  }
}

// Blocks that are on the device at once, with units of `heads` heads.
template <int kHeadSize, int kHeads>
int ResidentBlocks(int heads) {
  static const auto counts = [] {
    const auto kernel = AttendDecodeKernel<kHeadSize, kHeads>;
    PrepareShared(kernel, Room<kHeadSize>::Bytes(kHeads));
    std::array<int, kHeads> blocks{};
    for (int i = 0; i < kHeads; ++i) {
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks[i], kernel, kThreads,
                                                    Room<kHeadSize>::Bytes(i + 1));
      blocks[i] *= MultiprocessorCount();
    }
    return blocks;
  }();
  return counts[heads - 1];
}

template <int kHeadSize, int kHeads>
void Launch(const AttendArgs& args, const AttendScratch& scratch, const StepTables& step, int items,
            cudaStream_t stream) {
  const int heads = std::min(kHeads, args.shape.heads / args.shape.kv_heads);
  const int resident = ResidentBlocks<kHeadSize, kHeads>(heads);
  const int units = args.shape.kv_heads * AttendHeadTiles(args.shape);
  LaunchDependent(AttendDecodeKernel<kHeadSize, kHeads>,
                  items < resident ? std::min(items * units, resident) : resident, kThreads,
                  Room<kHeadSize>::Bytes(heads), stream, args, step, scratch);
}

}  // namespace

int AttendHeadTiles(const AttentionShape& shape) {
  const int group = shape.heads / shape.kv_heads;
  const int tile = TileHeads(PaddedHeadSize(shape.head_size), group);
  return (group + tile - 1) / tile;
}

void LaunchAttendDecode(const AttendArgs& args, const AttendScratch& scratch,
                        const StepTables& step, int items, cudaStream_t stream) {
  const int size = PaddedHeadSize(args.shape.head_size);
  const bool wide = TileHeads(size, args.shape.heads / args.shape.kv_heads) == 16;
  const auto launch = size == 64    ? (wide ? Launch<64, 16> : Launch<64, 8>)
                      : size == 128 ? (wide ? Launch<128, 16> : Launch<128, 8>)
                                    : Launch<256, 8>;
  launch(args, scratch, step, items, stream);
}

}  // namespace lorica::cuda
