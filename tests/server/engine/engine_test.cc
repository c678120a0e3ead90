#include "server/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "adapters/adapter_fault.h"
#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::MakeFakeGeneration;
using ::testing::HasSubstr;
using Submitted = EngineWorld::Submitted;

// Everything that must hold whether results come at once or a step late.
class EngineAtDepth : public testing::TestWithParam<int> {
 protected:
  EngineWorld::Options Options() const { return {.depth = GetParam()}; }
};

TEST_P(EngineAtDepth, ARequestGetsTheTokensItWouldGetAlone) {
  EngineWorld world(Options());
  const Submitted one = world.Submit(world.Request(40, 30));
  world.Run();
  EXPECT_TRUE(one.ended_well());
  EXPECT_TRUE(one.right());
  EXPECT_EQ(one.sink->finish.reason, StopReason::kLength);
  EXPECT_EQ(one.sink->finish.prompt_tokens, 40);
  EXPECT_EQ(one.sink->finish.completion_tokens, 30);
}

TEST_P(EngineAtDepth, AnEndTokenEndsAndIsDelivered) {
  EngineWorld world(Options());
  EngineRequest request = world.Request(5, 30);
  const std::vector<int32_t> alone = fakes::TokensAlone(request, kTestVocabulary);
  request.end_tokens = {alone[10]};
  const Submitted stopped = world.Submit(request);
  request.ignore_end = true;
  const Submitted ignored = world.Submit(request);
  request.stop_token_ids = {alone[7]};
  const Submitted stop_id = world.Submit(request);
  world.Run();
  EXPECT_EQ(stopped.sink->finish.reason, StopReason::kEndToken);
  EXPECT_TRUE(stopped.right());
  EXPECT_EQ(stopped.sink->tokens.back(), alone[10]);
  EXPECT_EQ(ignored.sink->finish.reason, StopReason::kLength);
  EXPECT_TRUE(ignored.right());
  EXPECT_EQ(stop_id.sink->finish.reason, StopReason::kEndToken);
  EXPECT_TRUE(stop_id.right());
  const EngineStats stats = world.engine->stats();
  EXPECT_EQ(stats.generated_tokens, stopped.sink->tokens.size() + ignored.sink->tokens.size() +
                                        stop_id.sink->tokens.size());
}

TEST_P(EngineAtDepth, OneTokenIsEnough) {
  EngineWorld world(Options());
  const Submitted one = world.Submit(world.Request(1, 1));
  world.Run();
  EXPECT_TRUE(one.ended_well() && one.right());
  EXPECT_EQ(world.engine->stats().steps, 1);
}

TEST_P(EngineAtDepth, PenaltiesSeeTheWholeHistory) {
  EngineWorld world(Options());
  EngineRequest request = world.Request(20, 20);
  request.params.frequency_penalty = 0.5f;
  const Submitted one = world.Submit(request);
  world.Run();
  EXPECT_TRUE(one.ended_well() && one.right());
}

TEST_P(EngineAtDepth, MixturesOfAdaptersShareABatch) {
  EngineWorld world(Options());
  const GenerationPtr a = MakeFakeGeneration("a", 2);
  const GenerationPtr b = MakeFakeGeneration("b", 3);
  std::vector<Submitted> all;
  for (int i = 0; i < 2; ++i) {
    all.push_back(world.Submit(world.Request(9 + i, 20)));
    all.push_back(world.Submit(world.Request(19 + i, 20, {{a, 1.0f}})));
    all.push_back(world.Submit(world.Request(29 + i, 20, {{b, 1.0f}})));
    all.push_back(world.Submit(world.Request(39 + i, 20, {{a, 0.5f}, {b, 2.0f}})));
  }
  world.Run();
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right());
  EXPECT_EQ(world.engine->stats().kv_blocks, 0);
}

TEST_P(EngineAtDepth, PreemptedRequestsLoseNothingAndTheOldestIsNeverPreempted) {
  EngineWorld::Options options = Options();
  options.arena_blocks = 9;
  EngineWorld world(options);
  std::vector<Submitted> all;
  for (int i = 0; i < 4; ++i) all.push_back(world.Submit(world.Request(16 + i, 100)));
  world.Run();
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right());
  EXPECT_GT(world.engine->stats().preemptions, 0);
  EXPECT_EQ(all[0].sink->finish.timings.preemptions, 0);
  EXPECT_GT(all[3].sink->finish.timings.preemptions, 0);
}

TEST_P(EngineAtDepth, CancelAtEveryStepLeavesNothingBehind) {
  for (int at = 0; at < 12; ++at) {
    EngineWorld world(Options());
    const Submitted one = world.Submit(world.Request(300, 5, {{MakeFakeGeneration("a", 2), 1.0f}}));
    for (int step = 0; step < at; ++step) {
      if (step > 0) world.held.RunAll();
      world.Step();
    }
    const bool ended = one.sink->finishes == 1;
    world.engine->Cancel(one.id);
    world.engine->Cancel(one.id);
    world.Step();
    EXPECT_EQ(one.sink->finishes, 1) << at;
    EXPECT_TRUE(ended || absl::IsCancelled(one.sink->finish.status)) << at;
    world.Run();
    EXPECT_EQ(world.arena.blocks_of(UnitKind::kKv), 0) << at;
  }
}

TEST_P(EngineAtDepth, FinishEndsWithTheReasonGiven) {
  EngineWorld world(Options());
  const Submitted one = world.Submit(world.Request(5, 50));
  for (int i = 0; i < 6; ++i) world.Step();
  world.engine->Finish(one.id, StopReason::kStopString);
  world.engine->Cancel(one.id);  // too late
  world.Step();
  EXPECT_TRUE(one.ended_well());
  EXPECT_EQ(one.sink->finish.reason, StopReason::kStopString);
  EXPECT_EQ(one.sink->finish.completion_tokens, one.sink->tokens.size());
}

TEST_P(EngineAtDepth, APausedRequestGetsNoRowsAndGoesOnWhereItWas) {
  EngineWorld world(Options());
  const Submitted slow = world.Submit(world.Request(5, 40));
  const Submitted other = world.Submit(world.Request(6, 40));
  for (int i = 0; i < 5; ++i) world.Step();
  world.engine->Pause(slow.id);
  world.Step();
  const size_t had = slow.sink->tokens.size();
  for (int i = 0; i < 10; ++i) world.Step();
  EXPECT_EQ(slow.sink->tokens.size(), had);
  EXPECT_EQ(world.engine->stats().paused, 1);
  EXPECT_GT(other.sink->tokens.size(), had);
  world.engine->Resume(slow.id);
  world.Run();
  EXPECT_TRUE(slow.ended_well() && slow.right());
}

TEST_P(EngineAtDepth, APausedRequestGivesItsRoomToTheOldestThatRuns) {
  EngineWorld::Options options = Options();
  options.arena_blocks = 6;
  EngineWorld world(options);
  const Submitted paused = world.Submit(world.Request(40, 40));
  for (int i = 0; i < 4; ++i) world.Step();
  world.engine->Pause(paused.id);
  const Submitted runs = world.Submit(world.Request(40, 50));
  for (int i = 0; i < 100; ++i) world.Step();
  EXPECT_TRUE(runs.ended_well() && runs.right());
  world.engine->Resume(paused.id);
  world.Run();
  EXPECT_TRUE(paused.ended_well() && paused.right());
}

TEST_P(EngineAtDepth, ADeadlineEndsARequestWhereverItIs) {
  EngineWorld::Options options = Options();
  options.engine.running_max = 1;
  EngineWorld world(options);
  EngineRequest request = world.Request(5, 500);
  request.deadline = world.now + absl::Milliseconds(20);
  const Submitted running = world.Submit(request);
  const Submitted queued = world.Submit(request);
  for (int i = 0; i < 21; ++i) world.Step();
  EXPECT_TRUE(absl::IsDeadlineExceeded(running.sink->finish.status));
  EXPECT_GT(running.sink->tokens.size(), 0u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(queued.sink->finish.status));
  world.Run();
}

TEST_P(EngineAtDepth, OneRequestsBrokenLogitsFailOnlyThatRequest) {
  EngineWorld world(Options());
  const GenerationPtr bad = MakeFakeGeneration("bad", 2);
  world.executor.poisoned.insert(fakes::HashAdapter("bad", 2));
  const Submitted poisoned = world.Submit(world.Request(5, 10, {{bad, 1.0f}}));
  const Submitted healthy = world.Submit(world.Request(5, 10));
  world.Run();
  EXPECT_EQ(poisoned.sink->finish.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(IsAdapterFault(poisoned.sink->finish.status));
  EXPECT_TRUE(poisoned.sink->tokens.empty());
  EXPECT_EQ(world.engine->stats().failed, 1);
  EXPECT_TRUE(healthy.ended_well() && healthy.right());
}

TEST_P(EngineAtDepth, BrokenLogitsOfTheBaseAreNoAdaptersFault) {
  EngineWorld world(Options());
  world.executor.poisoned.insert(0);
  const Submitted one = world.Submit(world.Request(5, 10));
  world.Run();
  EXPECT_EQ(one.sink->finish.status.code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(IsAdapterFault(one.sink->finish.status));
}

TEST_P(EngineAtDepth, WithoutMemoryForPenaltiesTheRequestsThatHaveThemEndAlone) {
  EngineWorld world(Options());
  EngineRequest request = world.Request(5, 10);
  request.params.presence_penalty = 1.0f;
  const Submitted before = world.Submit(request);
  world.Run();
  EXPECT_TRUE(before.ended_well() && before.right());
  world.executor.no_room = true;
  const Submitted penalised = world.Submit(request);
  const Submitted plain = world.Submit(world.Request(5, 10));
  world.Run();
  const absl::Status& status = penalised.sink->finish.status;
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("no memory left"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("try again later"));
  EXPECT_TRUE(penalised.sink->tokens.empty());
  EXPECT_TRUE(plain.ended_well() && plain.right());
}

TEST_P(EngineAtDepth, DestructionEndsWhatIsLeft) {
  auto world = std::make_unique<EngineWorld>(Options());
  const Submitted running = world->Submit(world->Request(5, 50));
  for (int i = 0; i < 3; ++i) world->Step();
  const Submitted fresh = world->Submit(world->Request(5, 50));
  world->engine.reset();
  for (const Submitted* each : {&running, &fresh}) {
    EXPECT_EQ(each->sink->finishes, 1);
    EXPECT_TRUE(absl::IsUnavailable(each->sink->finish.status));
  }
  EXPECT_EQ(world->arena.available_blocks(), 64);
}

TEST_P(EngineAtDepth, AbortEndsEverythingWithItsStatus) {
  EngineWorld world(Options());
  const Submitted one = world.Submit(world.Request(5, 50));
  for (int i = 0; i < 3; ++i) world.Step();
  world.engine->Abort(absl::UnavailableError("stopping"));
  world.Step();
  EXPECT_EQ(one.sink->finish.status, absl::UnavailableError("stopping"));
  world.Run();
}

INSTANTIATE_TEST_SUITE_P(Depth, EngineAtDepth, testing::Values(0, 1));

// --- admission -------------------------------------------------------------------------

TEST(Engine, RefusesWhatNoStepCanServe) {
  EngineWorld::Options options;
  options.arena_blocks = 6;
  options.engine.context_tokens = 90;
  EngineWorld world(options);
  EXPECT_THAT(world.Refusal(world.Request(0, 5)).message(), HasSubstr("prompt has no tokens"));
  EXPECT_THAT(world.Refusal(world.Request(5, 0)).message(), HasSubstr("max_tokens"));
  EXPECT_TRUE(world.Refusal(world.Request(50, 40)).ok());
  EXPECT_THAT(world.Refusal(world.Request(50, 41)).message(), HasSubstr("context of 90"));
  EngineRequest bad_token = world.Request(5, 5);
  bad_token.prompt[2] = kTestVocabulary;
  EXPECT_THAT(world.Refusal(bad_token).message(), HasSubstr("token id 1000"));
  bad_token.prompt[2] = -1;
  EXPECT_TRUE(absl::IsInvalidArgument(world.Refusal(bad_token)));
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  EXPECT_TRUE(world.Refusal(world.Request(40, 9, {{a, 1.0f}})).ok());  // 3 + 48 positions
  EXPECT_THAT(world.Refusal(world.Request(40, 10, {{a, 1.0f}})).message(),
              HasSubstr("up to 7 blocks"));
  EXPECT_TRUE(world.Refusal(world.Request(40, 9, {{a, 1.0f}, {a, 2.0f}})).ok());
  EngineRequest late = world.Request(5, 5);
  late.deadline = world.now;
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.Refusal(late)));
  EXPECT_EQ(world.engine->stats().refused, 7);
}

TEST(Engine, RefusesMixesThatCannotBeCombined) {
  EngineWorld world({});
  std::vector<MixTerm> mix;
  for (int i = 0; i < kMixTermsMax; ++i) {
    mix.push_back({MakeFakeGeneration(std::string(1, 'a' + i), 1), 1.0f});
  }
  EXPECT_TRUE(world.Refusal(world.Request(5, 5, mix)).ok());
  mix.push_back(mix[0]);
  EXPECT_THAT(world.Refusal(world.Request(5, 5, mix)).message(), HasSubstr("at most 8"));
  auto dora = std::make_shared<Generation>();
  dora->digest = "dora";
  dora->block_count = 1;
  dora->config.use_dora = true;
  EXPECT_TRUE(world.Refusal(world.Request(5, 5, {{dora, 1.0f}})).ok());
  EXPECT_THAT(world.Refusal(world.Request(5, 5, {{dora, 1.0f}, {mix[0]}})).message(),
              HasSubstr("DoRA"));
  EXPECT_TRUE(
      absl::IsInvalidArgument(world.Refusal(world.Request(5, 5, {{mix[0].generation, NAN}}))));
}

TEST(Engine, TheQueueIsBoundedInRequestsTokensAndBytes) {
  EngineWorld::Options options;
  options.engine.queue_requests_max = 2;
  {
    EngineWorld world(options);
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(world.Refusal(world.Request(5, 5)).ok());
    EXPECT_THAT(world.Refusal(world.Request(5, 5)).message(), HasSubstr("2 requests"));
    world.Step();
    world.Step();  // both were scheduled: the queue is empty again
    EXPECT_TRUE(world.Refusal(world.Request(5, 5)).ok());
  }
  options.engine.queue_requests_max = 100;
  options.engine.queue_tokens_max = 20;
  {
    EngineWorld world(options);
    EXPECT_TRUE(world.Refusal(world.Request(5, 15)).ok());
    EXPECT_THAT(world.Refusal(world.Request(1, 1)).message(), HasSubstr("20 tokens"));
  }
  options.engine.queue_tokens_max = 1000;
  options.engine.queue_bytes_max = 10;
  EngineWorld world(options);
  EXPECT_THAT(world.Refusal(world.Request(5, 5)).message(), HasSubstr("10 bytes"));
}

TEST(Engine, WhoEndsInTheQueueMakesRoomThere) {
  EngineWorld::Options options;
  options.engine.queue_requests_max = 1;
  options.engine.running_max = 1;
  EngineWorld world(options);
  world.Submit(world.Request(5, 50));
  world.Step();
  const Submitted queued = world.Submit(world.Request(5, 5));
  EXPECT_TRUE(absl::IsUnavailable(world.Refusal(world.Request(5, 5))));
  world.engine->Cancel(queued.id);
  world.Step();
  EXPECT_TRUE(world.Refusal(world.Request(5, 5)).ok());
}

TEST(Engine, ARequestThatIsNotScheduledWithinTheQueuesTimeIsUnavailable) {
  EngineWorld::Options options;
  options.engine.running_max = 1;
  options.engine.queue_ttl = absl::Milliseconds(10);
  EngineWorld world(options);
  const Submitted first = world.Submit(world.Request(5, 50));
  const Submitted second = world.Submit(world.Request(5, 50));
  for (int i = 0; i < 12; ++i) world.Step();
  EXPECT_EQ(first.sink->finishes, 0);
  EXPECT_TRUE(absl::IsUnavailable(second.sink->finish.status));
}

TEST(Engine, ADrainingEngineFinishesWhatItHas) {
  EngineWorld world({});
  const Submitted one = world.Submit(world.Request(5, 20));
  world.engine->StartDrain();
  EXPECT_TRUE(absl::IsUnavailable(world.Refusal(world.Request(5, 5))));
  world.Run();
  EXPECT_TRUE(one.ended_well() && one.right());
}

// --- adapters ----------------------------------------------------------------------------

TEST(Engine, ARequestWhoseAdapterLoadsIsOvertaken) {
  EngineWorld world({});
  const Submitted cold = world.Submit(world.Request(5, 5, {{MakeFakeGeneration("a", 2), 1.0f}}));
  const Submitted base = world.Submit(world.Request(5, 5));
  for (int i = 0; i < 10; ++i) world.Step();
  EXPECT_TRUE(base.ended_well());
  EXPECT_EQ(world.engine->stats().waiting_for_adapter, 1);
  world.Run();
  EXPECT_TRUE(cold.ended_well() && cold.right());
  EXPECT_GE(cold.sink->finish.timings.load, absl::Milliseconds(9));
}

TEST(Engine, AFailedLoadFailsItsRequestsWithTheLoadsError) {
  EngineWorld world({});
  world.loader.errors["bad"] = absl::UnavailableError("the source is down");
  const GenerationPtr bad = MakeFakeGeneration("bad", 2);
  const Submitted one = world.Submit(world.Request(5, 5, {{bad, 1.0f}}));
  const Submitted two = world.Submit(world.Request(5, 5, {{bad, 1.0f}}));
  const Submitted base = world.Submit(world.Request(5, 5));
  world.Run();
  const absl::Status down = AdapterFault(absl::UnavailableError("the source is down"));
  EXPECT_EQ(one.sink->finish.status, down);
  EXPECT_EQ(two.sink->finish.status, down);
  EXPECT_TRUE(base.ended_well());
  EXPECT_EQ(world.loader.load_count, 1);
}

TEST(Engine, OldGenerationsFinishAsTheyBegan) {
  EngineWorld world({});
  const Submitted old = world.Submit(world.Request(5, 40, {{MakeFakeGeneration("v1", 2), 1.0f}}));
  for (int i = 0; i < 10; ++i) {
    world.held.RunAll();
    world.Step();
  }
  const Submitted fresh = world.Submit(world.Request(5, 40, {{MakeFakeGeneration("v2", 2), 1.0f}}));
  world.Run();
  EXPECT_TRUE(old.ended_well() && old.right());
  EXPECT_TRUE(fresh.ended_well() && fresh.right());
  EXPECT_NE(old.sink->tokens, fresh.sink->tokens);
}

TEST(Engine, ARequestThatPinsCrowdOutIsRefusedWithWhatToDo) {
  EngineWorld::Options options;
  options.arena_blocks = 8;
  EngineWorld world(options);
  world.pool->Pin(MakeFakeGeneration("pinned", 6), AdapterTier::kDevice, nullptr);
  for (int i = 0; i < 4; ++i) {
    world.held.RunAll();
    world.Step();
  }
  const Submitted fits = world.Submit(world.Request(16, 17));
  const Submitted crowded = world.Submit(world.Request(16, 18));
  world.Run();
  EXPECT_TRUE(fits.ended_well() && fits.right());
  EXPECT_EQ(crowded.sink->finish.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(crowded.sink->finish.status.message(), HasSubstr("pinned"));
}

// --- books ---------------------------------------------------------------------------------

TEST(Engine, TimingsAndStatisticsComeFromTheInjectedClock) {
  EngineWorld world({});
  const Submitted one = world.Submit(world.Request(5, 10));
  world.now += absl::Milliseconds(4);
  world.Run();
  const RequestTimings& timings = one.sink->finish.timings;
  EXPECT_EQ(timings.queue, absl::Milliseconds(5));
  EXPECT_EQ(timings.first_token, absl::Milliseconds(5));
  EXPECT_EQ(timings.total, absl::Milliseconds(14));
  const EngineStats stats = world.engine->stats();
  EXPECT_EQ(stats.accepted, 1);
  EXPECT_EQ(stats.finished, 1);
  EXPECT_EQ(stats.prompt_tokens, 5);
  EXPECT_EQ(stats.generated_tokens, 10);
  EXPECT_EQ(stats.steps, 10);
  EXPECT_EQ(stats.rows, 5 + 9);
  EXPECT_EQ(stats.free_blocks, 64);
}

TEST(Engine, WhoHearsOfItsLastTokenFindsItCounted) {
  struct CountingSink : RecordingSink {
    Engine* engine = nullptr;
    EngineStats stats;
    void OnFinish(const FinishEvent& event) override {
      RecordingSink::OnFinish(event);
      stats = engine->stats();
    }
  };
  EngineWorld world({});
  auto sink = std::make_shared<CountingSink>();
  sink->engine = world.engine.get();
  EngineRequest request = world.Request(5, 10);
  request.sink = sink;
  ASSERT_TRUE(world.Refusal(std::move(request)).ok());
  world.Run();
  EXPECT_EQ(sink->finishes, 1);
  EXPECT_EQ(sink->stats.finished, 1);
  EXPECT_EQ(sink->stats.generated_tokens, 10);
  EXPECT_EQ(sink->stats.running, 0);
}

// A device that takes 8 ms a step, and a clock that goes on by 0.5 ms whenever it is read.
class EngineThatLingers : public testing::Test {
 protected:
  EngineThatLingers() {
    EngineWorld::Options options;
    options.depth = 1;
    options.engine.linger = 0.7;
    options.clock = [this] {
      world_->now += absl::Microseconds(500);
      if (on_clock_) on_clock_();
      if (copying_) world_->backend.Tick();
      return world_->now;
    };
    world_ = std::make_unique<EngineWorld>(options);
    world_->executor.clock = &world_->now;
    world_->executor.cost = [](const StepBatch&) { return absl::Milliseconds(8); };
    stream_ = world_->Submit(world_->Request(3, 40));
    for (int i = 0; i < 10; ++i) world_->Step();
  }
  // Steps once; `event` comes as soon as the engine waits for the device.
  StepPlan StepWith(std::function<void()> event) {
    const absl::Time began = world_->now;
    bool came = false;
    on_clock_ = [&] {
      if (came || world_->now < began + absl::Milliseconds(2)) return;
      came = true;
      event();
    };
    StepPlan plan = world_->Step().plan;
    on_clock_ = nullptr;
    EXPECT_TRUE(came);
    return plan;
  }
  bool Has(const StepPlan& plan, RequestId id) const {
    return std::any_of(plan.spans.begin(), plan.spans.end(),
                       [id](const Span& span) { return span.request == id; });
  }

  std::function<void()> on_clock_;
  bool copying_ = false;  // copies end while the clock goes on
  std::unique_ptr<EngineWorld> world_;
  Submitted stream_;
};

TEST_F(EngineThatLingers, WhoComesWhileTheDeviceIsBusyIsInTheNextStep) {
  Submitted late;
  const StepPlan plan = StepWith([&] { late = world_->Submit(world_->Request(5, 3)); });
  EXPECT_TRUE(Has(plan, late.id) && Has(plan, stream_.id));
  world_->Run();
  EXPECT_TRUE(late.ended_well() && late.right() && stream_.right());
}

TEST_F(EngineThatLingers, AnAdapterInHostMemoryIsThereByTheNextStep) {
  const GenerationPtr adapter = MakeFakeGeneration("a", 2);
  world_->pool->Load(adapter, AdapterTier::kHost, nullptr);
  for (int i = 0; i < 3; ++i) {
    world_->held.RunAll();
    world_->Step();
  }
  world_->backend.copy_ticks = 1;
  Submitted late;
  const StepPlan plan = StepWith([&] {
    late = world_->Submit(world_->Request(5, 3, {{adapter, 1.0f}}));
    copying_ = true;
  });
  EXPECT_TRUE(Has(plan, late.id));
  world_->Run();
  EXPECT_TRUE(late.ended_well() && late.right() && stream_.right());
}

TEST_F(EngineThatLingers, BehindAStepWithPromptsTheNextIsLaunchedAtOnce) {
  const Submitted prompt = world_->Submit(world_->Request(50, 3));
  EXPECT_TRUE(Has(world_->Step().plan, prompt.id));
  Submitted late;
  const StepPlan plan = StepWith([&] { late = world_->Submit(world_->Request(5, 3)); });
  EXPECT_FALSE(Has(plan, late.id));
  world_->Run();
  EXPECT_TRUE(late.right() && prompt.right() && stream_.right());
}

TEST(Engine, WaitForWorkReturnsWhenARequestComes) {
  EngineWorld world({});
  world.Step();
  std::atomic<bool> submitted = false;
  std::thread client([&] {
    absl::SleepFor(absl::Milliseconds(20));
    submitted = true;
    world.Submit(world.Request(5, 2));
  });
  world.engine->WaitForWork(absl::Seconds(30));
  EXPECT_TRUE(submitted);
  client.join();
  world.Run();
}

// Sinks count with atomics: they run on the engine's thread, the test reads on its own.
struct CountingSink : TokenSink {
  std::atomic<int>* finished;
  explicit CountingSink(std::atomic<int>* finished) : finished(finished) {}
  void OnTokens(const TokenEvent&) override {}
  void OnFinish(const FinishEvent&) override { ++*finished; }
};

TEST(Engine, ManyThreadsSubmitCancelAndPauseWhileItSteps) {
  EngineWorld world({.depth = 1});
  std::atomic<int> finished = 0;
  std::atomic<int> accepted = 0;
  std::atomic<int> clients_left = 3;
  const absl::Time began = world.now;
  std::vector<std::thread> clients;
  for (int c = 0; c < 3; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 100; ++i) {
        EngineRequest request = EngineWorld::Request(1 + i % 20, 1 + i % 9);
        if (i % 2) request.mix = {{MakeFakeGeneration(std::string(1, 'a' + i % 5), 1), 1.0f}};
        request.sink = std::make_shared<CountingSink>(&finished);
        auto id = world.engine->Submit(std::move(request), began);
        if (!id.ok()) continue;
        ++accepted;
        if (i % 3 == c) world.engine->Pause(*id);
        if (i % 5 == 0) world.engine->Cancel(*id);
        world.engine->Resume(*id);
        world.engine->stats();
        world.engine->idle();
      }
      --clients_left;
    });
  }
  while (clients_left > 0 || !world.engine->idle()) {
    world.held.RunAll();
    world.Step();
    world.engine->WaitForWork(absl::Milliseconds(1));
  }
  for (std::thread& client : clients) client.join();
  world.Run();
  EXPECT_EQ(finished, accepted);
}

}  // namespace
}  // namespace lorica
