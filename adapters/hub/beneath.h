// Opening files beneath a root folder, and nowhere else.
//
// A path below the root may pass symbolic links only while they stay beneath it.
// Linux decides that in the kernel (openat2); where that call is missing or filtered,
// the file is opened without reading, asked where it is, and only then opened for
// reading through the same descriptor, so that nothing can be swapped in between.
#pragma once

#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace lorica {

// Owns a file descriptor. Move-only.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

enum class BeneathMethod {
  kAuto,      // openat2, or the other where the kernel refuses it
  kPortable,  // open, ask where it is, reopen
};

// Opens root/path with `flags` (O_CLOEXEC is added). NotFound: nothing is there.
// FailedPrecondition: outside the root, too many links, or not allowed.
// Unavailable: out of descriptors, or the folder is being renamed.
absl::StatusOr<UniqueFd> OpenBeneath(int root, const std::string& path, int flags,
                                     BeneathMethod method = BeneathMethod::kAuto);

}  // namespace lorica
