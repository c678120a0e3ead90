#include "tests/integration/task_scores.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "gtest/gtest.h"

namespace lorica {
namespace {

constexpr int kStreams = 48;
constexpr int kAnswerTokensMax = 200;

// As trained (tests/data/README.md).
struct Task {
  const char* adapter;
  const char* examples;
  double trained;
};
constexpr Task kTasks[] = {
    {"ticket-triage", "ticket-triage", 0.875}, {"ticket-triage-dora", "ticket-triage", 0.865},
    {"text-to-sql", "text-to-sql", 0.95},      {"intent", "intent", 1.0},
    {"headline", "headline", 0.965},           {"ner-json", "ner-json", 0.875},
};

struct Example {
  size_t score;
  std::string target;
};

std::string Trimmed(std::string text) {
  const size_t begin = text.find_first_not_of(" \n\t");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \n\t") - begin + 1);
}

}  // namespace

std::vector<TaskScore> ScoreTasks(const ServerProcess& server, const std::string& adapters_dir) {
  std::vector<TaskScore> scores;
  std::vector<v1::GenerateRequest> requests;
  std::vector<Example> examples;
  for (const Task& task : kTasks) {
    if (!std::filesystem::exists(adapters_dir + "/" + task.adapter)) {
      std::cout << task.adapter << " is not in " << adapters_dir << " and left out\n";
      continue;
    }
    scores.push_back({.adapter = task.adapter, .trained = task.trained});
    std::ifstream file(std::string(LORICA_TEST_DATA) + "/tasks/" + task.examples + ".jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto example = nlohmann::json::parse(line);
      v1::GenerateRequest request;
      request.set_adapter_id(task.adapter);
      v1::ChatMessage* message = request.add_messages();
      message->set_role("user");
      message->set_content(example.at("user"));
      request.set_max_tokens(kAnswerTokensMax);
      requests.push_back(std::move(request));
      examples.push_back({scores.size() - 1, example.at("target")});
    }
  }
  const std::vector<Generated> results = GenerateAll(server, requests, kStreams);
  for (size_t i = 0; i < results.size(); ++i) {
    EXPECT_TRUE(results[i].status.ok()) << results[i].status;
    TaskScore& score = scores[examples[i].score];
    ++score.total;
    score.right += Trimmed(results[i].text) == Trimmed(examples[i].target);
  }
  return scores;
}

}  // namespace lorica
