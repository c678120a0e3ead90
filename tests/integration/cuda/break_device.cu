#include "tests/integration/cuda/break_device.h"

namespace lorica {
namespace {

__global__ void WriteNowhere(int* target) { *target = 1; }

}  // namespace

void BreakDevice() {
  WriteNowhere<<<1, 1>>>(reinterpret_cast<int*>(16));
  cudaDeviceSynchronize();
}

}  // namespace lorica
