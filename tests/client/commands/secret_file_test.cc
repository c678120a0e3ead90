#include "client/commands/secret_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

class SecretFileTest : public ::testing::Test {
 protected:
  // What reading the file says on stderr.
  std::string WarningAt(mode_t mode) {
    folder_.Write("key", "abc\n");
    chmod(path_.c_str(), mode);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(ReadSecretWord(path_).value(), "abc");
    return ::testing::internal::GetCapturedStderr();
  }
  TemporaryFolder folder_;
  const std::string path_ = folder_.path() + "/key";
};

TEST_F(SecretFileTest, WarnsWhereOthersMayRead) {
  EXPECT_EQ(WarningAt(0600), "");
  for (const mode_t mode : {0640, 0604, 0644}) {
    EXPECT_THAT(WarningAt(mode), HasSubstr("can be read by others than you: chmod 600")) << mode;
  }
}

TEST_F(SecretFileTest, AWordHasNoBlanks) {
  for (const char* text : {"", "\n", "two words", "two\nlines\n", "tab\t", "caf\xc3\xa9"}) {
    folder_.Write("key", text);
    EXPECT_TRUE(absl::IsInvalidArgument(ReadSecretWord(path_).status())) << text;
  }
  folder_.Write("key", "word\r\n");
  EXPECT_EQ(ReadSecretWord(path_).value(), "word");
  EXPECT_FALSE(ReadSecretFile("/missing").ok());
}

TEST_F(SecretFileTest, FilesAreBounded) {
  folder_.Write("key", std::string(kSecretFileBytesMax, 'k'));
  EXPECT_EQ(ReadSecretFile(path_)->size(), kSecretFileBytesMax);
  folder_.Write("key", std::string(kSecretFileBytesMax + 1, 'k'));
  EXPECT_FALSE(ReadSecretFile(path_).ok());
}

TEST_F(SecretFileTest, MakesFilesForTheirOwnerAloneAndReplacesNone) {
  const mode_t old = umask(0);
  EXPECT_TRUE(WriteSecretFile(path_, "abc").ok());
  umask(old);
  struct stat info = {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(ReadSecretWord(path_).value(), "abc");
  EXPECT_FALSE(WriteSecretFile(path_, "def").ok());
  EXPECT_EQ(ReadSecretWord(path_).value(), "abc");
  EXPECT_FALSE(WriteSecretFile("/missing/key", "abc").ok());
}

}  // namespace
}  // namespace lorica
