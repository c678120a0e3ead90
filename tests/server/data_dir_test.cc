#include "server/data_dir.h"

#include <filesystem>

#include "gtest/gtest.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

TEST(DataDir, IsMadeAndHeldByOneAtATime) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/a/b";
  auto first = DataDir::Lock(path);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = DataDir::Lock(path);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_NE(std::string(second.status().message()).find("another server"), std::string::npos);
  first->reset();
  EXPECT_TRUE(DataDir::Lock(path).ok());
}

TEST(DataDir, SaysSoWhereItCannotBe) {
  EXPECT_TRUE(absl::IsFailedPrecondition(DataDir::Lock("/proc/no-such-folder").status()));
}

}  // namespace
}  // namespace lorica
