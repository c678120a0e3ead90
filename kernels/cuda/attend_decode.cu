// Attention of rows that decode.
//
// A block takes one piece of one row's context for the heads of one KV head, which share
// what they read. The piece's pages go round the block's warps by absolute index, each warp
// keeps its own running softmax, and the warps are merged in order. The pieces of a row are
// merged in order too, by the block that finishes last: the ticket only says who that is.
//
// K and V go from global memory straight to the matrix registers, 16 bytes a lane. The
// order of d inside a product, and of columns in the output, is free: lane t takes d
// [8t, 8t + 8) of each 32 of K, lane g columns [8g, 8g + 8) of each 64 of V. Settled pages are
// asked for before the launch ahead has ended, the first page of a block's next item before
// the one at hand is merged.
#include <algorithm>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/launch_dependent.cuh"

namespace lorica::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kAheadPages = 8;  // that a warp asks for beyond its first

// Heads of a tile, the rows of its products.
constexpr int TileHeads(int head_size, int group) { return group > 8 && head_size <= 128 ? 16 : 8; }

__device__ __forceinline__ uint4 LoadPage(const Element* address) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

__device__ __forceinline__ void PrefetchL2(const Element* address, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(bytes));
}

template <int kHeadSize, int kHeads>
struct Running {
  float o[kHeads / 8][kHeadSize / 64][8][2] = {};  // d = 64 block + 8 (2t + c) + i, head g
  float max[kHeads / 8];
  float sum[kHeads / 8] = {};
};

// K or V rows of one page: [token][head size].
template <int kHeadSize>
struct KeyRows {
  uint4 part[2][kHeadSize / 32];  // token g and g + 8

  __device__ __forceinline__ void Load(const Element* page) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int b = 0; b < kHeadSize / 32; ++b) {
        part[half][b] = LoadPage(page + (g + 8 * half) * kHeadSize + b * 32 + 8 * t);
      }
    }
  }
};

template <int kHeadSize>
struct ValueRows {
  uint4 part[kHeadSize / 64][4];  // tokens 2t, 2t + 1, 2t + 8, 2t + 9

  __device__ __forceinline__ void Load(const Element* page) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int b = 0; b < kHeadSize / 64; ++b) {
        part[b][i] = LoadPage(page + (2 * t + i % 2 + i / 2 * 8) * kHeadSize + b * 64 + 8 * g);
      }
    }
  }
  // Beyond the context a page may hold anything, NaN too.
  __device__ __forceinline__ void KeepTokens(int tokens) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (2 * t + i % 2 + i / 2 * 8 < tokens) continue;
#pragma unroll
      for (int b = 0; b < kHeadSize / 64; ++b) part[b][i] = make_uint4(0, 0, 0, 0);
    }
  }
};

template <int kHeadSize, int kHeads>
using Queries = uint4[kHeads / 8][kHeadSize / 32];

// Of 16 keys: [head g, g + 8][keys 2t, 2t + 1, 2t + 8, 2t + 9].
template <int kHeads>
using PageScores = float[kHeads / 8][4];

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void Scores(PageScores<kHeads>& s, const Queries<kHeadSize, kHeads>& q,
                                       const KeyRows<kHeadSize>& keys) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float d[4] = {};
#pragma unroll
    for (int b = 0; b < kHeadSize / 32; ++b) {
      const uint4 k = keys.part[half][b], low = q[0][b];
      uint4 high = make_uint4(0, 0, 0, 0);
      if constexpr (kHeads > 8) high = q[1][b];
      Mma(d, low.x, high.x, low.y, high.y, k.x, k.y);
      Mma(d, low.z, high.z, low.w, high.w, k.z, k.w);
    }
#pragma unroll
    for (int h = 0; h < kHeads / 8; ++h) {
      s[h][2 * half] = d[2 * h];
      s[h][2 * half + 1] = d[2 * h + 1];
    }
  }
}

// s = exp(score - running maximum); rescales what was summed before.
template <int kHeadSize, int kHeads>
__device__ __forceinline__ void Soften(PageScores<kHeads>& s, Running<kHeadSize, kHeads>& run,
                                       const ScoreMap& map, int first_key, int keys,
                                       int key_begin) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
    float best = -INFINITY;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = key_begin + i / 2 * 8 + 2 * t + i % 2;
      s[h][i] = key >= first_key && key < keys ? map(s[h][i]) : -INFINITY;
      best = fmaxf(best, s[h][i]);
    }
    best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
    best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
    const float max = fmaxf(run.max[h], best), base = ExpBase(max);
    const float keep = Exp2(run.max[h] - base);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += s[h][i] = Exp2(s[h][i] - base);
    run.sum[h] = run.sum[h] * keep + sum;
    run.max[h] = max;
#pragma unroll
    for (int i = 0; i < kHeadSize / 4; ++i) (&run.o[h][0][0][0])[i] *= keep;
  }
}

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void AddValues(Running<kHeadSize, kHeads>& run,
                                          const PageScores<kHeads>& p,
                                          const ValueRows<kHeadSize>& values) {
  const uint32_t a0 = PackElements(p[0][0], p[0][1]), a2 = PackElements(p[0][2], p[0][3]);
  uint32_t a1 = 0, a3 = 0;
  if constexpr (kHeads > 8) {
    a1 = PackElements(p[1][0], p[1][1]);
    a3 = PackElements(p[1][2], p[1][3]);
  }
#pragma unroll
  for (int b = 0; b < kHeadSize / 64; ++b) {
    const uint32_t* v0 = &values.part[b][0].x;
    const uint32_t* v1 = &values.part[b][1].x;
    const uint32_t* v2 = &values.part[b][2].x;
    const uint32_t* v3 = &values.part[b][3].x;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int w = i / 2;
      const uint32_t b0 = i % 2 ? HighHalves(v0[w], v1[w]) : LowHalves(v0[w], v1[w]);
      const uint32_t b1 = i % 2 ? HighHalves(v2[w], v3[w]) : LowHalves(v2[w], v3[w]);
      float d[4] = {run.o[0][b][i][0], run.o[0][b][i][1], 0.0f, 0.0f};
      if constexpr (kHeads > 8) {
        d[2] = run.o[1][b][i][0];
        d[3] = run.o[1][b][i][1];
      }
      Mma(d, a0, a1, a2, a3, b0, b1);
#pragma unroll
      for (int h = 0; h < kHeads / 8; ++h) {
        run.o[h][b][i][0] = d[2 * h];
        run.o[h][b][i][1] = d[2 * h + 1];
      }
    }
  }
}

// An item for one tile of the heads of one KV head.
struct Work {
  AttendItem item;
  int kv_head;
  int head_begin;  // of all heads
  int heads;
  int ticket;
};

template <int kHeads>
__device__ __forceinline__ int Units(const AttentionShape& shape) {
  const int group = shape.heads / shape.kv_heads;
  return shape.kv_heads * ((group + kHeads - 1) / kHeads);
}

// All of it but the item.
template <int kHeads>
__device__ __forceinline__ void Place(Work& work, const AttentionShape& shape, int index, int row) {
  const int group = shape.heads / shape.kv_heads, tiles = (group + kHeads - 1) / kHeads;
  const int unit = index % (shape.kv_heads * tiles), tile = unit % tiles;
  work.kv_head = unit / tiles;
  work.head_begin = work.kv_head * group + tile * kHeads;
  work.heads = min(kHeads, group - tile * kHeads);
  work.ticket = row * shape.kv_heads * tiles + unit;
}

// Copies an item to shared memory, 16 bytes each of two lanes, beside what follows.
__device__ __forceinline__ void StartItem(AttendItem& to, const AttendItem* from) {
  static_assert(sizeof(AttendItem) == 32);
  const int lane = threadIdx.x % 32;
  if (lane < 2) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(&to) + 16 * lane),
                 "l"(reinterpret_cast<const std::byte*>(from) + 16 * lane)
                 : "memory");
  }
}
__device__ __forceinline__ void AwaitItem() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
}

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void LoadQueries(Queries<kHeadSize, kHeads>& q, const AttendArgs& args,
                                            const Work& work) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, size = args.shape.head_size;
  const Element* from = static_cast<const Element*>(args.qkv) + work.item.row * args.qkv_columns +
                        work.head_begin * size;
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
    const int head = g + 8 * h;
#pragma unroll
    for (int b = 0; b < kHeadSize / 32; ++b) {
      const int d = b * 32 + 8 * t;
      const bool inside = head < work.heads && d < size;
      q[h][b] = inside ? LoadPage(from + head * size + d) : make_uint4(0, 0, 0, 0);
    }
  }
}

// A warp's pages of a piece: every kWarps-th, by absolute index. Up to 32 of their ids are held
// by the lanes.
struct PageRange {
  int first_key, keys;  // that the row sees
  int page, end;
  int32_t id;

  __device__ __forceinline__ PageRange(const AttentionShape& shape, const AttendItem& item,
                                       const int32_t* pages)
      : first_key(FirstKey(shape, item.keys)),
        keys(item.keys),
        end((item.key_end + kBlockTokens - 1) / kBlockTokens) {
    const int first = max(item.key_begin, first_key) / kBlockTokens;
    const int warp = threadIdx.x / 32;
    page = first + (warp - first % kWarps + kWarps) % kWarps;
    FetchIds(pages + item.page_begin);
  }
  __device__ __forceinline__ void FetchIds(const int32_t* ids) {
    const int at = page + threadIdx.x % 32 * kWarps;
    id = at < end ? ids[at] : 0;
  }
};

template <int kHeadSize, int kHeads>
class Reader {
 public:
  __device__ __forceinline__ Reader(const AttendArgs& args, const Work& work, const int32_t* pages,
                                    const PageRange& range)
      : range_(range),
        ids_(pages + work.item.page_begin),
        matrix_(args.shape.kv_heads * kBlockTokens * kHeadSize),
        block_bytes_(args.block_bytes),
        base_(static_cast<const std::byte*>(args.arena) +
              2 * (args.layer * 2 * int64_t{matrix_} + work.kv_head * kBlockTokens * kHeadSize)) {}

  __device__ __forceinline__ bool empty() const { return range_.page >= range_.end; }
  // Asks for the first page.
  __device__ __forceinline__ void Begin() {
    const Element* page = PageOf(__shfl_sync(~0u, range_.id, 0));
    k_.Load(page);
    v_.Load(page + matrix_);
  }
  __device__ __forceinline__ void PrefetchRest() const {
    const int lane = threadIdx.x % 32;
    if (lane == 0 || lane > kAheadPages || range_.page + lane * kWarps >= range_.end) return;
    const Element* page = PageOf(range_.id);
    PrefetchL2(page, kBlockTokens * kHeadSize * 2);
    PrefetchL2(page + matrix_, kBlockTokens * kHeadSize * 2);
  }

  // Takes the page at hand and asks for the next.
  __device__ __forceinline__ void Read(Running<kHeadSize, kHeads>& run,
                                       const Queries<kHeadSize, kHeads>& q, const ScoreMap& map) {
    PageScores<kHeads> s;
    Scores<kHeadSize, kHeads>(s, q, k_);
    const int key_begin = range_.page * kBlockTokens;
    range_.page += kWarps;
    const bool more = !empty();
    const Element* next = nullptr;
    if (more) {
      if (++turn_ % 32 == 0) range_.FetchIds(ids_);
      next = PageOf(__shfl_sync(~0u, range_.id, turn_ % 32));
      k_.Load(next);
    }
    Soften<kHeadSize, kHeads>(s, run, map, range_.first_key, range_.keys, key_begin);
    if (key_begin + kBlockTokens > range_.keys) v_.KeepTokens(range_.keys - key_begin);
    AddValues<kHeadSize, kHeads>(run, s, v_);
    if (more) v_.Load(next + matrix_);
  }

 private:
  __device__ __forceinline__ const Element* PageOf(int64_t id) const {
    return reinterpret_cast<const Element*>(base_ + id * block_bytes_);
  }

  PageRange range_;
  const int32_t* ids_;
  int matrix_;  // elements from K to V
  int64_t block_bytes_;
  const std::byte* base_;
  int turn_ = 0;
  KeyRows<kHeadSize> k_;
  ValueRows<kHeadSize> v_;
};

// What the warps leave for the merge.
template <int kHeadSize, int kHeads>
struct alignas(16) Partials {
  float o[kWarps][kHeads][kHeadSize];
  float max[kWarps][kHeads];
  float sum[kWarps][kHeads];
};

template <int kHeadSize, int kHeads>
__device__ __forceinline__ void Leave(Partials<kHeadSize, kHeads>& out,
                                      Running<kHeadSize, kHeads>& run) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < kHeads / 8; ++h) {
    run.sum[h] += __shfl_xor_sync(~0u, run.sum[h], 1);
    run.sum[h] += __shfl_xor_sync(~0u, run.sum[h], 2);
    if (t == 0) {
      out.max[warp][g + 8 * h] = run.max[h];
      out.sum[warp][g + 8 * h] = run.sum[h];
    }
#pragma unroll
    for (int b = 0; b < kHeadSize / 64; ++b) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float* to = &out.o[warp][g + 8 * h][b * 64 + 8 * (2 * t + c)];
        const auto& o = run.o[h][b];
        *reinterpret_cast<float4*>(to) = make_float4(o[0][c], o[1][c], o[2][c], o[3][c]);
        *reinterpret_cast<float4*>(to + 4) = make_float4(o[4][c], o[5][c], o[6][c], o[7][c]);
      }
    }
  }
}

__device__ __forceinline__ void AddScaled(float4& sum, float weight, const float4& part) {
  sum.x += weight * part.x;
  sum.y += weight * part.y;
  sum.z += weight * part.z;
  sum.w += weight * part.w;
}

// Four columns of one head.
__device__ __forceinline__ void Store(const AttendArgs& args, int row, int head, int d, float4 o,
                                      float sum) {
  if (d >= args.shape.head_size) return;
  const float scale = 1.0f / sum;
  Element* out = static_cast<Element*>(args.out) +
                 (int64_t{row} * args.shape.heads + head) * args.shape.head_size + d;
  *reinterpret_cast<uint2*>(out) =
      make_uint2(PackElements(o.x * scale, o.y * scale), PackElements(o.z * scale, o.w * scale));
}

// Adds the warps' parts in order; the row's result where the piece is all of it.
template <int kHeadSize, int kHeads>
__device__ __forceinline__ void MergeWarps(const Partials<kHeadSize, kHeads>& parts,
                                           const AttendArgs& args, const AttendScratch& scratch,
                                           const Work& work) {
  constexpr int kQuads = kHeadSize / 4;
  for (int i = threadIdx.x; i < work.heads * kQuads; i += kThreads) {
    const int head = i / kQuads, d = i % kQuads * 4;
    float max = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, parts.max[w][head]);
    float4 o = make_float4(0, 0, 0, 0);
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float weight = Exp2(parts.max[w][head] - ExpBase(max));
      AddScaled(o, weight, *reinterpret_cast<const float4*>(&parts.o[w][head][d]));
      sum += weight * parts.sum[w][head];
    }
    if (work.item.pieces == 1) {
      Store(args, work.item.row, work.head_begin + head, d, o, sum);
      continue;
    }
    const int64_t place = int64_t{work.item.slot} * args.shape.heads + work.head_begin + head;
    __stcg(reinterpret_cast<float4*>(scratch.sums + place * kHeadSize + d), o);
    if (d == 0) __stcg(scratch.stats + place, make_float2(max, sum));
  }
}

// `stats` has room for those of all pieces.
template <int kHeadSize>
__device__ __forceinline__ void MergePieces(float2* stats, const AttendArgs& args,
                                            const AttendScratch& scratch, const Work& work) {
  constexpr int kQuads = kHeadSize / 4;
  const int pieces = work.item.pieces, heads = args.shape.heads;
  const int64_t first = int64_t{work.item.slot - work.item.piece} * heads + work.head_begin;
  for (int i = threadIdx.x; i < work.heads * pieces; i += kThreads) {
    stats[i] = __ldcg(scratch.stats + first + int64_t{i / work.heads} * heads + i % work.heads);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < work.heads * kQuads; i += kThreads) {
    const int head = i / kQuads, d = i % kQuads * 4;
    float max = -INFINITY;
    for (int p = 0; p < pieces; ++p) max = fmaxf(max, stats[p * work.heads + head].x);
    float4 o = make_float4(0, 0, 0, 0);
    float sum = 0.0f;
    const float* from = scratch.sums + (first + head) * kHeadSize + d;
#pragma unroll 16
    for (int p = 0; p < pieces; ++p) {
      const float2 stat = stats[p * work.heads + head];
      const float weight = Exp2(stat.x - max);
      AddScaled(o, weight,
                __ldcg(reinterpret_cast<const float4*>(from + int64_t{p} * heads * kHeadSize)));
      sum += weight * stat.y;
    }
    Store(args, work.item.row, work.head_begin + head, d, o, sum);
  }
}

// True in the block that finishes a row's pieces last, which then sees them all.
__device__ __forceinline__ bool IsLast(uint32_t* ticket, int pieces) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  // Wraps to zero, ready for the next launch.
  if (threadIdx.x == 0) last = atomicInc(ticket, pieces - 1) == pieces - 1;
  __syncthreads();
  __threadfence();
  return last;
}

template <int kHeadSize, int kHeads>
__global__ void __launch_bounds__(kThreads, kHeadSize == 64    ? 4
                                            : kHeadSize == 128 ? 2
                                                               : 1)
    AttendDecodeKernel(AttendArgs args, StepTables step, AttendScratch scratch) {
  using Parts = Partials<kHeadSize, kHeads>;
  static_assert(sizeof(Parts) >= kHeads * kAttendPiecesMax * sizeof(float2));
  __shared__ Parts parts;
  __shared__ Work works[2][kWarps];  // a copy a warp: this item and the next
  ReleaseSuccessor();
  const int warp = threadIdx.x / 32, units = Units<kHeads>(args.shape);
  const int count = step.counts->attend_items * units;
  if (blockIdx.x >= count) {
    // Who waits for this launch waits for the one before it too.
    if (blockIdx.x == 0) WaitForPredecessor();
    return;
  }
  StartItem(works[0][warp].item, step.attend_items + blockIdx.x / units);
  AwaitItem();
  const ScoreMap map(args.shape);
  Work* work = &works[0][warp];
  Place<kHeads>(*work, args.shape, blockIdx.x, work->item.row);
  __syncwarp();
  PageRange range(args.shape, work->item, step.pages);
  Reader<kHeadSize, kHeads> reader(args, *work, step.pages, range);
  const bool settled = (range.page + 1) * kBlockTokens <= work->item.settled;
  if (settled && !reader.empty()) reader.Begin();
  reader.PrefetchRest();
  WaitForPredecessor();
  if (!settled && !reader.empty()) reader.Begin();
  for (int i = blockIdx.x, turn = 0; i < count; i += gridDim.x, turn ^= 1) {
    work = &works[turn][warp];
    Work* next = &works[turn ^ 1][warp];
    const int next_index = i + gridDim.x;
    const bool more = next_index < count;
    if (more) StartItem(next->item, step.attend_items + next_index / units);
    Queries<kHeadSize, kHeads> q;
    LoadQueries<kHeadSize, kHeads>(q, args, *work);
    Running<kHeadSize, kHeads> run;
#pragma unroll
    for (int h = 0; h < kHeads / 8; ++h) run.max[h] = -INFINITY;
    if (!reader.empty()) reader.Read(run, q, map);
    if (more) {
      AwaitItem();
      Place<kHeads>(*next, args.shape, next_index, next->item.row);
      __syncwarp();
      range = PageRange(args.shape, next->item, step.pages);
    }
    while (!reader.empty()) reader.Read(run, q, map);
    if (more) {
      reader = Reader<kHeadSize, kHeads>(args, *next, step.pages, range);
      if (!reader.empty()) reader.Begin();
    }
    Leave(parts, run);
    __syncthreads();
    MergeWarps(parts, args, scratch, *work);
    const int pieces = work->item.pieces;
    if (pieces > 1 && IsLast(scratch.tickets + work->ticket, pieces)) {
      MergePieces<kHeadSize>(reinterpret_cast<float2*>(&parts), args, scratch, *work);
    }
    __syncthreads();  // before the next item's parts
  }
}

// Blocks that are on the device at once.
template <int kHeadSize, int kHeads>
int ResidentBlocks() {
  static const int count = [] {
    int blocks = 0;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, AttendDecodeKernel<kHeadSize, kHeads>,
                                                  kThreads, 0);
    return blocks * MultiprocessorCount();
  }();
  return count;
}

template <int kHeadSize, int kHeads>
void Launch(const AttendArgs& args, const AttendScratch& scratch, const StepTables& step, int items,
            cudaStream_t stream) {
  const int units = args.shape.kv_heads * AttendHeadTiles(args.shape);
  const int resident = ResidentBlocks<kHeadSize, kHeads>();
  LaunchDependent(AttendDecodeKernel<kHeadSize, kHeads>,
                  items < resident ? std::min(items * units, resident) : resident, kThreads, 0,
                  stream, args, step, scratch);
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
