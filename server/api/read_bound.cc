#include "server/api/read_bound.h"

#include <algorithm>

#include "server/api/before_library.h"
#include "server/api/grpc_internals.h"

namespace lorica {

// What the library calls in the place of its own.
__attribute__((visibility("default"), used)) MemoryPressure PressureOf(void* quota) __asm__(
    LORICA_PRESSURE);

MemoryPressure PressureOf(void* quota) {
  constexpr double kShort = 0.9;  // from 0.8 on no more is read than is needed
  static const auto librarys = OfLibrary<MemoryPressure (*)(void*)>(LORICA_PRESSURE);
  MemoryPressure pressure = librarys(quota);
  pressure.control = std::max(pressure.control, kShort);
  return pressure;
}

absl::Status CheckReadBound() {
  if (StandsBefore(LORICA_PRESSURE, &PressureOf)) return absl::OkStatus();
  return CannotBeKeptFrom("reading ever more of a connection");
}

}  // namespace lorica
