// Goal: a tenant whose long streams fill the batch keeps no other tenant's short call waiting, and
// loses nothing by it. Method: more streams of one tenant than run at a time on the real model, and
// calls of another beside them. How long a call takes is counted in steps of the server; what the
// streams get is compared with what they get undisturbed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/sha256.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"

namespace lorica {
namespace {

constexpr int kRunning = 64;
constexpr int kStreams = kRunning + 2;
constexpr int kTokens = 48;
constexpr int kCalls = 2;
// A call waits kShareWaitSteps, then come its prompt and two tokens, and steps go on while it comes
// and is answered. Without a share it would take what is left of kTokens.
constexpr int kCallStepsMax = 20;

std::string Entry(const std::string& name) {
  Sha256 hash;
  hash.Update("key-" + name);
  return absl::StrCat("{\"name\": \"", name, "\", \"role\": \"operator\", \"adapters\": [\"*\"], ",
                      "\"keys\": [\"", hash.Finish(), "\"]}");
}

class FullBatch : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.Write("tenants.json",
                  absl::StrCat("{\"tenants\": [", Entry("crowd"), ",", Entry("caller"), "]}"));
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = DemoAdaptersPath();
    options.flags = {"--tenants-file", folder_.path() + "/tenants.json", "--running-requests",
                     absl::StrCat(kRunning)};
    options.client.api_key = "key-crowd";
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    caller_ = std::make_unique<LoricaClient>(
        ClientOptions{.server = server_->address(), .api_key = "key-caller"});
  }
  struct Stream {
    absl::Status status;
    std::vector<int32_t> token_ids;
    std::vector<double> logprobs;
    std::string text;
    int32_t preemptions = 0;
  };
  static v1::GenerateRequest RequestOf(int i) {
    v1::GenerateRequest request;
    request.set_prompt(absl::StrCat("Tell me about the number ", i, "."));
    request.set_max_tokens(kTokens);
    request.set_ignore_eos(true);
    request.set_temperature(i % 2);
    request.set_seed(i);
    request.set_logprobs(0);
    if (i % 3 == 1) request.set_adapter_id("intent");
    return request;
  }
  std::vector<Stream> RunStreams() const {
    const auto client = server_->NewClient();
    std::vector<Stream> streams(kStreams);
    std::vector<std::thread> readers;
    for (int i = 0; i < kStreams; ++i) {
      readers.emplace_back([&client, &stream = streams[i], i] {
        const auto on_chunk = [&](const v1::GenerateStreamResponse& chunk) {
          for (const int32_t id : chunk.token_ids()) stream.token_ids.push_back(id);
          for (const auto& one : chunk.logprobs()) stream.logprobs.push_back(one.logprob());
          EXPECT_EQ(chunk.token_count(), std::ssize(stream.token_ids)) << "lost or repeated";
          stream.text += chunk.text();
          stream.preemptions += chunk.finish().timings().preemptions();
          return true;
        };
        stream.status = client->GenerateStream(RequestOf(i), on_chunk);
      });
    }
    for (std::thread& reader : readers) reader.join();
    return streams;
  }
  v1::GetStatusResponse Status() {
    auto status = caller_->GetStatus();
    EXPECT_TRUE(status.ok()) << status.status();
    return status.ok() ? *status : v1::GetStatusResponse();
  }
  int64_t StepsOfACall() {
    const int64_t before = Status().counters().steps();
    v1::GenerateRequest request;
    request.set_prompt("Hello");
    request.set_max_tokens(2);
    const auto answer = caller_->Generate(request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return Status().counters().steps() - before;
  }

  TemporaryFolder folder_;
  std::unique_ptr<ServerProcess> server_;
  std::unique_ptr<LoricaClient> caller_;
};

TEST_F(FullBatch, AnotherTenantsShortCallTakesAFewStepsAndTheStreamsLoseNothing) {
  const std::vector<Stream> undisturbed = RunStreams();
  EXPECT_EQ(Status().counters().preemptions(), 0);
  std::vector<Stream> streams;
  std::thread crowd([&] { streams = RunStreams(); });
  const absl::Time end = absl::Now() + absl::Minutes(1);
  while (Status().running() < kRunning && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  std::vector<int64_t> steps;
  for (int i = 0; i < kCalls; ++i) steps.push_back(StepsOfACall());
  const int running = Status().running();
  crowd.join();
  EXPECT_THAT(steps, ::testing::Each(::testing::Le(kCallStepsMax)));
  EXPECT_GE(running, kRunning - 1) << "the streams were to go on all the time";
  int preemptions = 0;
  for (int i = 0; i < kStreams; ++i) {
    ASSERT_TRUE(streams[i].status.ok()) << i << ": " << streams[i].status;
    EXPECT_EQ(std::ssize(streams[i].token_ids), kTokens) << i;
    EXPECT_EQ(streams[i].token_ids, undisturbed[i].token_ids) << i;
    EXPECT_EQ(streams[i].text, undisturbed[i].text) << i;
    EXPECT_EQ(streams[i].logprobs, undisturbed[i].logprobs) << i;
    preemptions += streams[i].preemptions;
  }
  EXPECT_GE(preemptions, 1);
  EXPECT_LE(preemptions, kCalls);
  std::printf("steps of a call: %s\n", ::testing::PrintToString(steps).c_str());
}

}  // namespace
}  // namespace lorica
