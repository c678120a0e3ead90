// Goal: a million ids that nobody has leave as little behind as some thousand. Some minutes.
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

class AMillionIds : public BystanderTest {};

TEST_F(AMillionIds, LeaveNothingBehind) {
  AskForMany("warm-", 2000, 4);
  const int64_t before = ResidentBytes();
  AskForMany("nobody-", 1'000'000, 8);
  EXPECT_LT(ResidentBytes() - before, kGrowthBytesMax);
}

}  // namespace
}  // namespace lorica
