#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> Chat(const FakeServer& server, std::vector<std::string> more = {}) {
  std::vector<std::string> argv = {LORICA_BINARY, "--server", server.address(), "chat"};
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

TEST(Chat, AnswersEachLineOfAPipeAndKeepsTheConversation) {
  FakeServer server;
  const RunResult run = RunToEnd(Chat(server, {"--system", "Be kind."}), "one\n\ntwo\n");
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(run.output, "one\ntwo\n");
  ASSERT_EQ(server.requests().size(), 2);
  const v1::GenerateRequest second = server.requests()[1];
  ASSERT_EQ(second.messages_size(), 4);
  EXPECT_EQ(second.messages(0).role(), "system");
  EXPECT_EQ(second.messages(2).role(), "assistant");
  EXPECT_EQ(second.messages(2).content(), "one");
  EXPECT_EQ(second.messages(3).content(), "two");
}

TEST(Chat, CommandsChangeTheAdapterAndForget) {
  FakeServer server;
  const RunResult run =
      RunToEnd(Chat(server),
               "a\n/adapter x\nb\n/reset\n/mix p=0.5,q\nc\n/adapter\nd\n/nonsense\n/quit\ne\n");
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(run.output, "a\nb\nc\nd\n");
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 4);
  EXPECT_EQ(requests[1].adapter_id(), "x");
  EXPECT_EQ(requests[1].messages_size(), 3);
  EXPECT_EQ(requests[2].messages_size(), 1);
  EXPECT_EQ(requests[2].adapter_id(), "");
  EXPECT_EQ(requests[2].adapters(0).weight(), 0.5);
  EXPECT_EQ(requests[3].adapters_size(), 0);
  EXPECT_THAT(run.error, HasSubstr("x answers\n"));
  EXPECT_THAT(run.error, HasSubstr("a mix of p=0.5,q answers\n"));
  EXPECT_THAT(run.error, HasSubstr("no command /nonsense; /help lists them"));
}

TEST(Chat, AFailedAnswerLeavesTheConversationAsItWas) {
  FakeServer server;
  server.FailNext(1, grpc::Status(grpc::NOT_FOUND, "no adapter x"));
  const RunResult run = RunToEnd(Chat(server), "lost\nkept\n");
  EXPECT_EQ(run.code, 1);
  EXPECT_EQ(run.output, "kept\n");
  EXPECT_THAT(run.error, HasSubstr("no adapter x"));
  EXPECT_EQ(server.requests()[1].messages_size(), 1);
}

TEST(Chat, CtrlCEndsTheAnswerAndNotTheProgram) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(20));
  Subprocess chat(Chat(server));
  chat.Write(std::string(5000, 'x') + "\n");
  ASSERT_TRUE(chat.WaitForOutput("xxx"));
  chat.Signal(SIGINT);
  ASSERT_TRUE(chat.WaitForError("stopped"));
  chat.Write("still here\n");
  ASSERT_TRUE(chat.WaitForOutput("still here"));
  EXPECT_EQ(chat.Wait(), 0);
  ASSERT_EQ(server.requests().size(), 2);
  // What came before Ctrl-C stays in the conversation.
  EXPECT_THAT(server.requests()[1].messages(1).content(), HasSubstr("xxx"));
}

TEST(Chat, JsonIsOneResultALine) {
  FakeServer server;
  const RunResult run = RunToEnd(Chat(server, {"--json"}), "one\ntwo\n");
  EXPECT_EQ(std::count(run.output.begin(), run.output.end(), '\n'), 2);
  EXPECT_THAT(run.output, HasSubstr(R"("text":"two","finish_reason":"eos")"));
}

TEST(Chat, NobodyThereEndsAPipeWithThree) {
  const RunResult run = RunToEnd({LORICA_BINARY, "--server", "127.0.0.1:1", "chat"}, "a\nb\n");
  EXPECT_EQ(run.code, 3);
}

}  // namespace
}  // namespace lorica
