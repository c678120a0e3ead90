// y = W x for up to kStreamRowsMax rows, at the speed at which memory gives the weights.
//
// A block takes tiles of kStreamTileFeatures output features, one after the other, or a
// single tile and one of `splits` ranges of the inputs. One warp, or two threads of those that
// multiply, copies tiles of W and x into a ring of shared memory with the tensor copy engine;
// four warps, with many rows eight, multiply them there: W is the left operand, rows of the
// batch are the columns of the product. With splits each block leaves its sums as a part, and
// who reads the product adds the parts in order. Splits follow from the weight's shape alone,
// so a row's bits do not depend on how many rows there are.
//
// A block fills its ring before the launch ahead has ended: while the small kernels between
// two products run, the next product's weights are on their way. Later no more stages are on
// their way than keep memory busy: what others ask for waits behind them. Weights are marked to
// leave the cache first: tables, code and activations stay in it.
//
// In a step with adapters the blocks have LoRA warps too, which shrink and expand while the
// others multiply (lora.cuh). So adapters cost bytes, and no launch of their own. Their grid
// has a block for every multiprocessor, whether there is a part of the product for it or not.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/lora.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kFeatures = kStreamTileFeatures;
constexpr int kInputs = kStreamTileInputs;  // of a step: 128 bytes, the width of the swizzle
constexpr int kWeightBytes = kFeatures * kInputs * 2;

// How kernels for kRows rows are laid out.
template <int kRows, bool kLora>
struct Form {
  static constexpr int kHalves = kRows > 64 ? 1 : 2;  // of 64 features that a warp works on
  static constexpr int kWarps = 8 / kHalves;          // that multiply
  // Registers are given to warps in fours: beside LoRA warps, one that multiplies fills the ring.
  static constexpr int kOtherWarps = kLora ? kLoraWarps : 1;
  static constexpr int kThreads = (kWarps + kOtherWarps) * 32;
  static constexpr int kStageBytes = kWeightBytes + kRows * kInputs * 2;
  using Lora = LoraLayout<kRows <= 64>;
  // Leaves room for the blocks between two products, or for the LoRA warps.
  static constexpr int kRingBytes = (kLora         ? kRows <= 64 ? 121 : 148
                                     : kRows <= 64 ? 148
                                                   : 164)
                                    << 10;
  static constexpr int kStages = kRingBytes / kStageBytes;
  // Most on their way: while products of the launch ahead are finished, and later.
  static constexpr int kEarlyFlight = kLora ? 2 : kStages;
  static constexpr int kFlight = kLora ? std::min(kStages, 4) : kStages;
  static constexpr int kLoraOffset = kStages * kStageBytes;
  static constexpr int kSharedBytes = kLoraOffset + (kLora ? Lora::kBytes : 0) + 1024;
  static constexpr int kBarriers = 3 * kStages;
  static_assert(kSharedBytes + kBarriers * 8 <= 227 << 10);
  // Bounds of registers: blocks of the kernels between are to fit in, except beside LoRA warps.
  static constexpr int kBoundThreads = kThreads;
  static constexpr int kBoundBlocks = kLora || kRows > 64 ? 1 : kRows > 32 ? 2 : 3;
};

struct Barriers {
  uint32_t w, x, empty;  // of stage 0; those of the next stages follow, 8 bytes apart
};

// The work of a block: tiles of features, each over inputs [begin, end) in steps.
struct Work {
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
    const Place place = {tile * kFeatures, (work.begin + step) * kInputs};
    if (++step == work.per_tile()) {
      step = 0;
      tile += work.tile_stride;
    }
    return place;
  }
};

// The block's work in a grid of `columns` tiles side by side, each in `splits` parts.
__device__ __forceinline__ Work WorkOf(int features, int input_steps, int splits, int columns) {
  const int all_tiles = (features + kFeatures - 1) / kFeatures;
  Work work;
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
  Walk walk;
  int steps;

  __device__ Producer(const CUtensorMap& w_map, const CUtensorMap& x_map, uint32_t ring,
                      Barriers barriers, const Work& work)
      : w_map(w_map),
        x_map(x_map),
        ring(ring),
        barriers(barriers),
        walk(work),
        steps(work.steps()) {}

  __device__ void LoadW(int stage, Place place) const {
    BarrierExpect(barriers.w + stage * 8, kWeightBytes);
    CopyTile(ring + stage * F::kStageBytes, w_map, place.input, place.feature,
             barriers.w + stage * 8, kEvictFirst);
  }
  __device__ void LoadX(int stage, Place place) const {
    BarrierExpect(barriers.x + stage * 8, F::kStageBytes - kWeightBytes);
    CopyTile(ring + stage * F::kStageBytes + kWeightBytes, x_map, place.input, 0,
             barriers.x + stage * 8, kEvictLast);
  }
  // Weights of all stages. They do not wait for the launch ahead.
  __device__ void FillW() const {
    Walk ahead = walk;
    for (int i = 0; i < min(steps, F::kStages); ++i) {
      if (i >= F::kEarlyFlight) BarrierWait(barriers.w + (i - F::kEarlyFlight) * 8, 0);
      LoadW(i, ahead.Next());
    }
  }
  // x of all stages.
  __device__ void FillX() {
    WaitForPredecessor();
    ReleaseSuccessor();
    for (int i = 0; i < min(steps, F::kStages); ++i) LoadX(i, walk.Next());
  }
  // Both for a later step, into a stage that was read `use` times.
  __device__ void Refill(int stage, int use) {
    BarrierWait(barriers.empty + stage * 8, (use - 1) & 1);
    const Place place = walk.Next();
    LoadW(stage, place);
    LoadX(stage, place);
  }
};

// d[half] += W[64 features of the half, kInputs] x[kRows, kInputs]. `half`: the first.
template <int kRows, int kHalves>
__device__ __forceinline__ void MultiplyStep(float (&d)[kHalves][kRows / 2], uint32_t stage,
                                             int half) {
  FenceRegisters();
#pragma unroll
  for (int k = 0; k < kInputs / 16; ++k) {
#pragma unroll
    for (int i = 0; i < kHalves; ++i) {
      const uint64_t left = SwizzledMatrix(stage + (half + i) * 64 * kInputs * 2 + k * 32);
      WarpgroupMma<kRows>(d[i], left, stage + kWeightBytes + k * 32);
    }
  }
  CommitProducts();
  WaitForProducts();
}

// A thread's sums of 64 features as fp32: whole 32-byte sectors of 8 features.
template <int kRows>
__device__ __forceinline__ void StorePart(float* part, const float (&d)[kRows / 2], int rows,
                                          int first, int features) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int feature = first + warp * 16 + g;
  float* to = part + int64_t{2} * t * features + feature;
#pragma unroll
  for (int j = 0; j < kRows / 2; j += 4, to += int64_t{8} * features) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = j * 2 + 2 * t + i % 2 < rows && feature + i / 2 * 8 < features;
      if (inside) to[i % 2 * features + i / 2 * 8] = d[j + i];
    }
  }
}

// The same as elements: neighbouring lanes swap, so that each stores two features of one row.
template <int kRows>
__device__ __forceinline__ void StoreTile(Element* y, const float (&d)[kRows / 2], int rows,
                                          int first, int features) {
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
      const bool inside = j * 2 + row < rows && feature + i * 4 < features;
      if (inside) *reinterpret_cast<uint32_t*>(to + i * 4) = pair;
    }
  }
}

// `done` is called after each step.
template <typename F, int kRows, typename Done>
__device__ __forceinline__ void Multiply(Element* y, float* parts, int rows, int features,
                                         int splits, uint32_t ring, Barriers barriers,
                                         const Work& work, Done done) {
  const int half = threadIdx.x / 128 * F::kHalves;
  int stage = 0, phase = 0;
#pragma unroll 1
  for (int i = 0; i < work.tiles; ++i) {
    float d[F::kHalves][kRows / 2] = {};
#pragma unroll 1
    for (int step = 0; step < work.per_tile(); ++step) {
      BarrierWait(barriers.w + stage * 8, phase);
      BarrierWait(barriers.x + stage * 8, phase);
      MultiplyStep<kRows, F::kHalves>(d, ring + stage * F::kStageBytes, half);
      if (threadIdx.x % 32 == 0) BarrierArrive(barriers.empty + stage * 8);
      done();
      if (++stage == F::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    const int first = (work.first_tile + i * work.tile_stride) * kFeatures + half * 64;
#pragma unroll
    for (int h = 0; h < F::kHalves; ++h) {
      if (!y) {
        StorePart<kRows>(parts + int64_t{work.split} * rows * features, d[h], rows, first + h * 64,
                         features);
      } else {
        StoreTile<kRows>(y, d[h], rows, first + h * 64, features);
      }
    }
  }
}

// The warps that multiply, where two of their threads fill the ring.
template <typename F, int kRows>
__device__ __forceinline__ void MultiplyAndFill(Element* y, float* parts, int rows, int features,
                                                int splits, uint32_t ring, Barriers barriers,
                                                const Work& work, Producer<F, kRows> producer) {
  if (threadIdx.x == 32) producer.FillW();
  if (threadIdx.x == 0) producer.FillX();
  __syncwarp();
  int steps = 0, next = F::kStages, stage = 0, use = 1;
  Multiply<F, kRows>(y, parts, rows, features, splits, ring, barriers, work, [&] {
    ++steps;
    if (threadIdx.x == 0 && next < producer.steps && next < steps + F::kFlight) {
      producer.Refill(stage, use);
      ++next;
      if (++stage == F::kStages) {
        stage = 0;
        ++use;
      }
    }
    __syncwarp();
  });
}

struct NoLora {};

template <int kRows, bool kLora>
__global__ void __launch_bounds__(Form<kRows, kLora>::kBoundThreads,
                                  Form<kRows, kLora>::kBoundBlocks)
    StreamKernel(const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map, Element* y, float* parts, int rows,
                 int features, int input_steps, int splits, int columns,
                 const __grid_constant__ std::conditional_t<kLora, LoraWork, NoLora> lora) {
  using F = Form<kRows, kLora>;
  extern __shared__ std::byte shared[];
  __shared__ __align__(8) uint64_t barrier_words[F::kBarriers];
  const uint32_t base = SharedAddress(shared), ring = (base + 1023) & ~1023u;
  const Barriers barriers = {SharedAddress(barrier_words),
                             SharedAddress(barrier_words + F::kStages),
                             SharedAddress(barrier_words + 2 * F::kStages)};
  const Work work = WorkOf(features, input_steps, splits, columns);
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      BarrierInit(barriers.w + i * 8, 1);
      BarrierInit(barriers.x + i * 8, 1);
      BarrierInit(barriers.empty + i * 8, F::kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  Producer<F, kRows> producer(w_map, x_map, ring, barriers, work);
  if (warp < F::kWarps) {
    if constexpr (kLora) {
      MultiplyAndFill<F, kRows>(y, parts, rows, features, splits, ring, barriers, work, producer);
    } else {
      Multiply<F, kRows>(y, parts, rows, features, splits, ring, barriers, work, [] {});
    }
  } else if constexpr (kLora) {
    const int thread = threadIdx.x - F::kWarps * 32;
    std::byte* stages = shared + (ring - base) + F::kLoraOffset;
    RunLora<typename F::Lora>(lora, thread, stages);
  } else if (threadIdx.x % 32 == 0) {
    producer.FillW();
    producer.FillX();
    for (int i = F::kStages; i < producer.steps; ++i) {
      producer.Refill(i % F::kStages, i / F::kStages);
    }
  }
}

__device__ __forceinline__ void StorePair(Element* to, float2 pair) {
  *reinterpret_cast<uint32_t*>(to) = PackElements(pair.x, pair.y);
}
__device__ __forceinline__ void StorePair(float* to, float2 pair) {
  *reinterpret_cast<float2*>(to) = pair;
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

template <int kRows, bool kLora>
void LaunchForm(const StreamLinearArgs& args,
                const std::conditional_t<kLora, LoraWork, NoLora>& lora, cudaStream_t stream) {
  using F = Form<kRows, kLora>;
  static const bool prepared = PrepareShared(StreamKernel<kRows, kLora>, F::kSharedBytes);
  static_cast<void>(prepared);
  const int tiles = static_cast<int>((args.out_features + kFeatures - 1) / kFeatures);
  const int rounds = (tiles + MultiprocessorCount() - 1) / MultiprocessorCount();
  const int columns = (tiles + rounds - 1) / rounds;
  const int blocks = kLora ? MultiprocessorCount() : columns * args.splits;
  LaunchDependent(StreamKernel<kRows, kLora>, blocks, F::kThreads, F::kSharedBytes, stream,
                  *args.w_map, *args.x_map, static_cast<Element*>(args.y), args.parts, args.rows,
                  static_cast<int>(args.out_features),
                  static_cast<int>((args.in_features + kInputs - 1) / kInputs), args.splits,
                  columns, lora);
}

template <int kRows>
void Launch(const StreamLinearArgs& args, cudaStream_t stream) {
  if (args.lora) {
    const LoraWork work = MakeLoraWork(*args.lora, *args.step, *args.plan);
    LaunchForm<kRows, true>(args, work, stream);
  } else {
    LaunchForm<kRows, false>(args, {}, stream);
  }
}

}  // namespace

int StreamSplits(int64_t out_features, int64_t in_features) {
  const int64_t tiles = (out_features + kFeatures - 1) / kFeatures;
  const int64_t steps = (in_features + kInputs - 1) / kInputs;
  int splits = kStreamSplitsMax;
  while (splits > 1 && (tiles * splits > MultiprocessorCount() || splits > steps)) --splits;
  return splits;
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
