// The launches of a decode step as one CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace lorica::cuda {

class CapturedGraph : public CapturedStep {
 public:
  // Records what `verbs` launches on `stream`, and what waits for it on others; nothing runs.
  // Every kernel has run before, so that none has to be loaded.
  static absl::StatusOr<std::unique_ptr<CapturedGraph>> Record(const DecodeForm& form,
                                                               cudaStream_t stream,
                                                               absl::FunctionRef<void()> verbs);
  ~CapturedGraph() override;

  const DecodeForm& form() const { return form_; }
  // Errors stay with the runtime, as those of any launch.
  void Launch(cudaStream_t stream) const { cudaGraphLaunch(graph_, stream); }

 private:
  explicit CapturedGraph(const DecodeForm& form) : form_(form) {}

  const DecodeForm form_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace lorica::cuda
