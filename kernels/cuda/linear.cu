// y = W x for up to kStreamRowsMax rows, at the speed at which memory gives the weights.
//
// A block takes tiles of output features, one after the other, or a single tile and one of
// `splits` ranges of the inputs. Tiles are as high as makes all multiprocessors equally busy: a
// single one cannot take weights faster than at a rate of its own. One thread copies tiles of W
// and x into a ring of shared memory with the tensor copy engine; four warps, with many rows eight,
// multiply them there: W is the left operand, rows of the batch are the columns of the product. Of
// more than 32 rows it is the other way round: four warps take 64 rows of the batch as the left
// operand, and the columns are the features of a tile, only as many as it has. So less is
// multiplied and read from shared memory: power is what bounds steps of so many rows, since a card
// that is at its limit lowers its clock.
// With splits each block leaves its sums as a part, and who reads the product adds the parts in
// order. Splits follow from the weight's shape alone, so a row's bits do not depend on how many
// rows there are.
//
// A block fills its ring before the launch ahead has ended: while the small kernels between
// two products run, the next product's weights are on their way. Later no more stages are on
// their way than keep memory busy: what others ask for waits behind them. Weights are marked to
// leave the cache first: tables, code and activations stay in it.
//
// In a step with adapters the blocks have LoRA warps too, which shrink and expand while the
// others multiply (lora.cuh). So adapters cost bytes, and no launch of their own. Their grid
// has a block for every multiprocessor, whether there is a part of the product for it or not.
// Each kind of warps has the registers that it needs: so few in all that blocks of the launches
// around fit in beside one of up to 32 rows.
#include <type_traits>

#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/lora.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kInputs = kStreamTileInputs;  // of a step: 128 bytes, the width of the swizzle
constexpr int kInputBytes = kInputs * 2;
constexpr int kSlice = 64;      // features of one instruction
constexpr int kGroupWarps = 4;  // that change their registers together
// Beside LoRA warps that have more items fewer stages are on their way, before x is there and then:
// what those ask for would wait behind them.
constexpr int kBusyItems = 2, kBusyEarlyFlight = 1, kBusyFlight = 4;

// Ring of a kernel for kRows rows and tiles of kFeatures: leaves room for the blocks between two
// products, and for what LoRA warps have there.
constexpr int RingBytes(int rows, int features, bool lora) {
  int kilobytes = rows <= 64 ? 148 : features > kStreamTileFeatures ? 196 : 164;
  if (lora) kilobytes = rows == 64 ? 121 : 140;
  return kilobytes << 10;
}

// How kernels for kRows rows and tiles of at most kFeatures are laid out.
template <int kRows, int kFeatures, bool kLora>
struct Form {
  static constexpr bool kRowsLeft = kRows >= kSlice;
  static constexpr int kWarps = kRowsLeft ? kRows / kSlice * 4 : 4;   // multiply
  static constexpr int kSlices = kRowsLeft ? 1 : kFeatures / kSlice;  // that a warp works on
  // Four LoRA warps leave blocks of other launches room beside them; 64 rows may be of 64 adapters,
  // which take eight.
  using Lora = LoraLayout<kRows == 64 ? 8 : 4>;
  // Where registers are short, the thread that fills the ring has a group of warps, whose
  // registers go to the others.
  static constexpr bool kSharesRegisters = kLora || kFeatures > kStreamTileFeatures;
  static constexpr int kFillWarps = kSharesRegisters ? kGroupWarps : 1;
  static constexpr int kOtherWarps = (kLora ? Lora::kWarps : 0) + kFillWarps;
  static constexpr int kThreads = (kWarps + kOtherWarps) * 32;
  static constexpr int kWeightBytes = kFeatures * kInputBytes;
  static constexpr int kStageBytes = kWeightBytes + kRows * kInputBytes;
  static constexpr int kStages = RingBytes(kRows, kFeatures, kLora) / kStageBytes;
  // Most on their way at a time while the launch ahead needs memory too.
  static constexpr int kEarlyFlight = 2;
  // Steps whose products may be under way when those of the next begin. With more rows the stages
  // are too few for one to be held longer.
  static constexpr int kOverlap = kRows <= 32 ? 1 : 0;
  static constexpr int kLoraOffset = kStages * kStageBytes;
  static constexpr int kSharedBytes = kLoraOffset + (kLora ? Lora::kBytes : 0) + 1024;
  static constexpr int kBarriers = 3 * kStages;
  static_assert(kSharedBytes + kBarriers * 8 <= 227 << 10);
  // Bounds registers: blocks of the kernels between are to fit in beside a block of few rows.
  static constexpr int kFewRowsBlocks = kLora ? 2 : 3;
  static constexpr int kBlocks = kRows <= 32 ? kFewRowsBlocks : kThreads <= 256 ? 2 : 1;
};

// Registers of a thread where kinds of warps share them: at launch, and then.
template <int kRows, bool kLora>
struct SharedRegisters {
  static constexpr bool kFew = kRows <= 32;
  static constexpr int kLaunch = kFew ? 80 : kLora ? 128 : 168;
  static constexpr int kProduct = kFew ? 72 : kRows == 64 ? 128 : kLora ? 160 : 216;
  static constexpr int kLoraWarps = kFew ? 136 : kRows == 64 ? 168 : 152;
  static constexpr int kFill = kFew ? 32 : 40;

  static constexpr bool Suffice(int product_warps, int lora_warps, int fill_warps) {
    return product_warps * kProduct + lora_warps * kLoraWarps + fill_warps * kFill <=
           (product_warps + lora_warps + fill_warps) * kLaunch;
  }
};

struct Barriers {
  uint32_t w, x, empty;  // of stage 0; those of the next stages follow, 8 bytes apart
};

// The work of a block: tiles of features, each over inputs [begin, end) in steps.
struct Work {
  int tile_features;
  int first_tile, tile_stride, tiles;
  int begin, end;
  int split;

  __device__ int per_tile() const { return end - begin; }
  __device__ int steps() const { return tiles * per_tile(); }
};

// Where a step of the work lies in the weight.
struct Place {
  int feature, input;
};

struct Walk {
  Work work;
  int tile, step;

  __device__ explicit Walk(const Work& work) : work(work), tile(work.first_tile), step(0) {}
  __device__ Place Next() {
    const Place place = {tile * work.tile_features, (work.begin + step) * kInputs};
    if (++step == work.per_tile()) {
      step = 0;
      tile += work.tile_stride;
    }
    return place;
  }
};

// The block's work in a grid of `columns` tiles side by side, each in `splits` parts.
__device__ __forceinline__ Work WorkOf(int features, int tile_features, int input_steps, int splits,
                                       int columns) {
  const int all_tiles = (features + tile_features - 1) / tile_features;
  Work work;
  work.tile_features = tile_features;
  work.split = blockIdx.x % splits;
  work.first_tile = blockIdx.x / splits;
  work.tile_stride = columns;
  work.tiles =
      work.first_tile < columns ? (all_tiles - work.first_tile + columns - 1) / columns : 0;
  work.begin = input_steps * work.split / splits;
  work.end = input_steps * (work.split + 1) / splits;
  return work;
}

// Fills the ring: steps of the work in their order.
template <typename F, int kRows>
struct Producer {
  const CUtensorMap& w_map;
  const CUtensorMap& x_map;
  uint32_t ring;
  Barriers barriers;
  Walk walk, ahead;  // of all tiles; of weights alone
  int steps;

  __device__ Producer(const CUtensorMap& w_map, const CUtensorMap& x_map, uint32_t ring,
                      Barriers barriers, const Work& work)
      : w_map(w_map),
        x_map(x_map),
        ring(ring),
        barriers(barriers),
        walk(work),
        ahead(work),
        steps(work.steps()) {}

  __device__ void LoadW(int stage, Place place) const {
    BarrierExpect(barriers.w + stage * 8, walk.work.tile_features * kInputBytes);
    CopyTile(ring + stage * F::kStageBytes, w_map, place.input, place.feature,
             barriers.w + stage * 8, kEvictFirst);
  }
  __device__ void LoadX(int stage, Place place) const {
    BarrierExpect(barriers.x + stage * 8, F::kStageBytes - F::kWeightBytes);
    CopyTile(ring + stage * F::kStageBytes + F::kWeightBytes, x_map, place.input, 0,
             barriers.x + stage * 8, kEvictLast);
  }
  // Weights of the first stages. They do not wait for the launch ahead.
  __device__ void Start() {
    for (int i = 0; i < min(steps, F::kEarlyFlight); ++i) LoadW(i, ahead.Next());
  }
  // Those of all others, with `early` on their way at a time.
  __device__ void FillW(int early) {
    for (int i = F::kEarlyFlight; i < min(steps, F::kStages); ++i) {
      BarrierWait(barriers.w + (i - early) * 8, 0);
      LoadW(i, ahead.Next());
    }
  }
  // x of all stages.
  __device__ void FillX() {
    WaitForPredecessor();
    ReleaseSuccessor();
    for (int i = 0; i < min(steps, F::kStages); ++i) LoadX(i, walk.Next());
  }
  // What follows the start. Of later steps no more than `flight` are on their way.
  __device__ void Fill(int early, int flight) {
    FillW(early);
    FillX();
    for (int i = F::kStages; i < steps; ++i) {
      const int read = i - flight;
      BarrierWait(barriers.empty + read % F::kStages * 8, read / F::kStages & 1);
      const Place place = walk.Next();
      LoadW(i % F::kStages, place);
      LoadX(i % F::kStages, place);
    }
  }
};

// Begins d[i] += left[kSlice, kInputs] right[kWidth, kInputs]^T, slices of the left operand from
// `slice` on: W, with rows of the batch on the right, or with kRowsLeft the rows.
template <typename F, int kCount, int kWidth>
__device__ __forceinline__ void MultiplyStep(float (&d)[kCount][kWidth / 2], uint32_t stage,
                                             int slice) {
  const uint32_t x = stage + F::kWeightBytes;
  const uint32_t left = F::kRowsLeft ? x : stage, right = F::kRowsLeft ? stage : x;
  FenceRegisters();
#pragma unroll
  for (int k = 0; k < kInputs / 16; ++k) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const uint32_t from = left + (slice + i) * kSlice * kInputBytes + k * 32;
      ProductOf<kWidth>(d[i], SwizzledMatrix(from), SwizzledMatrix(right + k * 32));
    }
  }
  CommitProducts();
}

// Products that are under way own the sums: nothing else is to touch them meanwhile.
template <int kCount, int kSums>
__device__ __forceinline__ void KeepInRegisters(float (&d)[kCount][kSums]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < kSums; ++j) asm volatile("" : "+f"(d[i][j])::"memory");
  }
}

// A thread's sums of a slice as fp32: whole 32-byte sectors of 8 features, those below `end`.
template <int kRows>
__device__ __forceinline__ void StorePart(float* part, const float (&d)[kRows / 2], int rows,
                                          int first, int end, int features) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int feature = first + warp * 16 + g;
  float* to = part + int64_t{2} * t * features + feature;
#pragma unroll
  for (int j = 0; j < kRows / 2; j += 4, to += int64_t{8} * features) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = j * 2 + 2 * t + i % 2 < rows && feature + i / 2 * 8 < end;
      if (inside) to[i % 2 * features + i / 2 * 8] = d[j + i];
    }
  }
}

// The same as elements: neighbouring lanes swap, so that each stores two features of one row.
template <int kRows>
__device__ __forceinline__ void StoreTile(Element* y, const float (&d)[kRows / 2], int rows,
                                          int first, int end, int features) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const bool odd = g % 2 != 0;
  const int feature = first + warp * 16 + g / 2 * 2, row = 2 * t + odd;
  Element* to = y + int64_t{row} * features + feature;
#pragma unroll
  for (int j = 0; j < kRows / 2; j += 4, to += int64_t{8} * features) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const float mine = odd ? d[j + i + 1] : d[j + i];
      const float given = odd ? d[j + i] : d[j + i + 1];
      const float taken = __shfl_xor_sync(~0u, given, 4);
      const uint32_t pair = odd ? PackElements(taken, mine) : PackElements(mine, taken);
      const bool inside = j * 2 + row < rows && feature + i * 4 < end;
      if (inside) *reinterpret_cast<uint32_t*>(to + i * 4) = pair;
    }
  }
}

__device__ __forceinline__ void StorePair(Element* to, float2 pair) {
  *reinterpret_cast<uint32_t*>(to) = PackElements(pair.x, pair.y);
}
__device__ __forceinline__ void StorePair(float* to, float2 pair) {
  *reinterpret_cast<float2*>(to) = pair;
}

// The same where rows of the batch were left, from `row` on: a thread has two of them, of which it
// stores features first + 2 t and the next, and so on every 8. Odd widths have no aligned pairs.
template <int kWidth, typename T>
__device__ __forceinline__ void StoreRows(T* y, const float (&d)[kWidth / 2], int rows, int row,
                                          int first, int end, int features) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  row += warp * 16 + g;
  const int feature = first + 2 * t;
  T* to = y + int64_t{row} * features + feature;
#pragma unroll
  for (int i = 0; i < 2; ++i, to += int64_t{8} * features) {
    if (row + i * 8 >= rows) return;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      const float2 pair = make_float2(d[j * 4 + i * 2], d[j * 4 + i * 2 + 1]);
      if (features % 2 == 0) {
        if (feature + j * 8 < end) StorePair(to + j * 8, pair);
      } else {
        if (feature + j * 8 < end) to[j * 8] = T(pair.x);
        if (feature + j * 8 + 1 < end) to[j * 8 + 1] = T(pair.y);
      }
    }
  }
}

// Does the block's work with kWidth columns; sums go to `y`, or as a part if that is null.
template <typename F, int kWidth>
__device__ __forceinline__ void Multiply(Element* y, float* parts, int rows, int features,
                                         uint32_t ring, Barriers barriers, const Work& work) {
  constexpr int kCount = F::kSlices;
  const int slice = threadIdx.x / 128;
  float* const part = parts + int64_t{work.split} * rows * features;
  const auto release = [&](int stage) {
    if (threadIdx.x % 32 != 0) return;
    BarrierArrive(barriers.empty + (stage < 0 ? stage + F::kStages : stage) * 8);
  };
  int stage = 0, phase = 0;
#pragma unroll 1
  for (int i = 0; i < work.tiles; ++i) {
    float d[kCount][kWidth / 2] = {};
    KeepInRegisters(d);
#pragma unroll 1
    for (int step = 0; step < work.per_tile(); ++step) {
      BarrierWait(barriers.w + stage * 8, phase);
      BarrierWait(barriers.x + stage * 8, phase);
      MultiplyStep<F, kCount, kWidth>(d, ring + stage * F::kStageBytes, slice);
      WaitForProducts<F::kOverlap>();
      if (step >= F::kOverlap) release(stage - F::kOverlap);
      if (++stage == F::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    WaitForProducts();
    KeepInRegisters(d);
    if (F::kOverlap > 0 && work.per_tile() > 0) release(stage - 1);
    const int tile = (work.first_tile + i * work.tile_stride) * work.tile_features;
    const int end = min(tile + work.tile_features, features);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int first = (slice + j) * kSlice;  // row, or feature of the tile
      if constexpr (F::kRowsLeft) {
        y ? StoreRows<kWidth>(y, d[j], rows, first, tile, end, features)
          : StoreRows<kWidth>(part, d[j], rows, first, tile, end, features);
      } else if (!y) {
        StorePart<kWidth>(part, d[j], rows, tile + first, end, features);
      } else {
        StoreTile<kWidth>(y, d[j], rows, tile + first, end, features);
      }
    }
  }
}

// The same where rows of the batch are left: with the fewest columns that the tiles fit into.
template <typename F, int kWidth, int... kWider>
__device__ __forceinline__ void MultiplyWidth(Element* y, float* parts, int rows, int features,
                                              uint32_t ring, Barriers barriers, const Work& work) {
  if constexpr (sizeof...(kWider) > 0) {
    if (work.tile_features > kWidth) {
      return MultiplyWidth<F, kWider...>(y, parts, rows, features, ring, barriers, work);
    }
  }
  Multiply<F, kWidth>(y, parts, rows, features, ring, barriers, work);
}

// What lies in a stage beyond the tile may be multiplied, too. As zeros it takes less power.
template <typename F>
__device__ __forceinline__ void ClearBeyondTile(std::byte* ring, int tile_features, int rows) {
  const int begin = tile_features * kInputBytes, bytes = rows * kInputBytes - begin;
  for (int i = threadIdx.x * 16; i < bytes * F::kStages; i += F::kThreads * 16) {
    std::byte* to = ring + i / bytes * F::kStageBytes + begin + i % bytes;
    *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

struct NoLora {};

template <int kRows, int kFeatures, bool kLora>
__global__ void __launch_bounds__(Form<kRows, kFeatures, kLora>::kThreads,
                                  Form<kRows, kFeatures, kLora>::kBlocks)
    StreamKernel(const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map, Element* y, float* parts, int rows,
                 int features, int tile_features, int input_steps, int splits, int columns,
                 const __grid_constant__ std::conditional_t<kLora, LoraWork, NoLora> lora) {
  using F = Form<kRows, kFeatures, kLora>;
  using R = SharedRegisters<kRows, kLora>;
  static_assert(!F::kSharesRegisters ||
                R::Suffice(F::kWarps, kLora ? F::Lora::kWarps : 0, F::kFillWarps));
  extern __shared__ std::byte shared[];
  __shared__ __align__(8) uint64_t barrier_words[F::kBarriers];
  const uint32_t base = SharedAddress(shared), ring = (base + 1023) & ~1023u;
  const Barriers barriers = {SharedAddress(barrier_words),
                             SharedAddress(barrier_words + F::kStages),
                             SharedAddress(barrier_words + 2 * F::kStages)};
  const Work work = WorkOf(features, tile_features, input_steps, splits, columns);
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      BarrierInit(barriers.w + i * 8, 1);
      BarrierInit(barriers.x + i * 8, 1);
      BarrierInit(barriers.empty + i * 8, F::kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (F::kRowsLeft && tile_features < kFeatures) {
    ClearBeyondTile<F>(shared + (ring - base), tile_features, kFeatures);
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  Producer<F, kRows> producer(w_map, x_map, ring, barriers, work);
  if (warp < F::kWarps) {
    if constexpr (F::kSharesRegisters) SetRegisters<R::kLaunch, R::kProduct>();
    if constexpr (!F::kRowsLeft) {
      Multiply<F, kRows>(y, parts, rows, features, ring, barriers, work);
    } else if constexpr (kFeatures > kStreamTileFeatures) {
      MultiplyWidth<F, 160, 192, 224, 256>(y, parts, rows, features, ring, barriers, work);
    } else {
      MultiplyWidth<F, 64, 96, 112, 128>(y, parts, rows, features, ring, barriers, work);
    }
    return;
  }
  const bool fills = threadIdx.x == F::kThreads - F::kFillWarps * 32;
  if (fills) producer.Start();
  int early = F::kEarlyFlight, flight = F::kStages;
  if constexpr (kLora) {
    const int thread = threadIdx.x - F::kWarps * 32;
    if (thread < F::Lora::kThreads) {
      SetRegisters<R::kLaunch, R::kLoraWarps>();
      RunLora<typename F::Lora>(lora, thread, shared + (ring - base) + F::kLoraOffset);
      return;
    }
    const ShrinkStart& share = lora.shrink_starts[blockIdx.x];
    if (share.last - share.item > kBusyItems) {
      early = kBusyEarlyFlight;
      flight = min(flight, kBusyFlight);
    }
  }
  if constexpr (F::kSharesRegisters) SetRegisters<R::kLaunch, R::kFill>();
  if constexpr (kLora) {
    if (warp == F::kThreads / 32 - 1) PrefetchNext(lora);
  }
  if (fills) producer.Fill(early, flight);
}

// y = the parts, added in order.
template <typename T>
__global__ void AddPartsKernel(T* y, const float* parts, int splits, int64_t count) {
  WaitForPredecessor();
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 2;
  if (i >= count) return;
  float2 sum = make_float2(0.0f, 0.0f);
  for (int s = 0; s < splits; ++s) {
    const float2 more = *reinterpret_cast<const float2*>(parts + s * count + i);
    sum = make_float2(sum.x + more.x, sum.y + more.y);
  }
  StorePair(y + i, sum);
}

template <int kRows, int kFeatures, bool kLora>
void LaunchForm(const StreamLinearArgs& args,
                const std::conditional_t<kLora, LoraWork, NoLora>& lora, cudaStream_t stream) {
  using F = Form<kRows, kFeatures, kLora>;
  constexpr auto* kKernel = StreamKernel<kRows, kFeatures, kLora>;
  static const bool prepared = PrepareShared(kKernel, F::kSharedBytes);
  static_cast<void>(prepared);
  const WeightTiles& w = kFeatures > kStreamTileFeatures ? *args.wide_tiles : *args.tiles;
  const int tiles = static_cast<int>((args.out_features + w.features - 1) / w.features);
  const int rounds = (tiles + MultiprocessorCount() - 1) / MultiprocessorCount();
  const int columns = (tiles + rounds - 1) / rounds;
  const int blocks = kLora ? MultiprocessorCount() : columns * args.splits;
  LaunchDependent(kKernel, blocks, F::kThreads, F::kSharedBytes, stream, w.map, *args.x_map,
                  static_cast<Element*>(args.y), args.parts, args.rows,
                  static_cast<int>(args.out_features), w.features,
                  static_cast<int>((args.in_features + kInputs - 1) / kInputs), args.splits,
                  columns, lora);
}

template <int kRows>
void Launch(const StreamLinearArgs& args, cudaStream_t stream) {
  if (args.lora) {
    const LoraWork work = MakeLoraWork(*args.lora, *args.step, *args.plan);
    LaunchForm<kRows, kStreamTileFeatures, true>(args, work, stream);
    return;
  }
  if constexpr (kRows == kStreamRowsMax) {
    if (args.wide_tiles) return LaunchForm<kRows, kStreamWideFeatures, false>(args, {}, stream);
  }
  LaunchForm<kRows, kStreamTileFeatures, false>(args, {}, stream);
}

}  // namespace

int StreamSplits(int64_t out_features, int64_t in_features) {
  const int64_t tiles = (out_features + kStreamTileFeatures - 1) / kStreamTileFeatures;
  const int64_t steps = (in_features + kInputs - 1) / kInputs;
  int splits = kStreamSplitsMax;
  while (splits > 1 && (tiles * splits > MultiprocessorCount() || splits > steps)) --splits;
  return splits;
}

int StreamTileFeatures(int64_t out_features, int splits, int most) {
  constexpr int64_t kAtom = 8;  // rows of the swizzle's pattern
  const int64_t at_once = MultiprocessorCount() / splits;
  const int64_t rounds = (out_features + at_once * most - 1) / (at_once * most);
  const int64_t height = (out_features + at_once * rounds - 1) / (at_once * rounds);
  return static_cast<int>((height + kAtom - 1) / kAtom * kAtom);
}

bool StreamsWide(int64_t out_features) {
  return out_features > int64_t{MultiprocessorCount()} * kStreamTileFeatures;
}

int StreamRows(int64_t rows) {
  int padded = 8;
  while (padded < rows) padded *= 2;
  return padded;
}

void LaunchStreamLinear(const StreamLinearArgs& args, cudaStream_t stream) {
  switch (StreamRows(args.rows)) {
    case 8:
      return Launch<8>(args, stream);
    case 16:
      return Launch<16>(args, stream);
    case 32:
      return Launch<32>(args, stream);
    case 64:
      return Launch<64>(args, stream);
    default:
      return Launch<128>(args, stream);
  }
}

void LaunchAddParts(void* y, bool wide, const float* parts, int splits, int64_t count,
                    cudaStream_t stream) {
  constexpr int kBlock = 256;
  const auto blocks = static_cast<unsigned>((count / 2 + kBlock - 1) / kBlock);
  if (wide) {
    AddPartsKernel<<<blocks, kBlock, 0, stream>>>(static_cast<float*>(y), parts, splits, count);
  } else {
    AddPartsKernel<<<blocks, kBlock, 0, stream>>>(static_cast<Element*>(y), parts, splits, count);
  }
}

}  // namespace lorica::cuda
