// An engine over the fake device, for tests that say what happens step by step.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "server/engine/engine.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"

namespace lorica {

inline constexpr int32_t kTestVocabulary = 1000;

struct RecordingSink : TokenSink {
  std::vector<int32_t> tokens;
  std::vector<TokenEvent::Token> prompt;
  int finishes = 0;
  FinishEvent finish;
  void OnTokens(const TokenEvent& event) override {
    for (const TokenEvent::Token& token : event.tokens) tokens.push_back(token.id);
    prompt.insert(prompt.end(), event.prompt.begin(), event.prompt.end());
  }
  void OnFinish(const FinishEvent& event) override {
    ++finishes;
    finish = event;
  }
};

struct EngineWorld {
  struct Options {
    int depth = 0;
    int32_t arena_blocks = 64;
    EngineOptions engine;
    std::function<absl::Time()> clock;  // absent: `now`
    PoolOptions pool = {.host_bytes_max = 64 * fakes::kFakeBlockBytes};
  };

  explicit EngineWorld(Options options)
      : memory(options.arena_blocks),
        backend(&memory),
        arena(options.arena_blocks),
        executor(&memory, options.depth, kTestVocabulary) {
    executor.samples_max = options.engine.running_max + kScoredRowsMax;
    options.engine.clock = options.clock ? options.clock : [this] { return now; };
    if (options.engine.vocabulary == 0) options.engine.vocabulary = kTestVocabulary;
    KvCache cache;
    cache.block_bytes = fakes::kFakeBlockBytes;
    pool = std::make_unique<AdapterPool>(options.pool, &loader, &held, &backend, cache, &arena);
    engine = std::make_unique<Engine>(options.engine, &executor, pool.get(), &arena);
  }

  struct Submitted {
    RequestId id = 0;
    EngineRequest request;
    std::shared_ptr<RecordingSink> sink;
    bool right() const { return sink->tokens == fakes::TokensAlone(request, kTestVocabulary); }
    bool ended_well() const { return sink->finishes == 1 && sink->finish.status.ok(); }
  };

  static EngineRequest Request(int prompt, int max_tokens, std::vector<MixTerm> mix = {}) {
    EngineRequest request;
    for (int i = 0; i < prompt; ++i) request.prompt.push_back((i * 7 + prompt) % kTestVocabulary);
    request.max_tokens = max_tokens;
    request.mix = std::move(mix);
    return request;
  }
  Submitted Submit(EngineRequest request) {
    Submitted submitted;
    submitted.sink = std::make_shared<RecordingSink>();
    request.sink = submitted.sink;
    submitted.request = request;
    absl::StatusOr<RequestId> id = engine->Submit(std::move(request), now);
    LORICA_CHECK(id.ok(), id.status().ToString());
    submitted.id = *id;
    return submitted;
  }
  absl::Status Refusal(EngineRequest request) {
    if (request.sink == nullptr) request.sink = std::make_shared<RecordingSink>();
    return engine->Submit(std::move(request), now).status();
  }
  StepReport Step() {
    now += absl::Milliseconds(1);
    backend.Tick();
    StepReport report = engine->Step(now);
    engine->CheckInvariants();
    pool->CheckInvariants();
    arena.CheckInvariants();
    return report;
  }
  // Steps until nothing is left; loads are instant.
  void Run(int steps_max = 2000) {
    for (int i = 0; i < steps_max && !engine->idle(); ++i) {
      held.RunAll();
      Step();
    }
    LORICA_CHECK(engine->idle(), "the engine did not come to rest");
  }

  absl::Time now = absl::UnixEpoch();
  fakes::FakeMemory memory;
  fakes::FakeBackend backend;
  fakes::FakeImageLoader loader;
  fakes::HeldExecutor held;
  BlockArena arena;
  fakes::FakeExecutor executor;
  std::unique_ptr<AdapterPool> pool;
  std::unique_ptr<Engine> engine;
};

}  // namespace lorica
