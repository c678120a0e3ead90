// Steps of a Model on a Backend.
//
// One thread, the engine's. On a synchronous backend (the CPU) Launch and Sample finish the
// step; on an asynchronous one results are read a step later.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "server/engine/executor.h"
#include "server/models/model.h"

namespace lorica {

class ModelExecutor : public Executor {
 public:
  // All pointers outlive the executor. Token ids are below `vocabulary_used`; the
  // model's further rows are padding.
  ModelExecutor(Model* model, Backend* backend, const KvCache& cache, int32_t vocabulary_used);

  int depth() const override { return backend_->asynchronous() ? 1 : 0; }
  void Launch(std::unique_ptr<StepBatch> batch) override;
  void Sample() override;
  absl::StatusOr<std::vector<SampleResult>> Collect() override;

 private:
  struct Flight {
    std::unique_ptr<StepBatch> batch;
    std::vector<SampleResult> results;
  };

  Model* const model_;
  Backend* const backend_;
  const KvCache cache_;
  const int32_t vocabulary_used_;
  std::deque<Flight> flights_;
};

}  // namespace lorica
