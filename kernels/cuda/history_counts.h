// How often each token occurs in the histories that penalties look at, kept on the device.
//
// A token slot has one row of counts from the first step that penalises it. A step adds what
// its history has more than the step before, which for a running request is the one token in
// the slot: the newest token is counted although the host has not read it yet. A slot that
// passes to another history starts anew. Rows are taken from the device when they are first
// wanted, 512 KiB each, for at most as many slots as a step has rows; then the slot that was
// not wanted for the longest gives its row away.
//
// One thread, the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {

class HistoryCounts {
 public:
  // Tokens to add to the counts of a slot, in host memory that the SampleRow lends.
  struct Tail {
    uint16_t* counts = nullptr;  // null: there was no device memory for them
    absl::Span<const int32_t> prompt;
    absl::Span<const int32_t> output;
    bool pending = false;  // and what the slot holds
    bool anew = false;     // the counts are another history's: clear them first
  };

  explicit HistoryCounts(int rows_max) : rows_max_(rows_max) {}

  void BeginStep() { ++step_; }
  // What the counts of the row's slot lack; from now on they count as added. Once a row and step.
  Tail Advance(const SampleRow& row);

 private:
  static constexpr int kChunkRows = 4;  // taken from the device together

  struct Counts {
    uint16_t* row = nullptr;
    uint64_t history = 0;
    int64_t counted = 0;  // tokens of prompt and output
    int64_t step = 0;     // the last that wanted it
  };

  uint16_t* TakeRow();
  void Grow();

  const int rows_max_;
  int64_t step_ = 0;
  int rows_ = 0;
  std::vector<std::unique_ptr<Buffer>> chunks_;
  std::vector<uint16_t*> spare_;
  std::unordered_map<int32_t, Counts> slots_;
};

}  // namespace lorica::cuda
