// Goal: the bill adds up to the last token, whatever happens to requests. Method: seeded
// lives of a gateway over the fake device: tenants whose calls end by length, by end
// token, by a stop string, by cancelling in the queue or in the middle, by deadline, or
// that nobody reads to the end; an arena so small that running ones are preempted.
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/api/gateway.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/api/fake_tokenizer.h"

namespace lorica {
namespace {

constexpr int kLives = 40;
constexpr int kCalls = 60;
constexpr int kContext = 300;

struct World {
  explicit World(int32_t blocks, int depth)
      : memory(blocks), backend(&memory), executor(&memory, depth, 259), arena(blocks) {
    GatewayLimits limits;
    limits.context_tokens = kContext;
    limits.vocabulary = tokenizer.size();
    limits.end_tokens = {FakeTokenizer::kEnd};
    limits.base_name = "base";
    limits.clock = [this] { return now; };
    gateway = std::make_unique<Gateway>(limits, &engine, &catalog, &pool, &tokenizer, nullptr);
  }
  static EngineOptions Options() {
    EngineOptions options;
    options.context_tokens = kContext;
    options.vocabulary = 259;
    options.running_max = 6;
    options.rows_max = 32;
    options.chunk_tokens = 16;
    return options;
  }

  absl::Time now = absl::UnixEpoch();
  TemporaryFolder folder;
  fakes::FakeMemory memory;
  fakes::FakeBackend backend;
  fakes::FakeExecutor executor;
  BlockArena arena;
  KvCache cache{nullptr, fakes::kFakeBlockBytes, {}};
  PeftLoader loader{{}, &backend, fakes::kFakeBlockBytes};
  AdapterCatalog catalog{*MakeLocalSource(folder.path()), &loader, "base"};
  fakes::HeldExecutor loads;
  AdapterPool pool{{}, &loader, &loads, &backend, cache, &arena};
  Engine engine{Options(), &executor, &pool, &arena};
  FakeTokenizer tokenizer;
  std::unique_ptr<Gateway> gateway;
};

struct Running {
  std::string tenant;
  std::shared_ptr<Answer> answer;
  bool is_read = true;
  int cancel_at = -1;  // after so many tokens
  int tokens = 0;
};

struct Sums {
  int64_t completion = 0;  // what ends said
  int64_t prompt = 0;      // of those that were scheduled
};

TEST(GatewayBilling, EveryTokenIsOnTheBillOnceAndNoOther) {
  int64_t preemptions = 0;
  int64_t cancelled = 0;
  for (int seed = 1; seed <= kLives; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    const auto draw = [&](int low, int high) {
      return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
    };
    World world(draw(20, 28), seed % 2);
    std::vector<Running> running;
    std::map<std::string, Sums> told;
    bool all_read = true;
    int calls = 0;
    for (int step = 0; step < 4000 && (calls < kCalls || !running.empty()); ++step) {
      if (calls < kCalls && draw(0, 3) == 0) {
        ++calls;
        GenerateCall call;
        call.prompt = std::string(draw(1, 100), 'p');
        call.max_tokens = draw(1, 120);
        call.seed = random();
        call.ignore_eos = draw(0, 1) == 0;
        if (draw(0, 3) == 0) call.stop = {std::string(1, static_cast<char>(draw('a', 'z')))};
        if (draw(0, 9) == 0) call.deadline = world.now + absl::Milliseconds(draw(1, 100));
        Running one{absl::StrCat("tenant", draw(0, 2))};
        const auto tenant = std::make_shared<const Tenant>(Tenant{.name = one.tenant});
        auto answer = world.gateway->GenerateFor(tenant, call);
        if (answer.ok()) {
          one.answer = *std::move(answer);
          one.is_read = draw(0, 7) != 0;
          if (draw(0, 3) == 0) one.cancel_at = draw(0, 30);
          running.push_back(std::move(one));
        }
      }
      world.now += absl::Milliseconds(1);
      world.engine.Step(world.now);
      std::erase_if(running, [&](Running& one) {
        if (one.cancel_at >= 0 && one.tokens >= one.cancel_at) one.answer->Cancel();
        if (!one.is_read) {  // a transport that lost its client
          one.answer->Cancel();
          all_read = false;
          return true;
        }
        AnswerChunk chunk;
        std::optional<AnswerEnd> end;
        one.answer->Take(&chunk, &end);
        one.tokens += static_cast<int>(chunk.tokens.size());
        if (!end) return false;
        EXPECT_EQ(end->completion_tokens, one.tokens);
        told[one.tenant].completion += end->completion_tokens;
        return true;
      });
    }
    ASSERT_TRUE(running.empty());
    for (int i = 0; i < 10; ++i) world.engine.Step(world.now);

    const EngineStats stats = world.engine.stats();
    Usage sum;
    for (const UsageRow& row : world.gateway->accounts().Bill("")) {
      EXPECT_EQ(row.generation, "");
      EXPECT_GE(row.usage.completion_tokens, told[row.tenant].completion);
      if (all_read) {
        EXPECT_EQ(row.usage.completion_tokens, told[row.tenant].completion);
      }
      sum.requests += row.usage.requests;
      sum.prompt_tokens += row.usage.prompt_tokens;
      sum.completion_tokens += row.usage.completion_tokens;
    }
    EXPECT_EQ(sum.prompt_tokens, stats.prompt_tokens) << "computed once, billed once";
    EXPECT_LE(sum.completion_tokens, stats.generated_tokens);
    EXPECT_LE(sum.requests, stats.accepted);
    preemptions += stats.preemptions;
    cancelled += stats.cancelled;
  }
  EXPECT_GT(preemptions, 50);
  EXPECT_GT(cancelled, 200);
}

// Without stop strings nothing is made that is not delivered: then the sums are equal.
TEST(GatewayBilling, WithoutStopStringsTheBillIsWhatTheEngineMade) {
  for (int seed = 1; seed <= 10; ++seed) {
    std::mt19937_64 random(seed);
    World world(24, seed % 2);
    std::vector<std::shared_ptr<Answer>> answers;
    const auto tenant = std::make_shared<const Tenant>();
    for (int i = 0; i < 30; ++i) {
      GenerateCall call;
      call.prompt = std::string(1 + random() % 90, 'p');
      call.max_tokens = 1 + random() % 100;
      call.seed = random();
      auto answer = world.gateway->GenerateFor(tenant, call);
      ASSERT_TRUE(answer.ok()) << answer.status();
      answers.push_back(*std::move(answer));
    }
    for (int step = 0; step < 3000 && !world.engine.idle(); ++step) {
      world.engine.Step(world.now += absl::Milliseconds(1));
      if (random() % 40 == 0) answers[random() % answers.size()]->Cancel();
      AnswerChunk chunk;
      std::optional<AnswerEnd> end;
      for (const auto& answer : answers) answer->Take(&chunk, &end);
    }
    answers.clear();
    for (int i = 0; i < 5; ++i) world.engine.Step(world.now);
    const std::vector<UsageRow> rows = world.gateway->accounts().Bill("");
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_EQ(rows[0].usage.completion_tokens, world.engine.stats().generated_tokens);
    EXPECT_EQ(rows[0].usage.prompt_tokens, world.engine.stats().prompt_tokens);
  }
}

TEST(GatewayBilling, AStreamCountsUntilItsEndAndNoLonger) {
  World world(60, 0);
  const auto tenant = std::make_shared<const Tenant>(Tenant{.name = "t", .streams = 2});
  GenerateCall call;
  call.prompt = "hi";
  call.max_tokens = 5;
  call.ignore_eos = true;
  std::vector<std::shared_ptr<Answer>> open;
  for (int i = 0; i < 2; ++i) open.push_back(*world.gateway->GenerateFor(tenant, call));
  EXPECT_TRUE(absl::IsResourceExhausted(world.gateway->GenerateFor(tenant, call).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(world.gateway->GenerateSamples(tenant, call, 3).status()));
  for (int i = 0; i < 10; ++i) world.engine.Step(world.now);
  EXPECT_TRUE(world.gateway->GenerateFor(tenant, call).ok()) << "ended, though nobody has read it";
  call.prompt = std::string(kContext, 'p');
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(absl::IsInvalidArgument(world.gateway->GenerateFor(tenant, call).status()))
        << "a refused call holds no place";
  }
}

}  // namespace
}  // namespace lorica
