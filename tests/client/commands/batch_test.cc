#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

RunResult Batch(const FakeServer& server, const std::string& input, int concurrency = 8,
                const std::string& file = "-") {
  return RunToEnd({LORICA_BINARY, "--server", server.address(), "batch", "--file", file,
                   "--concurrency", absl::StrCat(concurrency)},
                  input);
}

std::vector<Json> Lines(const std::string& output) {
  std::vector<Json> lines;
  for (absl::string_view line : absl::StrSplit(output, '\n', absl::SkipEmpty())) {
    lines.push_back(Json::parse(line.begin(), line.end()));
  }
  return lines;
}

// Later requests finish first.
grpc::Status SlowFirst(const v1::GenerateRequest& request, grpc::ServerContext*,
                       v1::GenerateResponse* response) {
  absl::SleepFor(absl::Milliseconds(request.max_tokens()));
  response->set_text(request.prompt());
  response->add_token_ids(1);
  response->set_finish_reason(v1::FINISH_REASON_EOS);
  return grpc::Status::OK;
}

TEST(Batch, ResultsComeInTheOrderOfTheRequests) {
  FakeServer server;
  server.set_answer(SlowFirst);
  std::string input;
  for (int i = 0; i < 40; ++i) {
    absl::StrAppend(&input, R"({"prompt": ")", i, R"(", "max_tokens": )", 60 - i, "}\n");
  }
  const RunResult run = Batch(server, input, 16);
  EXPECT_EQ(run.code, 0) << run.error;
  const std::vector<Json> lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 40);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(lines[i]["text"], absl::StrCat(i));
}

TEST(Batch, ARequestOfEveryFieldArrivesAsWritten) {
  FakeServer server;
  const RunResult run =
      Batch(server, R"({"adapters":[{"adapter_id":"a","weight":0.7}],"token_ids":[3,4],"seed":)"
                    R"(18446744073709551615,"max_tokens":2,"logprobs":1,"stop":["x"]})");
  EXPECT_EQ(run.code, 0) << run.error;
  const v1::GenerateRequest request = server.requests()[0];
  EXPECT_EQ(request.seed(), 18446744073709551615u);
  EXPECT_EQ(request.token_ids(1), 4);
  const Json result = Lines(run.output)[0];
  EXPECT_EQ(result["token_ids"], Json({3, 4}));
  EXPECT_EQ(result["finish_reason"], "length");
  EXPECT_EQ(result["adapter"]["adapter_id"], "a");
  EXPECT_EQ(result["adapter"]["weight"], 0.7);
  EXPECT_EQ(result["usage"]["completion_tokens"], 2);
  EXPECT_TRUE(result["timings"]["ttft_ms"].is_number());
  EXPECT_EQ(result["logprobs"].size(), 2);
}

TEST(Batch, AFolderIsNoFileOfRequests) {
  FakeServer server;
  const RunResult run =
      RunToEnd({LORICA_BINARY, "--server", server.address(), "batch", "--file", "/tmp"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.error, HasSubstr("it is a folder"));
}

TEST(Batch, WrongLinesBecomeErrorsAndTheOthersGoOn) {
  FakeServer server;
  const RunResult run = Batch(server,
                              "{\"prompt\": \"a\"}\n"
                              "not json\n"
                              "\n   \n"
                              "{\"promt\": \"b\"}\n"
                              "{\"prompt\": \"c\", \"max_tokens\": \"5\"}\n"
                              "{\"prompt\": \"d\"}");
  EXPECT_EQ(run.code, 0) << run.error;
  const std::vector<Json> lines = Lines(run.output);
  ASSERT_EQ(lines.size(), 5);
  EXPECT_EQ(lines[0]["text"], "a");
  for (int i : {1, 2, 3}) EXPECT_EQ(lines[i]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(lines[2]["error"]["message"], "promt: unknown field; did you mean \"prompt\"?");
  EXPECT_EQ(lines[4]["text"], "d");
  EXPECT_THAT(run.error, HasSubstr("2 answers, 3 errors"));
}

TEST(Batch, ServerErrorsKeepTheirCanonicalCode) {
  FakeServer server;
  server.FailNext(1, grpc::Status(grpc::NOT_FOUND, "no adapter x"));
  const RunResult run = Batch(server, "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n", 1);
  EXPECT_EQ(run.code, 0);
  const std::vector<Json> lines = Lines(run.output);
  EXPECT_EQ(lines[0]["error"], Json({{"code", "NOT_FOUND"}, {"message", "no adapter x"}}));
  EXPECT_EQ(lines[1]["text"], "b");
}

TEST(Batch, UnavailableIsRepeatedUntilItWorks) {
  FakeServer server;
  server.FailNext(3, grpc::Status(grpc::UNAVAILABLE, "queue full"), "10");
  const RunResult run = Batch(server, "{\"prompt\": \"a\"}\n", 1);
  EXPECT_EQ(Lines(run.output)[0]["text"], "a");
}

TEST(Batch, ReadsAFile) {
  FakeServer server;
  const std::string path = absl::StrCat(testing::TempDir(), "/lorica_batch_", getpid(), ".jsonl");
  std::ofstream(path) << "{\"prompt\": \"from a file\"}\n";
  const RunResult run = Batch(server, "", 2, path);
  unlink(path.c_str());
  EXPECT_EQ(Lines(run.output)[0]["text"], "from a file");
}

TEST(Batch, AnEmptyFileIsDoneAtOnce) {
  FakeServer server;
  const RunResult run = Batch(server, "");
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(run.output, "");
}

TEST(Batch, AMissingFileEndsWithTwoAndNoServerWithThree) {
  FakeServer server;
  const RunResult missing = Batch(server, "", 2, "/no/such/file");
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.error, HasSubstr("/no/such/file"));
  server.Stop();
  const RunResult gone = Batch(server, "{\"prompt\": \"a\"}\n");
  EXPECT_EQ(gone.code, 3);
  EXPECT_EQ(gone.output, "");
}

TEST(Batch, KeepsManyRequestsInFlightButNoMoreThanAsked) {
  FakeServer server;
  std::atomic<int> now = 0;
  std::atomic<int> most = 0;
  server.set_answer([&](const auto&, auto*, v1::GenerateResponse* response) {
    const int running = ++now;
    int seen = most;
    while (running > seen && !most.compare_exchange_weak(seen, running)) {
    }
    absl::SleepFor(absl::Milliseconds(20));
    --now;
    response->add_token_ids(1);
    return grpc::Status::OK;
  });
  std::string input;
  for (int i = 0; i < 60; ++i) input += "{\"prompt\": \"x\"}\n";
  EXPECT_EQ(Batch(server, input, 6).code, 0);
  EXPECT_LE(most, 6);
  EXPECT_GE(most, 4);
}

TEST(Batch, AThousandLinesStreamThroughAPipe) {
  FakeServer server;
  std::string input;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&input, R"({"prompt": ")", i, "\"}\r\n");
  const std::vector<Json> lines = Lines(Batch(server, input, 32).output);
  ASSERT_EQ(lines.size(), 1000);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(lines[i]["text"], absl::StrCat(i));
}

}  // namespace
}  // namespace lorica
