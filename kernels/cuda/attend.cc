#include "kernels/cuda/attend.h"

#include <climits>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {
int PaddedHeadSize(int head_size) {
  if (head_size <= 0 || head_size % 8 != 0 || head_size > 256) return 0;
  return head_size <= 64 ? 64 : head_size <= 128 ? 128 : 256;
}

int64_t Attention::SumBytes(const AttentionShape& shape) {
  const int64_t floats = PaddedHeadSize(shape.head_size);
  return kAttendSlotsMax * shape.heads * (floats * sizeof(float) + sizeof(float2));
}

absl::StatusOr<std::unique_ptr<Attention>> Attention::Make(const KvCache& cache, int rows_max,
                                                           std::shared_ptr<Buffer> sums) {
  const AttentionShape& shape = cache.shape;
  LORICA_CHECK(PaddedHeadSize(shape.head_size) > 0, shape.head_size);
  LORICA_CHECK(shape.heads % shape.kv_heads == 0, shape.heads, shape.kv_heads);
  LORICA_CHECK(shape.heads / shape.kv_heads <= kAttendGroupMax, shape.heads, shape.kv_heads);
  std::unique_ptr<Attention> made(new Attention(cache));
  const absl::Status status = MapPages(cache, &made->pages_);
  if (!status.ok()) return status;
  auto tickets = AllocateDevice(int64_t{rows_max} * shape.kv_heads * AttendHeadTiles(shape) *
                                sizeof(uint32_t));
  if (!tickets.ok()) return tickets.status();
  made->tickets_ = *std::move(tickets);
  made->scratch_.tickets = static_cast<uint32_t*>(made->tickets_->data());
  LORICA_CHECK(sums->size_bytes() >= SumBytes(shape), sums->size_bytes());
  made->sums_ = std::move(sums);
  const int64_t places = int64_t{kAttendSlotsMax} * shape.heads;
  made->scratch_.stats = static_cast<float2*>(made->sums_->data());
  made->scratch_.sums = reinterpret_cast<float*>(made->scratch_.stats + places);
  return made;
}

bool Attention::Serves(const KvCache& cache) const {
  const AttentionShape &a = cache_.shape, &b = cache.shape;
  return cache.arena == cache_.arena && cache.block_bytes == cache_.block_bytes &&
         std::tie(a.layers, a.heads, a.kv_heads, a.head_size, a.scale, a.window, a.softcap) ==
             std::tie(b.layers, b.heads, b.kv_heads, b.head_size, b.scale, b.window, b.softcap);
}

absl::Status Attention::Run(Tensor out, Tensor qkv, int layer, const StepTables& step,
                            const AttendPlan& plan, bool fixed_grid, cudaStream_t stream) {
  AttendArgs args;
  args.out = out.data;
  args.qkv = qkv.data;
  args.qkv_columns = qkv.columns;
  args.layer = layer;
  args.arena = cache_.arena;
  args.block_bytes = cache_.block_bytes;
  args.shape = cache_.shape;
  const int items = static_cast<int>(plan.items().size());
  if (fixed_grid || items > 0) {
    LaunchAttendDecode(args, scratch_, step, fixed_grid ? INT_MAX : items, stream);
  }
  if (plan.chunks().empty()) return absl::OkStatus();
  LORICA_CHECK(!fixed_grid, "a captured step holds a prefill chunk");
  if (qkv.data != queries_of_.data || qkv.rows != queries_of_.rows ||
      qkv.columns != queries_of_.columns) {
    const absl::Status status = MapQueries(args.shape, qkv, &queries_);
    if (!status.ok()) return status;
    queries_of_ = qkv;
  }
  LaunchAttendPrefill(args, queries_, pages_, step, plan.ChunkTiles(AttendTileRows(args.shape)),
                      stream);
  return absl::OkStatus();
}

}  // namespace lorica::cuda
