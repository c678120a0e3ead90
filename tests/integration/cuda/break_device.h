// A fault injected into this process's GPU.
#pragma once

namespace lorica {

// Writes to an illegal address from a kernel. Whatever this process does on the device from
// then on fails.
void BreakDevice();

}  // namespace lorica
