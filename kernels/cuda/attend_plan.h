// Cuts a step's attention into pieces of work, on the host.
//
// A span of few rows decodes: each row is cut into pieces of AttendPieceKeys keys at
// absolute positions, whose sums are merged in order. What a row is cut into depends on
// its own context alone, so its bits do too. A span of more rows is a prefill chunk.
//
// Equal batches give equal plans. One thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/tables.h"
#include "kernels/step_batch.h"

namespace lorica::cuda {

inline constexpr int kAttendDecodeRowsMax = 8;  // a span of more rows is a prefill chunk
inline constexpr int kAttendPieceKeys = 256;    // of a piece of a short context
inline constexpr int kAttendPiecesMax = 32;     // of a row
inline constexpr int kAttendSlotsMax = 8192;    // scratch slots of a step

// Keys of each piece of a context of `keys`: a multiple of kAttendPieceKeys.
int AttendPieceKeys(int keys);

class AttendPlan {
 public:
  // Spans of at most `decode_rows_max` rows decode.
  explicit AttendPlan(int decode_rows_max = kAttendDecodeRowsMax)
      : decode_rows_max_(decode_rows_max) {}

  // Takes the batch apart. When its rows want more than kAttendSlotsMax scratch slots, all
  // pieces of the step are made longer until they fit; then bits depend on neighbours.
  void Make(const StepBatch& batch);

  const std::vector<AttendItem>& items() const { return items_; }
  const std::vector<DeviceSpan>& chunks() const { return chunks_; }
  // Tiles of `tile_rows` rows, each of one chunk, that cover all chunks.
  int64_t ChunkTiles(int tile_rows) const;

 private:
  void MarkWrites(const StepBatch& batch);
  // Keys below it lie in pages that no row of the step writes.
  int Settled(const StepBatch& batch, const AttendSpan& span) const;
  int AddRow(const AttendSpan& span, int row, int settled, int stretch, int slot);

  int decode_rows_max_;
  std::vector<AttendItem> items_;
  std::vector<DeviceSpan> chunks_;
  std::vector<uint32_t> written_;  // by block: the last step whose rows write there
  uint32_t step_ = 0;
};

}  // namespace lorica::cuda
