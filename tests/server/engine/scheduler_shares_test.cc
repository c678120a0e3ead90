// A tenant that fills the batch gives way to another within a few steps, and to nobody else; where
// there is room, a small call need not wait for one that is too large for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "server/engine/fair_shares.h"
#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::MakeFakeGeneration;
using Submitted = EngineWorld::Submitted;

class SchedulerShares : public ::testing::TestWithParam<int> {
 protected:
  void Start(int slots, int blocks, int chunk = 256, int overtake_steps = 256) {
    EngineWorld::Options options;
    options.engine.chunk_tokens = chunk;
    options.engine.overtake_steps_max = overtake_steps;
    options.depth = GetParam();
    options.arena_blocks = blocks;
    options.engine.running_max = slots;
    world_ = std::make_unique<EngineWorld>(options);
  }
  Submitted Submit(const std::string& tenant, int prompt, int tokens, double weight = 1.0,
                   std::vector<MixTerm> mix = {}) {
    EngineRequest request = EngineWorld::Request(prompt, tokens, std::move(mix));
    request.tenant = tenant;
    request.params.seed = alike_ ? 0 : ++seed_;
    request.tenant_weight = weight;
    return world_->Submit(std::move(request));
  }
  std::vector<Submitted> Fill(const std::string& tenant, int count, int tokens,
                              double weight = 1.0) {
    std::vector<Submitted> all;
    for (int i = 0; i < count; ++i) all.push_back(Submit(tenant, 3 + i % 7, tokens, weight));
    Steps(5);
    return all;
  }
  StepReport Step() {
    world_->held.RunAll();
    return world_->Step();
  }
  void Steps(int count) {
    for (int i = 0; i < count; ++i) Step();
  }
  int StepsToFirstToken(const Submitted& one, int most = 1000) {
    int steps = 0;
    while (one.sink->tokens.empty() && steps < most) {
      Step();
      ++steps;
    }
    return steps;
  }
  static int RowsOf(const StepPlan& plan, const std::vector<Submitted>& all) {
    int rows = 0;
    for (const Span& span : plan.spans) {
      for (const Submitted& one : all) rows += span.request == one.id;
    }
    return rows;
  }
  void EndWell(const std::vector<Submitted>& all) {
    world_->Run(20'000);
    for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right()) << one.id;
  }
  // Refused kShareWaitSteps times, then let in, at the latest one step later, when what the
  // preempted one held is no longer read; its token comes when the step has been collected.
  static int FirstTokenSteps() { return kShareWaitSteps + 2 + GetParam(); }
  int64_t exchanges() const { return world_->engine->stats().share_preemptions; }

  bool alike_ = false;  // requests with equal prompts get equal answers, and share KV
  std::unique_ptr<EngineWorld> world_;
  uint64_t seed_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Depth, SchedulerShares, ::testing::Values(0, 1));

TEST_P(SchedulerShares, WhoHoldsAllSlotsGivesOneWithinAFewSteps) {
  Start(8, 400);
  const std::vector<Submitted> a = Fill("a", 10, 400);
  const Submitted b = Submit("b", 2, 2);
  EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps());
  EXPECT_EQ(exchanges(), 1);
  EndWell(a);
  EXPECT_TRUE(b.ended_well() && b.right());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].sink->finish.timings.preemptions, i == 7) << i;
  }
  EXPECT_EQ(exchanges(), 1);
}

TEST_P(SchedulerShares, WhoHoldsAllBlocksGivesSomeWithinAFewSteps) {
  Start(64, 60);
  const std::vector<Submitted> a = Fill("a", 20, 150);
  while (world_->engine->stats().preemptions == 0) Step();
  const int64_t before = world_->engine->stats().preemptions;
  for (int i = 0; i < 20; ++i) {
    const Submitted b = Submit("b", 33, 20);
    EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps()) << i;
    while (b.sink->finishes == 0) Step();
    EXPECT_TRUE(b.ended_well() && b.right());
    EXPECT_EQ(b.sink->finish.timings.preemptions, 0) << "it has less than its share";
  }
  EXPECT_GT(world_->engine->stats().preemptions, before);
  EXPECT_GT(exchanges(), 0);
  EndWell(a);
}

TEST_P(SchedulerShares, BlocksThatOneTenantsRequestsShareAreItsOwnAllTheSame) {
  alike_ = true;
  Start(64, 24);
  const std::vector<Submitted> a = Fill("a", 21, 100);
  Steps(40);
  const Submitted b = Submit("b", 65, 20);
  EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps() + 4);
  EXPECT_GT(exchanges(), 0);
  EndWell(a);
  EXPECT_TRUE(b.ended_well() && b.right());
}

TEST_P(SchedulerShares, RoomForAnAdapterIsMadeAsWell) {
  Start(64, 60);
  const std::vector<Submitted> a = Fill("a", 20, 150);
  while (world_->engine->stats().preemptions == 0) Step();
  const Submitted b = Submit("b", 10, 5, 1.0, {{MakeFakeGeneration("large", 9), 1.0f}});
  // Behind the room come its copy and the prompt.
  EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps() + 6);
  EXPECT_GT(exchanges(), 0);
  EndWell(a);
  EXPECT_TRUE(b.ended_well() && b.right());
}

TEST_P(SchedulerShares, AdaptersThatOneTenantHoldsGiveWayToo) {
  Start(64, 60);
  std::vector<Submitted> a;
  for (int i = 0; i < 12; ++i) {
    a.push_back(Submit("a", 3, 300, 1.0, {{MakeFakeGeneration(absl::StrCat("a", i), 5), 1.0f}}));
  }
  Steps(30);
  const Submitted b = Submit("b", 10, 5, 1.0, {{MakeFakeGeneration("b", 9), 1.0f}});
  EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps() + 6);
  EndWell(a);
  EXPECT_TRUE(b.ended_well() && b.right());
}

TEST_P(SchedulerShares, EachGetsItsShareByWeightAndThenNobodyIsPreempted) {
  Start(16, 2000);
  std::vector<Submitted> a = Fill("a", 20, 600);
  std::vector<Submitted> b;
  for (int i = 0; i < 20; ++i) b.push_back(Submit("b", 3, 600, 3.0));
  Steps(100);
  EXPECT_EQ(exchanges(), 12);
  for (int i = 0; i < 200; ++i) {
    const StepPlan plan = Step().plan;
    EXPECT_EQ(RowsOf(plan, a), 4);
    EXPECT_EQ(RowsOf(plan, b), 12);
  }
  EXPECT_EQ(exchanges(), 12);
  EndWell(a);
  EndWell(b);
}

TEST_P(SchedulerShares, ManyTenantsThatWaitGetTheirFirstSlotsOneAStep) {
  Start(16, 2000);
  const std::vector<Submitted> a = Fill("a", 20, 600);
  std::vector<Submitted> others;
  for (int i = 0; i < 15; ++i) others.push_back(Submit(absl::StrCat("t", i), 3, 600));
  for (int i = 0; i < 15; ++i) EXPECT_LE(StepsToFirstToken(others[i]), FirstTokenSteps()) << i;
  EXPECT_EQ(exchanges(), 15);
  // All have one: who comes now waits until one ends.
  const Submitted late = Submit("late", 3, 2);
  Steps(100);
  EXPECT_TRUE(late.sink->tokens.empty());
  EXPECT_EQ(exchanges(), 15);
  EndWell(a);
  EndWell(others);
  EXPECT_TRUE(late.ended_well());
}

TEST_P(SchedulerShares, ShortCallsOneAfterAnotherCostTheOtherOneStreamAtATime) {
  Start(8, 400);
  const std::vector<Submitted> a = Fill("a", 10, 600);
  for (int i = 0; i < 30; ++i) {
    const Submitted b = Submit("b", 2, 2);
    EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps()) << i;
    while (b.sink->finishes == 0) Step();
  }
  EXPECT_LE(exchanges(), 30);
  EXPECT_GE(std::ssize(a[7].sink->tokens), 30) << "it goes on in between";
  const StepPlan plan = Step().plan;
  EXPECT_GE(RowsOf(plan, a), 7);
  // The older ones never gave way, and what the others had generated was kept.
  for (int i = 0; i < 7; ++i) EXPECT_GE(std::ssize(a[i].sink->tokens), 30 * 3) << i;
  EndWell(a);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(a[i].sink->finish.timings.preemptions, 0) << i;
}

TEST_P(SchedulerShares, ALongPromptIsNotBegunAgainAndAgain) {
  Start(8, 400, /*chunk=*/10);
  const std::vector<Submitted> a = Fill("a", 7, 600);
  const Submitted prompt = Submit("a", 300, 100);
  for (int i = 0; i < 10; ++i) {
    const Submitted b = Submit("b", 2, 2);
    EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps()) << i;
    while (b.sink->finishes == 0) Step();
  }
  EXPECT_GT(exchanges(), 5);
  EXPECT_GT(prompt.sink->tokens.size(), 0u);
  EndWell(a);
  EXPECT_TRUE(prompt.ended_well() && prompt.right());
}

TEST_P(SchedulerShares, WhoWasServedMuchAloneStartsLevelWithWhoComesLater) {
  Start(8, 2000);
  // b alone, for long; then a fills the batch, and b asks for two tokens.
  const std::vector<Submitted> before = Fill("b", 8, 900);
  EndWell(before);
  const std::vector<Submitted> a = Fill("a", 10, 900);
  const Submitted b = Submit("b", 2, 2);
  EXPECT_LE(StepsToFirstToken(b), FirstTokenSteps());
  EndWell(a);
}

TEST_P(SchedulerShares, OneTenantAloneIsNeverPreemptedForAShare) {
  Start(4, 24);
  EndWell(Fill("a", 12, 90));
  EXPECT_GT(world_->engine->stats().preemptions, 0);
  EXPECT_EQ(exchanges(), 0);
}

// Long prompts of one tenant: three run and leave ten blocks, the fourth finds no room, and for
// many steps nothing is sampled.
TEST_P(SchedulerShares, AShortCallGoesPastALongPromptThatFindsNoRoom) {
  Start(8, 100, /*chunk=*/16);
  std::vector<Submitted> a;
  for (int i = 0; i < 8; ++i) a.push_back(Submit("a", 470 + i, 5));
  Steps(2);
  int calls = 0;
  while (a[6].sink->tokens.empty()) {
    const Submitted b = Submit("b", 2, 2);
    EXPECT_LE(StepsToFirstToken(b), 1 + GetParam()) << calls;
    while (b.sink->finishes == 0) Step();
    EXPECT_TRUE(b.ended_well() && b.right());
    ++calls;
  }
  EXPECT_GE(calls, 50);
  EXPECT_EQ(world_->engine->stats().preemptions, 0) << "it takes what is free alone";
  EndWell(a);
}

TEST_P(SchedulerShares, NoShortCallGoesPastALongPromptOfItsOwnTenant) {
  Start(8, 100, /*chunk=*/16);
  std::vector<Submitted> a;
  for (int i = 0; i < 4; ++i) a.push_back(Submit("a", 470 + i, 5));
  Steps(2);
  const Submitted large = Submit("b", 200, 5);
  const Submitted small = Submit("b", 2, 2);
  const Submitted others = Submit("c", 2, 2);
  EXPECT_LE(StepsToFirstToken(others), 1 + GetParam());
  EndWell({large, small});
  EXPECT_LE(large.sink->finish.timings.queue, small.sink->finish.timings.queue);
  EndWell(a);
}

TEST_P(SchedulerShares, NobodyGoesPastALongPromptThatHasWaitedLongEnough) {
  constexpr int kOvertakeSteps = 20;
  for (const bool late : {false, true}) {
    Start(8, 100, /*chunk=*/16, kOvertakeSteps);
    std::vector<Submitted> a;
    for (int i = 0; i < 4; ++i) a.push_back(Submit("a", 470 + i, 5));
    Steps(kOvertakeSteps - 1 + late);
    const Submitted b = Submit("b", 2, 2);
    EXPECT_EQ(StepsToFirstToken(b) > 1 + GetParam(), late);
    EndWell(a);
    EXPECT_TRUE(b.ended_well() && b.right());
  }
}

// Three tenants' short calls without end. While one of them runs, a long prompt beside another of
// its tenant's does not fit.
TEST_P(SchedulerShares, ALongPromptIsPassedBySoMuchAndNoMore) {
  constexpr int kCallCost = 2 + 7 * static_cast<int>(kGeneratedTokenCost);
  constexpr int kPassesMax = static_cast<int>(kPassLeadMax) / kCallCost;
  constexpr int kCallStepsMax = 10;  // its prompt has a part of small chunks
  struct Call {
    Submitted submitted;
    int came = 0;  // after that step
  };
  // A step is a millisecond.
  const auto starts = [](const Call& call) {
    return call.came + absl::ToInt64Milliseconds(call.submitted.sink->finish.timings.queue);
  };
  for (const int overtake_steps : {50, 10'000}) {
    Start(8, 62, /*chunk=*/3, overtake_steps);
    const Submitted first = Submit("a", 640, 40);
    std::map<std::string, std::vector<Call>> calls;
    for (const char* tenant : {"b", "c", "d"}) {
      calls[tenant].push_back({Submit(tenant, 2, 7)});
      Steps(3);
    }
    const Call prompt = {Submit("a", 310, 5)};
    for (int step = 0; step < 400; ++step) {
      for (auto& [tenant, its] : calls) {
        if (its.back().submitted.sink->finishes > 0) its.push_back({Submit(tenant, 2, 7), step});
      }
      Step();
    }
    EndWell({first, prompt.submitted});
    EXPECT_GE(starts(prompt), 50);
    EXPECT_LE(starts(prompt), std::min(overtake_steps, kPassesMax * kCallStepsMax) + kCallStepsMax);
    for (const auto& [tenant, its] : calls) {
      const auto passes = std::count_if(its.begin() + 1, its.end(), [&](const Call& call) {
        return starts(call) < starts(prompt);
      });
      EXPECT_LE(passes, kPassesMax) << tenant;
      EXPECT_GE(passes, overtake_steps == 50 ? 5 : kPassesMax - 1) << tenant;
    }
  }
}

}  // namespace
}  // namespace lorica
