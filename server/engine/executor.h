// What the engine needs of a device: launch a step, have it sample, take its results later.
//
// ModelExecutor runs a Model on a Backend; the simulator puts a fake device here that
// finishes one step late. One thread, the engine's.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/step_batch.h"

namespace lorica {

class Executor {
 public:
  virtual ~Executor() = default;
  // How many launched steps may be unread: 0 = Launch finishes the step (CPU), 1 = the
  // engine launches step n + 1 before it reads the tokens of step n.
  virtual int depth() const = 0;
  // Starts a step. The batch moves in and lives until the step is collected.
  virtual void Launch(std::unique_ptr<StepBatch> batch) = 0;
  // Starts the sampling of the step launched last. Masks are read now, and not later.
  virtual void Sample() = 0;
  // Results of the oldest launched step, one per sample row, in order. Waits for it.
  // An error is sticky: the device is gone.
  virtual absl::StatusOr<std::vector<SampleResult>> Collect() = 0;
};

}  // namespace lorica
