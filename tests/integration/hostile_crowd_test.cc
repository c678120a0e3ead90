// Goal: whatever many callers want at once, each answer is what it would have been alone, and who
// asks for too much waits behind whoever asks for little.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using testing::AnyOf;

class HostileCrowd : public BystanderTest {
 protected:
  // The tiny model, which now takes prompts of 8,192 tokens.
  std::string WriteLongModel() {
    const std::string folder = data() + "/model";
    std::filesystem::copy(TinyModelPath(), folder);
    std::stringstream text;
    text << std::ifstream(folder + "/config.json").rdbuf();
    std::ofstream(folder + "/config.json") << absl::StrReplaceAll(
        text.str(), {{"\"max_position_embeddings\": 512", "\"max_position_embeddings\": 16384"}});
    return folder;
  }
};

// Row 98: without an adapter, with adapters of every rank and kind, one token and 8,192 to begin
// with; nobody finds computed what was asked for before.
TEST_F(HostileCrowd, EachOfABatchOfAllKindsAnswersAsIfAlone) {
  constexpr int kLongPrompt = 8192;
  config().model = WriteLongModel();
  config().prefix_cache = "off";
  for (const int rank : {1, 8, 64, 256}) {
    WriteTinyAdapter(server().adapters(), absl::StrCat("rank-", rank), rank, false, rank);
  }
  struct Asked {
    v1::GenerateRequest request;
    v1::GenerateResponse alone;
  };
  std::vector<Asked> all;
  const auto ask_alone = [&](const std::string& adapter, int prompt) {
    v1::GenerateRequest request = TokensRequest(40);
    request.clear_token_ids();
    for (int i = 0; i < prompt; ++i) request.add_token_ids((i * 7 + 3) % 256);
    request.set_adapter_id(adapter);
    request.set_logprobs(0);
    all.push_back({request, {}});
    ASSERT_TRUE(Generate(request, {}, &all.back().alone).ok()) << adapter;
  };
  for (const char* adapter :
       {"", "plain", "other", "dora", "rank-1", "rank-8", "rank-64", "rank-256"}) {
    for (const int prompt : {1, 400}) ask_alone(adapter, prompt);
  }
  ask_alone("rank-8", kLongPrompt);
  const auto ask_again = [this](const Asked& asked) {
    v1::GenerateResponse response;
    EXPECT_TRUE(Generate(asked.request, {}, &response).ok());
    EXPECT_EQ(response.usage().cached_tokens(), 0);
    EXPECT_THAT(response.token_ids(), testing::ElementsAreArray(asked.alone.token_ids()))
        << asked.request.adapter_id();
    ASSERT_EQ(response.logprobs_size(), asked.alone.logprobs_size());
    for (int i = 0; i < response.logprobs_size(); ++i) {
      EXPECT_EQ(response.logprobs(i).logprob(), asked.alone.logprobs(i).logprob()) << i;
    }
  };
  std::atomic<bool> mixed = false;
  std::vector<std::thread> callers;
  for (size_t i = 0; i + 1 < all.size(); ++i) {
    callers.emplace_back([&, i] {
      do {
        ask_again(all[i]);
      } while (!mixed);
    });
  }
  server().WaitFor([](const v1::GetStatusResponse& status) { return status.running() > 5; });
  ask_again(all.back());
  mixed = true;
  for (std::thread& caller : callers) caller.join();
}

// Row 104.
class HostileTenant : public BystanderTest {
 protected:
  HostileTenant() {
    folder_.Write("tenants.json",
                  absl::StrCat("{\"tenants\": [", Entry("modest"), ",", Entry("greedy"), "]}"));
    config().tenants_file = folder_.path() + "/tenants.json";
    config().running_requests = 4;
    ShowKey("key-modest");
  }
  static std::string Entry(const std::string& name) {
    Sha256 hash;
    hash.Update("key-" + name);
    return absl::StrCat("{\"name\": \"", name,
                        "\", \"role\": \"operator\", \"adapters\": [\"*\"], ", "\"keys\": [\"",
                        hash.Finish(), "\"]}");
  }
  // For another adapter each time.
  v1::GenerateRequest GreedyRequest(int i) {
    v1::GenerateRequest request = TokensRequest(480);
    request.set_adapter_id(absl::StrCat("greedy-", i));
    if (i % 2 == 1) {
      while (request.token_ids_size() < 400) request.add_token_ids(5);
      request.set_max_tokens(100);
    }
    return request;
  }
  struct Call {
    grpc::ClientContext context;
    grpc::Status status;
    v1::GenerateResponse response;
    std::unique_ptr<grpc::ClientAsyncResponseReader<v1::GenerateResponse>> reader;
  };
  std::unique_ptr<v1::InferenceService::Stub> GreedyStub() {
    return v1::InferenceService::NewStub(ChannelWithKey(server().server().port(), "key-greedy"));
  }

  TemporaryFolder folder_;
};

TEST_F(HostileTenant, WhoFloodsWaitsBehindWhoDoesNot) {
  constexpr int kCalls = 160, kCallsOfAConnection = 80;
  const std::vector<int32_t> alone = TokensOf("dora");
  for (int i = 0; i < kCalls; ++i) {
    WriteTinyAdapter(server().adapters(), absl::StrCat("greedy-", i), 4, false, i);
  }
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  std::vector<Call> calls(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    if (i % kCallsOfAConnection == 0) stubs.push_back(GreedyStub());
    calls[i].reader = stubs.back()->AsyncGenerate(&calls[i].context, GreedyRequest(i), &queue);
    calls[i].reader->Finish(&calls[i].response, &calls[i].status, nullptr);
  }
  // And one who leaves after each prefill.
  std::atomic<bool> stop = false;
  std::thread leaving([&] {
    const auto stub = GreedyStub();
    while (!stop) {
      Context context;
      const auto stream = stub->GenerateStream(&context, GreedyRequest(1));
      v1::GenerateStreamResponse chunk;
      stream->Read(&chunk);
      context.TryCancel();
      EXPECT_THAT(stream->Finish().error_code(), AnyOf(StatusCode::CANCELLED, StatusCode::OK));
    }
  });
  server().WaitFor([](const auto& status) { return status.queued() > kCalls / 2; });
  const int before = server().Status().queued();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(TokensOf("dora"), alone);
  const int after = server().Status().queued();
  EXPECT_GT(after, before / 2) << "who came later waited for most of the flood";
  stop = true;
  for (Call& call : calls) call.context.TryCancel();
  for (int i = 0; i < kCalls; ++i) {
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
  }
  for (const Call& call : calls) {
    EXPECT_THAT(call.status.error_code(), AnyOf(StatusCode::CANCELLED, StatusCode::OK));
  }
  leaving.join();
}

}  // namespace
}  // namespace lorica
