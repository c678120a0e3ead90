#include "server/api/read_bound.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "grpcpp/version_info.h"

static_assert(GRPC_CPP_VERSION_MAJOR == 1 && GRPC_CPP_VERSION_MINOR == 51,
              "another gRPC: see whether it still needs this, and whether this fits it");

#define LORICA_PRESSURE "_ZN9grpc_core16BasicMemoryQuota15GetPressureInfoEv"

namespace lorica {

// BasicMemoryQuota::PressureInfo, as the library's headers, which are not installed, have it.
struct MemoryPressure {
  double at_once;
  double control;
  size_t allocation_bytes_max;
};

// What the library calls in the place of its own.
__attribute__((visibility("default"), used)) MemoryPressure PressureOf(void* quota) __asm__(
    LORICA_PRESSURE);

MemoryPressure PressureOf(void* quota) {
  constexpr double kShort = 0.9;  // from 0.8 on no more is read than is needed
  using Librarys = MemoryPressure (*)(void*);
  static const auto librarys = reinterpret_cast<Librarys>(::dlsym(RTLD_NEXT, LORICA_PRESSURE));
  if (librarys == nullptr) std::abort();  // a server has asked CheckReadBound
  MemoryPressure pressure = librarys(quota);
  pressure.control = std::max(pressure.control, kShort);
  return pressure;
}

absl::Status CheckReadBound() {
  const bool ours = ::dlsym(RTLD_DEFAULT, LORICA_PRESSURE) == reinterpret_cast<void*>(&PressureOf);
  if (ours && ::dlsym(RTLD_NEXT, LORICA_PRESSURE) != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this libgrpc.so cannot be kept from reading ever more of a connection: use the one that the "
      "server was built with");
}

}  // namespace lorica
