// Paged attention, decode and prefill chunks in one launch.
//
// A cluster of blocks takes one tile: up to 8 / group rows of a span for one KV head, so
// that the heads of the group share what they read. The pages of the context go round the
// cluster's warps by their absolute index, each warp keeps its own running softmax, and the
// warps are merged in order: a row's bits depend on its own context alone.
//
// K and V go from global memory straight to the matrix registers, 16 bytes a lane. The
// order of d inside a product, and of columns in the output, is free: lane t takes d
// [8t, 8t + 8) of each 32 of K, lane g columns [8g, 8g + 8) of each 64 of V.
#include <cooperative_groups.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

namespace lorica::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kCluster = 2;
constexpr int kReaders = kWarps * kCluster;  // warps that share a context
constexpr int kTileHeads = kAttendGroupMax;  // (row, head) pairs of a tile

struct TileRows {
  int row_begin;  // in the step
  int row_count;
  int position;    // of the first row
  int first_page;  // absolute index of the first page any row sees
  int page_end;
  int keys;  // keys that the last row sees
};

template <int kHeadSize>
struct Running {
  float o[kHeadSize / 64][8][2];  // d = 64 block + 8 (2t + c) + i, row g
  float max = -INFINITY;
  float sum = 0.0f;
};

// K or V rows of one page: [token][head size].
template <int kHeadSize>
struct KeyRows {
  uint4 part[2][kHeadSize / 32];  // token g and g + 8
};
template <int kHeadSize>
struct ValueRows {
  uint4 part[kHeadSize / 64][4];  // tokens 2t, 2t + 1, 2t + 8, 2t + 9
};

template <int kHeadSize>
__device__ __forceinline__ void LoadKeys(KeyRows<kHeadSize>& out, const bf16* page) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int b = 0; b < kHeadSize / 32; ++b) {
      out.part[half][b] =
          *reinterpret_cast<const uint4*>(page + (g + 8 * half) * kHeadSize + b * 32 + 8 * t);
    }
  }
}

template <int kHeadSize>
__device__ __forceinline__ void LoadValues(ValueRows<kHeadSize>& out, const bf16* page,
                                           int tokens) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = 2 * t + i % 2 + i / 2 * 8;
#pragma unroll
    for (int b = 0; b < kHeadSize / 64; ++b) {
      // Beyond the context a page may hold anything, NaN too.
      out.part[b][i] =
          token < tokens
              ? *reinterpret_cast<const uint4*>(page + token * kHeadSize + b * 64 + 8 * g)
              : make_uint4(0, 0, 0, 0);
    }
  }
}

template <int kHeadSize>
__device__ __forceinline__ void Scores(float (&s)[2][4], const uint4 (&q)[kHeadSize / 32],
                                       const KeyRows<kHeadSize>& keys) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[half][i] = 0.0f;
#pragma unroll
    for (int b = 0; b < kHeadSize / 32; ++b) {
      const uint4 k = keys.part[half][b];
      Mma(s[half], q[b].x, 0u, q[b].y, 0u, k.x, k.y);
      Mma(s[half], q[b].z, 0u, q[b].w, 0u, k.z, k.w);
    }
  }
}

// p = exp(score - running maximum); rescales what was summed before.
template <int kHeadSize>
__device__ __forceinline__ void Soften(float (&s)[2][4], Running<kHeadSize>& run,
                                       const AttentionShape& shape, int position, int key_begin) {
  const int t = threadIdx.x % 4;
  float best = -INFINITY;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = key_begin + i / 2 * 8 + 2 * t + i % 2;
    float v = s[i / 2][i % 2] * shape.scale;
    if (shape.softcap > 0.0f) v = shape.softcap * tanhf(v / shape.softcap);
    const bool seen = key <= position && (shape.window == 0 || key > position - shape.window);
    v = seen ? v : -INFINITY;
    s[i / 2][i % 2] = v;
    best = fmaxf(best, v);
  }
  best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
  best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));
  const float max = fmaxf(run.max, best);
  const float base = max == -INFINITY ? 0.0f : max;
  const float keep = __expf(run.max - base);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float p = __expf(s[i / 2][i % 2] - base);
    s[i / 2][i % 2] = p;
    sum += p;
  }
  run.sum = run.sum * keep + sum;
  run.max = max;
#pragma unroll
  for (int i = 0; i < kHeadSize / 4; ++i) (&run.o[0][0][0])[i] *= keep;
}

template <int kHeadSize>
__device__ __forceinline__ void AddValues(Running<kHeadSize>& run, const float (&p)[2][4],
                                          const ValueRows<kHeadSize>& values) {
  const uint32_t a0 = PackBf16(p[0][0], p[0][1]), a2 = PackBf16(p[1][0], p[1][1]);
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
      float d[4] = {run.o[b][i][0], run.o[b][i][1], 0.0f, 0.0f};
      Mma(d, a0, 0u, a2, 0u, b0, b1);
      run.o[b][i][0] = d[0];
      run.o[b][i][1] = d[1];
    }
  }
}

__device__ __forceinline__ TileRows RowsOf(const AttentionShape& shape, int tile_rows,
                                           int row_offset, const DeviceSpan& span) {
  TileRows out;
  out.row_begin = span.row_begin + row_offset;
  out.row_count = min(tile_rows, span.row_count - row_offset);
  out.position = span.position_begin + row_offset;
  out.keys = out.position + out.row_count;
  const int first_key = shape.window == 0 ? 0 : max(0, out.position - shape.window + 1);
  out.first_page = first_key / kBlockTokens;
  out.page_end = (out.keys + kBlockTokens - 1) / kBlockTokens;
  return out;
}

// What a warp leaves for the merge.
template <int kHeadSize>
struct Partials {
  float o[kWarps][kTileHeads][kHeadSize];
  float max[kWarps][kTileHeads];
  float sum[kWarps][kTileHeads];
};

template <int kHeadSize>
__device__ __forceinline__ void Leave(Partials<kHeadSize>& out, Running<kHeadSize>& run) {
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  run.sum += __shfl_xor_sync(~0u, run.sum, 1);
  run.sum += __shfl_xor_sync(~0u, run.sum, 2);
  if (t == 0) {
    out.max[warp][g] = run.max;
    out.sum[warp][g] = run.sum;
  }
#pragma unroll
  for (int b = 0; b < kHeadSize / 64; ++b) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float* to = &out.o[warp][g][b * 64 + 8 * (2 * t + c)];
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        *reinterpret_cast<float4*>(to + i) =
            make_float4(run.o[b][i][c], run.o[b][i + 1][c], run.o[b][i + 2][c], run.o[b][i + 3][c]);
      }
    }
  }
}

// Adds the partials of all warps of the cluster, in order, four columns a thread.
template <int kHeadSize, typename Cluster>
__device__ __forceinline__ void Merge(Partials<kHeadSize>& mine, Cluster& cluster,
                                      const TileRows& rows, const AttendArgs& args, int group,
                                      int kv_head) {
  const int pairs = rows.row_count * group;
  const int quads = kHeadSize / 4;
  const int threads = kCluster * kWarps * 32;
  for (int i = cluster.block_rank() * kWarps * 32 + threadIdx.x; i < pairs * quads; i += threads) {
    const int pair = i / quads, d = i % quads * 4;
    // All loads first: each goes over the cluster's network.
    float maxima[kReaders], sums[kReaders];
    float4 parts[kReaders];
#pragma unroll
    for (int r = 0; r < kReaders; ++r) {
      const Partials<kHeadSize>* from = cluster.map_shared_rank(&mine, r / kWarps);
      maxima[r] = from->max[r % kWarps][pair];
      sums[r] = from->sum[r % kWarps][pair];
      parts[r] = *reinterpret_cast<const float4*>(&from->o[r % kWarps][pair][d]);
    }
    float max = -INFINITY;
#pragma unroll
    for (int r = 0; r < kReaders; ++r) max = fmaxf(max, maxima[r]);
    float4 o = make_float4(0, 0, 0, 0);
    float sum = 0.0f;
#pragma unroll
    for (int r = 0; r < kReaders; ++r) {
      const float weight = __expf(maxima[r] - max);
      o.x += weight * parts[r].x;
      o.y += weight * parts[r].y;
      o.z += weight * parts[r].z;
      o.w += weight * parts[r].w;
      sum += weight * sums[r];
    }
    if (d >= args.shape.head_size) continue;
    const float scale = 1.0f / sum;
    const int64_t row = rows.row_begin + pair / group;
    const int64_t head = kv_head * group + pair % group;
    bf16* out =
        static_cast<bf16*>(args.out) + (row * args.shape.heads + head) * args.shape.head_size + d;
    *reinterpret_cast<uint2*>(out) =
        make_uint2(PackBf16(o.x * scale, o.y * scale), PackBf16(o.z * scale, o.w * scale));
  }
}

template <int kHeadSize>
__device__ __forceinline__ void LoadQueries(uint4 (&q)[kHeadSize / 32], const AttendArgs& args,
                                            const TileRows& rows, int group, int kv_head) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int row = g / group;
  const bf16* from = static_cast<const bf16*>(args.qkv) +
                     (rows.row_begin + row) * args.qkv_columns +
                     (kv_head * group + g % group) * args.shape.head_size;
#pragma unroll
  for (int b = 0; b < kHeadSize / 32; ++b) {
    const int d = b * 32 + 8 * t;
    const bool inside = row < rows.row_count && d < args.shape.head_size;
    q[b] = inside ? *reinterpret_cast<const uint4*>(from + d) : make_uint4(0, 0, 0, 0);
  }
}

template <int kHeadSize>
__global__ void __launch_bounds__(kWarps * 32, kHeadSize <= 128 ? 3 : 1)
    __cluster_dims__(kCluster, 1, 1) AttendKernel(AttendArgs args, StepTables step) {
  extern __shared__ __align__(16) std::byte shared[];
  auto& partials = *reinterpret_cast<Partials<kHeadSize>*>(shared);
  auto cluster = cooperative_groups::this_cluster();
  ReleaseSuccessor();
  if (blockIdx.z >= step.counts->rows) return;
  const DeviceSpan span = step.row_spans[blockIdx.z];
  const int kv_head = blockIdx.y, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
  const int group = args.shape.heads / args.shape.kv_heads;
  const int row_offset = blockIdx.z - span.row_begin;
  if (row_offset % (kTileHeads / group) != 0) return;  // the tile began further up
  const TileRows rows = RowsOf(args.shape, kTileHeads / group, row_offset, span);
  const int reader = cluster.block_rank() * kWarps + warp;
  const int position = rows.position + g / group;
  const int64_t matrix = int64_t{args.shape.kv_heads} * kBlockTokens * kHeadSize;
  const int64_t inside = args.layer * 2 * matrix + int64_t{kv_head} * kBlockTokens * kHeadSize;
  const int skipped = (reader - rows.first_page % kReaders + kReaders) % kReaders;
  WaitForPredecessor();

  uint4 q[kHeadSize / 32];
  LoadQueries<kHeadSize>(q, args, rows, group, kv_head);
  Running<kHeadSize> run = {};
  run.max = -INFINITY;
  const int32_t* pages = step.pages + span.page_begin;
  const auto keys_of = [&](int64_t block) {
    return reinterpret_cast<const bf16*>(static_cast<const std::byte*>(args.arena) +
                                         block * args.block_bytes) +
           inside;
  };
  const int begin = rows.first_page + skipped;
  const bf16* keys_at = begin < rows.page_end ? keys_of(pages[begin]) : nullptr;
  KeyRows<kHeadSize> keys;
  if (keys_at) LoadKeys(keys, keys_at);
  for (int page = begin; page < rows.page_end; page += kReaders) {
    ValueRows<kHeadSize> values;
    LoadValues(values, keys_at + matrix, rows.keys - page * kBlockTokens);
    const int next = page + kReaders;
    float s[2][4];
    const int64_t next_block = next < rows.page_end ? pages[next] : -1;
    Scores<kHeadSize>(s, q, keys);
    if (next_block >= 0) {
      keys_at = keys_of(next_block);
      LoadKeys(keys, keys_at);
    }
    Soften(s, run, args.shape, position, page * kBlockTokens);
    AddValues(run, s, values);
  }
  Leave(partials, run);
  cluster.sync();
  Merge(partials, cluster, rows, args, group, kv_head);
  cluster.sync();
}

template <int kHeadSize>
void Launch(const AttendArgs& args, const StepTables& step, int rows, cudaStream_t stream) {
  constexpr int kShared = sizeof(Partials<kHeadSize>);
  static const cudaError_t raised = cudaFuncSetAttribute(
      AttendKernel<kHeadSize>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  static_cast<void>(raised);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kCluster, args.shape.kv_heads, rows);
  config.blockDim = kWarps * 32;
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, AttendKernel<kHeadSize>, args, step);
}

}  // namespace

int PaddedHeadSize(int head_size) {
  if (head_size <= 0 || head_size % 8 != 0 || head_size > 256) return 0;
  return head_size <= 64 ? 64 : head_size <= 128 ? 128 : 256;
}

void LaunchAttend(const AttendArgs& args, const StepTables& step, int rows, cudaStream_t stream) {
  switch (PaddedHeadSize(args.shape.head_size)) {
    case 64:
      return Launch<64>(args, step, rows, stream);
    case 128:
      return Launch<128>(args, step, rows, stream);
    default:
      return Launch<256>(args, step, rows, stream);
  }
}

}  // namespace lorica::cuda
