// Time that other processes on the machine do not lengthen. For tests that run on one thread.
#pragma once

#include <ctime>

namespace lorica {

// Processor time of this process so far.
inline double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Instrumented builds are slower, use larger stack frames and more memory.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kInstrumentationFactor = 4;
#else
inline constexpr int kInstrumentationFactor = 1;
#endif

}  // namespace lorica
