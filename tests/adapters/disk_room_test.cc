#include "adapters/disk_room.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "tests/fakes/disk_room.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

class DiskRoomTest : public ::testing::Test {
 protected:
  ~DiskRoomTest() override { fakes::g_disk_bytes_left = -1; }
  const TemporaryFolder folder_;
};

TEST_F(DiskRoomTest, IsWhatTheFileSystemHasLeft) {
  EXPECT_GT(DiskBytesLeft(folder_.path()), 0);
  for (const int64_t left : {int64_t{0}, int64_t{4095}, INT64_MAX}) {
    fakes::g_disk_bytes_left = left;
    EXPECT_EQ(DiskBytesLeft(folder_.path()), left);
  }
}

TEST_F(DiskRoomTest, IsEndlessWhereNobodySaysOrCounts) {
  fakes::g_disk_bytes_left = 0;
  fakes::g_disk_says_its_size = false;
  EXPECT_EQ(DiskBytesLeft(folder_.path()), INT64_MAX);
  fakes::g_disk_says_its_size = true;
  fakes::g_disk_bytes_left = INT64_MAX;
  fakes::g_disk_block_bytes = 2;
  EXPECT_EQ(DiskBytesLeft(folder_.path()), INT64_MAX);
  fakes::g_disk_bytes_left = INT64_MAX / 2;
  EXPECT_EQ(DiskBytesLeft(folder_.path()), INT64_MAX - 1);
  fakes::g_disk_block_bytes = 1;
}

TEST_F(DiskRoomTest, SaysWhyNobodyKnows) {
  errno = 0;
  EXPECT_EQ(DiskBytesLeft(folder_.path() + "/none"), std::nullopt);
  EXPECT_EQ(errno, ENOENT);
}

}  // namespace
}  // namespace lorica
