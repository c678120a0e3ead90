#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

RunResult Lorica(const FakeServer& server, std::vector<std::string> arguments,
                 const std::string& input = "") {
  arguments.insert(arguments.begin(), {LORICA_BINARY, "--server", server.address()});
  return RunToEnd(arguments, input);
}

TEST(Generate, PrintsTheAnswerAndNothingElseOnStdout) {
  FakeServer server;
  const RunResult run = Lorica(server, {"generate", "Hello there", "--adapter", "a"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(run.output, "Hello there\n");
  EXPECT_EQ(run.error, "");
  EXPECT_EQ(server.requests()[0].adapter_id(), "a");
}

TEST(Generate, ReadsThePromptFromStdinWithoutItsLastNewline) {
  FakeServer server;
  const RunResult run = Lorica(server, {"generate"}, "two\nlines\n");
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(server.requests()[0].prompt(), "two\nlines");
}

TEST(Generate, SendsAChatAsMessages) {
  FakeServer server;
  EXPECT_EQ(Lorica(server, {"generate", "--chat", "--system", "Be brief.", "Hi"}).code, 0);
  const v1::GenerateRequest request = server.requests()[0];
  EXPECT_FALSE(request.has_prompt());
  ASSERT_EQ(request.messages_size(), 2);
  EXPECT_EQ(request.messages(0).role(), "system");
  EXPECT_EQ(request.messages(1).content(), "Hi");
}

TEST(Generate, JsonIsTheWholeResult) {
  FakeServer server;
  const RunResult run = Lorica(
      server, {"generate", "Hello", "--json", "--mix", "a=0.5,b", "--logprobs", "0", "-n", "3"});
  EXPECT_EQ(run.code, 0) << run.error;
  const Json json = Json::parse(run.output);
  EXPECT_EQ(json["text"], "Hel");
  EXPECT_EQ(json["finish_reason"], "length");
  EXPECT_EQ(json["adapter"]["mix"][0]["weight"], 0.5);
  EXPECT_EQ(json["logprobs"].size(), 3);
}

TEST(Generate, AnEmptyAdapterIsAMistakeAndNotTheBaseModel) {
  FakeServer server;
  for (const char* flag : {"-a", "--adapter"}) {
    const RunResult run = Lorica(server, {"generate", flag, "", "Hi"});
    EXPECT_EQ(run.code, 2);
    EXPECT_THAT(run.error, HasSubstr("leave it out for the base model"));
  }
  EXPECT_TRUE(server.requests().empty());
  EXPECT_THAT(RunToEnd({LORICA_BINARY, "--version"}).output, HasSubstr("lorica 0."));
}

TEST(Generate, StatsGoToStderr) {
  FakeServer server;
  const RunResult run = Lorica(server, {"generate", "Hi", "--stats", "--adapter", "a"});
  EXPECT_EQ(run.output, "Hi\n");
  EXPECT_THAT(run.error, HasSubstr("eos · 2 + 2 tokens"));
  EXPECT_THAT(run.error, HasSubstr("a@01234567"));
}

TEST(Generate, AnErrorNamesTheFieldAndEndsWithOne) {
  FakeServer server;
  server.FailNext(1, BadRequestStatus("bad request", {{"top_p", "must be above 0"}}));
  const RunResult run = Lorica(server, {"generate", "Hi", "--top-p", "-1", "--json"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("INVALID_ARGUMENT: bad request (top_p: must be above 0)"));
  EXPECT_EQ(Json::parse(run.output)["error"]["code"], "INVALID_ARGUMENT");
}

TEST(Generate, ARefusalPrintsNothingOnStdout) {
  FakeServer server;
  server.FailNext(1, grpc::Status(grpc::NOT_FOUND, "no adapter x"));
  const RunResult run = Lorica(server, {"generate", "Hi", "--adapter", "x"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(run.output, "");
}

TEST(Generate, ABrokenStreamKeepsWhatCameAndEndsWithOne) {
  FakeServer server;
  server.set_stream_break(3, grpc::Status(grpc::UNAVAILABLE, "restarting"));
  const RunResult run = Lorica(server, {"generate", "Hello"});
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(run.output, "Hel\n");
  EXPECT_THAT(run.error, HasSubstr("UNAVAILABLE: restarting"));
}

TEST(Generate, WrongCommandLinesEndWithTwoBeforeAnythingIsSent) {
  FakeServer server;
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--no-such-flag"}).code, 2);
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--max-tokens", "x"}).code, 2);
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--mix", "a=x"}).code, 2);
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--chat", "--raw"}).code, 2);
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--seed", "-1"}).code, 2);
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--seed", "18446744073709551616"}).code, 2);
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--seed", "0x10"}).code, 2);
  const RunResult large = Lorica(server, {"generate", "Hi", "--max-tokens", "2147483648"});
  EXPECT_EQ(large.code, 2);
  EXPECT_THAT(large.error, HasSubstr("2147483647"));
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--timeout", "nan"}).code, 2);
  const RunResult nothing = Lorica(server, {});
  EXPECT_EQ(nothing.code, 2);
  EXPECT_THAT(nothing.error, HasSubstr("--help"));
  const RunResult unknown = Lorica(server, {"genrate", "Hi"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.error, HasSubstr("genrate"));
  EXPECT_TRUE(server.requests().empty());
}

TEST(Generate, TheLargestSeedArrives) {
  FakeServer server;
  EXPECT_EQ(Lorica(server, {"generate", "Hi", "--seed", "18446744073709551615"}).code, 0);
  EXPECT_EQ(server.requests()[0].seed(), UINT64_MAX);
}

TEST(Generate, TextThatIsNotUtf8IsTheServersToRefuseWithoutNoise) {
  FakeServer server;
  const RunResult run = Lorica(server, {"generate", "bad\xFF"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, Not(HasSubstr("libprotobuf")));
}

TEST(Generate, NobodyThereEndsWithThreeAndSaysWhatToDo) {
  const RunResult run = RunToEnd({LORICA_BINARY, "--server", "127.0.0.1:1", "generate", "Hi"});
  EXPECT_EQ(run.code, 3);
  EXPECT_THAT(run.error, HasSubstr("no gRPC server at 127.0.0.1:1"));
  EXPECT_THAT(run.error, HasSubstr("Or it speaks TLS: add --tls"));
  EXPECT_THAT(run.error, HasSubstr("--server"));
}

TEST(Generate, ATimeoutEndsWithOne) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(200));
  const RunResult run = Lorica(server, {"generate", std::string(100, 'x'), "--timeout", "0.5"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("DEADLINE_EXCEEDED"));
}

TEST(Help, TeachesWithExamplesForEveryCommand) {
  for (const char* command :
       {"generate", "chat", "batch", "adapters", "status", "tokenize", "bench"}) {
    const RunResult run = RunToEnd({LORICA_BINARY, command, "--help"});
    EXPECT_EQ(run.code, 0);
    EXPECT_THAT(run.output, HasSubstr("Examples:")) << command;
  }
  EXPECT_THAT(RunToEnd({LORICA_BINARY, "--help"}).output, HasSubstr("Exit codes"));
}

}  // namespace
}  // namespace lorica
