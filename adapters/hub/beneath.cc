#include "adapters/hub/beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr int kRenameRetriesMax = 8;

absl::Status OpenError(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
      return absl::NotFoundError(absl::StrCat(Quoted(path), " does not exist"));
    case EXDEV:
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(path), " leads out of the adapters folder: copy the files into it"));
    case ELOOP:
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(path), " passes too many symbolic links"));
    case EACCES:
    case EPERM:
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(path), " may not be read by the server: check its permissions"));
    case ENXIO:
    case ENODEV:
      return absl::FailedPreconditionError(absl::StrCat(Quoted(path), " is not a regular file"));
    default:
      return absl::UnavailableError(
          absl::StrCat("opening ", Quoted(path), " failed: ", std::strerror(error)));
  }
}

std::string DescriptorPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

// Where an open descriptor lies now; empty when the kernel will not say.
std::string RealPath(int fd) {
  char path[PATH_MAX];
  const ssize_t length = readlink(DescriptorPath(fd).c_str(), path, sizeof(path));
  return length <= 0 || length == sizeof(path) ? "" : std::string(path, length);
}

bool LiesBeneath(int root, int fd) {
  const std::string root_path = RealPath(root);
  const std::string path = RealPath(fd);
  if (root_path.empty() || path.empty()) return false;
  return root_path == "/" || absl::StartsWith(path, absl::StrCat(root_path, "/"));
}

absl::StatusOr<UniqueFd> OpenPortable(int root, const std::string& path, int flags) {
  const int directory_flag = flags & O_DIRECTORY;
  UniqueFd place(openat(root, path.c_str(), O_PATH | O_CLOEXEC | directory_flag));
  if (place.get() < 0) return OpenError(path, errno);
  if (!LiesBeneath(root, place.get())) return OpenError(path, EXDEV);
  if ((flags & O_PATH) != 0) return place;
  UniqueFd file(open(DescriptorPath(place.get()).c_str(), flags | O_CLOEXEC));
  if (file.get() < 0) return OpenError(path, errno);
  return file;
}

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<UniqueFd> OpenBeneath(int root, const std::string& path, int flags,
                                     BeneathMethod method) {
  if (method == BeneathMethod::kPortable) return OpenPortable(root, path, flags);
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  for (int attempt = 0; attempt < kRenameRetriesMax; ++attempt) {
    const long fd = syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how));
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    // A sandbox that filters the call may answer EPERM.
    if (errno == ENOSYS || errno == EPERM) return OpenPortable(root, path, flags);
    if (errno != EAGAIN && errno != EINTR) return OpenError(path, errno);
  }
  return OpenError(path, EAGAIN);
}

}  // namespace lorica
