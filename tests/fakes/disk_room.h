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

// Of every disk, in blocks of that size; below zero: what there is.
inline std::atomic<int64_t> g_disk_bytes_left = -1;
inline std::atomic<int64_t> g_disk_block_bytes = 1;
inline std::atomic<bool> g_disk_says_its_size = true;

}  // namespace lorica::fakes

extern "C" int statvfs(const char* path, struct statvfs* disk) noexcept {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const int result = fstatvfs(fd, disk);
  close(fd);
  const int64_t left = lorica::fakes::g_disk_bytes_left;
  if (left >= 0) {
    disk->f_frsize = static_cast<unsigned long>(lorica::fakes::g_disk_block_bytes);
    disk->f_bavail = static_cast<fsblkcnt_t>(left);
  }
  if (!lorica::fakes::g_disk_says_its_size) disk->f_blocks = 0;
  return result;
}
