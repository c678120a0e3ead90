#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "adapters/hub/beneath.h"
#include "adapters/hub/followed_source.h"
#include "adapters/hub/local_file.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/source.h"

namespace lorica {
namespace {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr int kLocationPartsMax = 2;
constexpr int kFolderEntriesMax = 1'000'000;

bool IsPlainName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find('/') == absl::string_view::npos && name.find('\0') == absl::string_view::npos;
}

absl::Status CheckLocation(const std::string& location, const std::string& file) {
  const std::vector<absl::string_view> parts = absl::StrSplit(location, '/');
  const bool plain = parts.size() <= kLocationPartsMax && IsPlainName(file) &&
                     std::all_of(parts.begin(), parts.end(), IsPlainName);
  if (plain) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(Quoted(location), " is not a folder name beneath the adapters folder"));
}

UniqueFd OpenFolder(const std::string& path) {
  return UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

class LocalSource : public Source {
 public:
  // `path` is where to look for another root; empty: nowhere.
  LocalSource(UniqueFd root, std::string path)
      : path_(std::move(path)), root_(std::make_shared<const UniqueFd>(std::move(root))) {}

  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string& location,
                                                   const std::string& file) override {
    if (absl::Status s = CheckLocation(location, file); !s.ok()) return s;
    const std::string path = absl::StrCat(location, "/", file);
    return OpenFileBeneath(Root()->get(), path);
  }

  bool HasFolder(const std::string& location) const override {
    return CheckLocation(location, kConfigFile).ok() &&
           OpenBeneath(Root()->get(), location, O_PATH | O_DIRECTORY).ok();
  }

  absl::StatusOr<std::vector<std::string>> List(int limit) override {
    std::vector<std::string> found;
    absl::StatusOr<std::vector<std::string>> names = FolderNames(".");
    if (!names.ok()) return names.status();
    for (const std::string& name : *names) {
      if (std::ssize(found) >= limit) break;
      if (HasConfig(name)) {
        found.push_back(name);
      } else {
        ListOwner(name, limit, found);
      }
    }
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  bool HasConfig(const std::string& location) const {
    return OpenBeneath(Root()->get(), absl::StrCat(location, "/", kConfigFile), O_PATH).ok();
  }

  void ListOwner(const std::string& owner, int limit, std::vector<std::string>& found) const {
    absl::StatusOr<std::vector<std::string>> names = FolderNames(owner);
    if (!names.ok()) return;
    for (const std::string& name : *names) {
      if (std::ssize(found) >= limit) return;
      const std::string location = absl::StrCat(owner, "/", name);
      if (HasConfig(location)) found.push_back(location);
    }
  }

  // Names in a folder that may be folders, sorted; hidden ones are left out.
  absl::StatusOr<std::vector<std::string>> FolderNames(const std::string& path) const {
    absl::StatusOr<UniqueFd> fd = OpenBeneath(Root()->get(), path, O_RDONLY | O_DIRECTORY);
    if (!fd.ok()) return fd.status();
    DIR* folder = fdopendir(fd->get());
    if (folder == nullptr) return absl::UnavailableError("reading the adapters folder failed");
    fd->release();
    std::vector<std::string> names;
    for (const dirent* entry = readdir(folder); entry != nullptr; entry = readdir(folder)) {
      const bool maybe_folder =
          entry->d_type == DT_DIR || entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN;
      if (maybe_folder && entry->d_name[0] != '.') names.emplace_back(entry->d_name);
      if (names.size() == kFolderEntriesMax) break;
    }
    closedir(folder);
    std::sort(names.begin(), names.end());
    return names;
  }

  std::shared_ptr<const UniqueFd> Root() const {
    absl::MutexLock lock(&mutex_);
    struct stat now = {};
    struct stat held = {};
    const bool moved = !path_.empty() && stat(path_.c_str(), &now) == 0 && S_ISDIR(now.st_mode) &&
                       fstat(root_->get(), &held) == 0 &&
                       (now.st_ino != held.st_ino || now.st_dev != held.st_dev);
    if (!moved) return root_;
    UniqueFd other = OpenFolder(path_);
    if (other.get() >= 0) root_ = std::make_shared<const UniqueFd>(std::move(other));
    return root_;
  }

  const std::string path_;
  mutable absl::Mutex mutex_;
  mutable std::shared_ptr<const UniqueFd> root_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<Source>> Make(const std::string& root, const std::string& followed) {
  UniqueFd fd = OpenFolder(root);
  if (fd.get() < 0) {
    return absl::NotFoundError(absl::StrCat("adapters folder ", Quoted(root),
                                            " cannot be opened: ", std::strerror(errno)));
  }
  return std::make_unique<LocalSource>(std::move(fd), followed);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> MakeLocalSource(const std::string& root) {
  return Make(root, "");
}

absl::StatusOr<std::unique_ptr<Source>> MakeFollowedSource(const std::string& root) {
  std::error_code error;
  return Make(root, std::filesystem::absolute(root, error).string());
}

}  // namespace lorica
