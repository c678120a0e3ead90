// The CUDA backends for the bodies that every backend runs; none where there is no GPU.
#include "kernels/plugin.h"
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

BackendCase CudaCase(const char* name, const char* plugin, DType compute) {
  BackendCase one;
  one.name = name;
  one.make = [plugin](int rows_max) {
    auto backend = MakeBackend(plugin, {.rows_max = rows_max});
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  };
  one.bit_equal_rows = true;
  one.bit_equal_forward = false;  // the best product of a shape depends on its rows
  one.compute = compute;
  one.width_multiple = 8;
  one.keeps_quantised = false;
  return one;
}

}  // namespace

std::vector<BackendCase> DeviceBackends() {
  if (!MakeBackend("cuda", {.rows_max = 1}).ok()) return {};
  return {CudaCase("CudaBf16", "cuda", DType::kBF16),
          CudaCase("CudaFp16", "cuda_f16", DType::kF16)};
}

}  // namespace lorica::testing
