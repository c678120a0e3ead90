// Whether there is a GPU to test on.
#pragma once

#include <filesystem>

namespace lorica {

inline bool HasGpu() { return std::filesystem::exists("/dev/nvidiactl"); }

}  // namespace lorica
