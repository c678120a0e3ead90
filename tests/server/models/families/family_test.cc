#include "server/models/families/family.h"

#include <sys/stat.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

TEST(FamilyTest, WhatIsNoRegularFileIsRefusedAtOnce) {
  TemporaryFolder folder;
  const std::string fifo = folder.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, folder.path(), std::string("/dev/zero")}) {
    EXPECT_THAT(std::string(MappedFile::Open(path).status().message()), HasSubstr("regular file"));
    EXPECT_THAT(std::string(ReadTextFile(path, 10).status().message()), HasSubstr("regular file"));
  }
  EXPECT_TRUE(absl::IsNotFound(MappedFile::Open(fifo + "x").status()));
  EXPECT_TRUE(absl::IsNotFound(ReadTextFile(fifo + "x", 10).status()));
}

TEST(FamilyTest, TextFilesAreReadUpToTheLimit) {
  TemporaryFolder folder;
  folder.Write("ten", "0123456789");
  EXPECT_EQ(*ReadTextFile(folder.path() + "/ten", 10), "0123456789");
  EXPECT_TRUE(absl::IsInvalidArgument(ReadTextFile(folder.path() + "/ten", 9).status()));
  folder.Write("empty", "");
  EXPECT_EQ(*ReadTextFile(folder.path() + "/empty", 10), "");
  EXPECT_TRUE(absl::IsInvalidArgument(MappedFile::Open(folder.path() + "/empty").status()));
}

}  // namespace
}  // namespace lorica
