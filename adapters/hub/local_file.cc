#include "adapters/hub/local_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/beneath.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

FileStamp StampOf(const struct stat& info) {
  return {info.st_dev, info.st_ino, info.st_size, Nanoseconds(info.st_mtim),
          Nanoseconds(info.st_ctim)};
}

class LocalFile : public SourceFile {
 public:
  LocalFile(UniqueFd fd, std::string name, const struct stat& info)
      : fd_(std::move(fd)), name_(std::move(name)), stamp_(StampOf(info)) {}

  int64_t size_bytes() const override { return stamp_.size_bytes; }

  FileStamp stamp() const override {
    struct stat info = {};
    return fstat(fd_.get(), &info) == 0 ? StampOf(info) : FileStamp{};
  }

  absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
    while (!out.empty()) {
      const ssize_t count = pread(fd_.get(), out.data(), out.size(), offset);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        return absl::UnavailableError(absl::StrCat(
            "reading ", Quoted(name_), " failed: ", std::strerror(errno),
            "; ask again, and if it stays so have the disk of the server looked at"));
      }
      if (count == 0) {
        return absl::DataLossError(absl::StrCat(Quoted(name_), " ends at ", offset,
                                                " bytes: it was cut while it was read"));
      }
      offset += count;
      out.remove_prefix(count);
    }
    return absl::OkStatus();
  }

  bool LinkTo(const std::string& path) const override {
    const std::string self = absl::StrCat("/proc/self/fd/", fd_.get());
    return linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0;
  }

 private:
  const UniqueFd fd_;
  const std::string name_;
  const FileStamp stamp_;  // when it was opened
};

}  // namespace

absl::StatusOr<std::unique_ptr<SourceFile>> OpenFileBeneath(int root, const std::string& path) {
  // Without O_NONBLOCK opening a FIFO would wait for its writer.
  absl::StatusOr<UniqueFd> fd = OpenBeneath(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd.ok()) return fd.status();
  struct stat info = {};
  if (fstat(fd->get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(Quoted(path), " is not a regular file"));
  }
  return std::make_unique<LocalFile>(*std::move(fd), path, info);
}

}  // namespace lorica
