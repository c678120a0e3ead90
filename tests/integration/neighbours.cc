#include "tests/integration/neighbours.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

constexpr int kTokens = 40;
constexpr absl::Duration kPause = absl::Milliseconds(10);
constexpr int kTriesWhenFull = 3;

}  // namespace

Neighbours::Neighbours(const ServerProcess* server, std::string key)
    : server_(*server), key_(std::move(key)), before_(Look()), used_before_(UsedSoFar()) {
  for (const bool over_http : {false, true}) {
    std::shared_ptr<LoricaClient> client;
    if (!over_http) client = server_.NewClient();
    const absl::StatusOr<std::string> first = Answer(client.get());
    EXPECT_TRUE(first.ok()) << first.status();
    threads_.emplace_back([this, client, first] { Ask(client.get(), first); });
  }
}

Neighbours::~Neighbours() {
  stop_.store(true);
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

absl::StatusOr<std::string> Neighbours::Answer(LoricaClient* client) const {
  if (client == nullptr) return AnswerOverHttp();
  v1::GenerateRequest request;
  request.set_adapter_id("plain");
  request.set_prompt("Good day");
  request.set_max_tokens(kTokens);
  request.set_ignore_eos(true);
  std::vector<int32_t> tokens;
  const auto add = [&tokens](const v1::GenerateStreamResponse& chunk) {
    tokens.insert(tokens.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    return true;
  };
  const absl::Status status = client->GenerateStream(request, add, {.timeout = absl::Seconds(30)});
  if (!status.ok()) return status;
  return absl::StrJoin(tokens, " ");
}

absl::StatusOr<std::string> Neighbours::AnswerOverHttp() const {
  const nlohmann::json body = {{"model", "plain"},      {"prompt", "Good day"}, {"temperature", 0},
                               {"max_tokens", kTokens}, {"ignore_eos", true},   {"logprobs", 0}};
  HttpHeaders headers;
  if (!key_.empty()) headers.emplace_back("Authorization", "Bearer " + key_);
  HttpAnswer answer = Post(server_.http_port(), "/v1/completions", body, headers);
  for (int i = 0; i < kTriesWhenFull && answer.status == 503; ++i) {
    absl::SleepFor(absl::Seconds(std::stoi(answer.headers["retry-after"])));
    answer = Post(server_.http_port(), "/v1/completions", body, headers);
  }
  if (answer.status != 200) {
    return absl::UnknownError(absl::StrCat("HTTP status ", answer.status, " ", answer.body));
  }
  return answer.json()["choices"][0]["logprobs"]["tokens"].dump();
}

void Neighbours::Ask(LoricaClient* client, const absl::StatusOr<std::string>& first) {
  while (!stop_.load()) {
    const absl::Time began = absl::Now();
    const absl::StatusOr<std::string> answer = Answer(client);
    if (!answer.ok() || answer != first) {
      absl::MutexLock lock(&mutex_);
      wrong_ = absl::StrCat(client == nullptr ? "HTTP: " : "gRPC: ", answer.value_or(""), " ",
                            answer.status().ToString(), ", first ", first.value_or(""));
    }
    const int64_t took_ms = absl::ToInt64Milliseconds(absl::Now() - began);
    int64_t longest = longest_ms_.load();
    while (longest < took_ms && !longest_ms_.compare_exchange_weak(longest, took_ms)) {
    }
    answers_.fetch_add(1);
    absl::SleepFor(kPause);
  }
}

void Neighbours::Check(absl::Duration limit) {
  while (answers_.load() < 4 && longest_ms_.load() < absl::ToInt64Milliseconds(limit)) {
    absl::SleepFor(kPause);
  }
  stop_.store(true);
  for (std::thread& thread : threads_) thread.join();
  EXPECT_GT(answers_.load(), 0);
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(wrong_, "");
  EXPECT_LT(absl::Milliseconds(longest_ms_.load()), limit);
}

Neighbours::Footprint Neighbours::Look() const {
  Footprint now;
  const auto status = server_.NewClient()->GetStatus();
  if (status.ok()) {
    now.kv_blocks = status->kv_blocks();
    now.open_calls = status->running() + status->queued() + status->waiting();
  }
  std::error_code error;
  const std::filesystem::directory_iterator files(absl::StrCat("/proc/", server_.pid(), "/fd"),
                                                  error);
  now.open_files = static_cast<int>(std::distance(begin(files), end(files)));
  return now;
}

void Neighbours::ExpectNothingLeft(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  Footprint now = Look();
  const auto more = [&] {
    return now.open_files > before_.open_files + 2 || now.kv_blocks > before_.kv_blocks ||
           now.open_calls > before_.open_calls;
  };
  while (more() && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(50));
    now = Look();
  }
  EXPECT_LE(now.open_files, before_.open_files + 2) << "the look itself opens one";
  EXPECT_EQ(now.kv_blocks, before_.kv_blocks);
  EXPECT_EQ(now.open_calls, before_.open_calls);
}

absl::Duration Neighbours::UsedSoFar() const {
  std::ifstream file(absl::StrCat("/proc/", server_.pid(), "/stat"));
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  int64_t user = 0;
  int64_t kernel = 0;
  fields >> user >> kernel;
  return absl::Seconds(static_cast<double>(user + kernel) /
                       static_cast<double>(::sysconf(_SC_CLK_TCK)));
}

absl::Duration Neighbours::ProcessorTime() const { return UsedSoFar() - used_before_; }

}  // namespace lorica
