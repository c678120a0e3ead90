#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "adapters/hub/beneath.h"
#include "adapters/hub/followed_source.h"
#include "adapters/hub/foreign_file.h"
#include "adapters/hub/source.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LocalSourceTest : public ::testing::Test {
 protected:
  LocalSourceTest() { source_ = *MakeLocalSource(folder_.path()); }

  absl::Status Open(const std::string& location, const std::string& file = "adapter_config.json") {
    return source_->Open(location, file).status();
  }
  fs::path At(const std::string& name) const { return fs::path(folder_.path()) / name; }

  TemporaryFolder folder_;
  TemporaryFolder outside_;
  std::unique_ptr<Source> source_;
};

std::string ReadAll(const SourceFile& file) {
  std::string text(file.size_bytes(), '\0');
  EXPECT_TRUE(file.ReadAt(0, {reinterpret_cast<std::byte*>(text.data()), text.size()}).ok());
  return text;
}

TEST_F(LocalSourceTest, OpensFilesOneAndTwoFoldersDeep) {
  folder_.Write("a/adapter_config.json", "one");
  folder_.Write("owner/b/adapter_config.json", "two");
  EXPECT_EQ(ReadAll(**source_->Open("a", "adapter_config.json")), "one");
  EXPECT_EQ(ReadAll(**source_->Open("owner/b", "adapter_config.json")), "two");
}

TEST_F(LocalSourceTest, SaysWhatIsNotThere) {
  EXPECT_TRUE(absl::IsNotFound(MakeLocalSource(folder_.path() + "/absent").status()));
  EXPECT_TRUE(absl::IsNotFound(Open("absent")));
  folder_.Write("a/x", "");
  EXPECT_TRUE(absl::IsNotFound(Open("a")));
  EXPECT_TRUE(absl::IsNotFound(Open("a/x")));
}

TEST_F(LocalSourceTest, AFolderThatTakesTheRootsPlaceIsFollowedWhereItIsAskedFor) {
  const std::string root = At("root");
  folder_.Write("root/a/adapter_config.json", "one");
  folder_.Write("next/b/adapter_config.json", "two");
  const auto kept = *MakeLocalSource(root);
  const auto followed = *MakeFollowedSource(root);
  fs::rename(At("root"), At("before"));
  EXPECT_THAT(*followed->List(9), ElementsAre("a")) << "until there is another one";
  fs::rename(At("next"), At("root"));
  EXPECT_THAT(*followed->List(9), ElementsAre("b"));
  EXPECT_EQ(ReadAll(**followed->Open("b", "adapter_config.json")), "two");
  EXPECT_TRUE(followed->HasFolder("b"));
  EXPECT_THAT(*kept->List(9), ElementsAre("a"));
}

TEST_F(LocalSourceTest, TakesNoPathsForLocations) {
  folder_.Write("a/b/c/adapter_config.json", "");
  folder_.Write("adapter_config.json", "");
  outside_.Write("adapter_config.json", "");
  for (const std::string location :
       {"", ".", "..", "a/..", "../x", "a//b", "/etc", "a/b/c", "a/", "/"}) {
    EXPECT_TRUE(absl::IsNotFound(Open(location))) << location;
  }
  EXPECT_TRUE(absl::IsNotFound(Open(outside_.path())));
  EXPECT_TRUE(absl::IsNotFound(Open(std::string("a\0b", 3))));
  EXPECT_TRUE(absl::IsNotFound(Open("a", "b/c/adapter_config.json")));
}

TEST_F(LocalSourceTest, FollowsLinksThatStayBeneathTheRootOnly) {
  folder_.Write("real/adapter_config.json", "real");
  outside_.Write("adapter_config.json", "secret");
  fs::create_directory_symlink("real", At("link"));
  fs::create_directory_symlink(outside_.path(), At("out"));
  fs::create_directory_symlink("../../../../../../../../etc", At("up"));
  folder_.Write("file/x", "");
  fs::create_symlink("/etc/passwd", At("file/adapter_config.json"));
  EXPECT_EQ(ReadAll(**source_->Open("link", "adapter_config.json")), "real");
  EXPECT_TRUE(absl::IsFailedPrecondition(Open("out")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open("up", "passwd")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open("file")));
  EXPECT_THAT(std::string(Open("file").message()), HasSubstr("out of the adapters folder"));
  fs::create_symlink("loop", At("loop"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open("loop")));
}

TEST_F(LocalSourceTest, OpensRegularFilesOnlyAndNeverHangs) {
  fs::create_directories(At("fifo"));
  ASSERT_EQ(mkfifo(At("fifo/adapter_config.json").c_str(), 0600), 0);
  fs::create_directories(At("folder/adapter_config.json"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open("fifo")));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open("folder")));
  EXPECT_THAT(std::string(Open("fifo").message()), HasSubstr("not a regular file"));
}

TEST_F(LocalSourceTest, NoticesFilesThatShrink) {
  folder_.Write("a/w", "0123456789");
  const auto file = *source_->Open("a", "w");
  const FileStamp before = file->stamp();
  fs::resize_file(At("a/w"), 4);
  std::string text(10, '\0');
  const absl::Status read =
      file->ReadAt(0, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  EXPECT_TRUE(absl::IsDataLoss(read)) << read;
  EXPECT_NE(file->stamp(), before);
}

TEST_F(LocalSourceTest, ReadsThroughTheDescriptorThatWasChecked) {
  folder_.Write("a/w", "old");
  const auto file = *source_->Open("a", "w");
  fs::remove(At("a/w"));
  folder_.Write("a/w", "new");
  EXPECT_EQ(ReadAll(*file), "old");
}

TEST_F(LocalSourceTest, ListsFoldersThatLookLikeAdapters) {
  EXPECT_THAT(*source_->List(10), IsEmpty());
  for (const char* location : {"b", "a", "owner/c", "a/checkpoint-1", ".hidden", "x/y/z"}) {
    folder_.Write(std::string(location) + "/adapter_config.json", "{}");
  }
  folder_.Write("empty/README.md", "");
  fs::create_directory_symlink("b", At("link"));
  fs::create_directory_symlink(outside_.path(), At("out"));
  outside_.Write("adapter_config.json", "{}");
  EXPECT_THAT(*source_->List(10), ElementsAre("a", "b", "link", "owner/c"));
  EXPECT_THAT(*source_->List(4), ElementsAre("a", "b", "link", "owner/c"));
  EXPECT_EQ(source_->List(3)->size(), 3u);
}

// The way that needs no openat2 must keep the same promises.
TEST_F(LocalSourceTest, PortableOpeningStaysBeneathTheRootToo) {
  folder_.Write("real/file", "real");
  outside_.Write("file", "secret");
  fs::create_directory_symlink("real", At("link"));
  fs::create_directory_symlink(outside_.path(), At("out"));
  // A sibling whose path begins with the root's own is still outside.
  fs::create_directories(folder_.path() + "-more");
  fs::create_directory_symlink(folder_.path() + "-more", At("more"));
  const UniqueFd root(open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY));
  const auto open_portable = [&](const std::string& path, int flags) {
    return OpenBeneath(root.get(), path, flags, BeneathMethod::kPortable).status();
  };
  EXPECT_TRUE(open_portable("link/file", O_RDONLY).ok());
  EXPECT_TRUE(open_portable("link", O_RDONLY | O_DIRECTORY).ok());
  EXPECT_TRUE(absl::IsNotFound(open_portable("absent", O_RDONLY)));
  EXPECT_TRUE(absl::IsFailedPrecondition(open_portable("out/file", O_RDONLY)));
  EXPECT_TRUE(absl::IsFailedPrecondition(open_portable("more", O_PATH)));
  EXPECT_TRUE(absl::IsFailedPrecondition(open_portable("..", O_PATH)));
  fs::remove_all(folder_.path() + "-more");
}

TEST(ForeignFileTest, NamesWhatDownloadsTurnInto) {
  EXPECT_THAT(DescribeForeignFile("version https://git-lfs.github.com/spec/v1\noid"),
              HasSubstr("Git-LFS"));
  EXPECT_THAT(DescribeForeignFile("PK\x03\x04\x14"), HasSubstr("zip"));
  EXPECT_THAT(DescribeForeignFile("\x80\x02}q"), HasSubstr("pickle"));
  EXPECT_THAT(DescribeForeignFile("\n<!DOCTYPE html><html>"), HasSubstr("HTML"));
  EXPECT_THAT(DescribeForeignFile("GGUF\x03"), HasSubstr("GGUF"));
  EXPECT_EQ(DescribeForeignFile(""), "");
  EXPECT_EQ(DescribeForeignFile(std::string("\x80\x02\0\0\0\0\0\0{", 9)), "");
}

}  // namespace
}  // namespace lorica
