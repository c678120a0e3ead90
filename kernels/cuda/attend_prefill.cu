// Attention of prefill chunks.
//
// A tile is the rows of one chunk, with all heads of one KV head, that fill the 128 rows of
// two warpgroups' products: row m is (chunk row m / group, head m % group). Blocks stay and
// take tile after tile. One warp copies: queries as one box, K and V page by page, two stages
// ahead. Each warpgroup multiplies 64 rows; while it weighs the scores of one stage, the values
// of the stage before are summed.
//
// Stages lie at absolute positions and are taken in order, so a row's bits do not depend on
// the tile it is in.
#include <algorithm>
#include <string>

#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/attend_products.cuh"
#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {
namespace {

constexpr int kTileRows = 128;
constexpr int kStages = 2;
constexpr int kGroupThreads = 128;  // a warpgroup
constexpr int kConsumers = 2;
constexpr int kConsumerThreads = kConsumers * kGroupThreads;
constexpr int kConsumerWarps = kConsumerThreads / 32;
constexpr int kThreads = kGroupThreads + kConsumerThreads;
constexpr int kCopyRegisters = 40, kProductRegisters = 232;

template <int kHeadSize>
struct Sizes {
  static constexpr int kKeys = kHeadSize == 256 ? 64 : 128;  // of a stage
  static constexpr int kParts = kHeadSize / kSwizzleColumns;
  static constexpr int kPages = kKeys / kBlockTokens;
  static constexpr int kQueryPart = kTileRows * kSwizzleRowBytes;
  static constexpr int kPart = kKeys * kSwizzleRowBytes;
  static constexpr int kQueries = kParts * kQueryPart;
  static constexpr int kMatrix = kParts * kPart;  // K or V of a stage
  static constexpr int kPagePart = kBlockTokens * kSwizzleRowBytes;
};

struct Barriers {
  uint64_t query_full, query_empty;
  uint64_t key_full[kStages], key_empty[kStages];
  uint64_t value_full[kStages], value_empty[kStages];
};

template <int kHeadSize>
struct Shared {
  std::byte query[Sizes<kHeadSize>::kQueries];
  std::byte key[kStages][Sizes<kHeadSize>::kMatrix];
  std::byte value[kStages][Sizes<kHeadSize>::kMatrix];
  Barriers barriers;
};
constexpr int kSharedAlignment = 1024;

struct Tile {
  int kv_head;
  int row_begin;  // in the step
  int rows;
  int position;  // of the first row
  int page_begin;
  int page_first, page_end;    // that any row sees, absolute
  int stage_begin, stage_end;  // absolute
};

// The tile of a chunk, later rows first: they have more to do. One warp.
__device__ __forceinline__ void FindTile(Tile& tile, const StepTables& step, int index,
                                         int tile_rows) {
  const int lane = threadIdx.x % 32, chunks = step.counts->attend_chunks;
  for (int begin = 0; begin < chunks; begin += 32) {
    const int rows = begin + lane < chunks ? step.attend_chunks[begin + lane].row_count : 0;
    const int tiles = (rows + tile_rows - 1) / tile_rows;
    int end = tiles;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
      const int before = __shfl_up_sync(~0u, end, i);
      if (lane >= i) end += before;
    }
    const unsigned beyond = __ballot_sync(~0u, end > index);
    if (beyond == 0) {
      index -= __shfl_sync(~0u, end, 31);
      continue;
    }
    const int at = __ffs(beyond) - 1;
    const int offset = (__shfl_sync(~0u, end, at) - 1 - index) * tile_rows;
    const DeviceSpan chunk = step.attend_chunks[begin + at];
    tile.row_begin = chunk.row_begin + offset;
    tile.rows = min(tile_rows, chunk.row_count - offset);
    tile.position = chunk.position_begin + offset;
    tile.page_begin = chunk.page_begin;
    return;
  }
}

template <int kHeadSize>
__device__ __forceinline__ Tile TileOf(const AttendArgs& args, const StepTables& step, int index,
                                       int tile_rows) {
  Tile tile;
  tile.kv_head = index % args.shape.kv_heads;
  FindTile(tile, step, index / args.shape.kv_heads, tile_rows);
  const int keys = tile.position + tile.rows;
  tile.page_first = FirstKey(args.shape, tile.position + 1) / kBlockTokens;
  tile.page_end = (keys + kBlockTokens - 1) / kBlockTokens;
  tile.stage_begin = tile.page_first / Sizes<kHeadSize>::kPages;
  tile.stage_end = (tile.page_end + Sizes<kHeadSize>::kPages - 1) / Sizes<kHeadSize>::kPages;
  return tile;
}

// The tiles of a block: rounds over all blocks, every other one backwards.
class Turns {
 public:
  __device__ explicit Turns(int count) : count_(count) { Settle(); }
  __device__ bool done() const { return round_ * gridDim.x >= count_; }
  __device__ int index() const {
    return round_ * gridDim.x + (round_ % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  }
  __device__ void Next() {
    ++round_;
    Settle();
  }

 private:
  __device__ void Settle() {
    while (!done() && index() >= count_) ++round_;
  }
  unsigned count_, round_ = 0;
};

// Counts stages as they pass: which buffer, and which phase of its barriers.
struct StageCursor {
  unsigned count = 0;
  __device__ int buffer() const { return count % kStages; }
  __device__ unsigned phase() const { return count / kStages % 2; }
};

// The warp that copies.
template <int kHeadSize>
__device__ __forceinline__ void Copy(Shared<kHeadSize>& shared, const AttendArgs& args,
                                     const StepTables& step, const CUtensorMap& queries,
                                     const CUtensorMap& pages, int tiles, int tile_rows) {
  using S = Sizes<kHeadSize>;
  const int lane = threadIdx.x % 32, group = args.shape.heads / args.shape.kv_heads;
  const int page_of_lane = lane / S::kParts, part = lane % S::kParts;
  const int place = part * S::kPart + page_of_lane * S::kPagePart;
  Barriers& barriers = shared.barriers;
  StageCursor cursor;
  unsigned turn = 0;
  for (Turns turns(tiles); !turns.done(); turns.Next(), ++turn) {
    const Tile tile = TileOf<kHeadSize>(args, step, turns.index(), tile_rows);
    BarrierWait(SharedAddress(&barriers.query_empty), turn % 2 ^ 1);
    if (lane == 0) {
      const uint32_t full = SharedAddress(&barriers.query_full);
      BarrierExpect(full, S::kParts * tile_rows * group * kSwizzleRowBytes);
#pragma unroll
      for (int p = 0; p < S::kParts; ++p) {
        CopyBox3(SharedAddress(shared.query + p * S::kQueryPart), queries, p * kSwizzleColumns,
                 tile.kv_head * group, tile.row_begin, full);
      }
    }
    const int matrix = args.layer * 2 * args.shape.kv_heads + tile.kv_head;
    for (int stage = tile.stage_begin; stage < tile.stage_end; ++stage, ++cursor.count) {
      const int page = stage * S::kPages + page_of_lane;
      const bool mine = page_of_lane < S::kPages && page >= tile.page_first && page < tile.page_end;
      const int block = mine ? step.pages[tile.page_begin + page] : 0;
      const int first = max(tile.page_first, stage * S::kPages);
      const int count = min(tile.page_end, (stage + 1) * S::kPages) - first;
      const uint32_t bytes = count * S::kPagePart * S::kParts;
      const int b = cursor.buffer();
      const auto copy = [&](uint64_t& empty, uint64_t& full_barrier, std::byte* to, int z) {
        const uint32_t full = SharedAddress(&full_barrier);
        BarrierWait(SharedAddress(&empty), cursor.phase() ^ 1);
        if (lane == 0) BarrierExpect(full, bytes);
        __syncwarp();
        if (mine) {
          CopyBox4(SharedAddress(to + place), pages, part * kSwizzleColumns, 0, z, block, full);
        }
      };
      copy(barriers.key_empty[b], barriers.key_full[b], shared.key[b], matrix);
      copy(barriers.value_empty[b], barriers.value_full[b], shared.value[b],
           matrix + args.shape.kv_heads);
    }
  }
}

// What a thread knows of its two rows, m and m + 8.
struct Rows {
  int keys[2];  // that each sees
  int first[2];
  float max[2];
  float sum[2];
};

template <int kHeadSize>
class Consumer {
 public:
  using S = Sizes<kHeadSize>;
  static constexpr int kScores = S::kKeys / 2;                        // of a thread
  static constexpr int kColumns = kHeadSize > 128 ? 128 : kHeadSize;  // of one product
  static constexpr int kProducts = kHeadSize / kColumns;

  __device__ __forceinline__ Consumer(Shared<kHeadSize>& shared, const AttendArgs& args)
      : shared_(shared), args_(args), map_(args.shape) {}

  __device__ __forceinline__ void Take(const Tile& tile) {
    Begin(tile);
    Barriers& barriers = shared_.barriers;
    float scores[kScores];
    uint32_t weights[kScores / 2];
    float keep[2];
    BarrierWait(SharedAddress(&barriers.query_full), turn_++ % 2);
    StartScores(scores, cursor_);
    WaitProducts<0>();
    Pin(scores);
    Release(barriers.key_empty[cursor_.buffer()]);
    Weigh(scores, tile.stage_begin, tile, keep);
    Pack(weights, scores);
    for (int stage = tile.stage_begin + 1; stage < tile.stage_end; ++stage) {
      const StageCursor next = {cursor_.count + 1};
      StartScores(scores, next);
      StartValues(weights, stage - 1, tile);
      WaitProducts<1>();
      Pin(scores);
      Release(barriers.key_empty[next.buffer()]);
      Weigh(scores, stage, tile, keep);
      WaitProducts<0>();
      PinOutput();
      Release(barriers.value_empty[cursor_.buffer()]);
      Rescale(keep);
      PinOutput();
      Pack(weights, scores);
      cursor_ = next;
    }
    Release(barriers.query_empty);
    StartValues(weights, tile.stage_end - 1, tile);
    WaitProducts<0>();
    PinOutput();
    Release(barriers.value_empty[cursor_.buffer()]);
    ++cursor_.count;
    Store(tile);
  }

 private:
  __device__ __forceinline__ int group_index() const {
    return (threadIdx.x - kGroupThreads) / kGroupThreads;
  }
  __device__ __forceinline__ int FirstRow() const {
    const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4;
    return group_index() * 64 + warp * 16 + g;
  }

  __device__ __forceinline__ void Begin(const Tile& tile) {
    const int group = args_.shape.heads / args_.shape.kv_heads;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      rows_.keys[h] = tile.position + (FirstRow() + 8 * h) / group + 1;
      rows_.first[h] = FirstKey(args_.shape, rows_.keys[h]);
      rows_.max[h] = -INFINITY;
      rows_.sum[h] = 0.0f;
    }
    started_ = 0;
  }

  __device__ __forceinline__ void Release(uint64_t& barrier) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) BarrierArrive(SharedAddress(&barrier));
  }

  __device__ __forceinline__ void StartScores(float (&s)[kScores], const StageCursor& cursor) {
    const int b = cursor.buffer();
    BarrierWait(SharedAddress(&shared_.barriers.key_full[b]), cursor.phase());
    const uint32_t q = SharedAddress(shared_.query) + group_index() * 64 * kSwizzleRowBytes;
    const uint32_t k = SharedAddress(shared_.key[b]);
    Pin(s);
    FenceRegisters();
#pragma unroll
    for (int i = 0; i < kHeadSize / 16; ++i) {
      const int part = i / 4, inside = i % 4 * 32;
      WgmmaShared(s, Operand(q + part * S::kQueryPart + inside),
                  Operand(k + part * S::kPart + inside), i > 0);
    }
    CommitProducts();
  }

  __device__ __forceinline__ void StartValues(const uint32_t (&weights)[kScores / 2], int stage,
                                              const Tile& tile) {
    const int b = cursor_.buffer();
    BarrierWait(SharedAddress(&shared_.barriers.value_full[b]), cursor_.phase());
    ClearUnseen(shared_.value[b], stage, tile);
    const uint32_t v = SharedAddress(shared_.value[b]);
    PinOutput();
    FenceRegisters();
#pragma unroll
    for (int i = 0; i < S::kKeys / 16; ++i) {
#pragma unroll
      for (int p = 0; p < kProducts; ++p) {
        const uint32_t part = p * (kColumns / kSwizzleColumns) * S::kPart;
        WgmmaRegisters(o_[p], weights + 4 * i,
                       Operand(v + part + i * 16 * kSwizzleRowBytes, S::kPart), i > 0 || started_);
      }
    }
    CommitProducts();
    started_ = 1;
  }

  // Zeros where no page was copied and beyond the last key: there may be anything, NaN too,
  // and nothing times NaN is NaN.
  __device__ __forceinline__ void ClearUnseen(std::byte* values, int stage, const Tile& tile) {
    const int first = tile.page_first * kBlockTokens - stage * S::kKeys;
    const int end = tile.position + tile.rows - stage * S::kKeys;
    if (first <= 0 && end >= S::kKeys) return;
    constexpr int kChunks = kSwizzleRowBytes / 16;
    for (int i = threadIdx.x - kGroupThreads; i < S::kKeys * kChunks; i += kConsumerThreads) {
      const int token = i / kChunks;
      if (token >= first && token < end) continue;
#pragma unroll
      for (int p = 0; p < S::kParts; ++p) {
        *reinterpret_cast<uint4*>(values + p * S::kPart + i * 16) = make_uint4(0, 0, 0, 0);
      }
    }
    ProxyFence();
    BarrierOf(1, kConsumerThreads);
  }

  // s = exp(score - running maximum); keep: what the sums before are to be multiplied by.
  __device__ __forceinline__ void Weigh(float (&s)[kScores], int stage, const Tile& tile,
                                        float (&keep)[2]) {
    float factor = map_.factor;
    if (map_.cap > 0.0f) {
      factor = 1.0f;
#pragma unroll
      for (int i = 0; i < kScores; ++i) s[i] = map_(s[i]);
    }
    const int begin = stage * S::kKeys;
    const int last_first = FirstKey(args_.shape, tile.position + tile.rows);
    if (begin + S::kKeys > tile.position + 1 || begin < last_first) Mask(s, begin);
    float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kScores; ++i) best[i / 2 % 2] = fmaxf(best[i / 2 % 2], s[i]);
    float base[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      best[h] = fmaxf(best[h], __shfl_xor_sync(~0u, best[h], 1));
      best[h] = fmaxf(best[h], __shfl_xor_sync(~0u, best[h], 2));
      const float max = fmaxf(rows_.max[h], best[h] * factor);
      base[h] = ExpBase(max);
      keep[h] = Exp2(rows_.max[h] - base[h]);
      rows_.max[h] = max;
    }
    float sum[2] = {};
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int h = i / 2 % 2;
      s[i] = Exp2(fmaf(s[i], factor, -base[h]));
      sum[h] += s[i];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) rows_.sum[h] = rows_.sum[h] * keep[h] + sum[h];
  }

  __device__ __forceinline__ void Mask(float (&s)[kScores], int begin) const {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const int h = i / 2 % 2, key = begin + i / 4 * 8 + 2 * t + i % 2;
      if (key >= rows_.keys[h] || key < rows_.first[h]) s[i] = -INFINITY;
    }
  }

  // Scores as they lie in D, as the A of the next product.
  __device__ __forceinline__ void Pack(uint32_t (&weights)[kScores / 2],
                                       const float (&s)[kScores]) const {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) weights[i] = PackElements(s[2 * i], s[2 * i + 1]);
    Pin(weights);
  }

  __device__ __forceinline__ void PinOutput() {
#pragma unroll
    for (int p = 0; p < kProducts; ++p) Pin(o_[p]);
  }
  __device__ __forceinline__ void Rescale(const float (&keep)[2]) {
#pragma unroll
    for (int p = 0; p < kProducts; ++p) {
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) o_[p][i] *= keep[i / 2 % 2];
    }
  }

  __device__ __forceinline__ void Store(const Tile& tile) {
    const int group = args_.shape.heads / args_.shape.kv_heads, size = args_.shape.head_size;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = rows_.sum[h];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const float scale = 1.0f / sum;
      const int m = FirstRow() + 8 * h, row = m / group;
      Element* out =
          static_cast<Element*>(args_.out) +
          (int64_t{tile.row_begin + row} * args_.shape.heads + tile.kv_head * group + m % group) *
              size;
#pragma unroll
      for (int p = 0; p < kProducts; ++p) {
#pragma unroll
        for (int q = 0; q < kColumns / 32; ++q) {
          uint32_t w[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float* o = &o_[p][(q * 4 + j) * 4 + 2 * h];
            w[j] = PackElements(o[0] * scale, o[1] * scale);
          }
          Transpose(w);
          const int d = p * kColumns + q * 32 + 8 * t;
          if (row >= tile.rows || d >= size) continue;
          *reinterpret_cast<uint4*>(out + d) = make_uint4(w[0], w[1], w[2], w[3]);
        }
      }
    }
  }

  // Of the four lanes of a row: word j of lane t goes to word t of lane j.
  __device__ __forceinline__ void Transpose(uint32_t (&w)[4]) const {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const uint32_t got = __shfl_xor_sync(~0u, odd ? w[i] : w[i + 1], 1);
      w[i] = odd ? got : w[i];
      w[i + 1] = odd ? w[i + 1] : got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t got = __shfl_xor_sync(~0u, upper ? w[i] : w[i + 2], 2);
      w[i] = upper ? got : w[i];
      w[i + 2] = upper ? w[i + 2] : got;
    }
  }

  Shared<kHeadSize>& shared_;
  const AttendArgs& args_;
  const ScoreMap map_;
  float o_[kProducts][kColumns / 2];
  Rows rows_;
  StageCursor cursor_;
  unsigned turn_ = 0;
  int started_ = 0;
};

template <int kHeadSize>
__global__ void __launch_bounds__(kThreads, 1)
    AttendPrefillKernel(const __grid_constant__ CUtensorMap queries,
                        const __grid_constant__ CUtensorMap pages,
                        const __grid_constant__ AttendArgs args, StepTables step, int tiles,
                        int tile_rows) {
  extern __shared__ std::byte memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadSize>*>(
      memory + (kSharedAlignment - SharedAddress(memory) % kSharedAlignment) % kSharedAlignment);
  ReleaseSuccessor();
  if (threadIdx.x == 0) {
    Barriers& b = shared.barriers;
    BarrierInit(SharedAddress(&b.query_full), 1);
    BarrierInit(SharedAddress(&b.query_empty), kConsumerWarps);
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(SharedAddress(&b.key_full[i]), 1);
      BarrierInit(SharedAddress(&b.value_full[i]), 1);
      BarrierInit(SharedAddress(&b.key_empty[i]), kConsumerWarps);
      BarrierInit(SharedAddress(&b.value_empty[i]), kConsumerWarps);
    }
    ProxyFence();
  }
  __syncthreads();
  WaitForPredecessor();
  ProxyFence();
  if (threadIdx.x < kGroupThreads) {
    ReleaseRegisters<kCopyRegisters>();
    if (threadIdx.x < 32) Copy(shared, args, step, queries, pages, tiles, tile_rows);
  } else {
    ClaimRegisters<kProductRegisters>();
    Consumer<kHeadSize> consumer(shared, args);
    for (Turns turns(tiles); !turns.done(); turns.Next()) {
      consumer.Take(TileOf<kHeadSize>(args, step, turns.index(), tile_rows));
    }
  }
}

template <int kHeadSize>
void Launch(const AttendArgs& args, const CUtensorMap& queries, const CUtensorMap& pages,
            const StepTables& step, int64_t tiles, cudaStream_t stream) {
  constexpr int kShared = sizeof(Shared<kHeadSize>) + kSharedAlignment;
  static const cudaError_t raised = cudaFuncSetAttribute(
      AttendPrefillKernel<kHeadSize>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  static_cast<void>(raised);
  LaunchDependent(AttendPrefillKernel<kHeadSize>,
                  static_cast<unsigned>(std::min<int64_t>(tiles, MultiprocessorCount())), kThreads,
                  kShared, stream, queries, pages, args, step, static_cast<int>(tiles),
                  AttendTileRows(args.shape));
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// A map of boxes of 16-bit elements whose rows, at most 64 wide, are swizzled in shared memory.
template <int kRank>
absl::Status MapBoxes(CUtensorMap* map, const void* base, const cuuint64_t (&sizes)[kRank],
                      const cuuint64_t (&strides_bytes)[kRank - 1],
                      const cuuint32_t (&box)[kRank]) {
  static void* const encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                     &result);
    return found;
  }();
  if (encode == nullptr) return absl::FailedPreconditionError("the CUDA driver is too old");
  cuuint32_t steps[kRank];
  std::fill_n(steps, kRank, 1);
  const CUresult result = reinterpret_cast<EncodeTiled>(encode)(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(base), sizes, strides_bytes,
      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  return absl::InternalError("cannot describe a tensor to the device, error " +
                             std::to_string(result));
}

}  // namespace

int AttendTileRows(const AttentionShape& shape) {
  return kTileRows / (shape.heads / shape.kv_heads);
}

absl::Status MapPages(const KvCache& cache, CUtensorMap* map) {
  constexpr cuuint64_t kBlocksMax = 1 << 26;  // the arena's end is not known here
  const AttentionShape& shape = cache.shape;
  const cuuint64_t size = PaddedHeadSize(shape.head_size);
  const cuuint64_t matrices = cuuint64_t(shape.layers) * 2 * shape.kv_heads;
  return MapBoxes<4>(map, cache.arena, {size, kBlockTokens, matrices, kBlocksMax},
                     {size * 2, size * 2 * kBlockTokens, cuuint64_t(cache.block_bytes)},
                     {kSwizzleColumns, kBlockTokens, 1, 1});
}

absl::Status MapQueries(const AttentionShape& shape, const Tensor& qkv, CUtensorMap* map) {
  const cuuint64_t size = shape.head_size, heads = shape.heads;
  const cuuint32_t group = shape.heads / shape.kv_heads;
  return MapBoxes<3>(map, qkv.data, {size, heads, cuuint64_t(qkv.rows)},
                     {size * 2, cuuint64_t(qkv.columns) * 2},
                     {kSwizzleColumns, group, cuuint32_t(AttendTileRows(shape))});
}

void LaunchAttendPrefill(const AttendArgs& args, const CUtensorMap& queries,
                         const CUtensorMap& pages, const StepTables& step, int64_t tiles,
                         cudaStream_t stream) {
  const int padded = PaddedHeadSize(args.shape.head_size);
  const auto launch = padded == 64 ? Launch<64> : padded == 128 ? Launch<128> : Launch<256>;
  launch(args, queries, pages, step, tiles * args.shape.kv_heads, stream);
}

}  // namespace lorica::cuda
