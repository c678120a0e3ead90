#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/adapter_fault.h"
#include "tests/fakes/fake_constraint.h"
#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::FakeConstraint;
using fakes::MakeFakeGeneration;
using ::testing::HasSubstr;
using Submitted = EngineWorld::Submitted;

// What must hold whether results come at once or a step late.
class ConstraintAtDepth : public testing::TestWithParam<int> {
 protected:
  EngineWorld::Options Options() const { return {.depth = GetParam()}; }
};

std::shared_ptr<FakeConstraint> Constraint(uint64_t seed, std::function<int()> lateness) {
  return std::make_shared<FakeConstraint>(seed, kTestVocabulary, std::move(lateness));
}

int Never() { return 0; }

TEST_P(ConstraintAtDepth, EveryTokenIsOneOfTheMaskThatFollowsTheTokensBefore) {
  EngineWorld world(Options());
  EngineRequest request = world.Request(20, 40);
  const auto constraint = Constraint(3, Never);
  request.constraint = constraint;
  const Submitted one = world.Submit(request);
  world.Run();
  EXPECT_TRUE(one.ended_well());
  EXPECT_TRUE(one.right());
  ASSERT_EQ(one.sink->tokens.size(), 40);
  for (size_t i = 0; i < 40; ++i) {
    const std::vector<int32_t> mask =
        constraint->MaskAfter(absl::MakeConstSpan(one.sink->tokens).first(i));
    const int32_t token = one.sink->tokens[i];
    EXPECT_TRUE(mask[token / 32] >> token % 32 & 1) << i;
  }
  EXPECT_EQ(world.engine->stats().late_masks, 0);
}

TEST_P(ConstraintAtDepth, OthersOfTheBatchGetATokenInEveryStep) {
  EngineWorld world(Options());
  std::vector<Submitted> all;
  for (int i = 0; i < 8; ++i) {
    EngineRequest request = world.Request(5 + i, 30);
    if (i % 2 == 1) request.constraint = Constraint(i, Never);
    all.push_back(world.Submit(request));
  }
  const int steps_alone = 30 + GetParam();
  int steps = 0;
  for (; !world.engine->idle(); ++steps) world.Step();
  EXPECT_LE(steps, steps_alone + 1);
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right()) << one.id;
}

TEST_P(ConstraintAtDepth, ALateMaskRepeatsItsRowAloneAndChangesNoToken) {
  EngineWorld world(Options());
  EngineRequest slow = world.Request(7, 12);
  slow.constraint = Constraint(5, [] { return 4; });
  slow.params.repetition_penalty = 1.5f;
  const Submitted late = world.Submit(slow);
  while (late.sink->tokens.empty()) world.Step();
  const Submitted other = world.Submit(world.Request(7, 12));
  int steps = 0;
  for (; other.sink->finishes == 0; ++steps) world.Step();
  EXPECT_LE(steps, 14);
  EXPECT_LT(late.sink->tokens.size(), 12);
  world.Run();
  EXPECT_TRUE(late.ended_well() && late.right());
  EXPECT_TRUE(other.ended_well() && other.right());
  EXPECT_EQ(world.engine->stats().late_masks, 11);
}

TEST_P(ConstraintAtDepth, ARequestWaitsInTheQueueWhileItsConstraintIsMade) {
  EngineWorld world(Options());
  EngineRequest request = world.Request(5, 3);
  request.constraint = Constraint(5, [] { return 6; });
  const Submitted waiting = world.Submit(request);
  const Submitted behind = world.Submit(world.Request(5, 2));
  for (int i = 0; i < 4; ++i) world.Step();
  EXPECT_TRUE(behind.ended_well());
  EXPECT_EQ(waiting.sink->tokens.size(), 0);
  EXPECT_EQ(world.engine->stats().queued, 1);
  EXPECT_EQ(world.engine->stats().waiting_for_adapter, 0);
  world.Run();
  EXPECT_TRUE(waiting.ended_well() && waiting.right());
}

TEST_P(ConstraintAtDepth, AConstraintThatFailsEndsItsRequestAlone) {
  EngineWorld world(Options());
  std::vector<Submitted> failing;
  for (const int tokens : {0, 1, 5}) {
    EngineRequest request = world.Request(5, 20);
    const auto constraint = Constraint(5, Never);
    constraint->fail_after = tokens;
    request.constraint = constraint;
    failing.push_back(world.Submit(request));
  }
  const Submitted other = world.Submit(world.Request(6, 20));
  world.Run();
  EXPECT_TRUE(other.ended_well() && other.right());
  for (const Submitted& one : failing) {
    EXPECT_EQ(one.sink->finishes, 1);
    EXPECT_TRUE(absl::IsInvalidArgument(one.sink->finish.status)) << one.sink->finish.status;
  }
  EXPECT_EQ(failing[0].sink->finish.prompt_tokens, 0);
  EXPECT_EQ(failing[1].sink->tokens.size(), 1);
  EXPECT_EQ(failing[2].sink->tokens.size(), 5);
}

TEST_P(ConstraintAtDepth, APreemptedRequestGoesOnWhereItsConstraintWas) {
  EngineWorld::Options options = Options();
  options.arena_blocks = 5;
  EngineWorld world(options);
  std::vector<Submitted> all;
  for (int i = 0; i < 3; ++i) {
    EngineRequest request = world.Request(10, 40);
    request.constraint = Constraint(i, Never);
    all.push_back(world.Submit(request));
  }
  world.Run();
  EXPECT_GT(world.engine->stats().preemptions, 0);
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right()) << one.id;
}

TEST_P(ConstraintAtDepth, BansThatLeaveNoTokenAreTheRequestsOwnFault) {
  for (const size_t left : {1, 0}) {
    EngineWorld world(Options());
    EngineRequest request = world.Request(20, 1, {{MakeFakeGeneration("a", 1), 1.0f}});
    const auto constraint = Constraint(3, Never);
    request.constraint = constraint;
    const std::vector<int32_t> mask = constraint->MaskAfter({});
    for (int32_t token = 0; token < kTestVocabulary; ++token) {
      if (mask[token / 32] >> token % 32 & 1) request.logit_bias.push_back({token, kBanBias});
    }
    const int32_t last = request.logit_bias.back().token;
    request.logit_bias.resize(request.logit_bias.size() - left);
    const Submitted own = world.Submit(request);
    const Submitted other = world.Submit(world.Request(20, 5, request.mix));
    world.Run();
    EXPECT_TRUE(other.ended_well() && other.right());
    EXPECT_EQ(world.engine->stats().failed, 0);
    EXPECT_EQ(world.engine->stats().adapter_blocks, 1) << "it was evicted";
    const absl::Status& status = own.sink->finish.status;
    if (left == 1) {
      EXPECT_THAT(own.sink->tokens, testing::ElementsAre(last)) << status;
      continue;
    }
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("logit_bias bans every token that response_format leaves"));
    EXPECT_FALSE(IsAdapterFault(status));
    EXPECT_EQ(world.engine->stats().invalid, 1);
  }
}

TEST_P(ConstraintAtDepth, AMaskOfNothingIsTheFormsFault) {
  struct Closed : FakeConstraint {
    using FakeConstraint::FakeConstraint;
    std::vector<int32_t> MaskAfter(absl::Span<const int32_t>) const override {
      return std::vector<int32_t>((kTestVocabulary + 31) / 32);
    }
  };
  EngineWorld world(Options());
  EngineRequest request = world.Request(5, 5);
  request.constraint = std::make_shared<Closed>(1, kTestVocabulary, Never);
  const Submitted one = world.Submit(request);
  world.Run();
  EXPECT_TRUE(absl::IsInvalidArgument(one.sink->finish.status)) << one.sink->finish.status;
  EXPECT_THAT(std::string(one.sink->finish.status.message()),
              HasSubstr("response_format leaves no token"));
}

TEST_P(ConstraintAtDepth, NumbersThatAreNotFiniteAreNoFaultOfTheBans) {
  EngineWorld world(Options());
  world.executor.poisoned.insert(fakes::HashAdapter("bad", 1));
  EngineRequest request = world.Request(5, 5, {{MakeFakeGeneration("bad", 1), 1.0f}});
  request.constraint = Constraint(3, Never);
  request.logit_bias = {{1, kBanBias}, {2, -99.0f}};
  const Submitted one = world.Submit(request);
  world.Run();
  EXPECT_EQ(one.sink->finish.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(IsAdapterFault(one.sink->finish.status));
}

INSTANTIATE_TEST_SUITE_P(Depth, ConstraintAtDepth, testing::Values(0, 1));

}  // namespace
}  // namespace lorica
