// The kernels between products: adding up parts, LoRA sums, gain and bias, then rotation and
// KV store, gate, or residual and norm, each in one pass over its rows.
//
// A thread takes 8 columns of one row. A row's result depends on nothing else in the step. All
// tables are read before the launch ahead has ended, and the launch behind may begin as well: it
// asks for weights wherever a multiprocessor is idle.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_dependent.cuh"
#include "kernels/cuda/packed_sums.cuh"
#include "kernels/cuda/post.cuh"

namespace lorica::cuda {
namespace {

constexpr int kGluThreads = 128;
constexpr int kQkvThreads = 64;
constexpr int kResidualThreadsMax = kResidualColumnsMax / kEight;

// What a row's adapter does to a post kernel. Tables of the step: read them early.
struct RowLora {
  bool any;
  const TileStart* start;  // null in a step without adapters

  // DoRA's gain of a module; null without. Only a lone term may have one.
  __device__ const float* Gain(int module) const {
    const bool has = start && start->tile.term_count == 1 && start->entries[module].rank_tiles > 0;
    return has ? start->entries[module].gain : nullptr;
  }
};

__device__ __forceinline__ RowLora RowLoraOf(const StepTables& step, const LoraPlan& plan, int pair,
                                             int row) {
  const int tile = plan.tile_starts ? step.tile_of_row[row] : -1;
  if (tile < 0) return {false, nullptr};
  return {true, &plan.tile_starts[int64_t{pair} * plan.tile_stride + tile]};
}

// out = gain * (product + lora) + bias for 8 numbers, `at` from the product's first. Without
// kStreamed the product is the library's: it has neither parts nor sums of adapters. With kLate
// gain and bias, which are rare, are asked for last, to spare registers.
template <bool kStreamed, bool kLate = false>
__device__ __forceinline__ void Finish(float (&out)[8], const Product& product, int64_t at,
                                       bool lora, const float* gain, const float* bias) {
  constexpr int kSplitsMax = kStreamed ? kStreamSplitsMax : 1;
  float more[kSplitsMax][8], sums[8], factors[8], terms[8];
  if (kStreamed && product.parts) {
#pragma unroll
    for (int s = 0; s < kSplitsMax; ++s) {
      if (s < product.splits) LoadEight(more[s], product.parts + s * product.part_stride + at);
    }
  } else {
    LoadEight(more[0], static_cast<const Element*>(product.y) + at);
  }
  lora = kStreamed && lora && product.lora;
  if (lora) UnpackSums(sums, static_cast<const uint4*>(product.lora)[at / kEight]);
  if (!kLate && gain) LoadEight(factors, gain);
  if (!kLate && bias) LoadEight(terms, bias);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float v = more[0][i];
#pragma unroll
    for (int s = 1; s < kSplitsMax; ++s) v += s < product.splits ? more[s][i] : 0.0f;
    out[i] = lora ? v + sums[i] : v;
  }
  if (kLate && gain) LoadEight(factors, gain);
  if (kLate && bias) LoadEight(terms, bias);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (gain) out[i] *= factors[i];
    if (bias) out[i] += terms[i];
  }
}

template <bool kStreamed>
__global__ void __launch_bounds__(kGluThreads, kStreamed ? 8 : 12)
    GluPostKernel(Element* out, Product gate_up, int ffn, Activation activation, int layer,
                  StepTables step, LoraPlan plan) {
  const int64_t row = blockIdx.y;
  const int column = (blockIdx.x * kGluThreads + threadIdx.x) * kEight;
  if (row >= step.counts->rows) return;
  const RowLora lora = RowLoraOf(step, plan, PairOf(layer, LoraGroup::kGateUp), row);
  const float* gate_gain = lora.Gain(0);
  const float* up_gain = lora.Gain(1);
  ReleaseSuccessor();
  WaitForPredecessor();
  if (column >= ffn) return;
  const int64_t at = row * 2 * ffn + column;
  float gate[8], up[8];
  Finish<kStreamed, true>(gate, gate_up, at, lora.any, gate_gain ? gate_gain + column : nullptr,
                          nullptr);
  Finish<kStreamed, true>(up, gate_up, at + ffn, lora.any, up_gain ? up_gain + column : nullptr,
                          nullptr);
#pragma unroll
  for (int k = 0; k < 8; ++k) gate[k] = Activate(gate[k], activation) * up[k];
  *reinterpret_cast<uint4*>(out + row * ffn + column) = PackEight(gate);
}

__device__ __forceinline__ float WarpSum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// Sums over the block, warp by warp in order.
__device__ __forceinline__ float BlockSum(float value) {
  __shared__ float warps[kResidualThreadsMax / 32];
  value = WarpSum(value);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return WarpSum(lane < blockDim.x / 32 ? warps[lane] : 0.0f);
}

// A block holds one row.
template <bool kStreamed, int kThreadsMax>
__global__ void __launch_bounds__(kThreadsMax, (kStreamed ? 1024 : 1536) / kThreadsMax)
    ResidualNormKernel(ResidualNormArgs args, StepTables step, LoraPlan plan) {
  const int64_t row = blockIdx.x;
  const int column = threadIdx.x * kEight, columns = static_cast<int>(args.columns);
  const bool inside = column < columns;
  if (row >= step.counts->rows) return;
  const RowLora lora = RowLoraOf(step, plan, PairOf(args.layer, args.group), row);
  const float* gain = lora.Gain(0);
  float weight[8] = {};
  if (inside && args.norm) LoadEight(weight, args.norm + column);
  ReleaseSuccessor();
  WaitForPredecessor();
  const int64_t at = row * columns + column;
  float* residual = static_cast<float*>(args.residual) + at;
  float v[8] = {}, squares = 0.0f;
  if (inside) {
    float old[8];
    LoadEight(old, residual);
    Finish<kStreamed, true>(v, args.projection, at, lora.any, gain ? gain + column : nullptr,
                            args.bias ? args.bias + column : nullptr);
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] += old[k];
    StoreEight(residual, v);
#pragma unroll
    for (int k = 0; k < 8; ++k) squares += v[k] * v[k];
  }
  if (!args.norm) return;
  const float scale = rsqrtf(BlockSum(squares) / columns + args.epsilon);
  if (!inside) return;
#pragma unroll
  for (int k = 0; k < 8; ++k) v[k] *= scale * weight[k];
  *reinterpret_cast<uint4*>(static_cast<Element*>(args.out) + at) = PackEight(v);
}

// A block holds some heads of one row, padded; a thread 8 columns of a head.
template <bool kStreamed>
__global__ void __launch_bounds__(kQkvThreads, kStreamed ? 1 : 20)
    QkvPostKernel(QkvPostArgs args, int padded, StepTables step, LoraPlan plan) {
  __shared__ __align__(16) float values[kQkvThreads * kEight];
  const int64_t row = blockIdx.y;
  if (row >= step.counts->rows) return;
  const AttentionShape& shape = args.shape;
  const int size = shape.head_size, slot = threadIdx.x * kEight;
  const int head = blockIdx.x * (kQkvThreads * kEight / padded) + slot / padded;
  const int inside = slot % padded, heads = shape.heads + 2 * shape.kv_heads;
  const HeadPlace place = PlaceOf(head, shape);
  const int position = step.positions[row];
  const int page = step.pages[step.row_spans[row].page_begin + position / kBlockTokens];
  const RowLora lora = RowLoraOf(step, plan, PairOf(args.layer, LoraGroup::kQkv), row);
  const float* gain = lora.Gain(place.module);
  ReleaseSuccessor();
  WaitForPredecessor();
  const int64_t at = row * heads * size + head * size + inside;
  float v[8] = {};
  if (head < heads && inside < size) {
    Finish<kStreamed>(v, args.product, at, lora.any,
                      gain ? gain + place.head * size + inside : nullptr,
                      args.bias ? args.bias + head * size + inside : nullptr);
  }
  StoreEight(&values[slot], v);
  __syncthreads();
  if (head >= heads) return;
  if (place.module < 2) Rotate(v, &values[slot - inside], inside, args, position);
  const uint4 packed = PackEight(v);
  if (place.module > 0) {
    // Padding is stored too, as zeros: the block may hold anything.
    Element* target = CacheRow(args, padded, page, position, place.module - 1, place.head);
    *reinterpret_cast<uint4*>(target + inside) = packed;
  } else if (inside < size) {
    *reinterpret_cast<uint4*>(static_cast<Element*>(args.qkv) + at) = packed;
  }
}

// For products of few rows or of many.
template <auto* kFew, auto* kMany, typename... Arguments>
void Launch(dim3 grid, int threads, int rows, cudaStream_t stream, const Arguments&... arguments) {
  static const bool prepared = PrepareShared(kFew, 0) && PrepareShared(kMany, 0);
  static_cast<void>(prepared);
  LaunchDependent(rows <= kStreamRowsMax ? kFew : kMany, grid, threads, 0, stream, arguments...);
}

}  // namespace

void LaunchGluPost(void* out, const Product& gate_up, int64_t ffn, Activation activation, int layer,
                   const StepTables& step, const LoraPlan& plan, const StepBiases& biases, int rows,
                   cudaStream_t stream) {
  if (gate_up.expand_tiles > 0) {
    LaunchGluPostMany(out, gate_up, ffn, activation, layer, step, plan, biases, stream);
    return;
  }
  constexpr int kColumns = kGluThreads * kEight;
  const dim3 grid(static_cast<unsigned>((ffn + kColumns - 1) / kColumns), rows);
  Launch<GluPostKernel<true>, GluPostKernel<false>>(
      grid, kGluThreads, rows, stream, static_cast<Element*>(out), gate_up, static_cast<int>(ffn),
      activation, layer, step, plan);
}

void LaunchResidualNorm(const ResidualNormArgs& args, const StepTables& step, const LoraPlan& plan,
                        const StepBiases& biases, int rows, cudaStream_t stream) {
  if (args.projection.expand_tiles > 0) {
    LaunchResidualNormMany(args, step, plan, biases, stream);
    return;
  }
  const int threads = static_cast<int>((args.columns / kEight + 31) / 32 * 32);
  if (threads <= 512) {
    Launch<ResidualNormKernel<true, 512>, ResidualNormKernel<false, 512>>(rows, threads, rows,
                                                                          stream, args, step, plan);
  } else {
    constexpr int kMax = kResidualThreadsMax;
    Launch<ResidualNormKernel<true, kMax>, ResidualNormKernel<false, kMax>>(
        rows, threads, rows, stream, args, step, plan);
  }
}

void LaunchQkvPost(const QkvPostArgs& args, const StepTables& step, const LoraPlan& plan,
                   const StepBiases& biases, int rows, cudaStream_t stream) {
  if (args.product.expand_tiles > 0) {
    LaunchQkvPostMany(args, step, plan, biases, stream);
    return;
  }
  const int padded = PaddedHeadSize(args.shape.head_size);
  const int heads = kQkvThreads * kEight / padded;
  const int all_heads = args.shape.heads + 2 * args.shape.kv_heads;
  const dim3 grid((all_heads + heads - 1) / heads, rows);
  Launch<QkvPostKernel<true>, QkvPostKernel<false>>(grid, kQkvThreads, rows, stream, args, padded,
                                                    step, plan);
}

}  // namespace lorica::cuda
