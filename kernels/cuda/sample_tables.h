// The sample rows of a step as kernels read them, and what the kernels answer.
//
// Parameters go into the step's tables. Lists of any length (biases, masks, new tokens of
// histories) are copied into pinned host memory, where the kernels read them; answers are
// written to pinned memory by the kernels. Both have a place for each of
// kStepsInFlightMax steps, taken in turn.
//
// One thread, the engine's.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/history_counts.h"

namespace lorica::cuda {

inline constexpr int kStepsInFlightMax = 4;

// True when the row wants nothing but the largest logit.
bool IsPlainGreedy(const SampleRow& row);

class SampleTables {
 public:
  static absl::StatusOr<std::unique_ptr<SampleTables>> Make(int rows_max);

  // Takes a step's rows and launches what brings their histories up to date. Waits while
  // kStepsInFlightMax steps have not ended. Masks have a place from now on, but are copied by
  // CopyMasks, before the step samples.
  void Begin(absl::Span<const SampleRow> rows, const int32_t* token_slots, cudaStream_t stream);

  void CopyMasks() const;

  // Of the step that began last:
  // Its rows for the step's tables; empty when all of them are plain greedy.
  absl::Span<const DeviceSample> rows() const { return rows_; }
  // Tokens that every mask has a bit for.
  int64_t masked_tokens() const { return masked_tokens_; }
  SampleOutput* outputs() const { return outputs_; }

 private:
  struct Place {
    std::unique_ptr<Buffer> lists;  // grows
    std::unique_ptr<Buffer> outputs;
    Event ended;  // the step that used it, and some more
  };
  class Lists;
  struct Mask {
    const int32_t* from = nullptr;
    int32_t* to = nullptr;
    int32_t words = 0;
  };

  explicit SampleTables(int rows_max) : counts_(rows_max) {}
  void AdvanceHistories(absl::Span<const SampleRow> rows);
  bool MakeRoom(Place& place, int64_t bytes);
  int64_t ListBytes(absl::Span<const SampleRow> rows) const;
  void FillRow(const SampleRow& row, Lists* lists);
  void LaunchTails(absl::Span<const SampleRow> rows, Lists& lists, const int32_t* token_slots,
                   cudaStream_t stream);

  HistoryCounts counts_;
  Place places_[kStepsInFlightMax];
  int turn_ = 0;
  std::vector<DeviceSample> rows_;
  std::vector<HistoryCounts::Tail> tails_;  // [rows]
  std::vector<Mask> masks_;
  int64_t masked_tokens_ = 0;
  SampleOutput* outputs_ = nullptr;
};

// What the kernel wrote for a step's rows.
void ReadOutputs(const SampleOutput* outputs, absl::Span<SampleResult> results);

}  // namespace lorica::cuda
