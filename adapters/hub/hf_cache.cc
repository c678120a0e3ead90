#include "adapters/hub/hf_cache.h"

#include <fcntl.h>

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/local_file.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr int64_t kRefBytesMax = 64;

std::string RepoFolder(const RepoPlace& place) {
  return absl::StrCat("models--", absl::StrReplaceAll(place.repo, {{"/", "--"}}));
}

// What a commit has of it, beneath the repository's folder.
std::string SnapshotPath(const RepoPlace& place, const std::string& commit) {
  return absl::StrCat("snapshots/", commit, place.folder.empty() ? "" : "/", place.folder);
}

// The commit that refs/REVISION holds; empty when there is none.
std::string ReadRef(int repo, const std::string& revision) {
  auto file = OpenFileBeneath(repo, absl::StrCat("refs/", revision));
  if (!file.ok() || (*file)->size_bytes() > kRefBytesMax) return "";
  std::string text((*file)->size_bytes(), '\0');
  const absl::Span<std::byte> bytes(reinterpret_cast<std::byte*>(text.data()), text.size());
  if (!(*file)->ReadAt(0, bytes).ok()) return "";
  return std::string(absl::StripAsciiWhitespace(text));
}

class SnapshotSource : public Source {
 public:
  SnapshotSource(UniqueFd repo, std::string path)
      : repo_(std::move(repo)), path_(std::move(path)) {}
  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string&,
                                                   const std::string& file) override {
    return OpenFileBeneath(repo_.get(), absl::StrCat(path_, "/", file));
  }
  absl::StatusOr<std::vector<std::string>> List(int) override { return std::vector<std::string>(); }

 private:
  const UniqueFd repo_;
  const std::string path_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HfCache>> HfCache::Open(const std::string& folder) {
  UniqueFd root(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0) {
    return absl::NotFoundError(
        absl::StrCat("the Hugging Face cache ", Quoted(folder), " cannot be opened"));
  }
  return std::unique_ptr<HfCache>(new HfCache(std::move(root)));
}

std::optional<std::string> HfCache::Find(const std::string& repo, const std::string& revision,
                                         const std::string& file) const {
  if (!IsRepoName(repo) && !IsRepoFolder(repo)) return std::nullopt;
  const RepoPlace place = SplitRepoPlace(repo);
  const auto folder = OpenBeneath(root_.get(), RepoFolder(place), O_RDONLY | O_DIRECTORY);
  if (!folder.ok()) return std::nullopt;
  const std::string commit =
      ParseCommit(revision).ok() ? revision : ReadRef(folder->get(), revision);
  if (!ParseCommit(commit).ok()) return std::nullopt;
  const std::string path = absl::StrCat(SnapshotPath(place, commit), "/", file);
  if (!OpenFileBeneath(folder->get(), path).ok()) return std::nullopt;
  return commit;
}

absl::StatusOr<std::shared_ptr<Source>> HfCache::Snapshot(const std::string& repo,
                                                          const std::string& commit) const {
  const RepoPlace place = SplitRepoPlace(repo);
  auto folder = OpenBeneath(root_.get(), RepoFolder(place), O_RDONLY | O_DIRECTORY);
  if (!folder.ok()) return folder.status();
  return std::make_shared<SnapshotSource>(*std::move(folder), SnapshotPath(place, commit));
}

}  // namespace lorica
