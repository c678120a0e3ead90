// How much a disk has left, as a test would have it.
//
// A program that includes this, in one of its files, has its own statvfs.
#pragma once

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace lorica::fakes {

// Of every disk; below zero: what there is.
inline std::atomic<int64_t> g_disk_bytes_left = -1;

}  // namespace lorica::fakes

extern "C" int statvfs(const char* path, struct statvfs* disk) noexcept {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const int result = fstatvfs(fd, disk);
  close(fd);
  const int64_t left = lorica::fakes::g_disk_bytes_left;
  if (left >= 0) {
    disk->f_frsize = 1;
    disk->f_bavail = static_cast<fsblkcnt_t>(left);
  }
  return result;
}
