// Goal: loricad on a GPU chooses the reference's tokens wherever the reference is sure.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/fakes/test_paths.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/integration/golden_request.h"
#include "tests/integration/server_process.h"
#include "tests/integration/task_scores.h"
#include "tests/integration/tiny_adapter.h"
#include "tests/server/models/model_runner.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

// bf16 may turn a choice whose two best logits are closer than this.
constexpr double kMarginMin = 0.15;
constexpr int kStreams = 64;
constexpr int kTinyVocabulary = 259;  // of the tokenizer; the model's further rows are padding

// The reference's tokens from one step on, as long as it is sure of each.
struct Stretch {
  std::string name;
  v1::GenerateRequest request;
  std::vector<int32_t> tokens;
};

v1::GenerateRequest Forced(const std::vector<int32_t>& prompt, size_t tokens) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->Add(prompt.begin(), prompt.end());
  request.set_max_tokens(static_cast<int32_t>(tokens));
  request.set_temperature(0);
  request.set_ignore_eos(true);
  return request;
}

void AddStretches(const Json& golden, std::vector<Stretch>* out) {
  const auto margins = golden.at("margin").get<std::vector<double>>();
  const auto tokens = golden.at("output_ids").get<std::vector<int32_t>>();
  auto text = golden.at("prompt_ids").get<std::vector<int32_t>>();
  size_t step = 0;
  while (step < margins.size()) {
    size_t end = step;
    while (end < margins.size() && margins[end] > kMarginMin) ++end;
    if (end > step) {
      Stretch stretch;
      stretch.name = golden.at("id").get<std::string>() + " step " + std::to_string(step);
      stretch.request = Forced(text, end - step);
      NameAdapters(golden.at("adapter"), &stretch.request);
      stretch.tokens.assign(tokens.begin() + step, tokens.begin() + end);
      out->push_back(std::move(stretch));
    }
    const size_t next = std::max(end, step + 1);
    for (; step < next; ++step) text.push_back(tokens[step]);
  }
}

void ExpectStretches(const ServerProcess& server, const std::vector<Stretch>& stretches) {
  std::vector<v1::GenerateRequest> requests;
  for (const Stretch& stretch : stretches) requests.push_back(stretch.request);
  const std::vector<Generated> results = GenerateAll(server, requests, kStreams);
  for (size_t i = 0; i < results.size(); ++i) {
    ASSERT_TRUE(results[i].status.ok()) << stretches[i].name << ": " << results[i].status;
    EXPECT_EQ(results[i].token_ids, stretches[i].tokens) << stretches[i].name;
  }
}

std::unique_ptr<ServerProcess> StartOnCuda(ServerProcess::Options options) {
  options.flags.insert(options.flags.end(), {"--device", "cuda", "--arena-bytes", "1GiB"});
  auto server = ServerProcess::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

TEST(CudaServer, GoldensOfEveryAdapterAreMetWhereTheReferenceIsSure) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  if (!std::ifstream(SmolLmPath())) GTEST_SKIP() << "no " << SmolLmPath();
  const std::string fixtures = FixtureAdaptersPath();
  ServerProcess::Options options;
  options.model = SmolLmPath();
  options.adapters_dir = fixtures.empty() ? DemoAdaptersPath() : fixtures;
  const auto server = StartOnCuda(options);
  ASSERT_NE(server, nullptr);
  std::vector<Stretch> stretches;
  std::ifstream file(std::string(LORICA_TEST_DATA) + "/goldens.json");
  for (const Json& golden : Json::parse(file)) {
    const std::string adapter = golden.at("adapter");
    if (fixtures.empty() && adapter.find("ner-json") != std::string::npos) continue;
    AddStretches(golden, &stretches);
  }
  ASSERT_GE(stretches.size(), 100u);
  ExpectStretches(*server, stretches);
}

// Shares that the CPU, in fp32, serves of the same examples, as measured by accuracy_test.
const std::map<std::string, double> kFp32Shares = {
    {"ticket-triage", 0.875}, {"ticket-triage-dora", 0.865}, {"text-to-sql", 0.96},
    {"intent", 1.0},          {"headline", 0.955},           {"ner-json", 0.885}};
constexpr double kShareTolerance = 0.02;

TEST(CudaServer, AnswersTasksAsWellAsFp32) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  if (!std::ifstream(SmolLmPath())) GTEST_SKIP() << "no " << SmolLmPath();
  const std::string fixtures = FixtureAdaptersPath();
  for (const char* type : {"bfloat16", "float16"}) {
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = fixtures.empty() ? DemoAdaptersPath() : fixtures;
    options.flags = {"--dtype", type};
    const auto server = StartOnCuda(options);
    ASSERT_NE(server, nullptr);
    const auto scores = ScoreTasks(*server, options.adapters_dir);
    EXPECT_GE(scores.size(), 5u);
    for (const TaskScore& score : scores) {
      const double fp32 = kFp32Shares.at(score.adapter);
      std::cout << score.adapter << ", " << type << ": " << score.share() << " (fp32: " << fp32
                << ")\n";
      EXPECT_NEAR(score.share(), fp32, kShareTolerance + 1e-9) << score.adapter << ", " << type;
    }
  }
}

TEST(CudaServer, ATinyFolderMeetsTheReferenceAtEveryPosition) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  const std::string folder = std::string(LORICA_TEST_DATA) + "/reference/";
  ServerProcess::Options options;
  options.model = folder + "tiny-llama";
  options.adapters_dir = DemoAdaptersPath();
  const auto server = StartOnCuda(options);
  ASSERT_NE(server, nullptr);
  std::ifstream file(folder + "tiny-llama.json");
  const auto prompt = Json::parse(file).at("prompt_ids").get<std::vector<int32_t>>();
  const std::vector<float> logits = ReadNpy(folder + "tiny_llama_logits.npy");
  const size_t columns = logits.size() / prompt.size();
  std::vector<Stretch> stretches;
  for (size_t row = 0; row < prompt.size(); ++row) {
    const auto begin = logits.begin() + row * columns, end = begin + kTinyVocabulary;
    const auto best = std::max_element(begin, end);
    std::vector<float> others(begin, end);
    others.erase(others.begin() + (best - begin));
    if (*best - *std::max_element(others.begin(), others.end()) <= kMarginMin) continue;
    Stretch stretch;
    stretch.name = "position " + std::to_string(row);
    stretch.request = Forced({prompt.begin(), prompt.begin() + row + 1}, 1);
    stretch.tokens = {static_cast<int32_t>(best - begin)};
    stretches.push_back(std::move(stretch));
  }
  ASSERT_GE(stretches.size(), 20u);
  ExpectStretches(*server, stretches);
}

// Greedy answers and how sure of each token the server was.
Json AsGolden(const std::string& id, const std::string& adapter, const Generated& answer,
              const v1::GenerateRequest& request) {
  Json golden = {{"id", id}, {"adapter", adapter}, {"output_ids", answer.token_ids}};
  golden["prompt_ids"] =
      std::vector<int32_t>(request.token_ids().begin(), request.token_ids().end());
  std::vector<double> margins;
  for (const auto& logprob : answer.response.logprobs()) {
    margins.push_back(logprob.top(0).logprob() - logprob.top(1).logprob());
  }
  golden["margin"] = margins;
  return golden;
}

// Random weights are the same on every device: what the CPU is sure of CUDA says too, for the
// base, adapters of several ranks, with biases, on the embedding and the head, and mixes of them,
// in one batch.
TEST(CudaServer, AShapeAloneSaysWhatTheCpuSays) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  TemporaryFolder adapters;
  for (const int rank : {1, 4, 16, 33, 64, 256}) {
    WriteTinyAdapter(adapters, absl::StrCat("r", rank), rank);
  }
  WriteTinyAdapter(adapters, "biased", 8, kTinyAdapterScale, TinyParts::kLinearsWithBiases);
  WriteTinyAdapter(adapters, "ends", 8, kTinyAdapterScale, TinyParts::kEmbeddingAndHead);
  ServerProcess::Options options;
  options.model = std::string(LORICA_TEST_DATA) + "/shapes/tiny";
  options.adapters_dir = adapters.path();
  options.flags = {"--load-format", "dummy"};
  std::vector<std::pair<std::string, v1::GenerateRequest>> asked;
  int token = 0;
  for (const char* adapter :
       {"base", "r1", "r4", "r16", "r33", "r64", "r256", "scale:r16*0.5", "mix:r4*1+r33*-0.5",
        "mix:r64*0.25+r16*1+r4*2", "biased", "ends", "mix:r4*1+biased*-0.5+ends*1"}) {
    for (const int length : {1, 42, 79, 116, 153, 1900}) {
      std::vector<int32_t> prompt;
      while (std::ssize(prompt) < length) prompt.push_back((token += 7919) % 1000);
      v1::GenerateRequest request = Forced(prompt, 60);
      request.set_logprobs(2);
      NameAdapters(adapter, &request);
      asked.emplace_back(adapter, request);
    }
  }
  std::vector<Stretch> stretches;
  size_t tokens = 0;
  {
    const auto cpu = ServerProcess::Start(options);
    ASSERT_TRUE(cpu.ok()) << cpu.status();
    std::vector<v1::GenerateRequest> requests;
    for (const auto& [adapter, request] : asked) requests.push_back(request);
    const std::vector<Generated> answers = GenerateAll(**cpu, requests, kStreams);
    for (size_t i = 0; i < answers.size(); ++i) {
      ASSERT_TRUE(answers[i].status.ok()) << answers[i].status;
      AddStretches(
          AsGolden(absl::StrCat(asked[i].first, " ", i), asked[i].first, answers[i], requests[i]),
          &stretches);
    }
  }
  for (const Stretch& stretch : stretches) tokens += stretch.tokens.size();
  ASSERT_GE(tokens, asked.size() * 20);
  const auto server = StartOnCuda(options);
  ASSERT_NE(server, nullptr);
  ExpectStretches(*server, stretches);
}

TEST(CudaServer, NumbersThatAreNoneEndOneStreamAndNotItsNeighbours) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  TemporaryFolder adapters;
  WriteTinyAdapter(adapters, "sound", 8);
  WriteTinyAdapter(adapters, "broken", 8, 5e38);
  ServerProcess::Options options;
  options.model = std::string(LORICA_TEST_DATA) + "/shapes/tiny";
  options.adapters_dir = adapters.path();
  options.flags = {"--load-format", "dummy"};
  const auto server = StartOnCuda(options);
  ASSERT_NE(server, nullptr);
  std::vector<v1::GenerateRequest> requests(30, Forced({1, 17, 400}, 200));
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i % 3 != 0) requests[i].set_adapter_id(i % 3 == 1 ? "sound" : "broken");
  }
  const std::vector<Generated> results = GenerateAll(*server, requests, kStreams);
  for (size_t i = 0; i < results.size(); ++i) {
    const auto code = i % 3 == 2 ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk;
    EXPECT_EQ(results[i].status.code(), code) << i << ": " << results[i].status;
  }
}

}  // namespace
}  // namespace lorica
