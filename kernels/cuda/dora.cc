#include "kernels/cuda/dora.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {

absl::StatusOr<std::vector<float>> ComputeDoraGain(const LoraTarget& target,
                                                   absl::Span<const float> a,
                                                   absl::Span<const float> b, int rank, float scale,
                                                   absl::Span<const float> magnitude,
                                                   cudaStream_t stream) {
  const int64_t in = target.in_features, out = target.out_features;
  LORICA_CHECK(std::ssize(a) == rank * in && std::ssize(b) == out * rank, target.name, rank);
  auto memory = AllocateInStream((rank * in + rank * out + out) * sizeof(float), stream);
  if (!memory.ok()) return memory.status();
  DoraArgs args;
  args.weight =
      static_cast<const uint16_t*>(static_cast<const CudaWeight&>(*target.weight).data()) +
      target.weight_row_begin * in;
  args.columns = in;
  args.rank = rank;
  args.scale = scale;
  auto* a_device = static_cast<float*>((*memory)->data());
  float* b_device = a_device + a.size();
  float* norms_device = b_device + b.size();
  args.a = a_device;
  args.b = b_device;
  cudaMemcpyAsync(a_device, a.data(), a.size() * sizeof(float), cudaMemcpyHostToDevice, stream);
  cudaMemcpyAsync(b_device, b.data(), b.size() * sizeof(float), cudaMemcpyHostToDevice, stream);
  LaunchRowNorms(norms_device, args, out, stream);
  std::vector<float> gain(out);
  cudaMemcpyAsync(gain.data(), norms_device, out * sizeof(float), cudaMemcpyDeviceToHost, stream);
  const cudaError_t error = cudaStreamSynchronize(stream);
  if (error != cudaSuccess) return ToStatus(error, "cannot compute the row norms of an adapter");
  for (int64_t i = 0; i < out; ++i) {
    const float norm = gain[i];
    if (!(norm > 0.0f) || !std::isfinite(norm)) {
      return absl::DataLossError(
          absl::StrCat("row ", i, " of ", target.name, " with its adapter has norm ", norm));
    }
    gain[i] = magnitude[i] / norm;
  }
  return gain;
}

}  // namespace lorica::cuda
