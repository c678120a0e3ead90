#include "adapters/disk_room.h"

#include <sys/statvfs.h>

namespace lorica {

std::optional<int64_t> DiskBytesLeft(const std::string& folder) {
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) return std::nullopt;
  int64_t bytes = 0;
  const bool overflows = __builtin_mul_overflow(disk.f_bavail, disk.f_frsize, &bytes);
  return disk.f_blocks == 0 || overflows ? INT64_MAX : bytes;
}

}  // namespace lorica
