#include "kernels/cuda/captured.h"

#include "kernels/cuda/stream.h"

namespace lorica::cuda {

absl::StatusOr<std::unique_ptr<CapturedGraph>> CapturedGraph::Record(
    const DecodeForm& form, cudaStream_t stream, absl::FunctionRef<void()> verbs) {
  constexpr char kWhat[] = "cannot capture a decode step";
  std::unique_ptr<CapturedGraph> captured(new CapturedGraph(form));
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return ToStatus(error, kWhat);
  verbs();
  cudaGraph_t graph = nullptr;
  error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) return ToStatus(error, kWhat);
  error = cudaGraphInstantiate(&captured->graph_, graph, 0);
  cudaGraphDestroy(graph);
  if (error == cudaSuccess) error = cudaGraphUpload(captured->graph_, stream);
  if (error != cudaSuccess) return ToStatus(error, kWhat);
  return captured;
}

CapturedGraph::~CapturedGraph() {
  if (graph_) cudaGraphExecDestroy(graph_);
}

}  // namespace lorica::cuda
