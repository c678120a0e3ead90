// A launch that may begin before the launch ahead of it in the stream has ended: the kernel
// says when it needs that one's results (WaitForPredecessor).
#pragma once

#include <cuda_runtime.h>

namespace lorica::cuda {

// In clusters of `cluster` blocks that follow each other in x.
template <typename... Parameters, typename... Arguments>
void LaunchDependentClusters(int cluster, void (*kernel)(Parameters...), dim3 grid, int threads,
                             int shared_bytes, cudaStream_t stream,
                             const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename... Parameters, typename... Arguments>
void LaunchDependent(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                     cudaStream_t stream, const Arguments&... arguments) {
  LaunchDependentClusters(1, kernel, grid, threads, shared_bytes, stream, arguments...);
}

}  // namespace lorica::cuda
