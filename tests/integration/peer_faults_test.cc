// Goal: what the best-known CPU server gets wrong with adapters is right here: KV never
// crosses adapters, an unknown adapter is never the base model, scales are honoured,
// nobody starves behind another adapter's traffic, and a busy machine only slows us.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/time/clock.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using absl::StatusCode;

v1::GenerateRequest Greedy(const std::string& adapter, const std::string& prompt, int tokens) {
  v1::GenerateRequest request;
  request.set_adapter_id(adapter);
  request.set_prompt(prompt);
  request.set_max_tokens(tokens);
  request.set_temperature(0);
  return request;
}

class PeerFaults : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = DemoAdaptersPath();
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = server->release();
  }
  static void TearDownTestSuite() { delete server_; }
  void SetUp() override { ASSERT_NE(server_, nullptr); }

  static StatusCode CodeOf(const v1::GenerateRequest& request) {
    return server_->NewClient()->Generate(request).status().code();
  }

  static ServerProcess* server_;
};

ServerProcess* PeerFaults::server_ = nullptr;

TEST_F(PeerFaults, TheSamePromptUnderAnotherAdapterStartsFromItsOwnKv) {
  const std::string prompt =
      "<|im_start|>user\nTicket: the export button of LedgerPro has done nothing since Monday and "
      "my whole team waits for the report<|im_end|>\n<|im_start|>assistant\n";
  const std::vector<std::string> adapters = {"", "ticket-triage", "intent", "headline"};
  std::vector<v1::GenerateRequest> requests;
  for (const std::string& adapter : adapters) requests.push_back(Greedy(adapter, prompt, 24));
  const std::vector<Generated> first = GenerateAll(*server_, requests, 1);
  // Every ordered pair, one directly after the other, and all at once.
  for (size_t before = 0; before < adapters.size(); ++before) {
    for (size_t after = 0; after < adapters.size(); ++after) {
      const auto pair = GenerateAll(*server_, {requests[before], requests[after]}, 1);
      ASSERT_EQ(pair[1].token_ids, first[after].token_ids)
          << "'" << adapters[after] << "' after '" << adapters[before] << "'";
    }
  }
  const auto together = GenerateAll(*server_, requests, 4);
  for (size_t i = 0; i < adapters.size(); ++i) {
    EXPECT_EQ(together[i].token_ids, first[i].token_ids) << adapters[i];
    for (size_t j = 0; j < i; ++j) EXPECT_NE(first[i].token_ids, first[j].token_ids);
  }
}

TEST_F(PeerFaults, NoAdapterNamedIsTheBaseEvenRightAfterAdapters) {
  const auto base = GenerateAll(*server_, {Greedy("", "The capital of France is", 12)}, 1);
  GenerateAll(*server_, {Greedy("intent", "The capital of France is", 12)}, 1);
  const auto again = GenerateAll(*server_, {Greedy("", "The capital of France is", 12)}, 1);
  ASSERT_TRUE(base[0].status.ok()) << base[0].status;
  EXPECT_EQ(base[0].token_ids, again[0].token_ids);
  EXPECT_TRUE(again[0].response.adapter().generation().empty());
}

TEST_F(PeerFaults, AnUnknownAdapterIsAnErrorAndNeverTheBase) {
  EXPECT_EQ(CodeOf(Greedy("sql", "x", 2)), StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(Greedy("99", "x", 2)), StatusCode::kNotFound);
  EXPECT_EQ(CodeOf(Greedy("-5", "x", 2)), StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(Greedy("../intent", "x", 2)), StatusCode::kInvalidArgument);
  v1::GenerateRequest mix = Greedy("", "x", 2);
  mix.add_adapters()->set_weight(1.0);
  EXPECT_EQ(CodeOf(mix), StatusCode::kInvalidArgument) << "a mix entry without an id";
  mix.mutable_adapters(0)->set_adapter_id("intent");
  EXPECT_EQ(CodeOf(mix), StatusCode::kOk);
  mix.add_adapters()->set_adapter_id("intent");
  EXPECT_EQ(CodeOf(mix), StatusCode::kInvalidArgument) << "the same id twice";
}

TEST_F(PeerFaults, ImpossibleWeightsAreRefused) {
  for (const double weight : {1e30, -1e30, 100.5, std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::quiet_NaN()}) {
    v1::GenerateRequest request = Greedy("", "x", 2);
    v1::AdapterWeight* entry = request.add_adapters();
    entry->set_adapter_id("intent");
    entry->set_weight(weight);
    EXPECT_EQ(CodeOf(request), StatusCode::kInvalidArgument) << weight;
  }
}

// The rank-stabilised scale and both patterns, over gRPC, against an independent reference.
TEST(PeerScale, RankStabilisedScaleAndPatternsAreHonoured) {
  const std::string reference = std::string(LORICA_TEST_DATA) + "/reference";
  ServerProcess::Options options;
  options.model = SmolLmPath();
  options.adapters_dir = reference;
  auto server = ServerProcess::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  std::ifstream file(reference + "/rslora-mini.json");
  for (const auto& entry : nlohmann::json::parse(file)) {
    v1::GenerateRequest request = Greedy("rslora-mini", "", 12);
    request.clear_prompt();
    request.set_ignore_eos(true);
    for (const int id : entry.at("prompt_ids")) request.add_token_ids(id);
    const auto results = GenerateAll(**server, {request}, 1);
    ASSERT_TRUE(results[0].status.ok()) << results[0].status;
    EXPECT_EQ(results[0].token_ids, entry.at("output_ids").get<std::vector<int32_t>>());
  }
}

TEST_F(PeerFaults, AStreamOfAnotherAdapterIsNotStarved) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> tenants;
  for (int tenant = 0; tenant < 2; ++tenant) {
    tenants.emplace_back([&stop] {
      const auto client = server_->NewClient();
      v1::GenerateRequest request = Greedy("", "Once upon a time", 64);
      request.set_ignore_eos(true);
      while (!stop) ASSERT_TRUE(client->Generate(request).ok());
    });
  }
  absl::SleepFor(absl::Seconds(1));
  const auto client = server_->NewClient();
  for (const char* adapter : {"intent", "headline", "text-to-sql"}) {
    const absl::Time start = absl::Now();
    absl::Duration first = absl::InfiniteDuration();
    const auto status =
        client->GenerateStream(Greedy(adapter, "I lost my card", 4), [&](const auto& chunk) {
          if (chunk.token_ids_size() > 0) first = std::min(first, absl::Now() - start);
          return true;
        });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_LT(first, kInstrumentationFactor * absl::Seconds(2)) << adapter;
  }
  stop = true;
  for (std::thread& tenant : tenants) tenant.join();
}

// Two processes that do nothing but compute, while one stream decodes.
class BusyMachine {
 public:
  BusyMachine() {
    for (pid_t& pid : pids_) {
      pid = ::fork();
      if (pid == 0) {
        // An atomic, for a loop without effect may be removed.
        for (std::atomic<uint64_t> turns = 0;; ++turns) {
        }
      }
    }
  }
  ~BusyMachine() {
    for (pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
  }

 private:
  pid_t pids_[2];
};

double TokensPerSecond(const ServerProcess& server) {
  v1::GenerateRequest request = Greedy("", "Once upon a time", 96);
  request.set_ignore_eos(true);
  const auto results = GenerateAll(server, {request}, 1);
  EXPECT_TRUE(results[0].status.ok()) << results[0].status;
  return results[0].response.timings().tokens_per_second();
}

TEST_F(PeerFaults, TwoOtherBusyProcessesLeaveAThirdOfTheSpeed) {
  TokensPerSecond(*server_);
  double best_share = 0.0;
  // The best of a few: what else runs on this machine only makes the share smaller.
  for (int attempt = 0; attempt < 4 && best_share < 1.0 / 3; ++attempt) {
    const double alone = TokensPerSecond(*server_);
    BusyMachine busy;
    best_share = std::max(best_share, TokensPerSecond(*server_) / alone);
  }
  RecordProperty("share_percent", static_cast<int>(best_share * 100));
  EXPECT_GE(best_share, 1.0 / 3);
}

}  // namespace
}  // namespace lorica
