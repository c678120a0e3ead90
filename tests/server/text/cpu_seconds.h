// Time that other processes on the machine do not lengthen. For tests that run on one thread.
#pragma once

#include <ctime>

namespace lorica {

// Processor time of this process so far.
inline double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace lorica
