// Decode steps that a device keeps captured: for each of a few row counts one for any mixture
// of adapters and one for the base alone. A step is replayed by the smallest that holds it.
//
// Private to server/models. One thread.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/backend.h"

namespace lorica {

// Row counts that are captured for steps of up to rows_max rows: 1, 2, 4, 8, then every 8th,
// beyond 256 every 32nd; the last is rows_max.
std::vector<int> DecodeBuckets(int rows_max);

class DecodeSteps {
 public:
  // `verbs` are the model's for tensors of that many rows and samples.
  absl::Status Capture(Backend& device, const KvCache& cache, int rows_max,
                       absl::FunctionRef<void(int rows)> verbs);
  // Null: this is no decode step, or none as large was captured.
  const CapturedStep* Find(const StepBatch& batch) const;
  int count() const { return static_cast<int>(steps_.size()); }

 private:
  struct Step {
    DecodeForm form;
    std::unique_ptr<CapturedStep> captured;
  };

  std::vector<Step> steps_;  // by rows, base alone first
};

}  // namespace lorica
