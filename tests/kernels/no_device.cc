// For builds without a device's backend.
#include "tests/kernels/kernel_test.h"

namespace lorica::testing {

std::vector<BackendCase> DeviceBackends() { return {}; }

}  // namespace lorica::testing
