// Launches of the kernels: one function a kernel, plain arguments, a stream.
//
// Activations are elements (element.h), row-major; the residual, logits, norms and biases fp32. All
// launches return at once; errors of the device appear at the next synchronisation.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/backend.h"
#include "kernels/cuda/tables.h"

namespace lorica::cuda {

// Copies the sections of a packed step image, which lies in pinned memory of the host, to their
// fixed places on the device: one launch, where a copy of its own would cost the host twice that.
struct ScatterSection {
  int64_t target_bytes = 0;  // offsets from the tables' base and the image's base
  int64_t source_bytes = 0;
  int64_t bytes = 0;  // a multiple of 4
};
struct ScatterSections {
  static constexpr int kMax = 16;
  ScatterSection sections[kMax];
  int count = 0;
};
void LaunchScatter(std::byte* tables, const std::byte* image, const ScatterSections& sections,
                   cudaStream_t stream);

// Fills the plan of every (layer, group) from the step's terms and row tiles.
void LaunchLoraPlan(const StepTables& step, const LoraPlan& plan, int layers, cudaStream_t stream);
int MultiprocessorCount();

// Lets a kernel use `bytes` of shared memory, and asks for the largest share of the cache for
// it: blocks of several launches are to be resident together.
template <typename Kernel>
bool PrepareShared(Kernel* kernel, int bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared) == cudaSuccess;
}

// Outputs of a group's modules.
struct GroupOutputs {
  int features[kGroupModulesMax] = {};
};
// What adapters do to x at a (layer, group). LaunchStreamLinear writes s B A x of all rows with
// an adapter to `sums`, packed [rows, all outputs of the group].
struct LoraArgs {
  const void* x = nullptr;
  int64_t in_features = 0;
  int layer = 0;
  LoraGroup group = LoraGroup::kQkv;
  GroupOutputs outputs;
  void* sums = nullptr;
  bool down_parts = false;  // LoraPlan::down_parts are there
};
inline constexpr int kLoraColumnsMax = 1 << 17;  // of a group's outputs
inline constexpr int kLoraSumBytes = 2;          // a number of packed sums, see packed_sums.cuh
// u = A x for the post kernels, where Product::expand_tiles says so. `tiles`: most row tiles with
// an adapter.
void LaunchShrinkMany(const LoraArgs& args, const StepTables& step, const LoraPlan& plan, int tiles,
                      cudaStream_t stream);

// What Linear and LoraShrink left for a post kernel: rows of elements, or parts to be added up (see
// linear.cu), and what the adapters add.
struct Product {
  const void* y = nullptr;
  const float* parts = nullptr;  // null: y holds the product
  int splits = 1;
  int64_t part_stride = 0;     // floats from one part to the next
  const void* lora = nullptr;  // LoraArgs::sums; null: there is nothing to add
  int expand_tiles = 0;        // else u is there to be expanded, and the step has so many tiles
};

struct QkvPostArgs {
  Product product;
  void* qkv = nullptr;  // receives q
  const float* bias = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  int rotary_size = 0;
  int layer = 0;
  void* arena = nullptr;
  int64_t block_bytes = 0;
  AttentionShape shape;
};
// `biases` are added here where the expand is done here (Product::expand_tiles); else they are in
// the sums that the product has by then.
void LaunchQkvPost(const QkvPostArgs& args, const StepTables& step, const LoraPlan& plan,
                   const StepBiases& biases, int rows, cudaStream_t stream);
void LaunchGluPost(void* out, const Product& gate_up, int64_t ffn, Activation activation, int layer,
                   const StepTables& step, const LoraPlan& plan, const StepBiases& biases, int rows,
                   cudaStream_t stream);

inline constexpr int kResidualColumnsMax = 8192;

struct ResidualNormArgs {
  void* out = nullptr;
  void* residual = nullptr;
  Product projection;
  const float* bias = nullptr;
  const float* norm = nullptr;
  float epsilon = 0.0f;
  int64_t columns = 0;
  int layer = 0;
  LoraGroup group = LoraGroup::kO;
};
void LaunchResidualNorm(const ResidualNormArgs& args, const StepTables& step, const LoraPlan& plan,
                        const StepBiases& biases, int rows, cudaStream_t stream);
// The same where the expand is theirs to do, see post_many.cu.
void LaunchQkvPostMany(const QkvPostArgs& args, const StepTables& step, const LoraPlan& plan,
                       const StepBiases& biases, cudaStream_t stream);
void LaunchGluPostMany(void* out, const Product& gate_up, int64_t ffn, Activation activation,
                       int layer, const StepTables& step, const LoraPlan& plan,
                       const StepBiases& biases, cudaStream_t stream);
void LaunchResidualNormMany(const ResidualNormArgs& args, const StepTables& step,
                            const LoraPlan& plan, const StepBiases& biases, cudaStream_t stream);

void LaunchEmbed(void* out, const void* table, int64_t columns, const StepTables& step, int rows,
                 cudaStream_t stream);
void LaunchRmsNorm(void* out, const void* x, const float* weight, float epsilon, int64_t columns,
                   int rows, cudaStream_t stream);
void LaunchGatherRows(void* out, const void* x, int64_t columns, const StepTables& step,
                      int samples, cudaStream_t stream);

inline constexpr int kAttendGroupMax = 32;  // query heads a KV head
// Head size as stored: 64, 128 or 256. 0: not supported.
int PaddedHeadSize(int head_size);

// y = W x, y [rows, out_features], for at most kStreamRowsMax rows; see linear.cu. The maps
// describe W in tiles and x in one tile of StreamRows(rows) rows, all kStreamTileInputs wide in
// the 128-byte swizzle. Without y, and with splits > 1, `parts`
// is written instead, fp32 [splits][rows][out_features]. With `lora` the work of LaunchLora is done
// too, by the same launch; then `step` and `plan` are there as well.
inline constexpr int kStreamRowsMax = 128;
inline constexpr int kStreamTileFeatures = 128;  // at most
inline constexpr int kStreamWideFeatures = 256;
inline constexpr int kStreamTileInputs = 64;
inline constexpr int kStreamSplitsMax = 4;
struct WeightTiles {
  CUtensorMap map;
  int features = 0;  // of a tile: StreamTileFeatures
};
struct StreamLinearArgs {
  const WeightTiles* tiles = nullptr;
  const WeightTiles* wide_tiles = nullptr;  // where StreamsWide, else null
  const CUtensorMap* x_map = nullptr;
  void* y = nullptr;
  float* parts = nullptr;
  int splits = 1;
  int rows = 0;
  int64_t out_features = 0;
  int64_t in_features = 0;
  const LoraArgs* lora = nullptr;
  const StepTables* step = nullptr;
  const LoraPlan* plan = nullptr;
};
void LaunchStreamLinear(const StreamLinearArgs& args, cudaStream_t stream);
int StreamRows(int64_t rows);
// Parts of the inputs that a weight is cut into, so that it fills the device once.
int StreamSplits(int64_t out_features, int64_t in_features);
// Features of a tile, `most` at most: so many that all multiprocessors have as much to do. A
// block's features are its own, so a row's bits do not depend on it.
int StreamTileFeatures(int64_t out_features, int splits, int most);
// Whether a weight is long enough that its blocks would take several tiles; then one wide tile
// spares reading x again.
bool StreamsWide(int64_t out_features);
// y = the sum of `splits` parts of `count` numbers each, in elements or, if it is wide, fp32.
void LaunchAddParts(void* y, bool wide, const float* parts, int splits, int64_t count,
                    cudaStream_t stream);
struct DoraArgs {
  const void* weight = nullptr;  // first of the rows
  int64_t columns = 0;
  const float* a = nullptr;  // [rank, columns]
  const float* b = nullptr;  // [rows, rank]
  int rank = 0;
  float scale = 0.0f;
};
// norms[i] = || W_i + scale (B A)_i ||
void LaunchRowNorms(float* norms, const DoraArgs& args, int64_t rows, cudaStream_t stream);

// `count` values as kernels/noise.h makes them.
void LaunchNoise(void* out, int64_t count, uint64_t seed, float bound, cudaStream_t stream);

// Both choose one token for each of the step's samples, `samples` at most, and fill token
// slots and outputs. Greedy: for rows that want nothing but the largest logit.
void LaunchGreedy(const void* logits, int64_t columns, int32_t vocabulary, const StepTables& step,
                  int samples, cudaStream_t stream);
void LaunchSample(const void* logits, int64_t columns, int32_t vocabulary, const StepTables& step,
                  int samples, cudaStream_t stream);
// Brings counts up to date. `tails` lie in pinned host memory.
void LaunchCountHistory(const HistoryTail* tails, int count, const int32_t* token_slots,
                        cudaStream_t stream);

}  // namespace lorica::cuda
