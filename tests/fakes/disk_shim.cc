#include "tests/fakes/disk_shim.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace lorica::fakes {
namespace {

// What the thread sanitizer's own calls would tell it, which stand behind these: who reads what
// another thread has written, to wake it, comes after it.
#if defined(__SANITIZE_THREAD__)
char g_order = 0;
void BeforeWrite() { __tsan_release(&g_order); }
void AfterRead() { __tsan_acquire(&g_order); }
#else
void BeforeWrite() {}
void AfterRead() {}
#endif

namespace fs = std::filesystem;

enum class Kind { kCreate, kMakeFolder, kLink, kRename, kRemove, kWrite, kTruncate, kSync };

struct Change {
  Kind kind;
  int file = -1;       // its number; -1: of a folder
  std::string path{};  // beneath the root
  std::string to{};    // kRename
  int64_t at = 0;      // kWrite; the size of kTruncate
  std::string bytes{};
};

struct Record {
  std::mutex mutex;
  std::string root;
  std::vector<Change> changes;
  std::map<ino_t, int> files;
  int files_made = 0;
  int fail_at = 0;  // of changes to come
  int error = 0;
  bool failed = false;
  int fail_reads_from = 0;  // of reads to come
  int read_error = 0;
};

// Before any constructor has run, the C library is called already.
std::atomic<Record*> g_record = nullptr;
// Of shims that are gone: a thread may still be looking at one.
std::vector<Record*>* g_retired = nullptr;

bool ChangesFolders(const Change& change) { return change.kind <= Kind::kRemove; }

std::string FolderOf(const std::string& path) { return fs::path(path).parent_path().string(); }

// Beneath the root, or false.
bool PathBeneath(const Record& record, int folder, const char* path, std::string* beneath) {
  std::string whole = path;
  if (whole.empty() || whole[0] != '/') {
    char base[PATH_MAX];
    const std::string link =
        folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/" + std::to_string(folder);
    const ssize_t size = readlink(link.c_str(), base, sizeof base);
    if (size < 0) return false;
    whole = std::string(base, size) + (whole.empty() ? "" : "/" + whole);
  }
  if (whole.compare(0, record.root.size(), record.root) != 0) return false;
  if (whole.size() > record.root.size() && whole[record.root.size()] != '/') return false;
  *beneath = fs::path(whole.substr(record.root.size())).relative_path().string();
  return true;
}

// Makes the change and writes it down, unless it is the one to fail.
template <typename Make>
auto Do(Record& record, Change change, const Make& make) -> decltype(make()) {
  if (record.fail_at > 0 && --record.fail_at == 0) {
    record.failed = true;
    errno = record.error;
    return -1;
  }
  const auto result = make();
  if (result < 0) return result;
  if (change.kind == Kind::kWrite) change.bytes.resize(result);
  record.changes.push_back(std::move(change));
  return result;
}

// The number of a file that was made beneath the root, or -1.
int FileOf(const Record& record, int descriptor) {
  struct stat info = {};
  if (fstat(descriptor, &info) != 0) return -1;
  const auto found = record.files.find(info.st_ino);
  return found == record.files.end() ? -1 : found->second;
}

int Open(int folder, const char* path, int flags, mode_t mode) {
  const auto open_it = [&] {
    return static_cast<int>(syscall(SYS_openat, folder, path, flags, mode));
  };
  Record* const record = g_record.load();
  if (record == nullptr || (flags & (O_CREAT | O_TRUNC)) == 0) return open_it();
  std::lock_guard lock(record->mutex);
  Change change{Kind::kCreate};
  struct stat before = {};
  const bool is_new = fstatat(folder, path, &before, AT_SYMLINK_NOFOLLOW) != 0;
  if (!PathBeneath(*record, folder, path, &change.path)) return open_it();
  if (!is_new && (flags & O_TRUNC) == 0) return open_it();
  if (is_new) {
    change.file = record->files_made++;
  } else {
    const auto known = record->files.find(before.st_ino);
    if (known == record->files.end()) return open_it();
    change.kind = Kind::kTruncate;
    change.file = known->second;
  }
  const int file = change.file;
  const int descriptor = Do(*record, std::move(change), open_it);
  struct stat info = {};
  if (descriptor >= 0 && fstat(descriptor, &info) == 0) record->files[info.st_ino] = file;
  return descriptor;
}

// Of an open file, which may be none of ours.
template <typename Make>
auto ToFile(int descriptor, Kind kind, int64_t at, std::string_view bytes, const Make& make)
    -> decltype(make()) {
  Record* const record = g_record.load();
  if (record == nullptr) return make();
  std::lock_guard lock(record->mutex);
  Change change{kind, FileOf(*record, descriptor)};
  if (change.file < 0) {
    struct stat info = {};
    const bool is_folder = fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode) &&
                           PathBeneath(*record, descriptor, "", &change.path);
    if (!is_folder) return make();
  }
  change.at = at;
  change.bytes = bytes;
  return Do(*record, std::move(change), make);
}

template <typename Make>
int ToFolder(Kind kind, int folder, const char* path, int to_folder, const char* to,
             const Make& make) {
  Record* const record = g_record.load();
  if (record == nullptr) return make();
  std::lock_guard lock(record->mutex);
  Change change{kind};
  if (!PathBeneath(*record, folder, path, &change.path)) return make();
  if (to != nullptr && !PathBeneath(*record, to_folder, to, &change.to)) return make();
  return Do(*record, std::move(change), make);
}

// Of an open file beneath the root; anything else is read as ever.
template <typename Make>
ssize_t Read(int descriptor, const Make& make) {
  Record* const record = g_record.load();
  if (record == nullptr) return make();
  {
    std::lock_guard lock(record->mutex);
    std::string path;
    if (record->fail_reads_from > 0 && PathBeneath(*record, descriptor, "", &path)) {
      if (record->fail_reads_from == 1) {
        record->failed = true;
        errno = record->read_error;
        return -1;
      }
      --record->fail_reads_from;
    }
  }
  return make();
}

ssize_t ReadAt(int descriptor, void* data, size_t count, off_t at) {
  return Read(descriptor, [&] {
    return static_cast<ssize_t>(syscall(SYS_pread64, descriptor, data, count, at));
  });
}

ssize_t Write(int descriptor, const void* data, size_t count) {
  return ToFile(descriptor, Kind::kWrite, lseek(descriptor, 0, SEEK_CUR),
                {static_cast<const char*>(data), count},
                [&] { return static_cast<ssize_t>(syscall(SYS_write, descriptor, data, count)); });
}

ssize_t WriteAt(int descriptor, const void* data, size_t count, off_t at) {
  return ToFile(descriptor, Kind::kWrite, at, {static_cast<const char*>(data), count}, [&] {
    return static_cast<ssize_t>(syscall(SYS_pwrite64, descriptor, data, count, at));
  });
}

int Truncate(int descriptor, off_t size) {
  return ToFile(descriptor, Kind::kTruncate, size, "",
                [&] { return static_cast<int>(syscall(SYS_ftruncate, descriptor, size)); });
}

// Written down alone: no power goes while a test runs, and the machine's disk takes long.
int Sync(int descriptor) {
  return ToFile(descriptor, Kind::kSync, 0, "", [] { return 0; });
}

int Rename(int from_folder, const char* from, int to_folder, const char* to) {
  return ToFolder(Kind::kRename, from_folder, from, to_folder, to, [&] {
    return static_cast<int>(syscall(SYS_renameat2, from_folder, from, to_folder, to, 0));
  });
}

int Remove(int folder, const char* path, int flags) {
  return ToFolder(Kind::kRemove, folder, path, 0, nullptr,
                  [&] { return static_cast<int>(syscall(SYS_unlinkat, folder, path, flags)); });
}

int Link(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  const auto link_it = [&] {
    return static_cast<int>(syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
  };
  Record* const record = g_record.load();
  if (record == nullptr) return link_it();
  std::lock_guard lock(record->mutex);
  Change change{Kind::kLink};
  struct stat info = {};
  const int follow = (flags & AT_SYMLINK_FOLLOW) != 0 ? 0 : AT_SYMLINK_NOFOLLOW;
  if (fstatat(from_folder, from, &info, follow) != 0) return link_it();
  const auto file = record->files.find(info.st_ino);
  const bool is_ours =
      file != record->files.end() && PathBeneath(*record, to_folder, to, &change.path);
  if (!is_ours) return link_it();
  change.file = file->second;
  return Do(*record, std::move(change), link_it);
}

// --- what is left -----------------------------------------------------------------------------

void Apply(const Change& change, std::string* content) {
  if (change.kind == Kind::kTruncate) content->resize(change.at, '\0');
  if (change.kind != Kind::kWrite) return;
  content->resize(std::max<size_t>(content->size(), change.at + change.bytes.size()), '\0');
  content->replace(change.at, change.bytes.size(), change.bytes);
}

// What was synced, and of the writes since then none, all, the first ones or any.
std::string ContentOf(const std::vector<Change>& changes, int file, DiskShim::Rest rest,
                      std::mt19937_64& random) {
  std::string content;
  size_t synced = 0;
  for (size_t i = 0; i < changes.size(); ++i) {
    if (changes[i].file == file && changes[i].kind == Kind::kSync) synced = i;
  }
  const uint64_t how = rest == DiskShim::Rest::kAny   ? random() % 4
                       : rest == DiskShim::Rest::kAll ? 1
                                                      : 0;
  bool on = how != 0;
  for (size_t i = 0; i < changes.size(); ++i) {
    if (changes[i].file != file) continue;
    if (i > synced && how == 2) on = on && random() % 4 != 0;
    if (i > synced && how == 3) on = random() % 2 == 0;
    if (i < synced || on) Apply(changes[i], &content);
  }
  return content;
}

// Folder changes that are on the disk for sure, by a sync of their folder: so many of the first.
size_t SyncedFolders(const std::vector<Change>& changes) {
  size_t last = 0;
  for (size_t i = 0; i < changes.size(); ++i) {
    if (changes[i].kind != Kind::kSync || changes[i].file >= 0) continue;
    for (size_t k = last; k < i; ++k) {
      const Change& one = changes[k];
      const std::string& path = one.kind == Kind::kRename ? one.to : one.path;
      if (ChangesFolders(one) && FolderOf(path) == changes[i].path) last = k + 1;
    }
  }
  return last;
}

constexpr int kFolder = -1;
using Tree = std::map<std::string, int>;  // path to file number, or kFolder

void ApplyToTree(const Change& change, Tree* tree) {
  switch (change.kind) {
    case Kind::kCreate:
    case Kind::kLink:
      (*tree)[change.path] = change.file;
      return;
    case Kind::kMakeFolder:
      (*tree)[change.path] = kFolder;
      return;
    case Kind::kRemove:
      tree->erase(change.path);
      return;
    default:
      break;
  }
  if (change.kind != Kind::kRename) return;
  Tree moved;
  for (auto entry = tree->begin(); entry != tree->end();) {
    const std::string& path = entry->first;
    const bool inside = path == change.path || path.rfind(change.path + "/", 0) == 0;
    if (inside) moved[change.to + path.substr(change.path.size())] = entry->second;
    entry = inside ? tree->erase(entry) : std::next(entry);
  }
  for (const auto& [path, file] : moved) (*tree)[path] = file;
}

}  // namespace

DiskShim::DiskShim(const std::string& root) {
  auto* const record = new Record;
  record->root = root;
  g_record = record;
}

DiskShim::~DiskShim() {
  if (g_retired == nullptr) g_retired = new std::vector<Record*>;
  Record* const record = g_record.exchange(nullptr);
  std::lock_guard lock(record->mutex);
  record->changes = {};
  g_retired->push_back(record);
}

void DiskShim::FailAt(int k, int error) {
  Record& record = *g_record.load();
  std::lock_guard lock(record.mutex);
  record.fail_at = k;
  record.error = error;
  record.failed = false;
}

void DiskShim::FailReadsFrom(int k, int error) {
  Record& record = *g_record.load();
  std::lock_guard lock(record.mutex);
  record.fail_reads_from = k;
  record.read_error = error;
  record.failed = false;
}

bool DiskShim::failed() const {
  Record& record = *g_record.load();
  std::lock_guard lock(record.mutex);
  return record.failed;
}

int DiskShim::changes() const {
  Record& record = *g_record.load();
  std::lock_guard lock(record.mutex);
  return static_cast<int>(record.changes.size());
}

void DiskShim::LayOut(int count, Rest rest, std::mt19937_64& random,
                      const std::string& target) const {
  std::vector<Change> changes;
  {
    Record& record = *g_record.load();
    std::lock_guard lock(record.mutex);
    changes.assign(record.changes.begin(), record.changes.begin() + count);
  }
  const size_t sure = SyncedFolders(changes);
  const size_t unsure = changes.size() - sure;
  const size_t reached = sure + (rest == Rest::kAny   ? random() % (unsure + 1)
                                 : rest == Rest::kAll ? unsure
                                                      : 0);
  Tree tree;
  for (size_t i = 0; i < reached; ++i) ApplyToTree(changes[i], &tree);
  std::map<int, std::string> contents;  // of one file the same, whatever names it has
  for (const auto& [path, file] : tree) {
    const fs::path place = fs::path(target) / path;
    if (file == kFolder) {
      fs::create_directories(place);
      continue;
    }
    if (!contents.contains(file)) contents[file] = ContentOf(changes, file, rest, random);
    fs::create_directories(place.parent_path());
    std::ofstream(place, std::ios::binary) << contents[file];
  }
}

}  // namespace lorica::fakes

// --- the C library's ----------------------------------------------------------------------------

using namespace lorica::fakes;

extern "C" {

int openat(int folder, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return Open(folder, path, flags, mode);
}
int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return Open(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) __attribute__((alias("open")));
int openat64(int folder, const char* path, int flags, ...) __attribute__((alias("openat")));

ssize_t read(int descriptor, void* data, size_t count) {
  return Read(descriptor, [&] {
    const auto result = static_cast<ssize_t>(syscall(SYS_read, descriptor, data, count));
    AfterRead();
    return result;
  });
}
ssize_t pread(int descriptor, void* data, size_t count, off_t at) {
  return ReadAt(descriptor, data, count, at);
}
ssize_t pread64(int descriptor, void* data, size_t count, off64_t at) {
  return ReadAt(descriptor, data, count, at);
}

ssize_t write(int descriptor, const void* data, size_t count) {
  BeforeWrite();
  return Write(descriptor, data, count);
}
ssize_t pwrite(int descriptor, const void* data, size_t count, off_t at) {
  return WriteAt(descriptor, data, count, at);
}
ssize_t pwrite64(int descriptor, const void* data, size_t count, off64_t at) {
  return WriteAt(descriptor, data, count, at);
}
int ftruncate(int descriptor, off_t size) noexcept { return Truncate(descriptor, size); }
int ftruncate64(int descriptor, off64_t size) noexcept { return Truncate(descriptor, size); }
int fsync(int descriptor) { return Sync(descriptor); }
int fdatasync(int descriptor) { return Sync(descriptor); }
int rename(const char* from, const char* to) noexcept {
  return Rename(AT_FDCWD, from, AT_FDCWD, to);
}
int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  return Rename(from_folder, from, to_folder, to);
}
int unlink(const char* path) noexcept { return Remove(AT_FDCWD, path, 0); }
int rmdir(const char* path) noexcept { return Remove(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int folder, const char* path, int flags) noexcept {
  return Remove(folder, path, flags);
}
int mkdir(const char* path, mode_t mode) noexcept {
  return ToFolder(Kind::kMakeFolder, AT_FDCWD, path, 0, nullptr,
                  [&] { return static_cast<int>(syscall(SYS_mkdirat, AT_FDCWD, path, mode)); });
}
int link(const char* from, const char* to) noexcept {
  return Link(AT_FDCWD, from, AT_FDCWD, to, 0);
}
int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  return Link(from_folder, from, to_folder, to, flags);
}

}  // extern "C"
