// Paged attention: prefill chunks and decode rows of a step.
//
// Two kernels. Rows of spans of at most kAttendDecodeRowsMax rows decode: a row's bits
// depend on its own context alone. Rows of longer spans are tiled: their bits do not depend
// on the chunking or on neighbours either, but a row has other bits in one kernel than in
// the other. Keys beyond a row's own may hold anything, NaN too.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {

// Sums of the pieces of rows, and who is the last to finish.
struct AttendScratch {
  float* sums = nullptr;        // [slot][head][padded head size]
  float2* stats = nullptr;      // [slot][head] maximum, sum of weights
  uint32_t* tickets = nullptr;  // [row][KV head][head tile], zero between launches
};

struct AttendArgs {
  void* out = nullptr;
  const void* qkv = nullptr;
  int64_t qkv_columns = 0;
  int layer = 0;
  const void* arena = nullptr;
  int64_t block_bytes = 0;
  AttentionShape shape;
};

// Attention over one cache. One thread, one stream.
class Attention {
 public:
  // Memory for the sums of rows' pieces, which may be others' between two calls of Run.
  static int64_t SumBytes(const AttentionShape& shape);
  // For steps of at most rows_max rows. REQUIRES: the shape is served.
  static absl::StatusOr<std::unique_ptr<Attention>> Make(const KvCache& cache, int rows_max,
                                                         std::shared_ptr<Buffer> sums);

  // `fixed_grid`: the launch is to be captured for any later step of at most out.rows rows
  // without prefill chunks. REQUIRES: the step's tables hold `plan`.
  absl::Status Run(Tensor out, Tensor qkv, int layer, const StepTables& step,
                   const AttendPlan& plan, bool fixed_grid, cudaStream_t stream);

  bool Serves(const KvCache& cache) const;

 private:
  explicit Attention(const KvCache& cache) : cache_(cache) {}

  KvCache cache_;
  std::unique_ptr<Buffer> tickets_;
  std::shared_ptr<Buffer> sums_;
  AttendScratch scratch_;
  CUtensorMap pages_{};  // of the arena
  Tensor queries_of_;    // what queries_ maps
  CUtensorMap queries_{};
};

// The kernels. Decode: as many blocks as `items` and the device have use for; each takes one
// item after the other of those that the step turns out to have.
int AttendHeadTiles(const AttentionShape& shape);
void LaunchAttendDecode(const AttendArgs& args, const AttendScratch& scratch,
                        const StepTables& step, int items, cudaStream_t stream);
// Rows of one tile.
int AttendTileRows(const AttentionShape& shape);
absl::Status MapPages(const KvCache& cache, CUtensorMap* map);
absl::Status MapQueries(const AttentionShape& shape, const Tensor& qkv, CUtensorMap* map);
void LaunchAttendPrefill(const AttendArgs& args, const CUtensorMap& queries,
                         const CUtensorMap& pages, const StepTables& step, int64_t tiles,
                         cudaStream_t stream);

}  // namespace lorica::cuda
