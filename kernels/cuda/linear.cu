// y = W x for up to kStreamRowsMax rows, at the speed at which memory gives the weights.
//
// A block takes tiles of kStreamTileFeatures output features, one after the other, or a
// single tile and one of `splits` ranges of the inputs. One warp copies tiles of W and x into
// a ring of shared memory with the tensor copy engine, four others multiply them there: W is
// the left operand, rows of the batch are the columns of the product. With splits each block
// leaves its sums as a part, and who reads the product adds the parts in order. Splits follow
// from the weight's shape alone, so a row's bits do not depend on how many rows there are.
//
// A block fills its ring before the launch ahead has ended: while the small kernels between
// two products run, the next product's weights are on their way. Weights are marked to leave
// the cache first: tables, code and activations stay in it.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/wgmma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kFeatures = kStreamTileFeatures;
constexpr int kInputs = kStreamTileInputs;  // of a step: 128 bytes, the width of the swizzle
constexpr int kWarps = 4;                   // that multiply
constexpr int kThreads = (kWarps + 1) * 32;
constexpr int kRingBytes = 148 << 10;  // leaves room for the blocks between two products
constexpr int kWeightBytes = kFeatures * kInputs * 2;

template <int kRows>
struct Ring {
  static constexpr int kStageBytes = kWeightBytes + kRows * kInputs * 2;
  static constexpr int kStages = kRingBytes / kStageBytes;
  static constexpr int kBytes = kStages * kStageBytes + 1024;  // room to align
};

struct Barriers {
  uint32_t full, empty;  // of stage 0; those of the next stages follow, 8 bytes apart
};

// The work of a block: tiles of features, each over inputs [begin, end) in steps.
struct Work {
  int first_tile, tile_stride, tiles;
  int begin, end;

  __device__ int per_tile() const { return end - begin; }
  __device__ int steps() const { return tiles * per_tile(); }
};

// Where a step of the work lies in the weight.
struct Place {
  int feature, input;
};

struct Walk {
  const Work& work;
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

template <int kRows>
__device__ __forceinline__ void Produce(const CUtensorMap& w_map, const CUtensorMap& x_map,
                                        uint32_t ring, Barriers barriers, const Work& work) {
  using R = Ring<kRows>;
  const int steps = work.steps(), ahead = min(steps, R::kStages);
  const auto load_w = [&](int stage, Place place) {
    BarrierExpect(barriers.full + stage * 8, R::kStageBytes);
    CopyTile(ring + stage * R::kStageBytes, w_map, place.input, place.feature,
             barriers.full + stage * 8, kEvictFirst);
  };
  const auto load_x = [&](int stage, Place place) {
    CopyTile(ring + stage * R::kStageBytes + kWeightBytes, x_map, place.input, 0,
             barriers.full + stage * 8, kEvictLast);
  };
  Walk w_walk(work), x_walk(work);
  for (int i = 0; i < ahead; ++i) load_w(i, w_walk.Next());
  WaitForPredecessor();
  ReleaseSuccessor();
  for (int i = 0; i < ahead; ++i) load_x(i, x_walk.Next());
  int stage = 0, phase = 0;
  for (int i = ahead; i < steps; ++i) {
    BarrierWait(barriers.empty + stage * 8, phase);
    const Place place = w_walk.Next();
    load_w(stage, place);
    load_x(stage, place);
    if (++stage == R::kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
}

// d[half] += W[64 features of the half, kInputs] x[kRows, kInputs].
template <int kRows>
__device__ __forceinline__ void MultiplyStep(float (&d)[2][kRows / 2], uint32_t stage) {
  FenceRegisters();
#pragma unroll
  for (int k = 0; k < kInputs / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t left = SwizzledMatrix(stage + half * 64 * kInputs * 2 + k * 32);
      WarpgroupMma<kRows>(d[half], left, stage + kWeightBytes + k * 32);
    }
  }
  CommitProducts();
  WaitForProducts();
}

// A thread's sums of a tile as fp32: whole 32-byte sectors of 8 features.
template <int kRows>
__device__ __forceinline__ void StorePart(float* part, const float (&d)[2][kRows / 2], int rows,
                                          int first, int features) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int half = i / (kRows / 2), j = i % (kRows / 2);
    const int feature = first + half * 64 + warp * 16 + j % 4 / 2 * 8 + g;
    const int row = j / 4 * 8 + 2 * t + j % 2;
    if (row < rows && feature < features) part[int64_t{row} * features + feature] = d[half][j];
  }
}

// The same as bf16: neighbouring lanes swap, so that each stores two features of one row.
template <int kRows>
__device__ __forceinline__ void StoreTile(bf16* y, const float (&d)[2][kRows / 2], int rows,
                                          int first, int features) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const bool odd = g % 2 != 0;
#pragma unroll
  for (int i = 0; i < kRows; i += 2) {
    const int half = i / (kRows / 2), j = i % (kRows / 2);
    const float mine = odd ? d[half][j + 1] : d[half][j];
    const float given = odd ? d[half][j] : d[half][j + 1];
    const float taken = __shfl_xor_sync(~0u, given, 4);
    const uint32_t pair = odd ? PackBf16(taken, mine) : PackBf16(mine, taken);
    const int feature = first + half * 64 + warp * 16 + j % 4 / 2 * 8 + g / 2 * 2;
    const int row = j / 4 * 8 + 2 * t + odd;
    if (row < rows && feature < features) {
      *reinterpret_cast<uint32_t*>(y + int64_t{row} * features + feature) = pair;
    }
  }
}

template <int kRows>
__global__ void __launch_bounds__(kThreads, kRows <= 32   ? 3
                                            : kRows <= 64 ? 2
                                                          : 1)
    StreamKernel(const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map, bf16* y, float* parts, int rows,
                 int features, int input_steps) {
  using R = Ring<kRows>;
  extern __shared__ std::byte shared[];
  __shared__ __align__(8) uint64_t barrier_words[2 * R::kStages];
  const int splits = gridDim.x, split = blockIdx.x;
  const uint32_t ring = (SharedAddress(shared) + 1023) & ~1023u;
  const Barriers barriers = {SharedAddress(barrier_words),
                             SharedAddress(barrier_words + R::kStages)};
  Work work;
  const int all_tiles = (features + kFeatures - 1) / kFeatures;
  work.first_tile = blockIdx.y;
  work.tile_stride = gridDim.y;
  work.tiles = (all_tiles - work.first_tile + work.tile_stride - 1) / work.tile_stride;
  work.begin = input_steps * split / splits;
  work.end = input_steps * (split + 1) / splits;
  if (threadIdx.x == 0) {
    for (int i = 0; i < R::kStages; ++i) {
      BarrierInit(barriers.full + i * 8, 1);
      BarrierInit(barriers.empty + i * 8, kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x / 32 == kWarps) {
    if (threadIdx.x % 32 == 0) Produce<kRows>(w_map, x_map, ring, barriers, work);
    return;
  }
  int stage = 0, phase = 0;
#pragma unroll 1
  for (int i = 0; i < work.tiles; ++i) {
    float d[2][kRows / 2] = {};
#pragma unroll 1
    for (int step = 0; step < work.per_tile(); ++step) {
      BarrierWait(barriers.full + stage * 8, phase);
      MultiplyStep<kRows>(d, ring + stage * R::kStageBytes);
      if (threadIdx.x % 32 == 0) BarrierArrive(barriers.empty + stage * 8);
      if (++stage == R::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    const int first = (work.first_tile + i * work.tile_stride) * kFeatures;
    if (splits > 1) {
      StorePart<kRows>(parts + int64_t{split} * rows * features, d, rows, first, features);
    } else {
      StoreTile<kRows>(y, d, rows, first, features);
    }
  }
}

// y = the parts, added in order.
__global__ void AddPartsKernel(bf16* y, const float* parts, int splits, int64_t count) {
  WaitForPredecessor();
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 2;
  if (i >= count) return;
  float2 sum = make_float2(0.0f, 0.0f);
  for (int s = 0; s < splits; ++s) {
    const float2 more = *reinterpret_cast<const float2*>(parts + s * count + i);
    sum = make_float2(sum.x + more.x, sum.y + more.y);
  }
  *reinterpret_cast<uint32_t*>(y + i) = PackBf16(sum.x, sum.y);
}

template <int kRows>
void Launch(const StreamLinearArgs& args, cudaStream_t stream) {
  using R = Ring<kRows>;
  static const bool prepared = PrepareShared(StreamKernel<kRows>, R::kBytes);
  static_cast<void>(prepared);
  const int tiles = static_cast<int>((args.out_features + kFeatures - 1) / kFeatures);
  const int rounds = (tiles + MultiprocessorCount() - 1) / MultiprocessorCount();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(args.splits, (tiles + rounds - 1) / rounds);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = R::kBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, StreamKernel<kRows>, *args.w_map, *args.x_map,
                     static_cast<bf16*>(args.y), args.parts, args.rows,
                     static_cast<int>(args.out_features),
                     static_cast<int>((args.in_features + kInputs - 1) / kInputs));
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

void LaunchAddParts(void* y, const float* parts, int splits, int64_t count, cudaStream_t stream) {
  constexpr int kBlock = 256;
  AddPartsKernel<<<static_cast<unsigned>((count / 2 + kBlock - 1) / kBlock), kBlock, 0, stream>>>(
      static_cast<bf16*>(y), parts, splits, count);
}

}  // namespace lorica::cuda
