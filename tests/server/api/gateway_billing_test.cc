// Goal: the bill adds up to the last token, whatever happens to requests. Method: seeded
// lives of a gateway over the fake device: tenants whose calls name adapters, mixes and a
// name that moves, and end by length, by end token, by a stop string, by cancelling in the
// queue, in the prompt or behind it, by deadline, or, in every other life, that nobody reads
// to the end; an arena so small that running ones are preempted. What prompts cost is read
// off the launched plans, and who they are of is noted when they are admitted.
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "server/api/gateway.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/made_adapter.h"
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
  LittleModel model;
  FakeBackend files_backend;
  PeftLoader loader{model.targets(), &files_backend, 128 << 10};
  AdapterCatalog catalog{*MakeLocalSource(folder.path()), &loader, "base"};
  fakes::HeldExecutor loads;
  fakes::FakeImageLoader images;
  AdapterPool pool{{}, &images, &loads, &backend, cache, &arena};
  Engine engine{Options(), &executor, &pool, &arena};
  FakeTokenizer tokenizer;
  std::unique_ptr<Gateway> gateway;
};

using RowKey = std::pair<std::string, std::string>;  // tenant, BillKey

// What launched plans say: the positions of prompts that steps were launched for.
class Ledger {
 public:
  void Admitted(RequestId id, RowKey row, int64_t prompt) { requests_[id] = {row, prompt}; }
  void Launched(const StepPlan& plan) {
    for (const Span& span : plan.spans) {
      auto& one = requests_.at(span.request);
      // What is computed again after a preemption was on the bill before.
      const int64_t reached = one.computed.empty() ? 0 : *one.computed.rbegin() + 1;
      const int64_t end = std::min<int64_t>(one.prompt, span.position_begin + span.token_count);
      for (int64_t i = std::max<int64_t>(reached, span.position_begin); i < end; ++i) {
        one.computed.insert(i);
      }
    }
  }
  // Requests, prompt tokens and cached ones of each row. Those that no step was launched for
  // are on none.
  std::map<RowKey, Usage> Rows() const {
    std::map<RowKey, Usage> rows;
    for (const auto& [id, one] : requests_) {
      if (one.computed.empty()) continue;
      const int64_t reached = *one.computed.rbegin() + 1;
      rows[one.row].Add({.requests = 1,
                         .prompt_tokens = reached,
                         .cached_tokens = reached - std::ssize(one.computed)});
    }
    return rows;
  }
  // Those that were cancelled within their prompts.
  int64_t cut_short() const {
    return std::count_if(requests_.begin(), requests_.end(), [](const auto& entry) {
      const auto& [id, one] = entry;
      return !one.computed.empty() && *one.computed.rbegin() + 1 < one.prompt;
    });
  }

 private:
  struct Entry {
    RowKey row;
    int64_t prompt = 0;
    std::set<int64_t> computed;  // when the request first came to them
  };
  std::map<RequestId, Entry> requests_;
};

struct Running {
  RowKey row;
  std::shared_ptr<Answer> answer;
  bool is_read = true;
  int steps_a_read = 1;  // on average; what was made meanwhile may lie behind a stop string
  int cancel_after_steps = -1;
  int cancel_after_tokens = -1;
  int tokens = 0;
};

class Life {
 public:
  // all_read: nobody leaves before the end, so every answer's tokens are known.
  Life(int seed, bool all_read)
      : random_(seed), all_read_(all_read), world_(Draw(24, 32), seed % 2) {
    for (uint32_t version = 1; version <= 3; ++version) {
      const std::string folder = absl::StrCat("v", version);
      SmallestAdapter(version).WriteTo(world_.folder, folder);
      digests_.push_back((*world_.catalog.Resolve("", folder))->digest);
    }
    for (const char* tenant : kTenants) Move(tenant);
  }

  void Run() {
    int calls = 0;
    for (int step = 0; step < 6000 && (calls < kCalls || !running_.empty()); ++step) {
      if (calls < kCalls && Draw(0, 3) == 0) {
        ++calls;
        Call();
      }
      if (Draw(0, 7) == 0) Move(kTenants[Draw(0, 2)]);
      world_.now += absl::Milliseconds(1);
      if (Draw(0, 1) == 0) world_.loads.RunAll();
      ledger_.Launched(world_.engine.Step(world_.now).plan);
      std::erase_if(running_, [this](Running& one) { return ReadOne(one); });
    }
    ASSERT_TRUE(running_.empty());
    for (int i = 0; i < 10; ++i) ledger_.Launched(world_.engine.Step(world_.now).plan);
  }

  void Check() {
    std::map<RowKey, Usage> wanted = ledger_.Rows();
    int64_t prompt_tokens = 0;
    int64_t told = 0;
    for (const UsageRow& row : world_.gateway->accounts().Bill("")) {
      SCOPED_TRACE(absl::StrCat(row.tenant, " ", row.generation));
      const Usage usage = wanted[{row.tenant, row.generation}];
      EXPECT_EQ(row.usage.requests, usage.requests);
      EXPECT_EQ(row.usage.prompt_tokens, usage.prompt_tokens);
      EXPECT_EQ(row.usage.cached_tokens, usage.cached_tokens);
      const int64_t row_told = told_[{row.tenant, row.generation}];
      EXPECT_GE(row.usage.completion_tokens, row_told);
      if (all_read_) {
        EXPECT_EQ(row.usage.completion_tokens, row_told);
        exact_ += row_told > 0;
      }
      prompt_tokens += usage.prompt_tokens;
      told += row_told;
      mixes_ += absl::StrContains(row.generation, '+');
      wanted.erase({row.tenant, row.generation});
    }
    EXPECT_TRUE(wanted.empty()) << "computed for nobody";
    EXPECT_EQ(world_.engine.stats().prompt_tokens, prompt_tokens);
    if (all_read_) unbilled_ = world_.engine.stats().generated_tokens - told;
  }

  World& world() { return world_; }
  int64_t cut_short() const { return ledger_.cut_short(); }
  int64_t mixes() const { return mixes_; }
  int64_t exact() const { return exact_; }
  // Tokens that were made and are on nobody's bill, where all is read: those behind stop strings.
  int64_t unbilled() const { return unbilled_; }

 private:
  static constexpr const char* kTenants[] = {"tenant0", "tenant1", "tenant2"};

  int Draw(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1));
  }

  // The tenant's name "app" to other content.
  void Move(const std::string& tenant) {
    const int version = Draw(0, 2);
    ASSERT_TRUE(
        world_.catalog
            .Register(tenant, "app", {.location = absl::StrCat("v", version + 1), .replace = true})
            .ok());
    app_[tenant] = digests_[version];
  }

  // A draw of adapters, and the row that it belongs on.
  std::string Choose(const std::string& tenant, GenerateCall& call) {
    std::vector<std::string> generations;
    const int count = std::max(0, Draw(-1, 3));
    for (int i = 0; i < count; ++i) {
      const int which = Draw(0, 3);
      call.adapters.push_back({which == 3 ? "app" : absl::StrCat("v", which + 1), 0.5f});
      generations.push_back(which == 3 ? app_[tenant] : digests_[which]);
    }
    std::set<std::string> distinct(generations.begin(), generations.end());
    return absl::StrJoin(distinct, "+");
  }

  void Call() {
    GenerateCall call;
    call.prompt = std::string(Draw(1, 100), 'p');
    call.max_tokens = Draw(1, 120);
    call.seed = random_();
    call.ignore_eos = Draw(0, 1) == 0;
    if (Draw(0, 3) == 0) {
      for (int i = 0; i < 3; ++i) call.stop.emplace_back(1, static_cast<char>(Draw('a', 'z')));
    }
    if (Draw(0, 9) == 0) call.deadline = world_.now + absl::Milliseconds(Draw(1, 100));
    const std::string name = kTenants[Draw(0, 2)];
    Running one{{name, Choose(name, call)}};
    const auto tenant = std::make_shared<const Tenant>(Tenant{.name = name});
    auto answer = world_.gateway->GenerateFor(tenant, call);
    if (!answer.ok()) return;
    ledger_.Admitted(++last_id_, one.row, std::ssize(*call.prompt));
    one.answer = *std::move(answer);
    one.is_read = all_read_ || Draw(0, 3) != 0;
    one.steps_a_read = Draw(1, 4);
    if (Draw(0, 3) == 0) one.cancel_after_steps = Draw(0, 12);
    if (Draw(0, 3) == 0) one.cancel_after_tokens = Draw(1, 30);
    running_.push_back(std::move(one));
  }

  // True: it has ended.
  bool ReadOne(Running& one) {
    const bool late = one.cancel_after_steps >= 0 && one.cancel_after_steps-- == 0;
    const bool enough = one.cancel_after_tokens >= 0 && one.tokens >= one.cancel_after_tokens;
    if (late || enough) one.answer->Cancel();
    if (!one.is_read) {  // a transport that lost its client
      one.answer->Cancel();
      return true;
    }
    if (Draw(1, one.steps_a_read) != 1) return false;
    AnswerChunk chunk;
    std::optional<AnswerEnd> end;
    one.answer->Take(&chunk, &end);
    one.tokens += static_cast<int>(chunk.tokens.size());
    if (!end) return false;
    EXPECT_EQ(end->completion_tokens, one.tokens);
    told_[one.row] += end->completion_tokens;
    return true;
  }

  std::mt19937_64 random_;
  const bool all_read_;
  World world_;
  std::vector<std::string> digests_;
  std::map<std::string, std::string> app_;  // by tenant
  std::vector<Running> running_;
  Ledger ledger_;
  RequestId last_id_ = 0;
  std::map<RowKey, int64_t> told_;  // completion tokens
  int64_t mixes_ = 0;
  int64_t unbilled_ = 0;
  int64_t exact_ = 0;  // rows whose completion tokens were all told
};

// The clock stands, so nothing is filled up.
TEST(GatewayBilling, AQuotaGetsBackWhatWasNotComputed) {
  World world(32, 0);
  const auto tenant = std::make_shared<const Tenant>(Tenant{.name = "t", .tokens_per_minute = 100});
  const auto begin = [&](int prompt_tokens) {
    GenerateCall call;
    call.prompt = std::string(prompt_tokens, 'p');
    call.max_tokens = 100;
    return world.gateway->GenerateFor(tenant, call);
  };
  const auto cancel_after = [&](const std::shared_ptr<Answer>& answer, int steps) {
    for (int i = 0; i < steps; ++i) world.engine.Step(world.now);
    answer->Cancel();
    std::optional<AnswerEnd> end;
    for (int i = 0; i < 10 && !end; ++i) {
      world.engine.Step(world.now);
      AnswerChunk chunk;
      answer->Take(&chunk, &end);
    }
    EXPECT_TRUE(end.has_value());
    return end.value_or(AnswerEnd());
  };
  auto queued = begin(100);
  ASSERT_TRUE(queued.ok()) << queued.status();
  EXPECT_TRUE(absl::IsResourceExhausted(begin(1).status())) << "a prompt is taken at once";
  EXPECT_EQ(cancel_after(*queued, 0).prompt_tokens, 0);
  EXPECT_TRUE(world.gateway->accounts().Bill("t").empty());
  auto begun = begin(100);
  ASSERT_TRUE(begun.ok()) << "all of it was given back: " << begun.status();
  const int32_t computed = cancel_after(*begun, 1).prompt_tokens;
  ASSERT_GT(computed, 0);
  ASSERT_LT(computed, 100);
  const std::vector<UsageRow> bill = world.gateway->accounts().Bill("t");
  ASSERT_EQ(bill.size(), 1u);
  EXPECT_EQ(bill[0].usage.prompt_tokens, computed);
  EXPECT_TRUE(begin(100 - computed - 1).ok());
  EXPECT_TRUE(begin(1).ok()) << "one was left";
  EXPECT_TRUE(absl::IsResourceExhausted(begin(1).status()));
}

TEST(GatewayBilling, EveryTokenIsOnItsRowOnceAndNoOther) {
  int64_t preemptions = 0;
  int64_t cancelled = 0;
  int64_t cut_short = 0;
  int64_t mixes = 0;
  int64_t exact = 0;
  int64_t unbilled = 0;
  for (int seed = 1; seed <= kLives; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Life life(seed, /*all_read=*/seed % 4 < 2);  // with and without depth
    life.Run();
    life.Check();
    preemptions += life.world().engine.stats().preemptions;
    cancelled += life.world().engine.stats().cancelled;
    cut_short += life.cut_short();
    mixes += life.mixes();
    exact += life.exact();
    unbilled += life.unbilled();
  }
  EXPECT_GT(preemptions, 50);
  EXPECT_GT(cancelled, 200);
  EXPECT_GT(cut_short, 50);
  EXPECT_GT(mixes, 50);
  EXPECT_GT(exact, 200);
  EXPECT_GT(unbilled, 50) << "nothing was behind stop strings";
}

TEST(GatewayBilling, APromptThatIsCutShortCostsWhatWasComputed) {
  World world(60, 0);
  GenerateCall call;
  call.prompt = std::string(200, 'p');
  call.max_tokens = 5;
  const auto tenant = std::make_shared<const Tenant>(Tenant{.name = "t"});
  const auto answer = *world.gateway->GenerateFor(tenant, call);
  for (int i = 0; i < 2; ++i) world.engine.Step(world.now);
  answer->Cancel();
  for (int i = 0; i < 3; ++i) world.engine.Step(world.now);
  AnswerChunk chunk;
  std::optional<AnswerEnd> end;
  answer->Take(&chunk, &end);
  ASSERT_TRUE(end);
  EXPECT_EQ(end->prompt_tokens, 2 * World::Options().chunk_tokens) << "the answer says so too";
  const std::vector<UsageRow> rows = world.gateway->accounts().Bill("t");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].usage.prompt_tokens, 2 * World::Options().chunk_tokens);
}

TEST(GatewayBilling, APromptThatIsScoredAloneIsAllThatIsBilled) {
  GenerateCall call;
  call.prompt = std::string(40, 'p');
  call.max_tokens = 0;
  call.prompt_logprobs = 0;
  const auto tenant = std::make_shared<const Tenant>(Tenant{.name = "t"});
  for (const bool taken : {true, false}) {
    World world(60, 0);
    auto answer = *world.gateway->GenerateFor(tenant, call);
    for (int i = 0; i < 10; ++i) world.engine.Step(world.now);
    AnswerChunk chunk;
    std::optional<AnswerEnd> end;
    if (taken) {
      EXPECT_TRUE(answer->Take(&chunk, &end));
      EXPECT_EQ(chunk.prompt.size(), 40u);
      EXPECT_TRUE(chunk.tokens.empty());
      ASSERT_TRUE(end);
      EXPECT_EQ(end->completion_tokens, 0);
    }
    answer = nullptr;
    const std::vector<UsageRow> rows = world.gateway->accounts().Bill("t");
    ASSERT_EQ(rows.size(), 1u);
    EXPECT_EQ(rows[0].usage.prompt_tokens, 40);
    EXPECT_EQ(rows[0].usage.completion_tokens, 0);
  }
  World world(60, 0);
  call.prompt_logprobs.reset();
  EXPECT_TRUE(absl::IsInvalidArgument(world.gateway->GenerateFor(tenant, call).status()));
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
