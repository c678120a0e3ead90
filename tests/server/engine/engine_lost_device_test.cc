// A device that fails for good, found by a step, by a copy or by a load.
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

// A load asks the device as well, for DoRA's gains.
TEST_P(LostDevice, IsFoundByALoadToo) {
  EngineWorld world(Options());
  const GenerationPtr broken = MakeFakeGeneration("broken", 2);
  world.loader.next_error = absl::InternalError("of the adapter alone");
  const Submitted one = world.Submit(world.Request(5, 50, {{broken, 1.0f}}));
  const Submitted other = world.Submit(world.Request(5, 5));
  world.Run();
  EXPECT_EQ(one.sink->finish.status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(other.ended_well());
  EXPECT_TRUE(world.Step().device.ok()) << "the device is well";

  world.loader.next_error = absl::InternalError("sticky");
  world.backend.health = absl::InternalError("sticky");
  const GenerationPtr cold = MakeFakeGeneration("cold", 2);
  const Submitted last = world.Submit(world.Request(5, 50, {{cold, 1.0f}}));
  world.Run();
  EXPECT_EQ(last.sink->finishes, 1);
  EXPECT_TRUE(absl::IsUnavailable(last.sink->finish.status)) << last.sink->finish.status;
  EXPECT_TRUE(absl::IsUnavailable(world.Step().device));
  EXPECT_TRUE(absl::IsUnavailable(world.Refusal(world.Request(5, 5))));
}

INSTANTIATE_TEST_SUITE_P(Depth, LostDevice, testing::Values(0, 1));

}  // namespace
}  // namespace lorica
