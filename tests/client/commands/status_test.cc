#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

RunResult Status(const FakeServer& server, std::vector<std::string> more = {}) {
  std::vector<std::string> argv = {LORICA_BINARY, "--server", server.address(), "status"};
  argv.insert(argv.end(), more.begin(), more.end());
  return RunToEnd(argv);
}

TEST(Status, EndsWithZeroOnlyWhenServing) {
  FakeServer server;
  const RunResult serving = Status(server);
  EXPECT_EQ(serving.code, 0) << serving.error;
  EXPECT_THAT(serving.output, StartsWith("SERVING"));
  for (const auto state : {v1::SERVING_STATE_STARTING, v1::SERVING_STATE_DRAINING,
                           v1::SERVING_STATE_FAILED, v1::SERVING_STATE_UNSPECIFIED}) {
    server.set_state(state);
    EXPECT_EQ(Status(server).code, 4);
  }
  server.set_state(v1::SERVING_STATE_DRAINING);
  EXPECT_THAT(Status(server).error, HasSubstr("is DRAINING, not SERVING"));
}

TEST(Status, NobodyThereEndsWithThreeSoon) {
  const absl::Time start = absl::Now();
  EXPECT_EQ(RunToEnd({LORICA_BINARY, "--server", "127.0.0.1:1", "status"}).code, 3);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST(Status, WaitsForAServerThatIsStarting) {
  FakeServer server;
  server.set_state(v1::SERVING_STATE_STARTING);
  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(300));
    server.set_state(v1::SERVING_STATE_SERVING);
  });
  EXPECT_EQ(Status(server, {"--wait", "20"}).code, 0);
  starter.join();
}

TEST(Status, JsonHoldsWideNumbersAsNumbers) {
  FakeServer server;
  const auto json = nlohmann::json::parse(Status(server, {"--json"}).output);
  EXPECT_EQ(json["state"], "serving");
  EXPECT_EQ(json["limits"]["arena_bytes"], int64_t{1} << 40);
}

TEST(Status, WhatCannotBeWrittenIsAnError) {
  FakeServer server;
  server.AddAdapter("a");
  for (const std::string arguments :
       {" status", " status --json", " tokenize Hi", " key", " adapters watch --timeout 20"}) {
    const RunResult run = RunToEnd(
        {"/bin/sh", "-c",
         absl::StrCat(LORICA_BINARY, " --server ", server.address(), arguments, " > /dev/full")});
    EXPECT_EQ(run.code, 1) << arguments << run.error;
    EXPECT_THAT(run.error, HasSubstr("could not be written")) << arguments;
  }
}

TEST(Status, ASecondTooManyIsNoTimeout) {
  const RunResult run = RunToEnd({LORICA_BINARY, "--timeout", "1000001", "status"});
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.error, HasSubstr("'1000001' is not a number from 0 to 1000000"));
}

TEST(Status, AServerWithoutAPortIsTold) {
  const RunResult run = RunToEnd({LORICA_BINARY, "--server", "localhost", "status"});
  EXPECT_EQ(run.code, 3);
  EXPECT_THAT(run.error, HasSubstr("names no port"));
}

TEST(Status, TheServerMayComeFromTheEnvironment) {
  FakeServer server;
  const RunResult run =
      RunToEnd({"/usr/bin/env", "LORICA_SERVER=" + server.address(), LORICA_BINARY, "status"});
  EXPECT_EQ(run.code, 0) << run.error;
}

TEST(Tokenize, ShowsIdsAndPieces) {
  FakeServer server;
  const RunResult run = RunToEnd({LORICA_BINARY, "--server", server.address(), "tokenize", "Hi"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_THAT(run.output, HasSubstr("       0   72  \"H\""));
}

}  // namespace
}  // namespace lorica
