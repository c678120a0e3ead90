#include "server/engine/event_relay.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

TokenEvent Token(int32_t id) {
  TokenEvent event;
  event.tokens.push_back({id});
  return event;
}

TEST(EventRelay, EverySinkHearsItsEventsInOrderAndItsEndLast) {
  constexpr int kSinks = 100, kSteps = 200;
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < kSinks; ++i) sinks.push_back(std::make_shared<RecordingSink>());
  {
    EventRelay relay;
    for (int step = 0; step < kSteps; ++step) {
      for (const auto& sink : sinks) relay.Add(sink, Token(step));
      if (step % 3 == 0) relay.HandOver();
    }
    for (const auto& sink : sinks) relay.Add(sink, FinishEvent{.completion_tokens = kSteps});
  }
  for (const auto& sink : sinks) {
    ASSERT_EQ(sink->tokens.size(), kSteps);
    for (int step = 0; step < kSteps; ++step) ASSERT_EQ(sink->tokens[step], step);
    EXPECT_EQ(sink->finishes, 1);
    EXPECT_EQ(sink->finish.completion_tokens, kSteps);
  }
}

TEST(EventRelay, NothingIsToldBeforeItIsHandedOver) {
  const auto sink = std::make_shared<RecordingSink>();
  {
    EventRelay relay;
    relay.Add(sink, Token(7));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(sink.use_count(), 2);
    EXPECT_TRUE(sink->tokens.empty());
  }
  EXPECT_EQ(sink->tokens, std::vector<int32_t>{7});
}

// Holds up the relay in its first event.
struct HeldSink : RecordingSink {
  absl::Notification entered, go_on;
  void OnTokens(const TokenEvent& event) override {
    if (tokens.empty()) {
      entered.Notify();
      go_on.WaitForNotification();
    }
    RecordingSink::OnTokens(event);
  }
};

TEST(EventRelay, OneThatIsFarBehindHoldsUpTheEngine) {
  const auto sink = std::make_shared<HeldSink>();
  EventRelay relay;
  relay.Add(sink, Token(0));
  relay.HandOver();
  sink->entered.WaitForNotification();
  for (int i = 1; i <= kRelayHandoversMax; ++i) {
    relay.Add(sink, Token(i));
    relay.HandOver();  // at the limit: does not wait
  }
  std::atomic<bool> handed_over = false;
  std::thread engine([&] {
    relay.Add(sink, Token(kRelayHandoversMax + 1));
    relay.HandOver();
    handed_over = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(handed_over);
  sink->go_on.Notify();
  engine.join();
}

TEST(EventRelay, AnEngineWithOneSaysWhatItSaysWithout) {
  EngineWorld::Options options{.depth = 1, .arena_blocks = 200};
  options.engine.relay_events = true;
  EngineWorld world(options);
  std::vector<EngineWorld::Submitted> requests;
  for (int i = 0; i < 30; ++i) requests.push_back(world.Submit(world.Request(5 + i, 3 + i)));
  const EngineWorld::Submitted cancelled = world.Submit(world.Request(8, 50));
  for (int i = 0; i < 10; ++i) world.Step();
  world.engine->Cancel(cancelled.id);
  world.Run();
  const EngineWorld::Submitted left = world.Submit(world.Request(9, 9));
  world.engine.reset();  // now all of it has been told
  for (const EngineWorld::Submitted& request : requests) {
    EXPECT_TRUE(request.ended_well());
    EXPECT_TRUE(request.right());
  }
  EXPECT_EQ(cancelled.sink->finishes, 1);
  EXPECT_EQ(cancelled.sink->finish.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(left.sink->finishes, 1);
  EXPECT_EQ(left.sink->finish.status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace lorica
