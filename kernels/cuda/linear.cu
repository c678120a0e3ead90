// y = W x for up to kStreamRowsMax rows, at the speed at which memory gives the weights.
//
// A block takes kTileFeatures output features (or twice as many) and one of `splits` ranges
// of the inputs; a cluster of `splits` blocks shares the features. One warp copies tiles of W
// and x into a ring of shared memory with the tensor copy engine, the others multiply them
// there: W is the left operand, rows of the batch are the columns of the product. The blocks
// of a cluster then add their parts in order. Splits follow from the weight's shape alone, so a
// row's bits do not depend on how many rows there are.
//
// The ring is filled with weights before the launch ahead has ended: while the small kernels
// between two products run, the next product's weights are on their way. Weights are marked to
// leave the cache first, so that tables, code and activations stay in it.
#include <cooperative_groups.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/wgmma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kTileFeatures = kStreamTileFeatures;  // of one group of four warps
constexpr int kStepInputs = kStreamTileInputs;      // 128 bytes, the width of the swizzle
constexpr int kGroupThreads = 128;
constexpr int kRingBytes = 104 << 10;       // two blocks fit a multiprocessor
constexpr int kLargeRingBytes = 200 << 10;  // one does
constexpr int kPartStride = kTileFeatures + 4;  // floats; keeps the banks apart

template <int kRows, int kGroups>
struct Ring {
  static constexpr int kWeightBytes = kGroups * kTileFeatures * kStepInputs * 2;
  static constexpr int kStageBytes = kWeightBytes + kRows * kStepInputs * 2;
  static constexpr int kStages = (kGroups == 1 ? kRingBytes : kLargeRingBytes) / kStageBytes;
  static constexpr int kBytes = kStages * kStageBytes + 1024;  // room to align
  static_assert(kStages >= 3);
  static_assert(kGroups * kRows * kPartStride * 4 <= kStages * kStageBytes);
};

struct Barriers {
  uint32_t full, empty;  // of stage 0; those of the next stages follow, 8 bytes apart
};

template <int kRows, int kGroups>
__device__ __forceinline__ void Produce(const CUtensorMap& w_map, const CUtensorMap& x_map,
                                        uint32_t ring, Barriers barriers, int feature, int begin,
                                        int end) {
  using R = Ring<kRows, kGroups>;
  const auto load_w = [&](int step) {
    const int stage = (step - begin) % R::kStages;
    const uint32_t full = barriers.full + stage * 8;
    BarrierExpect(full, R::kStageBytes);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      CopyTile(ring + stage * R::kStageBytes + group * kTileFeatures * kStepInputs * 2, w_map,
               step * kStepInputs, feature + group * kTileFeatures, full, kEvictFirst);
    }
  };
  const auto load_x = [&](int step) {
    const int stage = (step - begin) % R::kStages;
    CopyTile(ring + stage * R::kStageBytes + R::kWeightBytes, x_map, step * kStepInputs, 0,
             barriers.full + stage * 8, kEvictLast);
  };
  const int ahead = min(end, begin + R::kStages);
  for (int step = begin; step < ahead; ++step) load_w(step);
  WaitForPredecessor();
  for (int step = begin; step < ahead; ++step) load_x(step);
  for (int step = ahead; step < end; ++step) {
    const int use = (step - begin) / R::kStages;
    BarrierWait(barriers.empty + (step - begin) % R::kStages * 8, (use - 1) & 1);
    load_w(step);
    load_x(step);
  }
}

// d[half] += W[64 features of the half, kStepInputs] x[kRows, kStepInputs].
template <int kRows>
__device__ __forceinline__ void MultiplyStep(float (&d)[2][kRows / 2], uint32_t w, uint32_t x) {
  FenceRegisters();
#pragma unroll
  for (int k = 0; k < kStepInputs / 16; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t left = SwizzledMatrix(w + half * 64 * kStepInputs * 2 + k * 32);
      WarpgroupMma<kRows>(d[half], left, x + k * 32);
    }
  }
  CommitProducts();
  WaitForProducts();
}

// Sums of four warps as fp32 [row][feature].
template <int kRows>
__device__ __forceinline__ void LeavePart(float* part, const float (&d)[2][kRows / 2]) {
  const int warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int feature = half * 64 + warp * 16 + i % 4 / 2 * 8 + g;
      const int row = i / 4 * 8 + 2 * t + i % 2;
      part[row * kPartStride + feature] = d[half][i];
    }
  }
}

template <int kRows, int kGroups>
__global__ void __launch_bounds__(kGroups* kGroupThreads + 32, kGroups == 1 ? 2 : 1)
    StreamKernel(const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map, bf16* y, int rows, int features,
                 int steps) {
  using R = Ring<kRows, kGroups>;
  extern __shared__ std::byte shared[];
  __shared__ __align__(8) uint64_t barrier_words[2 * R::kStages];
  auto cluster = cooperative_groups::this_cluster();
  const int splits = cluster.num_blocks(), split = cluster.block_rank();
  const uint32_t ring = (SharedAddress(shared) + 1023) & ~1023u;
  const Barriers barriers = {SharedAddress(barrier_words),
                             SharedAddress(barrier_words + R::kStages)};
  const int begin = steps * split / splits, end = steps * (split + 1) / splits;
  const int first = blockIdx.y * kGroups * kTileFeatures;
  if (threadIdx.x == 0) {
    for (int i = 0; i < R::kStages; ++i) {
      BarrierInit(barriers.full + i * 8, 1);
      BarrierInit(barriers.empty + i * 8, kGroups * 4);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  ReleaseSuccessor();
  __syncthreads();
  const int group = threadIdx.x / kGroupThreads;
  float* parts = reinterpret_cast<float*>(shared + (ring - SharedAddress(shared)));
  if (group == kGroups) {
    if (threadIdx.x % 32 == 0) {
      Produce<kRows, kGroups>(w_map, x_map, ring, barriers, first, begin, end);
    }
    __syncwarp();
  } else {
    float d[2][kRows / 2] = {};
    for (int step = begin; step < end; ++step) {
      const int stage = (step - begin) % R::kStages;
      BarrierWait(barriers.full + stage * 8, (step - begin) / R::kStages & 1);
      const uint32_t at = ring + stage * R::kStageBytes;
      MultiplyStep<kRows>(d, at + group * kTileFeatures * kStepInputs * 2, at + R::kWeightBytes);
      if (threadIdx.x % 32 == 0) BarrierArrive(barriers.empty + stage * 8);
    }
    asm volatile("bar.sync 1, %0;" ::"n"(kGroups* kGroupThreads) : "memory");
    LeavePart<kRows>(parts + group * kRows * kPartStride, d);
  }
  cluster.sync();
  const int width = kTileFeatures / splits;  // features that this block adds up, in each group
  const int quads = width / 4;
  for (int i = threadIdx.x; i < kGroups * rows * quads; i += blockDim.x) {
    const int quad = i % quads, row = i / quads % rows, part_group = i / quads / rows;
    const int inside = split * width + quad * 4;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < splits; ++s) {
      const float* from = cluster.map_shared_rank(parts, s) +
                          (part_group * kRows + row) * kPartStride + inside;
      const float4 more = *reinterpret_cast<const float4*>(from);
      sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
    }
    const int feature = first + part_group * kTileFeatures + inside;
    if (feature >= features) continue;
    *reinterpret_cast<uint2*>(y + int64_t{row} * features + feature) =
        make_uint2(PackBf16(sum.x, sum.y), PackBf16(sum.z, sum.w));
  }
  cluster.sync();
}

// Parts of the inputs that one weight is cut into: as many as keep the device filled once.
int SplitsOf(int64_t out_features, int64_t in_features) {
  const int64_t tiles = (out_features + kTileFeatures - 1) / kTileFeatures;
  int splits = 8;
  while (splits > 1 && (tiles * splits > 2 * MultiprocessorCount() ||
                        splits > (in_features + kStepInputs - 1) / kStepInputs)) {
    splits /= 2;
  }
  return splits;
}

template <int kRows, int kGroups>
void Launch(const StreamLinearArgs& args, cudaStream_t stream) {
  using R = Ring<kRows, kGroups>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(StreamKernel<kRows, kGroups>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, R::kBytes);
  static_cast<void>(raised);
  const int splits = SplitsOf(args.out_features, args.in_features);
  constexpr int kFeatures = kGroups * kTileFeatures;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(splits), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(splits, static_cast<unsigned>((args.out_features + kFeatures - 1) / kFeatures));
  config.blockDim = kGroups * kGroupThreads + 32;
  config.dynamicSmemBytes = R::kBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  cudaLaunchKernelEx(&config, StreamKernel<kRows, kGroups>, *args.w_map, *args.x_map,
                     static_cast<bf16*>(args.y), args.rows, static_cast<int>(args.out_features),
                     static_cast<int>((args.in_features + kStepInputs - 1) / kStepInputs));
}

}  // namespace

int StreamRows(int64_t rows) {
  int padded = 8;
  while (padded < rows) padded *= 2;
  return padded;
}

void LaunchStreamLinear(const StreamLinearArgs& args, cudaStream_t stream) {
  switch (StreamRows(args.rows)) {
    case 8:
      return Launch<8, 1>(args, stream);
    case 16:
      return Launch<16, 1>(args, stream);
    case 32:
      return Launch<32, 1>(args, stream);
    case 64:
      return Launch<64, 1>(args, stream);
    default:
      return Launch<128, 2>(args, stream);
  }
}

}  // namespace lorica::cuda
