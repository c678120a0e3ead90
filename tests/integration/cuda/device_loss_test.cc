// Goal: a GPU that fails for good ends every stream Unavailable, the server says so once and ends,
// and the one that is started in its place serves.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <sstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/config.h"
#include "tests/integration/cuda/break_device.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/integration/server_process.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

TEST(DeviceLoss, EndsStreamsUnavailableAndIsNotServing) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  Config config;
  config.device = "cuda";
  TinyServer server(config);
  absl::Status ended;
  std::thread waits([&] { ended = server.server().Wait(); });

  constexpr int kStreams = 3;
  std::vector<Context> contexts(kStreams);
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> readers;
  for (Context& context : contexts) {
    readers.push_back(server.inference().GenerateStream(&context, TokensRequest(480)));
  }
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(readers[0]->Read(&chunk));
  BreakDevice();
  for (auto& reader : readers) {
    while (reader->Read(&chunk)) {
    }
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  }
  waits.join();
  EXPECT_EQ(ended.code(), absl::StatusCode::kInternal) << ended;
  EXPECT_EQ(server.Status().state(), v1::SERVING_STATE_FAILED);
  EXPECT_EQ(RawCall(server, "/grpc.health.v1.Health/Check", "").bytes, "\x08\x02");  // NOT_SERVING
  Context context;
  v1::GenerateResponse response;
  const grpc::Status refused = server.inference().Generate(&context, TokensRequest(2), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE) << refused.error_message();
}

// Row 101. What a supervisor does: the same command again.
TEST(DeviceLoss, EndsTheProcessWithOneLineInTheLogAndTheNextOneServes) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  constexpr int kStreams = 4;
  constexpr absl::Duration kEndMax = absl::Seconds(20);
  TemporaryFolder adapters, data;
  WriteTinyAdapter(adapters, "plain", 4, false);
  ServerProcess::Options options;
  options.model = TinyModelPath();
  options.adapters_dir = adapters.path();
  options.data_dir = data.path();
  options.client.retry.attempts_max = 1;
  options.flags = {"--device", "cuda", "--arena-bytes", "64MiB"};
  ::setenv("LD_PRELOAD", BREAK_ON_SIGNAL, 1);
  auto server = ServerProcess::Start(options);
  ::unsetenv("LD_PRELOAD");
  ASSERT_TRUE(server.ok()) << server.status();
  v1::GenerateRequest request = TokensRequest(480);
  request.set_adapter_id("plain");
  const auto ask = [&](const ServerProcess& process) {
    return process.NewClient()->Generate(request, {.timeout = kEndMax});
  };
  const auto alone = ask(**server);
  ASSERT_TRUE(alone.ok()) << alone.status();

  std::vector<std::thread> callers;
  for (int i = 0; i < kStreams; ++i) {
    callers.emplace_back([&] {
      auto answer = ask(**server);
      while (answer.ok()) answer = ask(**server);
      EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable) << answer.status();
    });
  }
  absl::SleepFor(absl::Milliseconds(200));
  (*server)->Signal(SIGUSR1);
  EXPECT_EQ((*server)->WaitForExit(kEndMax), kExitDeviceFailed);
  for (std::thread& caller : callers) caller.join();
  int lines = 0;
  std::istringstream log((*server)->Log());
  for (std::string line; std::getline(log, line);) lines += absl::StrContains(line, " critical ");
  EXPECT_EQ(lines, 1) << (*server)->Log();
  EXPECT_TRUE(absl::StrContains((*server)->Log(), "the device failed")) << (*server)->Log();

  server = ServerProcess::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto again = ask(**server);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->text(), alone->text());
}

}  // namespace
}  // namespace lorica
