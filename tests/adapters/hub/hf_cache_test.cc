#include "adapters/hub/hf_cache.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;

constexpr char kFile[] = "adapter_config.json";
const std::string kCommit(40, 'c');
const std::string kRepo = "models--org--name/";

class HfCacheTest : public ::testing::Test {
 protected:
  HfCacheTest() {
    folder_.Write(kRepo + "blobs/b10b", "content");
    folder_.Write(kRepo + "refs/main", kCommit);
    Link(kFile, "../../blobs/b10b");
    cache_ = *HfCache::Open(folder_.path());
  }
  void Link(const std::string& name, const std::string& target) {
    const fs::path path = fs::path(folder_.path()) / kRepo / "snapshots" / kCommit / name;
    fs::create_directories(path.parent_path());
    fs::remove(path);
    fs::create_symlink(target, path);
  }
  std::string Found(const std::string& repo, const std::string& revision,
                    const std::string& file = kFile) {
    return cache_->Find(repo, revision, file).value_or("");
  }

  TemporaryFolder folder_;
  std::unique_ptr<HfCache> cache_;
};

TEST_F(HfCacheTest, FindsWhatTheHubsClientKept) {
  EXPECT_EQ(Found("org/name", "main"), kCommit);
  EXPECT_EQ(Found("org/name", kCommit), kCommit);
  EXPECT_EQ(Found("org/name", "v1"), "");
  EXPECT_EQ(Found("org/name", std::string(40, 'd')), "");
  EXPECT_EQ(Found("org/other", "main"), "");
  EXPECT_EQ(Found("org/name", "main", "missing"), "");
  const auto source = cache_->Snapshot("org/name", kCommit);
  ASSERT_TRUE(source.ok());
  auto file = (*source)->Open("anything", kFile);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size_bytes(), 7);
}

TEST_F(HfCacheTest, FindsWhatLiesInAFolderOfTheRepository) {
  Link(std::string("in/it/") + kFile, "../../../../blobs/b10b");
  EXPECT_EQ(Found("org/name/in/it", "main"), kCommit);
  EXPECT_EQ(Found("org/name/in", "main"), "");
  EXPECT_EQ(Found("org/name/../it", "main"), "");
  const auto source = cache_->Snapshot("org/name/in/it", kCommit);
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE((*source)->Open("anything", kFile).ok());
}

TEST_F(HfCacheTest, StaysInTheRepositorysFolder) {
  folder_.Write("secret", "secret");
  folder_.Write("models--org--other/blobs/b", "other");
  for (const char* target :
       {"../../../secret", "/etc/passwd", "../../../models--org--other/blobs/b"}) {
    Link("bad", target);
    EXPECT_EQ(Found("org/name", "main", "bad"), "") << target;
    EXPECT_FALSE((*cache_->Snapshot("org/name", kCommit))->Open("", "bad").ok()) << target;
  }
}

TEST_F(HfCacheTest, RefusesNamesAndRefsThatAreNone) {
  for (const char* repo : {"", "..", "org/..", "org/name/x", "org--name", "../org/name"}) {
    EXPECT_EQ(Found(repo, "main"), "") << repo;
  }
  for (const std::string& text : {std::string("main"), std::string("../../x"), kCommit + "c",
                                  std::string(1000, 'c'), std::string()}) {
    folder_.Write(kRepo + "refs/main", text);
    EXPECT_EQ(Found("org/name", "main"), "") << text;
  }
  folder_.Write(kRepo + "refs/main", kCommit + "\n");
  EXPECT_EQ(Found("org/name", "main"), kCommit);
  EXPECT_EQ(Found("org/name", "../refs/main"), kCommit);  // beneath, and so what it says
  EXPECT_EQ(Found("org/name", "../../secret"), "");
}

TEST_F(HfCacheTest, AMissingFolderIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(HfCache::Open(folder_.path() + "/missing").status()));
}

}  // namespace
}  // namespace lorica
