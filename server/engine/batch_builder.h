// StepPlan -> StepBatch: the same step as the device reads it.
#pragma once

#include <memory>

#include "kernels/step_batch.h"
#include "server/engine/scheduler.h"
#include "server/engine/step_plan.h"

namespace lorica {

// A row that scores a prompt token is a greedy one whose bias, kScoringBias, decides.
// REQUIRES: the plan comes from this scheduler's last Schedule and is not yet Launched.
// Sample rows borrow histories, biases and masks of the requests, which stay where they are until
// the step has been collected; outputs may grow behind what the row counts, and masks
// are filled before Executor::Sample.
std::unique_ptr<StepBatch> BuildBatch(const StepPlan& plan, const Scheduler& scheduler);

}  // namespace lorica
