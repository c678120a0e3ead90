// A device that fails for good, found by a step or by a copy.
#include <gtest/gtest.h>

#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::MakeFakeGeneration;
using Submitted = EngineWorld::Submitted;

class LostDevice : public testing::TestWithParam<int> {
 protected:
  EngineWorld::Options Options() const { return {.depth = GetParam()}; }
};

TEST_P(LostDevice, EndsEverythingOnceAndRefusesTheRest) {
  EngineWorld world(Options());
  const Submitted one = world.Submit(world.Request(5, 50));
  const Submitted two = world.Submit(world.Request(300, 50));
  for (int i = 0; i < 4; ++i) world.Step();
  world.executor.device = absl::InternalError("sticky");
  StepReport report = world.Step();
  for (int i = 0; i < 2; ++i) report = world.Step();
  EXPECT_TRUE(absl::IsUnavailable(report.device));
  for (const Submitted* each : {&one, &two}) {
    EXPECT_EQ(each->sink->finishes, 1);
    EXPECT_TRUE(absl::IsUnavailable(each->sink->finish.status));
  }
  EXPECT_TRUE(absl::IsUnavailable(world.Refusal(world.Request(5, 5))));
  EXPECT_TRUE(world.engine->idle());
  EXPECT_EQ(world.arena.available_blocks(), 64);
}

// An idle server whose device is gone would otherwise fail one adapter after another.
TEST_P(LostDevice, IsFoundByACopyToo) {
  for (const int copy_ticks : {0, 2}) {
    EngineWorld world(Options());
    world.backend.copy_ticks = copy_ticks;
    world.backend.next_copy_status = absl::InternalError("sticky");
    const GenerationPtr cold = MakeFakeGeneration("cold", 2);
    const Submitted one = world.Submit(world.Request(5, 50, {{cold, 1.0f}}));
    const Submitted two = world.Submit(world.Request(5, 50, {{cold, 1.0f}}));
    world.Run();
    for (const Submitted* each : {&one, &two}) {
      EXPECT_EQ(each->sink->finishes, 1);
      EXPECT_TRUE(absl::IsUnavailable(each->sink->finish.status)) << each->sink->finish.status;
    }
    EXPECT_TRUE(absl::IsUnavailable(world.Step().device));
    EXPECT_TRUE(absl::IsUnavailable(world.Refusal(world.Request(5, 5))));
    EXPECT_EQ(world.arena.available_blocks(), 64);
  }
}

INSTANTIATE_TEST_SUITE_P(Depth, LostDevice, testing::Values(0, 1));

}  // namespace
}  // namespace lorica
