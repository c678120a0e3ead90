// Goal: what operators do to a running server: change an adapter's content under load,
// register and delete, drain, cancel, start a second one by mistake.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;
using testing::HasSubstr;

const absl::Duration kRefusedMax = kInstrumentationFactor * absl::Seconds(10);

constexpr char kPrompt[] =
    "<|im_start|>user\nTicket: I was charged twice for LedgerPro<|im_end|>\n"
    "<|im_start|>assistant\n";

void CopyAdapter(const std::string& name, const std::string& target) {
  fs::create_directories(fs::path(target).parent_path());
  fs::copy(DemoAdaptersPath() + "/" + name, target, fs::copy_options::recursive);
}

v1::GenerateRequest Request(const std::string& adapter, int tokens) {
  v1::GenerateRequest request;
  request.set_adapter_id(adapter);
  request.set_prompt(kPrompt);
  request.set_max_tokens(tokens);
  request.set_ignore_eos(true);
  return request;
}

class Lifecycle : public ::testing::Test {
 protected:
  void StartServer(std::vector<std::string> flags = {}) {
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = folder_.path();
    options.flags = std::move(flags);
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }

  std::vector<int32_t> Tokens(const std::string& adapter, int tokens) {
    const auto results = GenerateAll(*server_, {Request(adapter, tokens)}, 1);
    EXPECT_TRUE(results[0].status.ok()) << results[0].status;
    return results[0].token_ids;
  }

  TemporaryFolder folder_;
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(Lifecycle, ChangedContentIsANewGenerationAndRunningStreamsKeepTheOld) {
  CopyAdapter("ticket-triage", folder_.path() + "/live");
  CopyAdapter("ticket-triage", folder_.path() + "/old");
  CopyAdapter("text-to-sql", folder_.path() + "/new");
  ASSERT_NO_FATAL_FAILURE(StartServer());
  const std::vector<int32_t> old_tokens = Tokens("old", 120);
  const std::vector<int32_t> new_tokens = Tokens("new", 12);

  std::atomic<int> seen = 0;
  Generated running;
  std::thread stream([&] {
    running.status = server_->NewClient()->GenerateStream(
        Request("live", 120), [&](const v1::GenerateStreamResponse& chunk) {
          running.token_ids.insert(running.token_ids.end(), chunk.token_ids().begin(),
                                   chunk.token_ids().end());
          seen = chunk.token_count();
          return true;
        });
  });
  while (seen < 5) absl::SleepFor(absl::Milliseconds(1));
  fs::rename(folder_.path() + "/live", folder_.path() + "/before");
  CopyAdapter("text-to-sql", folder_.path() + "/live");
  const auto after = GenerateAll(*server_, {Request("live", 12)}, 1);
  EXPECT_LT(seen, 120) << "the swap must happen while the stream runs";
  stream.join();
  ASSERT_TRUE(after[0].status.ok()) << after[0].status;
  EXPECT_EQ(after[0].token_ids, new_tokens);
  ASSERT_TRUE(running.status.ok()) << running.status;
  EXPECT_EQ(running.token_ids, old_tokens);
}

TEST_F(Lifecycle, RegisterNamesAFolderAndDeleteHidesIt) {
  CopyAdapter("intent", folder_.path() + "/intent-v1");
  CopyAdapter("headline", folder_.path() + "/intent-v2");
  ASSERT_NO_FATAL_FAILURE(StartServer());
  const auto client = server_->NewClient();
  v1::RegisterAdapterRequest request;
  request.set_adapter_id("router");
  request.set_source("intent-v1");
  auto first = client->RegisterAdapter(request);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(first->created());
  EXPECT_TRUE(client->RegisterAdapter(request).ok()) << "the same content again is fine";
  EXPECT_EQ(Tokens("router", 8), Tokens("intent-v1", 8));

  request.set_source("intent-v2");
  EXPECT_EQ(client->RegisterAdapter(request).status().code(), StatusCode::kAlreadyExists);
  request.set_expected_generation(std::string(64, '0'));
  EXPECT_EQ(client->RegisterAdapter(request).status().code(), StatusCode::kAborted);
  request.set_expected_generation(first->adapter().generation());
  ASSERT_TRUE(client->RegisterAdapter(request).ok());
  EXPECT_EQ(Tokens("router", 8), Tokens("intent-v2", 8));

  v1::DeleteAdapterRequest remove;
  remove.set_adapter_id("router");
  ASSERT_TRUE(client->DeleteAdapter(remove).ok());
  EXPECT_EQ(client->Generate(Request("router", 1)).status().code(), StatusCode::kNotFound);
}

TEST_F(Lifecycle, EvictionWaitsForNobodyAndPinnedStays) {
  CopyAdapter("intent", folder_.path() + "/intent");
  ASSERT_NO_FATAL_FAILURE(StartServer());
  const auto client = server_->NewClient();
  v1::PinAdapterRequest pin;
  pin.set_adapter_id("intent");
  pin.set_tier(v1::TIER_DEVICE);
  ASSERT_TRUE(client->PinAdapter(pin).ok());
  v1::EvictAdapterRequest evict;
  evict.set_adapter_id("intent");
  EXPECT_EQ(client->EvictAdapter(evict).status().code(), StatusCode::kFailedPrecondition);
  v1::UnpinAdapterRequest unpin;
  unpin.set_adapter_id("intent");
  ASSERT_TRUE(client->UnpinAdapter(unpin).ok());
  auto evicted = client->EvictAdapter(evict);
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->adapter().tier(), v1::TIER_SOURCE);
  EXPECT_EQ(Tokens("intent", 4).size(), 4u);
}

TEST_F(Lifecycle, ATerminatedServerFinishesItsStreamsAndTakesNoMore) {
  ASSERT_NO_FATAL_FAILURE(
      StartServer({"--drain-seconds", absl::StrCat(kInstrumentationFactor * 60)}));
  std::atomic<int> seen = 0;
  absl::Status streamed;
  std::thread stream([&] {
    streamed = server_->NewClient()->GenerateStream(Request("", 150), [&](const auto& chunk) {
      seen = chunk.token_count();
      return true;
    });
  });
  const auto late = server_->NewClient();
  ASSERT_TRUE(late->GetStatus().ok());
  while (seen < 3) absl::SleepFor(absl::Milliseconds(1));
  server_->Signal(SIGTERM);
  absl::SleepFor(absl::Milliseconds(100));
  CallOptions short_call;
  short_call.timeout = absl::Seconds(5);
  const absl::Status refused = late->Generate(Request("", 1), short_call).status();
  EXPECT_TRUE(refused.code() == StatusCode::kUnavailable ||
              refused.code() == StatusCode::kDeadlineExceeded)
      << refused;
  stream.join();
  EXPECT_TRUE(streamed.ok()) << streamed;
  EXPECT_EQ(seen, 150);
  EXPECT_EQ(server_->WaitForExit(kInstrumentationFactor * absl::Seconds(20)), 0) << server_->Log();
}

TEST_F(Lifecycle, ASecondSignalEndsTheServerAtOnce) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  std::atomic<int> seen = 0;
  std::thread stream([&] {
    const absl::Status cut = server_->NewClient()->GenerateStream(
        Request("", 8000), [&](const v1::GenerateStreamResponse& chunk) {
          seen = chunk.token_count();
          return true;
        });
    EXPECT_EQ(cut.code(), StatusCode::kUnavailable) << cut;
  });
  while (seen < 3) absl::SleepFor(absl::Milliseconds(1));
  server_->Signal(SIGTERM);
  absl::SleepFor(absl::Milliseconds(200));
  server_->Signal(SIGINT);
  EXPECT_EQ(server_->WaitForExit(absl::Seconds(5)), 130) << server_->Log();
  stream.join();
}

TEST_F(Lifecycle, ACancelledStreamFreesEverything) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  const auto client = server_->NewClient();
  const absl::Status status = client->GenerateStream(
      Request("", 2000), [](const auto& chunk) { return chunk.token_count() < 3; });
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status;
  const absl::Time end = absl::Now() + absl::Seconds(5);
  int32_t held = -1;
  while (held != 0 && absl::Now() < end) {
    auto state = client->GetStatus();
    ASSERT_TRUE(state.ok());
    held = state->running() + state->kv_blocks();
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(held, 0);
}

TEST_F(Lifecycle, ASecondServerOnTheSameFolderIsRefused) {
  TemporaryFolder data;
  ServerProcess::Options options;
  options.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  options.adapters_dir = folder_.path();
  options.data_dir = data.path();
  auto first = ServerProcess::Start(options);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = ServerProcess::Launch(options);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ((*second)->WaitForExit(kRefusedMax), 1) << (*second)->Log();
  EXPECT_THAT((*second)->Log(),
              HasSubstr(absl::StrCat("--data-dir ", data.path(), " is in use by another server")));
  EXPECT_TRUE((*first)->NewClient()->GetStatus().ok());
}

TEST_F(Lifecycle, ASecondServerOnTheSamePortIsRefused) {
  ServerProcess::Options options;
  options.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  options.adapters_dir = folder_.path();
  options.flags = {"--http-address", "127.0.0.1:0"};
  auto first = ServerProcess::Start(options);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string http = absl::StrCat("127.0.0.1:", (*first)->http_port());
  const auto expect_refused = [&options](const std::string& address, const std::string& flag) {
    const auto second = ServerProcess::Launch(options);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ((*second)->WaitForExit(kRefusedMax), 1) << (*second)->Log();
    EXPECT_THAT((*second)->Log(), HasSubstr(absl::StrCat("cannot listen on ", address, ": ")));
    EXPECT_THAT((*second)->Log(), HasSubstr("choose another with " + flag));
  };
  options.flags = {"--http-address", http};
  expect_refused(http, "--http-address");
  options.flags.clear();
  options.grpc_address = (*first)->address();
  expect_refused((*first)->address(), "--grpc-address");
  EXPECT_TRUE((*first)->NewClient()->GetStatus().ok());
}

// Requests that together need more KV than there is: some are preempted, all are answered
// as if they had been alone.
TEST_F(Lifecycle, PreemptedRequestsAnswerAsIfAlone) {
  const std::string tiny = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  ServerProcess::Options options;
  options.model = tiny;
  options.adapters_dir = folder_.path();
  options.flags = {"--arena-bytes", std::to_string(20 * 12288)};
  auto server = ServerProcess::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < 12; ++i) {
    v1::GenerateRequest request;
    for (int token = 0; token < 20 + i; ++token) request.add_token_ids((token * 7 + i) % 256);
    request.set_max_tokens(120);
    request.set_ignore_eos(true);
    request.set_logprobs(0);
    request.set_temperature(i % 2);
    request.set_seed(i);
    requests.push_back(request);
  }
  const auto alone = GenerateAll(**server, requests, 1);
  const auto together = GenerateAll(**server, requests, 12);
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(together[i].status.ok()) << together[i].status;
    EXPECT_EQ(together[i].token_ids, alone[i].token_ids) << i;
    EXPECT_EQ(together[i].logprobs, alone[i].logprobs) << i;
  }
  auto status = (*server)->NewClient()->GetStatus();
  ASSERT_TRUE(status.ok());
  EXPECT_GT(status->counters().preemptions(), 0) << "without a preemption nothing was tested";
}

}  // namespace
}  // namespace lorica
