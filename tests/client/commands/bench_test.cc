#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

std::vector<std::string> Bench(const FakeServer& server, std::vector<std::string> more) {
  more.insert(more.begin(), {LORICA_BINARY, "--server", server.address(), "bench"});
  return more;
}

TEST(Bench, ClosedLoopSendsExactlyTheRequestsAsked) {
  FakeServer server;
  for (const char* id : {"a", "b", "c"}) server.AddAdapter(id);
  const RunResult run = RunToEnd(Bench(server, {"--streams", "6", "--requests", "30", "--json",
                                                "--prompt-tokens", "9", "--max-tokens", "4"}));
  EXPECT_EQ(run.code, 0) << run.error;
  const Json json = Json::parse(run.output);
  EXPECT_EQ(json["requests"]["finished"], 30);
  EXPECT_EQ(json["output_tokens"], 120);
  EXPECT_EQ(json["ttft_ms"]["count"], 30);
  EXPECT_EQ(json["itl_ms"]["count"], 90);
  EXPECT_EQ(json["config"]["adapters"], Json({"a", "b", "c"}));
  ASSERT_EQ(server.requests().size(), 30);
  for (const v1::GenerateRequest& request : server.requests()) {
    EXPECT_EQ(request.token_ids_size(), 9);
    EXPECT_TRUE(request.ignore_eos());
  }
}

TEST(Bench, ADurationCutsWhatStillRunsAndCountsItsTokens) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(10));
  const RunResult run = RunToEnd(Bench(server, {"--streams", "3", "--duration", "1", "--pattern",
                                                "none", "--json", "--max-tokens", "100000"}));
  EXPECT_EQ(run.code, 0) << run.error;
  const Json json = Json::parse(run.output);
  EXPECT_EQ(json["requests"]["cut"], 3);
  EXPECT_EQ(json["requests"]["failed"], 0);
  EXPECT_GT(json["output_tokens"], 30);
  EXPECT_NEAR(json["seconds"], 1.0, 0.05);
}

TEST(Bench, WhatIsNoNumberIsNoDurationAndNoRate) {
  FakeServer server;
  for (const char* flag : {"--duration", "--warmup", "--rate", "--zipf-exponent"}) {
    const RunResult run = RunToEnd(Bench(server, {"--pattern", "none", flag, "nan"}));
    EXPECT_EQ(run.code, 2) << flag;
    EXPECT_THAT(run.error, HasSubstr(flag));
  }
  EXPECT_TRUE(server.requests().empty());
}

TEST(Bench, OpenLoopArrivesAtItsRate) {
  FakeServer server;
  const RunResult run = RunToEnd(Bench(server, {"--rate", "100", "--duration", "2", "--pattern",
                                                "none", "--json", "--max-tokens", "2"}));
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_NEAR(server.requests().size(), 200, 60);
}

TEST(Bench, OpenLoopCountsWhatItCouldNotSend) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(200));
  const RunResult run =
      RunToEnd(Bench(server, {"--rate", "50", "--duration", "1", "--pattern", "none",
                              "--in-flight-max", "2", "--json", "--max-tokens", "100"}));
  EXPECT_GT(Json::parse(run.output)["requests"]["not_sent"], 10);
  EXPECT_LE(server.requests().size(), 2);
}

TEST(Bench, FailuresAreCountedAndNotRepeated) {
  FakeServer server;
  server.FailNext(2, grpc::Status(grpc::UNAVAILABLE, "queue full"));
  const RunResult run = RunToEnd(Bench(
      server, {"--streams", "1", "--requests", "5", "--pattern", "none", "--max-tokens", "3"}));
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(run.output, HasSubstr("3 finished, 2 failed"));
  EXPECT_THAT(run.output, HasSubstr("2 × UNAVAILABLE: queue full"));
  EXPECT_EQ(server.requests().size(), 5);
}

TEST(Bench, WritesAPlot) {
  FakeServer server;
  const std::string path = absl::StrCat(testing::TempDir(), "/lorica_bench_", getpid(), ".svg");
  const RunResult run = RunToEnd(Bench(server, {"--streams", "2", "--requests", "8", "--pattern",
                                                "none", "--max-tokens", "4", "--plot", path}));
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_THAT(run.output, HasSubstr("first token (TTFT)"));
  std::stringstream svg;
  svg << std::ifstream(path).rdbuf();
  unlink(path.c_str());
  EXPECT_THAT(svg.str(), HasSubstr("</svg>"));
  EXPECT_EQ(RunToEnd(Bench(server, {"--plot", "x.png"})).code, 2);
  EXPECT_EQ(RunToEnd(Bench(server, {"--plot", "/nowhere/x.svg"})).code, 2);
}

TEST(Bench, CtrlCReportsWhatWasMeasured) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(5));
  Subprocess bench(Bench(server, {"--streams", "2", "--duration", "600", "--pattern", "none",
                                  "--json", "--max-tokens", "20"}));
  while (server.requests().size() < 8) absl::SleepFor(absl::Milliseconds(5));
  bench.Signal(SIGINT);
  EXPECT_EQ(bench.Wait(), 0);
  EXPECT_GE(Json::parse(bench.output())["requests"]["finished"], 4);
}

TEST(Bench, WithoutAdaptersSaysWhatToDo) {
  FakeServer server;
  const RunResult run = RunToEnd(Bench(server, {"--requests", "1"}));
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("--pattern none"));
}

}  // namespace
}  // namespace lorica
