#include "server/base_model.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/disk_room.h"
#include "adapters/hub/hf_cache.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/url.h"
#include "server/models/families/family.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kConfigFile[] = "config.json";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr const char* kTextFiles[] = {"generation_config.json", "tokenizer.json",
                                      "tokenizer_config.json", "chat_template.jinja"};
constexpr int64_t kTextBytesMax = int64_t{64} << 20;
constexpr int kShardsMax = 1024;
constexpr int64_t kReplayBytes = 1 << 20;
constexpr int64_t kDiskReserveBytes = int64_t{256} << 20;

absl::Status DiskError(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(path, " cannot be written: ", std::strerror(errno)));
}

// Writes beside the name; Keep gives it the name, once it has reached the disk. What is neither
// kept nor discarded is there for the next process.
class FileSink : public DownloadSink {
 public:
  explicit FileSink(std::string path)
      : path_(std::move(path)), fd_(open(Part().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {}
  ~FileSink() override {
    if (fd_ >= 0) close(fd_);
  }
  absl::Status Replay(int64_t bytes_max, absl::FunctionRef<void(std::string_view)> take) override {
    std::string piece(kReplayBytes, '\0');
    int64_t bytes = 0;
    while (bytes < bytes_max) {
      const int64_t wanted = std::min<int64_t>(std::ssize(piece), bytes_max - bytes);
      const ssize_t got = pread(fd_, piece.data(), wanted, bytes);
      if (got < 0) return DiskError(Part());
      if (got == 0) break;
      take(std::string_view(piece).substr(0, got));
      bytes += got;
    }
    return ftruncate(fd_, bytes) == 0 && lseek(fd_, bytes, SEEK_SET) == bytes ? absl::OkStatus()
                                                                              : DiskError(Part());
  }
  void Discard() { unlink(Part().c_str()); }
  absl::Status Append(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t wrote = write(fd_, bytes.data(), bytes.size());
      if (wrote <= 0) return DiskError(Part());
      bytes.remove_prefix(wrote);
    }
    return absl::OkStatus();
  }
  absl::Status Restart() override {
    return ftruncate(fd_, 0) == 0 && lseek(fd_, 0, SEEK_SET) == 0 ? absl::OkStatus()
                                                                  : DiskError(Part());
  }
  absl::Status Keep() {
    if (fsync(fd_) != 0 || close(std::exchange(fd_, -1)) != 0 ||
        std::rename(Part().c_str(), path_.c_str()) != 0) {
      return DiskError(path_);
    }
    return absl::OkStatus();
  }

 private:
  std::string Part() const { return path_ + ".part"; }

  const std::string path_;
  int fd_;
};

// The shards that an index names; "model.safetensors" without one.
absl::StatusOr<std::set<std::string>> WeightFiles(const std::string& folder) {
  std::set<std::string> files;
  if (!fs::exists(folder + "/" + kIndexFile)) return std::set<std::string>{"model.safetensors"};
  const auto text = ReadTextFile(folder + "/" + kIndexFile, kTextBytesMax);
  if (!text.ok()) return text.status();
  const Json index = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const absl::Status wrong =
      absl::FailedPreconditionError(absl::StrCat(kIndexFile, " of the repository is damaged"));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return wrong;
  }
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string()) return wrong;
    const std::string shard = file.get<std::string>();
    const bool plain = absl::EndsWith(shard, ".safetensors") &&
                       shard.find_first_of("/\\") == std::string::npos && shard.front() != '.';
    if (!plain || static_cast<int>(files.size()) >= kShardsMax) return wrong;
    files.insert(shard);
  }
  if (files.empty()) return wrong;
  return files;
}

// Whether a folder holds all that the name asks for, where `has` says what it holds.
bool IsWhole(const std::string& folder, const BaseModelName& name,
             absl::FunctionRef<bool(const std::string&)> has) {
  if (!name.file.empty()) return has(name.file);
  if (!has(kConfigFile)) return false;
  const auto weights = WeightFiles(folder);
  return weights.ok() && std::all_of(weights->begin(), weights->end(), has);
}

bool IsWhole(const std::string& folder, const BaseModelName& name) {
  return IsWhole(folder, name,
                 [&](const std::string& file) { return fs::exists(folder + "/" + file); });
}

std::string PathOf(const std::string& folder, const BaseModelName& name) {
  return name.file.empty() ? folder : absl::StrCat(folder, "/", name.file);
}

// Where the operator's cache has all of it. FailedPrecondition: there is no such cache.
absl::StatusOr<std::optional<std::string>> Cached(const std::string& folder,
                                                  const BaseModelName& name) {
  if (folder.empty()) return std::nullopt;
  const auto cache = HfCache::Open(folder);
  if (!cache.ok()) return absl::FailedPreconditionError(cache.status().message());
  const auto commit =
      (*cache)->Find(name.repo, name.revision, name.file.empty() ? kConfigFile : name.file);
  if (!commit) return std::nullopt;
  const std::string snapshot = absl::StrCat(
      folder, "/models--", absl::StrReplaceAll(name.repo, {{"/", "--"}}), "/snapshots/", *commit);
  const auto has = [&](const std::string& file) {
    return (*cache)->Find(name.repo, *commit, file).has_value();
  };
  // What a model need not have may not lead elsewhere either.
  const auto is_safe = [&](const std::string& file) {
    return !fs::exists(fs::symlink_status(snapshot + "/" + file)) || has(file);
  };
  if (!is_safe(kIndexFile) || !std::all_of(std::begin(kTextFiles), std::end(kTextFiles), is_safe) ||
      !IsWhole(snapshot, name, has)) {
    spdlog::warn("the Hugging Face cache has not all of {}, or with links out of its folder",
                 name.repo);
    return std::nullopt;
  }
  return PathOf(snapshot, name);
}

// One repository's folder.
class ModelFolder {
 public:
  ModelFolder(const BaseModelName& name, const BaseModelOptions& options)
      : name_(name),
        path_(absl::StrCat(options.folder, "/", absl::StrReplaceAll(name.repo, {{"/", "--"}}))) {}

  std::string Path(const std::string& commit) const { return absl::StrCat(path_, "/", commit); }
  // Where the revision led last, if that is complete.
  std::optional<std::string> Complete() const {
    const std::string commit = ReadTextFile(RefPath(), kTextBytesMax).value_or("");
    if (!ParseCommit(commit).ok() || !IsWhole(Path(commit), name_)) return std::nullopt;
    return PathOf(Path(commit), name_);
  }
  absl::StatusOr<std::string> Fetch(RemoteSession& session);

 private:
  std::string RefPath() const {
    return absl::StrCat(path_, "/refs/", EscapeSegment(name_.revision));
  }
  absl::Status BringFolder(RemoteSession& session);
  absl::Status Bring(RemoteSession& session, const std::string& file, bool must, int64_t bytes_max);
  absl::Status CheckRoom(int64_t bytes) const;
  absl::Status Finish();

  const BaseModelName& name_;
  const std::string path_;
  std::string commit_;
};

absl::Status ModelFolder::CheckRoom(int64_t bytes) const {
  const std::optional<int64_t> left = DiskBytesLeft(path_);
  if (!left) return DiskError(path_);
  if (bytes <= *left - kDiskReserveBytes) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the next file has ", bytes, " bytes, and the disk of --data-dir has ", *left,
                   " left, of which ", kDiskReserveBytes, " stay free: make room there"));
}

absl::Status ModelFolder::Bring(RemoteSession& session, const std::string& file, bool must,
                                int64_t bytes_max) {
  const auto found = session.Look(file);
  if (!found.ok()) return found.status();
  if (!found->has_value()) {
    if (!must) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("repository ", Quoted(name_.repo), " has no ", file,
                     name_.file.empty() ? ": is it a model in safetensors? Of GGUF files one is "
                                          "named, as org/name/file.gguf"
                                        : ""));
  }
  commit_ = session.commit();
  const std::string path = absl::StrCat(Path(commit_), "/", file);
  std::error_code error;
  fs::create_directories(Path(commit_), error);
  if (fs::exists(path)) return absl::OkStatus();  // it got its name once it was whole
  if ((*found)->size_bytes > bytes_max) {
    return absl::FailedPreconditionError(absl::StrCat(file, " has ", (*found)->size_bytes,
                                                      " bytes, at most ", bytes_max, " are taken"));
  }
  if (absl::Status s = CheckRoom((*found)->size_bytes); !s.ok()) return s;
  spdlog::info("fetching {} of {} ({} bytes)", file, name_.repo, (*found)->size_bytes);
  FileSink sink(path);
  const absl::Status status = session.Download(**found, sink);
  if (status.ok()) return sink.Keep();
  if (!absl::IsUnavailable(status) && !absl::IsCancelled(status)) sink.Discard();
  return status;
}

absl::StatusOr<std::string> ModelFolder::Fetch(RemoteSession& session) {
  std::error_code error;
  fs::create_directories(path_ + "/refs", error);
  absl::Status status =
      name_.file.empty() ? BringFolder(session) : Bring(session, name_.file, true, INT64_MAX);
  if (status.ok()) status = Finish();
  if (!status.ok()) return status;
  return PathOf(Path(commit_), name_);
}

absl::Status ModelFolder::BringFolder(RemoteSession& session) {
  absl::Status status = Bring(session, kConfigFile, true, kTextBytesMax);
  if (status.ok()) status = Bring(session, kIndexFile, false, kTextBytesMax);
  for (const char* file : kTextFiles) {
    if (status.ok()) status = Bring(session, file, false, kTextBytesMax);
  }
  if (!status.ok()) return status;
  const auto weights = WeightFiles(Path(commit_));
  if (!weights.ok()) return weights.status();
  for (const std::string& file : *weights) {
    if (status.ok()) status = Bring(session, file, true, INT64_MAX);
  }
  return status;
}

// The revision means this commit from now on; what none means goes.
absl::Status ModelFolder::Finish() {
  FileSink ref(RefPath());
  if (absl::Status s = ref.Append(commit_); !s.ok()) return s;
  if (absl::Status s = ref.Keep(); !s.ok()) return s;
  std::error_code error;
  std::set<std::string> meant = {"refs"};
  for (const auto& entry : fs::directory_iterator(path_ + "/refs", error)) {
    auto commit = ReadTextFile(entry.path(), kTextBytesMax);
    if (!commit.ok()) return absl::OkStatus();  // whatever it means stays
    meant.insert(*std::move(commit));
  }
  std::vector<fs::path> unmeant;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    if (!meant.contains(entry.path().filename())) unmeant.push_back(entry.path());
  }
  for (const fs::path& path : unmeant) fs::remove_all(path, error);
  return absl::OkStatus();
}

// It cannot be asked, or the repository is deleted, private or gated by now.
bool IsTheHubsNo(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsNotFound(status) ||
         absl::IsPermissionDenied(status);
}

}  // namespace

std::optional<BaseModelName> ParseBaseModelName(const std::string& model) {
  const size_t at = model.find('@');
  BaseModelName name{model.substr(0, at)};
  if (at != std::string::npos) name.revision = model.substr(at + 1);
  const size_t file = name.repo.rfind('/');
  if (absl::EndsWith(name.repo, ".gguf") && file != name.repo.find('/')) {
    name.file = name.repo.substr(file + 1);
    name.repo.resize(file);
  }
  const bool two_parts = absl::StrContains(name.repo, '/') && IsRepoName(name.repo);
  if (!two_parts || name.revision.empty() || fs::exists(model)) return std::nullopt;
  return name;
}

absl::StatusOr<std::string> FetchBaseModel(const BaseModelName& name,
                                           const BaseModelOptions& options, RemoteSource& hub) {
  ModelFolder folder(name, options);
  const std::optional<std::string> here = folder.Complete();
  const bool pinned = ParseCommit(name.revision).ok();
  if (here && (options.offline || pinned)) return *here;
  const auto cached = Cached(options.hf_cache, name);
  if (!cached.ok()) return cached.status();
  if (cached->has_value()) return **cached;
  if (options.offline) {
    return absl::FailedPreconditionError("it is not on this machine, and the server is offline");
  }
  auto session = hub.Begin(name.repo, name.revision, "");
  if (!session.ok()) return session.status();
  absl::StatusOr<std::string> fetched = folder.Fetch(**session);
  if (fetched.ok() || !here || !IsTheHubsNo(fetched.status())) return fetched;
  spdlog::warn("the hub does not give {} now ({}): serving what is here", name.repo,
               std::string(fetched.status().message()));
  return *here;
}

}  // namespace lorica
