#include "server/engine/model_executor.h"

#include <utility>

#include "absl/types/span.h"
#include "kernels/check.h"

namespace lorica {

ModelExecutor::ModelExecutor(Model* model, Backend* backend, const KvCache& cache,
                             int32_t vocabulary_used)
    : model_(model), backend_(backend), cache_(cache), vocabulary_used_(vocabulary_used) {}

void ModelExecutor::Launch(std::unique_ptr<StepBatch> batch) {
  Flight& flight = flights_.emplace_back();
  flight.batch = std::move(batch);
  flight.results.resize(flight.batch->samples.size());
  model_->Forward(*flight.batch, cache_);
}

void ModelExecutor::Sample() {
  Flight& flight = flights_.back();
  if (!flight.results.empty()) {
    backend_->Sample(model_->logits(), vocabulary_used_, absl::MakeSpan(flight.results));
  }
  backend_->EndStep();
}

absl::StatusOr<std::vector<SampleResult>> ModelExecutor::Collect() {
  LORICA_CHECK(!flights_.empty(), "nothing was launched");
  absl::Status status = backend_->AwaitStep();
  if (!status.ok()) return status;
  std::vector<SampleResult> results = std::move(flights_.front().results);
  flights_.pop_front();
  return results;
}

}  // namespace lorica
