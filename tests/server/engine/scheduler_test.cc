// What a step is made of, seen in the plans of StepReport and the batches the device gets.
#include "server/engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::MakeFakeGeneration;
using ::testing::ElementsAre;
using Submitted = EngineWorld::Submitted;

std::vector<RequestId> RequestsOf(const StepPlan& plan) {
  std::vector<RequestId> ids;
  for (const Span& span : plan.spans) ids.push_back(span.request);
  return ids;
}

int32_t RowsOf(const StepPlan& plan, RequestId id) {
  int32_t rows = 0;
  for (const Span& span : plan.spans) rows += span.request == id ? span.token_count : 0;
  return rows;
}

TEST(Scheduler, LongPromptsAreCutIntoChunksBesideDecodingRows) {
  EngineWorld::Options options;
  options.engine.chunk_tokens = 10;
  EngineWorld world(options);
  const Submitted decoding = world.Submit(world.Request(3, 50));
  world.Step();
  const Submitted prompt = world.Submit(world.Request(25, 5));
  std::vector<int32_t> chunks;
  for (int i = 0; i < 4; ++i) {
    const StepReport report = world.Step();
    EXPECT_EQ(RowsOf(report.plan, decoding.id), 1);
    chunks.push_back(RowsOf(report.plan, prompt.id));
  }
  EXPECT_THAT(chunks, ElementsAre(10, 10, 5, 1));
  world.Run();
  EXPECT_TRUE(prompt.right() && decoding.right());
}

TEST(Scheduler, ChunksOfSeveralPromptsShareAStepOldestFirst) {
  EngineWorld::Options options;
  options.engine.chunk_tokens = 20;
  EngineWorld world(options);
  const Submitted a = world.Submit(world.Request(12, 5));
  const Submitted b = world.Submit(world.Request(12, 5));
  const StepReport report = world.Step();
  EXPECT_EQ(RowsOf(report.plan, a.id), 12);
  EXPECT_EQ(RowsOf(report.plan, b.id), 8);
  EXPECT_TRUE(report.plan.spans[0].samples);
  EXPECT_FALSE(report.plan.spans[1].samples);
}

TEST(Scheduler, AShortPromptDoesNotWaitForALongOneWhichGoesOnAtHalfItsPace) {
  EngineWorld::Options options;
  options.engine.chunk_tokens = 20;
  EngineWorld world(options);
  const Submitted longest = world.Submit(world.Request(100, 5));
  EXPECT_EQ(RowsOf(world.Step().plan, longest.id), 20);
  const Submitted middle = world.Submit(world.Request(60, 5));
  const Submitted shortest = world.Submit(world.Request(12, 5));
  std::vector<std::vector<int32_t>> rows;
  for (int i = 0; i < 3; ++i) {
    const StepPlan plan = world.Step().plan;
    rows.push_back({RowsOf(plan, longest.id), RowsOf(plan, middle.id), RowsOf(plan, shortest.id)});
  }
  EXPECT_THAT(rows,
              ElementsAre(ElementsAre(10, 0, 10), ElementsAre(10, 8, 2), ElementsAre(10, 10, 1)));
  world.Run();
  for (const Submitted& one : {longest, middle, shortest}) {
    EXPECT_TRUE(one.ended_well() && one.right());
  }
}

TEST(Scheduler, NeverPlansMoreThanRowsMaxAndServesTheOldestFirst) {
  EngineWorld::Options options;
  options.engine.rows_max = 3;
  EngineWorld world(options);
  std::vector<Submitted> all;
  for (int i = 0; i < 5; ++i) all.push_back(world.Submit(world.Request(4, 10)));
  world.executor.rows_max = 3;
  world.Run();
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right());
}

TEST(Scheduler, BaseSpansComeFirstAndEqualTileListsAreNeighbours) {
  EngineWorld world({});
  world.executor.keep_log = true;
  const GenerationPtr a = MakeFakeGeneration("a", 1);
  const GenerationPtr b = MakeFakeGeneration("b", 1);
  std::vector<Submitted> all;
  all.push_back(world.Submit(world.Request(3, 30, {{b, 1.0f}})));
  all.push_back(world.Submit(world.Request(3, 30, {{a, 1.0f}})));
  all.push_back(world.Submit(world.Request(3, 30)));
  all.push_back(world.Submit(world.Request(3, 30, {{a, 2.0f}})));
  all.push_back(world.Submit(world.Request(3, 30, {{b, 1.0f}})));
  all.push_back(world.Submit(world.Request(3, 30)));
  StepReport report;
  for (int i = 0; i < 6; ++i) {
    world.held.RunAll();
    report = world.Step();
  }
  std::vector<int32_t> lists;
  for (const Span& span : report.plan.spans) lists.push_back(span.tile_list);
  // In the order in which the keys came.
  EXPECT_THAT(lists, ElementsAre(-1, -1, 0, 0, 1, 2));
  EXPECT_THAT(RequestsOf(report.plan),
              ElementsAre(all[2].id, all[5].id, all[0].id, all[4].id, all[1].id, all[3].id));
  const StepBatch& batch = world.executor.log.back();
  ASSERT_EQ(batch.segments.size(), 3u);
  EXPECT_EQ(batch.segments[0].row_begin, 2);
  EXPECT_EQ(batch.segments[0].row_count, 2);
  EXPECT_EQ(batch.segments[2].row_begin, 5);
  EXPECT_EQ(batch.samples.size(), 6u);
}

TEST(Scheduler, EqualHistoriesMakeEqualPlans) {
  const auto run = [] {
    EngineWorld world({});
    std::vector<std::string> texts;
    for (int i = 0; i < 6; ++i) {
      world.Submit(
          world.Request(3 + i, 20, {{MakeFakeGeneration(std::string(1, 'a' + i % 3), 1)}}));
    }
    for (int i = 0; i < 30; ++i) {
      world.held.RunAll();
      const StepPlan plan = world.Step().plan;
      std::string text;
      for (const Span& span : plan.spans) {
        text += std::to_string(span.request) + ":" + std::to_string(span.position_begin) + "+" +
                std::to_string(span.token_count) + "@" + std::to_string(span.tile_list) + " ";
      }
      texts.push_back(text);
    }
    return texts;
  };
  EXPECT_EQ(run(), run());
}

TEST(Scheduler, WithDepthOneATokenIsFedBackFromItsSlotBeforeItIsRead) {
  EngineWorld world({.depth = 1});
  world.executor.keep_log = true;
  const Submitted one = world.Submit(world.Request(3, 5));
  world.Step();
  world.Step();
  ASSERT_EQ(world.executor.log.size(), 2u);
  const int32_t slot = world.executor.log[0].samples[0].slot;
  EXPECT_THAT(world.executor.log[1].tokens, ElementsAre(-1 - slot));
  EXPECT_EQ(world.executor.log[1].samples[0].token_index, 1);
  world.Run();
  EXPECT_EQ(world.engine->stats().steps, 5);  // no surplus step at a known length
  EXPECT_TRUE(one.right());
}

TEST(Scheduler, WithDepthOnePenaltiesCountTheTokenInTheSlot) {
  EngineWorld world({.depth = 1});
  world.executor.keep_log = true;
  EngineRequest request = world.Request(3, 5);
  request.params.repetition_penalty = 1.3f;
  const Submitted one = world.Submit(request);
  EXPECT_EQ(world.Step().plan.rows, 3);
  EXPECT_EQ(world.Step().plan.rows, 1);
  EXPECT_EQ(world.executor.log[0].samples[0].output_pending, 0);
  EXPECT_EQ(world.executor.log[1].samples[0].output_count, 0);
  EXPECT_EQ(world.executor.log[1].samples[0].output_pending, 1);
  EXPECT_EQ(world.Step().plan.rows, 1);
  EXPECT_EQ(world.executor.log[2].samples[0].output_count, 1);
  EXPECT_EQ(world.executor.log[2].samples[0].output_pending, 1);
  world.Run();
  EXPECT_TRUE(one.ended_well() && one.right());
}

TEST(Scheduler, AnAdapterWithoutRoomIsOvertakenOnlySoLong) {
  EngineWorld::Options options;
  options.arena_blocks = 12;
  options.engine.overtake_steps_max = 8;
  EngineWorld world(options);
  const Submitted holder = world.Submit(world.Request(4, 150, {{MakeFakeGeneration("a", 1)}}));
  for (int i = 0; i < 4; ++i) {
    world.held.RunAll();
    world.Step();
  }
  const Submitted large = world.Submit(world.Request(4, 20, {{MakeFakeGeneration("big", 10)}}));
  // Short requests keep coming; without the bound there would never be room.
  std::vector<Submitted> crowd;
  int steps = 0;
  while (large.sink->finishes == 0 && steps < 300) {
    crowd.push_back(world.Submit(world.Request(4, 12)));
    world.held.RunAll();
    world.Step();
    ++steps;
  }
  EXPECT_TRUE(large.ended_well() && large.right());
  EXPECT_LT(steps, 250);
  world.Run(20000);
  EXPECT_TRUE(holder.right());
  for (const Submitted& one : crowd) EXPECT_TRUE(one.ended_well() && one.right());
}

TEST(Scheduler, AnOlderRequestPreemptsNewerOnesForTheRoomItWaitsFor) {
  EngineWorld::Options options;
  options.arena_blocks = 8;
  options.engine.overtake_steps_max = 3;
  EngineWorld world(options);
  // Its adapter loads while a newer request takes the room.
  const Submitted older = world.Submit(world.Request(4, 8, {{MakeFakeGeneration("a", 5)}}));
  world.Step();
  const Submitted newer = world.Submit(world.Request(60, 60));
  for (int i = 0; i < 10; ++i) world.Step();
  EXPECT_GT(newer.sink->tokens.size(), 0u);
  world.held.RunAll();
  for (int i = 0; i < 20; ++i) world.Step();
  EXPECT_TRUE(older.ended_well() && older.right());
  EXPECT_EQ(newer.sink->finishes, 0);
  world.Run();
  EXPECT_TRUE(newer.ended_well() && newer.right());
  EXPECT_EQ(newer.sink->finish.timings.preemptions, 1);
}

TEST(Scheduler, ARequestWithoutRoomForItsKvIsNotOvertaken) {
  EngineWorld::Options options;
  options.arena_blocks = 8;
  EngineWorld world(options);
  const Submitted runs = world.Submit(world.Request(60, 30));
  world.Step();
  const Submitted large = world.Submit(world.Request(100, 5));
  const Submitted small = world.Submit(world.Request(1, 5));
  for (int i = 0; i < 20; ++i) {
    const StepReport report = world.Step();
    EXPECT_EQ(RowsOf(report.plan, small.id), 0);
  }
  world.Run();
  EXPECT_TRUE(runs.right() && large.right() && small.right());
}

TEST(Scheduler, NoMoreThanRunningMaxHoldKv) {
  EngineWorld::Options options;
  options.engine.running_max = 2;
  EngineWorld world(options);
  for (int i = 0; i < 5; ++i) world.Submit(world.Request(4, 10));
  for (int i = 0; i < 10; ++i) {
    EXPECT_LE(world.Step().plan.spans.size(), 2u);
    EXPECT_LE(world.engine->stats().running, 2);
  }
  world.Run();
}

}  // namespace
}  // namespace lorica
