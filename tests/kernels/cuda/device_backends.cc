// The CUDA backend for the bodies that every backend runs; none where there is no GPU.
#include "tests/kernels/kernel_test.h"

extern "C" lorica::Backend* LoricaMakeBackend(const lorica::BackendOptions* options,
                                              absl::Status* error);

namespace lorica::testing {
namespace {

std::unique_ptr<Backend> MakeCuda(int rows_max) {
  const BackendOptions options = {.rows_max = rows_max};
  absl::Status error;
  return std::unique_ptr<Backend>(LoricaMakeBackend(&options, &error));
}

}  // namespace

std::vector<BackendCase> DeviceBackends() {
  if (!MakeCuda(1)) return {};
  BackendCase bf16;
  bf16.name = "CudaBf16";
  bf16.make = MakeCuda;
  bf16.bit_equal_rows = true;
  bf16.bit_equal_forward = false;  // the best product of a shape depends on its rows
  bf16.compute = DType::kBF16;
  bf16.width_multiple = 8;
  bf16.keeps_quantised = false;
  return {bf16};
}

}  // namespace lorica::testing
