#include "kernels/cuda/history_counts.h"

#include <algorithm>

#include "kernels/check.h"

namespace lorica::cuda {

HistoryCounts::Tail HistoryCounts::Advance(const SampleRow& row) {
  LORICA_CHECK(row.output_pending == 0 || row.output_pending == 1, row.output_pending);
  Counts& counts = slots_[row.slot];
  counts.step = step_;
  if (counts.row == nullptr) counts = {TakeRow(), 0, 0, step_};
  Tail tail;
  tail.counts = counts.row;
  if (counts.row == nullptr) return tail;
  const int64_t known = int64_t{row.prompt_count} + row.output_count;
  const int64_t all = known + row.output_pending;
  tail.anew = row.history == 0 || counts.history != row.history || counts.counted > all;
  const int64_t counted = tail.anew ? 0 : counts.counted;
  const int64_t of_prompt = std::min<int64_t>(counted, row.prompt_count);
  const int64_t of_output = std::min<int64_t>(counted - of_prompt, row.output_count);
  tail.prompt = absl::MakeConstSpan(row.prompt, row.prompt_count).subspan(of_prompt);
  tail.output = absl::MakeConstSpan(row.output, row.output_count).subspan(of_output);
  tail.pending = row.output_pending > 0 && counted < all;
  counts.history = row.history;
  counts.counted = all;
  return tail;
}

// Null: the device has no memory left.
uint16_t* HistoryCounts::TakeRow() {
  if (spare_.empty() && rows_ < rows_max_) Grow();
  if (!spare_.empty()) {
    uint16_t* row = spare_.back();
    spare_.pop_back();
    return row;
  }
  auto oldest = slots_.end();
  for (auto it = slots_.begin(); it != slots_.end(); ++it) {
    if (it->second.row == nullptr || it->second.step == step_) continue;
    if (oldest == slots_.end() || it->second.step < oldest->second.step) oldest = it;
  }
  if (oldest == slots_.end()) return nullptr;
  uint16_t* row = oldest->second.row;
  slots_.erase(oldest);
  return row;
}

void HistoryCounts::Grow() {
  const int rows = std::min(kChunkRows, rows_max_ - rows_);
  auto chunk = AllocateDevice(int64_t{rows} * kSampleVocabularyMax * sizeof(uint16_t));
  if (!chunk.ok()) {
    cudaGetLastError();  // it is said in the row's result, and not the device's failure
    return;
  }
  auto* base = static_cast<uint16_t*>((*chunk)->data());
  for (int i = 0; i < rows; ++i) spare_.push_back(base + int64_t{i} * kSampleVocabularyMax);
  rows_ += rows;
  chunks_.push_back(*std::move(chunk));
}

}  // namespace lorica::cuda
