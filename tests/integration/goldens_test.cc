// Goal: over gRPC, greedy tokens equal those of the reference implementation, for the
// base, every adapter and every weighted mix, alone and all mixed in one batch.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/fakes/test_paths.h"
#include "tests/integration/golden_request.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

// Below this gap between its two best tokens the reference itself is not certain.
constexpr double kMarginMin = 1e-3;
// A call has kGenerateDeadlineMax, which so many take in an instrumented build.
constexpr int kStreams = 32 / kInstrumentationFactor;

struct Golden {
  std::string id;
  std::string adapter;
  v1::GenerateRequest request;
  std::vector<int32_t> output_ids;
  std::vector<double> margins;
  std::string text;
  bool ended = false;
};

std::vector<Golden> ReadGoldens(bool with_ner_json) {
  std::ifstream file(std::string(LORICA_TEST_DATA) + "/goldens.json");
  std::vector<Golden> goldens;
  for (const Json& entry : Json::parse(file)) {
    Golden golden;
    golden.id = entry.at("id").get<std::string>() + "/" + entry.at("adapter").get<std::string>();
    golden.adapter = entry.at("adapter");
    if (!with_ner_json && golden.adapter.find("ner-json") != std::string::npos) continue;
    golden.request.set_prompt(entry.at("prompt"));
    golden.request.set_max_tokens(64);
    golden.request.set_temperature(0);
    golden.request.set_logprobs(0);
    NameAdapters(golden.adapter, &golden.request);
    golden.output_ids = entry.at("output_ids").get<std::vector<int32_t>>();
    golden.margins = entry.at("margin").get<std::vector<double>>();
    golden.text = entry.at("text");
    golden.ended = entry.at("finish") == "eos";
    goldens.push_back(std::move(golden));
  }
  return goldens;
}

// Steps that the reference is certain of, counted from the start.
size_t CertainSteps(const Golden& golden) {
  size_t step = 0;
  while (step < golden.margins.size() && golden.margins[step] > kMarginMin) ++step;
  return step;
}

void ExpectGolden(const Golden& golden, const Generated& result) {
  ASSERT_TRUE(result.status.ok()) << golden.id << ": " << result.status;
  const size_t certain = CertainSteps(golden);
  ASSERT_GE(result.token_ids.size(), certain) << golden.id;
  for (size_t step = 0; step < certain; ++step) {
    ASSERT_EQ(result.token_ids[step], golden.output_ids[step]) << golden.id << " step " << step;
  }
  if (certain < golden.output_ids.size()) return;
  EXPECT_EQ(result.token_ids, golden.output_ids) << golden.id;
  EXPECT_EQ(result.text, golden.text) << golden.id;
  EXPECT_EQ(result.response.finish_reason(),
            golden.ended ? v1::FINISH_REASON_EOS : v1::FINISH_REASON_LENGTH)
      << golden.id;
}

class Goldens : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string fixtures = FixtureAdaptersPath();
    if (fixtures.empty()) {
      std::cout << "LORICA_FIXTURES is not set: ner-json is left out\n";
    }
    goldens_ = new std::vector<Golden>(ReadGoldens(!fixtures.empty()));
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = fixtures.empty() ? DemoAdaptersPath() : fixtures;
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = server->release();
  }
  static void TearDownTestSuite() {
    delete server_;
    delete goldens_;
  }
  void SetUp() override { ASSERT_NE(server_, nullptr); }

  static ServerProcess* server_;
  static std::vector<Golden>* goldens_;
};

ServerProcess* Goldens::server_ = nullptr;
std::vector<Golden>* Goldens::goldens_ = nullptr;

TEST_F(Goldens, AllMixedInOneBatchEqualTheReference) {
  ASSERT_GE(goldens_->size(), 90u);
  std::vector<v1::GenerateRequest> requests;
  for (const Golden& golden : *goldens_) requests.push_back(golden.request);
  const std::vector<Generated> results = GenerateAll(*server_, requests, kStreams);
  for (size_t i = 0; i < results.size(); ++i) ExpectGolden((*goldens_)[i], results[i]);
}

// One entry of each model alone, then all of those together: equal tokens, text and
// log-probabilities to the last bit.
TEST_F(Goldens, AloneAndMixedAreTheSameBits) {
  std::map<std::string, v1::GenerateRequest> chosen;
  for (const Golden& golden : *goldens_) chosen.emplace(golden.adapter, golden.request);
  std::vector<v1::GenerateRequest> requests;
  for (auto& [adapter, request] : chosen) {
    request.set_max_tokens(24);
    requests.push_back(request);
  }
  const std::vector<Generated> alone = GenerateAll(*server_, requests, 1);
  const std::vector<Generated> mixed = GenerateAll(*server_, requests, kStreams);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(alone[i].status.ok()) << alone[i].status;
    EXPECT_EQ(alone[i].token_ids, mixed[i].token_ids) << requests[i].ShortDebugString();
    ASSERT_EQ(alone[i].logprobs.size(), mixed[i].logprobs.size());
    EXPECT_EQ(std::memcmp(alone[i].logprobs.data(), mixed[i].logprobs.data(),
                          alone[i].logprobs.size() * sizeof(double)),
              0)
        << requests[i].ShortDebugString();
  }
}

TEST_F(Goldens, LogprobsOfTheReferenceAreMet) {
  std::ifstream file(std::string(LORICA_TEST_DATA) + "/goldens.json");
  std::set<std::string> seen;
  for (const Json& entry : Json::parse(file)) {
    const std::string adapter = entry.at("adapter");
    if (adapter.find("ner-json") != std::string::npos || !seen.insert(adapter).second) continue;
    v1::GenerateRequest request;
    request.set_prompt(entry.at("prompt"));
    request.set_max_tokens(8);
    request.set_logprobs(5);
    NameAdapters(adapter, &request);
    auto response = server_->NewClient()->Generate(request);
    ASSERT_TRUE(response.ok()) << response.status();
    for (int step = 0; step < response->logprobs_size(); ++step) {
      const auto& logprob = response->logprobs(step);
      EXPECT_NEAR(logprob.logprob(), entry.at("logprobs").at(step).get<double>(), 2e-3) << adapter;
      ASSERT_EQ(logprob.top_size(), 5);
      EXPECT_NEAR(logprob.top(0).logprob(), entry.at("top5")[step][0][1].get<double>(), 2e-3);
      EXPECT_EQ(logprob.top(0).token_id(), entry.at("top5")[step][0][0].get<int>()) << adapter;
    }
  }
  EXPECT_GE(seen.size(), 6u);
}

// The reference's answers, given as prompts, are as likely as the reference found them.
TEST_F(Goldens, ScoredAnswersHaveTheLogprobsOfTheReference) {
  std::ifstream file(std::string(LORICA_TEST_DATA) + "/goldens.json");
  std::set<std::string> seen;
  for (const Json& entry : Json::parse(file)) {
    const std::string adapter = entry.at("adapter");
    if (adapter.find("ner-json") != std::string::npos || !seen.insert(adapter).second) continue;
    v1::GenerateRequest request;
    for (const char* part : {"prompt_ids", "output_ids"}) {
      for (const Json& id : entry.at(part)) request.add_token_ids(id);
    }
    request.set_max_tokens(1);
    request.set_prompt_logprobs(5);
    NameAdapters(adapter, &request);
    auto response = server_->NewClient()->Generate(request);
    ASSERT_TRUE(response.ok()) << response.status();
    const int begin = static_cast<int>(entry.at("prompt_ids").size()) - 1;
    const int count = static_cast<int>(entry.at("output_ids").size());
    ASSERT_EQ(response->prompt_logprobs_size(), begin + count);
    for (int step = 0; step < count; ++step) {
      const auto& scored = response->prompt_logprobs(begin + step);
      EXPECT_EQ(scored.token_id(), entry.at("output_ids")[step].get<int>());
      EXPECT_NEAR(scored.logprob(), entry.at("logprobs")[step].get<double>(), 2e-3) << adapter;
      EXPECT_NEAR(scored.top(0).logprob(), entry.at("top5")[step][0][1].get<double>(), 2e-3);
    }
  }
  EXPECT_GE(seen.size(), 6u);
}

}  // namespace
}  // namespace lorica
