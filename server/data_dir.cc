#include "server/data_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace lorica {

absl::StatusOr<std::unique_ptr<DataDir>> DataDir::Lock(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("--data-dir ", path, " cannot be made: ", error.message()));
  }
  const std::string lock_path = path + "/lock";
  const int fd = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--data-dir ", path, " cannot be written: ", std::strerror(errno)));
  }
  std::unique_ptr<DataDir> dir(new DataDir(fd));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--data-dir ", path, " is in use by another server: give each its own"));
  }
  return dir;
}

DataDir::~DataDir() { ::close(lock_fd_); }

}  // namespace lorica
