#include <gtest/gtest.h>

#include <cmath>

#include "tests/fakes/fake_constraint.h"
#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::MakeFakeGeneration;
using Submitted = EngineWorld::Submitted;

// What must hold whether results come at once or a step late.
class PromptScores : public testing::TestWithParam<int> {
 protected:
  EngineWorld::Options Options() const { return {.depth = GetParam()}; }
};

EngineRequest Scored(int prompt, int max_tokens, std::vector<MixTerm> mix = {}) {
  EngineRequest request = EngineWorld::Request(prompt, max_tokens, std::move(mix));
  request.prompt_logprobs = 0;
  return request;
}

// One for each token of the prompt, in order, none for the first.
void ExpectScores(const Submitted& one) {
  EXPECT_TRUE(one.ended_well() && one.right()) << one.id;
  const std::vector<TokenEvent::Token>& prompt = one.sink->prompt;
  const std::vector<float> alone = fakes::ScoresAlone(one.request);
  ASSERT_EQ(prompt.size(), one.request.prompt.size()) << one.id;
  EXPECT_TRUE(std::isnan(prompt[0].logprob));
  for (size_t i = 0; i < prompt.size(); ++i) {
    ASSERT_EQ(prompt[i].id, one.request.prompt[i]) << i;
    ASSERT_TRUE(i == 0 || prompt[i].logprob == alone[i - 1]) << i;
  }
}

TEST_P(PromptScores, ComeWithTheFirstTokenWhateverThePromptsLength) {
  for (const int prompt : {1, 2, 3, 15, 16, 17, 95, 96, 97, 200}) {
    EngineWorld world(Options());
    const Submitted one = world.Submit(Scored(prompt, 3));
    world.Run();
    ExpectScores(one);
  }
}

TEST_P(PromptScores, AreMadeForThoseWhoAskAlone) {
  EngineWorld world(Options());
  const GenerationPtr a = MakeFakeGeneration("a", 2);
  const Submitted plain = world.Submit(world.Request(60, 10));
  const Submitted base = world.Submit(Scored(61, 10));
  const Submitted adapted = world.Submit(Scored(62, 10, {{a, 0.5f}}));
  world.Run();
  EXPECT_TRUE(plain.ended_well() && plain.right());
  EXPECT_TRUE(plain.sink->prompt.empty());
  ExpectScores(base);
  ExpectScores(adapted);
}

// A step takes so many samples as the executor is made for, however many run.
TEST_P(PromptScores, AChunkEndsWhereTheStepHasNoRoomForMore) {
  EngineWorld::Options options = Options();
  options.engine.running_max = 2;
  EngineWorld world(options);
  world.executor.keep_log = true;
  const Submitted one = world.Submit(Scored(2 + 1 + kScoredRowsMax, 1));
  world.Run();
  ExpectScores(one);
  // Of two places it has one: room for as many as are left and the spare ones.
  ASSERT_EQ(world.executor.log.size(), 2);
  EXPECT_EQ(world.executor.log[0].samples.size(), 1 + kScoredRowsMax);
  EXPECT_EQ(world.executor.log[0].rows(), 1 + kScoredRowsMax);
  EXPECT_EQ(world.executor.log[1].samples.size(), 2);  // the last score, the first token
  world.executor.log.clear();
  const Submitted whole = world.Submit(Scored(1 + 1 + kScoredRowsMax, 1));
  world.Run();
  ExpectScores(whole);
  EXPECT_EQ(world.executor.log.size(), 1);
}

TEST_P(PromptScores, AreMadeBesideAsManyAsMayRun) {
  EngineWorld::Options options = Options();
  options.engine.running_max = 8;
  EngineWorld world(options);
  std::vector<Submitted> all;
  for (int i = 0; i < 7; ++i) all.push_back(world.Submit(world.Request(4 + i, 60)));
  for (int i = 0; i < 3; ++i) world.Step();
  const Submitted scored = world.Submit(Scored(100, 5));
  world.Run();
  ExpectScores(scored);
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right()) << one.id;
}

TEST_P(PromptScores, TakeNoKvOfOthersUntilTheyAreMade) {
  EngineWorld world(Options());
  const Submitted first = world.Submit(world.Request(80, 2));
  world.Run();
  const Submitted scored = world.Submit(Scored(80, 2));
  world.Run();
  ExpectScores(scored);
  EXPECT_EQ(scored.sink->finish.cached_tokens, 0);
  const Submitted again = world.Submit(world.Request(80, 2));
  world.Run();
  EXPECT_EQ(again.sink->finish.cached_tokens, 64);
}

TEST_P(PromptScores, AreMadeOnceThoughThePromptIsComputedAgain) {
  EngineWorld::Options options = Options();
  options.arena_blocks = 20;
  options.engine.running_max = 3;
  options.engine.chunk_tokens = 8;
  EngineWorld world(options);
  std::vector<Submitted> all;
  for (int i = 0; i < 3; ++i) all.push_back(world.Submit(Scored(70 + i, 60)));
  world.Run();
  for (const Submitted& one : all) ExpectScores(one);
  EXPECT_GT(world.engine->stats().preemptions, 0);
}

TEST_P(PromptScores, OfALateMaskStayWhereTheyAre) {
  EngineWorld world(Options());
  EngineRequest request = Scored(40, 20);
  request.constraint =
      std::make_shared<fakes::FakeConstraint>(3, kTestVocabulary, [] { return 2; });
  const Submitted one = world.Submit(request);
  world.Run();
  ExpectScores(one);
  EXPECT_GT(world.engine->stats().late_masks, 0);
}

TEST_P(PromptScores, BrokenLogitsEndTheRequestAlone) {
  EngineWorld world(Options());
  world.executor.poisoned.insert(fakes::HashAdapter("bad", 2));
  const Submitted bad = world.Submit(Scored(200, 3, {{MakeFakeGeneration("bad", 2), 1.0f}}));
  const Submitted good = world.Submit(Scored(200, 3));
  world.Run();
  EXPECT_EQ(bad.sink->finish.status.code(), absl::StatusCode::kDataLoss);
  ExpectScores(good);
}

INSTANTIATE_TEST_SUITE_P(Depth, PromptScores, testing::Values(0, 1));

}  // namespace
}  // namespace lorica
