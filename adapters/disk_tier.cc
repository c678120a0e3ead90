#include "adapters/disk_tier.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/disk_index.h"
#include "adapters/disk_room.h"
#include "adapters/hub/beneath.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr char kOriginsFile[] = "origins.json";
constexpr size_t kDigestDigits = 64;
// The order of use is exact in memory; across a restart it may be this far off.
constexpr absl::Duration kUseWrittenDown = absl::Minutes(1);

absl::Status DiskError(absl::string_view what, int error) {
  return absl::UnavailableError(
      absl::StrCat("the disk tier cannot ", what, ": ", std::strerror(error)));
}

absl::Status FolderError(const std::string& folder, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("the disk tier's folder ", folder, " cannot be used: ", why));
}

absl::Status CheckDiskHas(const std::string& folder, int64_t bytes) {
  const std::optional<int64_t> left = DiskBytesLeft(folder);
  if (!left) return DiskError("see how much is free", errno);
  if (bytes <= *left) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the adapter has ", bytes,
                                                   " bytes, and the disk of --data-dir has ", *left,
                                                   " left: make room there"));
}

absl::Status Sync(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return DiskError("write", errno);
  return absl::OkStatus();
}

absl::Status WriteWhole(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return DiskError("write", errno);
    bytes.remove_prefix(count);
  }
  return absl::OkStatus();
}

UniqueFd CreateFile(const std::string& path) {
  return UniqueFd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
}

// path, whole or as it was before.
absl::Status WriteFile(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".new";
  unlink(temporary.c_str());
  {
    const UniqueFd fd = CreateFile(temporary);
    if (fd.get() < 0) return DiskError("write", errno);
    if (absl::Status s = WriteWhole(fd.get(), text); !s.ok()) return s;
    if (fsync(fd.get()) != 0) return DiskError("write", errno);
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) return DiskError("write", errno);
  return absl::OkStatus();
}

void RemoveAll(const std::vector<std::string>& paths) {
  std::error_code ignored;
  for (const std::string& path : paths) fs::remove_all(path, ignored);
}

bool IsDigest(const std::string& name) {
  return name.size() == kDigestDigits && std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

// A regular file's size; -1 when it is none.
int64_t FileBytes(const std::string& path) {
  struct stat info = {};
  return lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? info.st_size : -1;
}

// What a folder of an earlier server holds.
struct FoundContent {
  std::string digest;
  int64_t bytes = 0;
  absl::Time used;
  std::vector<DatedOrigin> origins;
};

// FailedPrecondition: its disk fails. What is merely not of a server's making is nullopt.
absl::StatusOr<std::optional<FoundContent>> ReadContent(const fs::path& path) {
  FoundContent found{path.filename()};
  const int64_t config_bytes = FileBytes(path / kConfigFile);
  const int64_t weights_bytes = FileBytes(path / kWeightsFile);
  const int64_t origins_bytes = FileBytes(path / kOriginsFile);
  if (!IsDigest(found.digest) || config_bytes < 0 || weights_bytes < 0 || origins_bytes < 0 ||
      origins_bytes > kOriginsBytesMax) {
    return std::nullopt;
  }
  std::string text(static_cast<size_t>(origins_bytes), '\0');
  std::ifstream file(path / kOriginsFile, std::ios::binary);
  if (!file.read(text.data(), origins_bytes)) {
    return FolderError(path, "it cannot be read; have its disk looked at");
  }
  auto origins = ParseDiskOrigins(text);
  if (!origins.ok()) return std::nullopt;
  found.origins = *std::move(origins);
  found.bytes = config_bytes + weights_bytes;
  struct stat info = {};
  if (stat((path / kOriginsFile).c_str(), &info) == 0) {
    found.used = absl::TimeFromTimespec(info.st_mtim);
  }
  return found;
}

// The same of its commit, which never leads elsewhere.
DatedOrigin ByCommit(DatedOrigin origin) {
  origin.origin.revision = origin.origin.commit;
  return origin;
}

// One content of the tier, held by whoever reads it.
class LeasedSource : public Source {
 public:
  LeasedSource(std::shared_ptr<Source> content, std::shared_ptr<void> hold, std::string digest)
      : content_(std::move(content)), hold_(std::move(hold)), digest_(std::move(digest)) {}
  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string&,
                                                   const std::string& file) override {
    return content_->Open(digest_, file);
  }
  absl::StatusOr<std::vector<std::string>> List(int) override { return std::vector<std::string>(); }
  bool IsImmutable() const override { return true; }

 private:
  const std::shared_ptr<Source> content_;
  const std::shared_ptr<void> hold_;
  const std::string digest_;
};

}  // namespace

std::shared_ptr<Source> DiskLease::source() const {
  return std::make_shared<LeasedSource>(content_, hold_, digest_);
}

class DiskTier::Staging::File : public DownloadSink {
 public:
  File(Staging* staging, UniqueFd fd) : staging_(staging), fd_(std::move(fd)) {}

  absl::Status Append(std::string_view bytes) override {
    if (std::ssize(bytes) > staging_->bytes_max_ - staging_->bytes_) {
      return absl::DataLossError("more bytes came than were announced");
    }
    staging_->bytes_ += std::ssize(bytes);
    size_bytes_ += std::ssize(bytes);
    return WriteWhole(fd_.get(), bytes);
  }
  absl::Status Restart() override {
    staging_->bytes_ -= size_bytes_;
    size_bytes_ = 0;
    if (ftruncate(fd_.get(), 0) != 0 || lseek(fd_.get(), 0, SEEK_SET) != 0) {
      return DiskError("write", errno);
    }
    return absl::OkStatus();
  }

 private:
  Staging* const staging_;
  const UniqueFd fd_;
  int64_t size_bytes_ = 0;
};

DiskTier::Staging::~Staging() {
  RemoveAll({path_});
  tier_->GiveBack(bytes_max_);
}

absl::StatusOr<std::unique_ptr<DownloadSink>> DiskTier::Staging::Create(const std::string& file) {
  UniqueFd fd = CreateFile(absl::StrCat(path_, "/", file));
  if (fd.get() < 0) return DiskError("write", errno);
  return std::make_unique<File>(this, std::move(fd));
}

DiskTier::DiskTier(std::string folder, std::shared_ptr<Source> content,
                   std::unique_ptr<DiskIndex> index, std::function<absl::Time()> clock,
                   int adapters_max)
    : folder_(std::move(folder)),
      content_(std::move(content)),
      clock_(std::move(clock)),
      adapters_max_(adapters_max),
      index_(std::move(index)) {}

DiskTier::~DiskTier() = default;

absl::StatusOr<std::unique_ptr<DiskTier>> DiskTier::Open(const std::string& folder,
                                                         int64_t bytes_max,
                                                         std::function<absl::Time()> clock,
                                                         int adapters_max) {
  std::error_code error;
  fs::remove_all(folder + "/tmp", error);
  if (!error) fs::create_directories(folder + "/tmp", error);
  if (!error) fs::create_directories(folder + "/content", error);
  if (!error) fs::permissions(folder, fs::perms::owner_all, error);
  if (error) return FolderError(folder, error.message());
  auto content = MakeLocalSource(folder + "/content");
  if (!content.ok()) return content.status();
  std::unique_ptr<DiskTier> tier(new DiskTier(folder, *std::move(content),
                                              std::make_unique<DiskIndex>(bytes_max),
                                              std::move(clock), adapters_max));
  if (absl::Status s = tier->Reconcile(); !s.ok()) return s;
  return tier;
}

absl::Status DiskTier::Reconcile() {
  std::vector<FoundContent> found;
  std::vector<std::string> doomed;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_ + "/content", error)) {
    auto content = ReadContent(entry.path());
    if (!content.ok()) return content.status();
    if (*content) {
      found.push_back(**std::move(content));
    } else {
      doomed.push_back(entry.path());
    }
  }
  if (error) return FolderError(folder_, error.message());
  std::sort(found.begin(), found.end(),
            [](const FoundContent& a, const FoundContent& b) { return a.used < b.used; });
  const absl::Time now = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    for (const FoundContent& content : found) {
      index_->Add(content.digest, content.bytes);
      index_->CountInsertion();
      for (const DatedOrigin& dated : content.origins) {
        // The clock may have been set back since.
        index_->AddOrigin(content.digest, {dated.origin, std::min(dated.found, now)});
      }
    }
    // The bounds may be smaller than they were.
    if (absl::Status s = MakeRoom(0, 0, &doomed); !s.ok()) return s;
  }
  RemoveAll(doomed);
  return absl::OkStatus();
}

std::string DiskTier::ContentPath(const std::string& digest) const {
  return absl::StrCat(folder_, "/content/", digest);
}

std::string DiskTier::NewTemporary() {
  mutex_.AssertHeld();
  return absl::StrCat(folder_, "/tmp/", temporaries_++);
}

DiskLease DiskTier::LeaseOf(const std::string& digest, const std::string& commit) {
  mutex_.AssertHeld();
  return DiskLease(content_, index_->Hold(digest), digest, commit);
}

// What is evicted has left its name when this returns, and is to be deleted.
absl::Status DiskTier::MakeRoom(int64_t bytes, int adapters, std::vector<std::string>* doomed) {
  mutex_.AssertHeld();
  const TierStats& stats = index_->stats();
  const auto fits = [&] {
    return stats.bytes + staged_bytes_ + bytes <= stats.byte_limit &&
           stats.generations + staged_ + adapters <= adapters_max_;
  };
  while (!fits()) {
    const auto digest = index_->Evictable();
    if (!digest) {
      return absl::UnavailableError("the disk tier is full of adapters that are in use");
    }
    const std::string temporary = NewTemporary();
    if (rename(ContentPath(*digest).c_str(), temporary.c_str()) != 0 && errno != ENOENT) {
      return DiskError("make room", errno);
    }
    index_->Remove(*digest, DiskIndex::Reason::kEvicted);
    doomed->push_back(temporary);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DiskTier::Staging>> DiskTier::Stage(int64_t bytes) {
  std::vector<std::string> doomed;
  std::string path;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    const int64_t limit = index_->stats().byte_limit;
    if (bytes > limit) {
      return absl::FailedPreconditionError(absl::StrCat("the adapter has ", bytes,
                                                        " bytes, and the disk tier holds ", limit,
                                                        " altogether (--disk-bytes)"));
    }
    status = MakeRoom(bytes, 1, &doomed);
    if (status.ok()) {
      ++staged_;
      staged_bytes_ += bytes;
      path = NewTemporary();
    }
  }
  RemoveAll(doomed);
  if (!status.ok()) return status;
  std::unique_ptr<Staging> staging(new Staging(this, path, bytes));
  if (absl::Status s = CheckDiskHas(folder_, bytes); !s.ok()) return s;
  if (mkdir(path.c_str(), 0700) != 0) return DiskError("write", errno);
  return staging;
}

void DiskTier::GiveBack(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  --staged_;
  staged_bytes_ -= bytes;
}

absl::StatusOr<DiskLease> DiskTier::Publish(std::unique_ptr<Staging> staging,
                                            const std::string& digest, const DatedOrigin& origin) {
  const std::string& path = staging->path_;
  for (const char* file : {kConfigFile, kWeightsFile}) {
    if (absl::Status s = Sync(absl::StrCat(path, "/", file)); !s.ok()) return s;
  }
  // So that the folder is whole from its first moment on; written again with the others'.
  absl::Status status =
      WriteFile(absl::StrCat(path, "/", kOriginsFile), WriteDiskOrigins({origin}));
  if (status.ok()) status = Sync(path);
  if (!status.ok()) return status;

  absl::MutexLock lock(&mutex_);
  if (!index_->Has(digest)) {
    if (rename(path.c_str(), ContentPath(digest).c_str()) != 0) {
      return DiskError("keep the adapter", errno);
    }
    if (absl::Status s = Sync(folder_ + "/content"); !s.ok()) {
      // A disk that failed to write once is not asked again whether it has.
      RemoveAll({ContentPath(digest)});
      return s;
    }
    index_->Add(digest, staging->bytes_);
    index_->CountInsertion();
  }
  index_->Use(digest);
  index_->AddOrigin(digest, ByCommit(origin));
  index_->AddOrigin(digest, origin);
  // Where it fails, the next server asks the hub again.
  WriteOrigins(digest).IgnoreError();
  return LeaseOf(digest, origin.origin.commit);
}

absl::Status DiskTier::WriteOrigins(const std::string& digest) {
  mutex_.AssertHeld();
  absl::Status status = WriteFile(absl::StrCat(ContentPath(digest), "/", kOriginsFile),
                                  WriteDiskOrigins(index_->Origins(digest)));
  WriteDownUse(digest);
  return status;
}

// The time of the file that nobody reads while serving tells the order of use; not the wall
// clock's, which may be set back between two uses.
void DiskTier::WriteDownUse(const std::string& digest) {
  mutex_.AssertHeld();
  const absl::Time now = clock_();
  index_->written_down(digest) = now;
  const timespec times[] = {absl::ToTimespec(now), absl::ToTimespec(now)};
  utimensat(AT_FDCWD, absl::StrCat(ContentPath(digest), "/", kOriginsFile).c_str(), times,
            AT_SYMLINK_NOFOLLOW);
}

void DiskTier::Touch(const std::string& digest) {
  mutex_.AssertHeld();
  index_->Use(digest);
  if (clock_() - index_->written_down(digest) >= kUseWrittenDown) WriteDownUse(digest);
}

std::optional<DiskLease> DiskTier::Find(const RemoteOrigin& origin) {
  absl::MutexLock lock(&mutex_);
  const auto found = index_->Find(origin);
  index_->CountLookUp(found.has_value());
  if (!found) return std::nullopt;
  Touch(found->first);
  return LeaseOf(found->first, found->second);
}

std::optional<DiskLease> DiskTier::Adopt(const DatedOrigin& origin) {
  absl::MutexLock lock(&mutex_);
  const auto found = index_->Find(ByCommit(origin).origin);
  if (!found) return std::nullopt;
  index_->Use(found->first);
  index_->AddOrigin(found->first, origin);
  WriteOrigins(found->first).IgnoreError();
  return LeaseOf(found->first, found->second);
}

std::optional<DiskLease> DiskTier::Hold(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  if (!index_->Has(digest)) return std::nullopt;
  return LeaseOf(digest, "");
}

std::optional<std::pair<std::string, std::string>> DiskTier::Peek(
    const RemoteOrigin& origin) const {
  absl::MutexLock lock(&mutex_);
  return index_->Find(origin);
}

std::vector<RemoteOrigin> DiskTier::Origins() const {
  std::vector<RemoteOrigin> origins;
  absl::MutexLock lock(&mutex_);
  for (auto& [digest, dated] : index_->AllOrigins()) origins.push_back(std::move(dated.origin));
  return origins;
}

bool DiskTier::Has(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  return index_->Has(digest);
}

// Where its files lie from now on, to be deleted. Where that fails they keep their name.
absl::StatusOr<std::string> DiskTier::TakeName(const std::string& digest) {
  mutex_.AssertHeld();
  std::string temporary = NewTemporary();
  if (rename(ContentPath(digest).c_str(), temporary.c_str()) != 0 && errno != ENOENT) {
    return DiskError("remove the adapter", errno);
  }
  return temporary;
}

// What its disk does not let go of is found, and looked at, again by a later server.
void DiskTier::Drop(const std::string& digest) {
  absl::StatusOr<std::string> temporary;
  {
    absl::MutexLock lock(&mutex_);
    if (!index_->Has(digest)) return;
    temporary = TakeName(digest);
    index_->Remove(digest, DiskIndex::Reason::kRemoved);
  }
  if (temporary.ok()) RemoveAll({*temporary});
}

absl::Status DiskTier::Forget(const std::string& digest, const std::string& access) {
  absl::StatusOr<std::string> temporary;
  absl::Status kept;
  {
    absl::MutexLock lock(&mutex_);
    if (!index_->Has(digest)) return absl::OkStatus();
    if (index_->HasOtherAccess(digest, access)) return ForgetOrigins(digest, access);
    if (index_->IsHeld(digest)) {
      return absl::FailedPreconditionError("it is in use: let its requests end first");
    }
    temporary = TakeName(digest);
    if (!temporary.ok()) return temporary.status();
    index_->Remove(digest, DiskIndex::Reason::kRemoved);
    kept = Sync(folder_ + "/content");
    if (kept.ok()) kept = Sync(folder_ + "/tmp");
  }
  RemoveAll({*temporary});
  return kept;
}

absl::Status DiskTier::ForgetOrigins(const std::string& digest, const std::string& access) {
  mutex_.AssertHeld();
  const std::vector<DatedOrigin> before = index_->Origins(digest);
  index_->RemoveOrigins(digest, access);
  absl::Status status = WriteOrigins(digest);
  if (!status.ok()) {
    for (const DatedOrigin& dated : before) index_->AddOrigin(digest, dated);
    return status;
  }
  return Sync(ContentPath(digest));
}

TierStats DiskTier::stats() const {
  absl::MutexLock lock(&mutex_);
  return index_->stats();
}

}  // namespace lorica
