#include "kernels/cuda/attend_plan.h"

#include <algorithm>

namespace lorica::cuda {
namespace {

int Pieces(int keys, int piece_keys) { return (keys + piece_keys - 1) / piece_keys; }

}  // namespace

int AttendPieceKeys(int keys) {
  constexpr int kShort = kAttendPieceKeys * kAttendPiecesMax;
  return kAttendPieceKeys * std::max(1, Pieces(keys, kShort));
}

void AttendPlan::MarkWrites(const StepBatch& batch) {
  ++step_;
  for (const AttendSpan& span : batch.spans) {
    const int end = Pieces(span.position_begin + span.row_count, kBlockTokens);
    for (int p = span.position_begin / kBlockTokens; p < end; ++p) {
      const auto block = static_cast<size_t>(batch.pages[span.page_begin + p]);
      if (block >= written_.size()) written_.resize(block + 1);
      written_[block] = step_;
    }
  }
}

int AttendPlan::Settled(const StepBatch& batch, const AttendSpan& span) const {
  const int pages = span.position_begin / kBlockTokens;
  for (int p = 0; p < pages; ++p) {
    const auto block = static_cast<size_t>(batch.pages[span.page_begin + p]);
    if (block < written_.size() && written_[block] == step_) return p * kBlockTokens;
  }
  return pages * kBlockTokens;
}

// Returns the scratch slots that the row takes.
int AttendPlan::AddRow(const AttendSpan& span, int row, int settled, int stretch, int slot) {
  const int keys = span.position_begin + row + 1;
  const int piece_keys = AttendPieceKeys(keys) * stretch;
  const int pieces = Pieces(keys, piece_keys);
  for (int i = 0; i < pieces; ++i) {
    items_.push_back({span.row_begin + row, keys, span.page_begin, settled, i * piece_keys,
                      std::min(keys, (i + 1) * piece_keys), slot + i, static_cast<int16_t>(i),
                      static_cast<int16_t>(pieces)});
  }
  return pieces > 1 ? pieces : 0;
}

void AttendPlan::Make(const StepBatch& batch) {
  MarkWrites(batch);
  for (int stretch = 1;; stretch *= 2) {
    items_.clear();
    chunks_.clear();
    int slots = 0;
    for (const AttendSpan& span : batch.spans) {
      if (span.row_count > decode_rows_max_) {
        chunks_.push_back({span.row_begin, span.row_count, span.position_begin, span.page_begin});
        continue;
      }
      const int settled = Settled(batch, span);
      for (int row = 0; row < span.row_count; ++row) {
        slots += AddRow(span, row, settled, stretch, slots);
      }
    }
    if (slots <= kAttendSlotsMax) return;
  }
}

int64_t AttendPlan::ChunkTiles(int tile_rows) const {
  int64_t tiles = 0;
  for (const DeviceSpan& chunk : chunks_) tiles += (chunk.row_count + tile_rows - 1) / tile_rows;
  return tiles;
}

}  // namespace lorica::cuda
