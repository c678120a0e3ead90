#include "adapters/content_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/content_digest.h"
#include "adapters/hub/beneath.h"
#include "adapters/hub/quoted.h"
#include "adapters/sha256.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;

constexpr char kUnfinished[] = ".new-";
constexpr int64_t kCopyBytes = 1 << 20;

absl::Status WriteFailed(int error) {
  if (error == ENOSPC || error == EDQUOT) return DataDiskFull();
  return absl::UnavailableError(
      absl::StrCat("writing beneath --data-dir failed: ", std::strerror(error)));
}

absl::Status WriteAll(int fd, absl::Span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return WriteFailed(errno);
    bytes.remove_prefix(count);
  }
  return absl::OkStatus();
}

absl::Status SyncFolder(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return WriteFailed(errno);
  return absl::OkStatus();
}

// Copies, syncs and hashes one file; what is linked needs no copy.
absl::StatusOr<std::string> CopyFile(const SourceFile& from, bool may_link, const std::string& to) {
  const bool is_linked = may_link && from.LinkTo(to);
  const UniqueFd fd(is_linked ? -1
                              : open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!is_linked && fd.get() < 0) return WriteFailed(errno);
  Sha256 hash;
  std::vector<std::byte> buffer(std::min(kCopyBytes, from.size_bytes()));
  for (int64_t at = 0; at < from.size_bytes();) {
    const int64_t count = std::min<int64_t>(std::ssize(buffer), from.size_bytes() - at);
    const absl::Span<std::byte> part(buffer.data(), count);
    absl::Status status = from.ReadAt(at, part);
    if (status.ok() && !is_linked) status = WriteAll(fd.get(), part);
    if (!status.ok()) return status;
    hash.Update(part);
    at += count;
  }
  if (!is_linked && fsync(fd.get()) != 0) return WriteFailed(errno);
  return hash.Finish();
}

int64_t BytesBeneath(const fs::path& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    bytes += static_cast<int64_t>(entry.file_size(error));
  }
  return bytes;
}

}  // namespace

ContentStore::ContentStore(std::string folder, int64_t bytes_max, std::shared_ptr<Source> source)
    : folder_(std::move(folder)), bytes_max_(bytes_max), source_(std::move(source)) {}

absl::StatusOr<std::unique_ptr<ContentStore>> ContentStore::Open(const std::string& folder,
                                                                 int64_t bytes_max) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder, " cannot be made: ", error.message()));
  }
  fs::permissions(folder, fs::perms::owner_all, error);
  auto source = MakeLocalSource(folder);
  if (!source.ok()) return source.status();
  std::unique_ptr<ContentStore> store(new ContentStore(folder, bytes_max, *std::move(source)));
  if (absl::Status s = store->Scan(); !s.ok()) return s;
  return store;
}

absl::Status ContentStore::Scan() {
  absl::MutexLock lock(&mutex_);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (absl::StartsWith(name, kUnfinished)) {
      fs::remove_all(entry.path(), ignored);
    } else {
      bytes_ += kept_[name] = BytesBeneath(entry.path());
    }
  }
  if (!error) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(folder_, " cannot be listed: ", error.message()));
}

absl::Status ContentStore::Keep(const Generation& generation) {
  std::string made;
  {
    absl::MutexLock lock(&mutex_);
    if (kept_.contains(generation.digest)) return absl::OkStatus();
    if (bytes_ + generation.file_bytes > bytes_max_) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "copies of registered adapters take ", bytes_, " of --kept-bytes ", bytes_max_, ", ",
          generation.file_bytes, " more are needed: delete names or raise the limit"));
    }
    made = absl::StrCat(folder_, "/", kUnfinished, ++copies_);
    bytes_ += generation.file_bytes;  // reserved until it is counted or given up
  }
  absl::Status status = Copy(generation, made);
  if (status.ok()) status = Publish(made, generation.digest, BytesBeneath(made));
  std::error_code ignored;
  fs::remove_all(made, ignored);
  absl::MutexLock lock(&mutex_);
  bytes_ -= generation.file_bytes;
  return status;
}

absl::Status ContentStore::Copy(const Generation& generation, const std::string& target) {
  std::error_code error;
  fs::create_directory(target, error);
  if (error) return WriteFailed(error.value());
  std::string sums[2];
  const char* const names[] = {"adapter_config.json", "adapter_model.safetensors"};
  for (int i = 0; i < 2; ++i) {
    auto file = generation.source->Open(generation.location, names[i]);
    if (!file.ok()) return file.status();
    auto sum =
        CopyFile(**file, generation.source->IsImmutable(), absl::StrCat(target, "/", names[i]));
    if (!sum.ok()) return sum.status();
    sums[i] = *std::move(sum);
  }
  if (GenerationDigest(sums[0], sums[1]) != generation.digest) {
    return ContentChanged(generation.location);
  }
  return SyncFolder(target);
}

absl::Status ContentStore::Publish(const std::string& made, const std::string& digest,
                                   int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (kept_.contains(digest)) return absl::OkStatus();
  const std::string target = absl::StrCat(folder_, "/", digest);
  std::error_code ignored;
  fs::remove_all(target, ignored);  // what a removal that failed left there
  if (rename(made.c_str(), target.c_str()) != 0) return WriteFailed(errno);
  if (absl::Status s = SyncFolder(folder_); !s.ok()) {
    fs::remove_all(target, ignored);
    return s;
  }
  kept_[digest] = bytes;
  bytes_ += bytes;
  return absl::OkStatus();
}

void ContentStore::Remove(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  const auto found = kept_.find(digest);
  if (found == kept_.end()) return;
  bytes_ -= found->second;
  kept_.erase(found);
  whole_.erase(digest);
  std::error_code ignored;
  fs::remove_all(absl::StrCat(folder_, "/", digest), ignored);
}

void ContentStore::RemoveAllBut(const absl::flat_hash_set<std::string>& wanted) {
  std::vector<std::string> unwanted;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [digest, bytes] : kept_) {
      if (!wanted.contains(digest)) unwanted.push_back(digest);
    }
  }
  for (const std::string& digest : unwanted) Remove(digest);
}

bool ContentStore::Has(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  return kept_.contains(digest);
}

int64_t ContentStore::BytesOf(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  const auto found = kept_.find(digest);
  return found == kept_.end() ? 0 : found->second;
}

absl::StatusOr<bool> ContentStore::IsWhole(const std::string& digest) {
  {
    absl::MutexLock lock(&mutex_);
    if (whole_.contains(digest)) return true;
  }
  const absl::StatusOr<std::string> now = ContentDigest(*source_, digest);
  // A disk that cannot be read now says nothing about the content.
  if (absl::IsUnavailable(now.status())) return now.status();
  if (!now.ok() || *now != digest) return false;
  absl::MutexLock lock(&mutex_);
  if (kept_.contains(digest)) whole_.insert(digest);
  return true;
}

bool ContentStore::empty() const {
  absl::MutexLock lock(&mutex_);
  return kept_.empty();
}

int64_t ContentStore::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

absl::Status DataDiskFull() {
  return absl::ResourceExhaustedError(
      "the disk of --data-dir is full: nothing was changed; make room on it");
}

}  // namespace lorica
