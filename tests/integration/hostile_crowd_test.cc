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
using testing::Contains;
using testing::Each;

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
  // An instrumented build slows arithmetic by more than all else.
  AnswersWithin(kInstrumentationFactor * kAnswerMax);
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
  std::unique_ptr<v1::InferenceService::Stub> GreedyStub() {
    return v1::InferenceService::NewStub(ChannelWithKey(server().server().port(), "key-greedy"));
  }

  // Calls of "greedy" at once.
  class Flood {
   public:
    Flood(HostileTenant* test, const std::vector<v1::GenerateRequest>& requests)
        : calls_(requests.size()) {
      constexpr int kCallsOfAConnection = 80;
      for (size_t i = 0; i < requests.size(); ++i) {
        if (i % kCallsOfAConnection == 0) stubs_.push_back(test->GreedyStub());
        Call& call = calls_[i];
        call.reader = stubs_.back()->AsyncGenerate(&call.context, requests[i], &queue_);
        call.reader->Finish(&call.response, &call.status, nullptr);
      }
    }
    // Takes back what still runs; what became of each.
    std::vector<StatusCode> End() {
      for (Call& call : calls_) call.context.TryCancel();
      std::vector<StatusCode> codes;
      for (size_t i = 0; i < calls_.size(); ++i) {
        void* tag = nullptr;
        bool ok = false;
        EXPECT_TRUE(queue_.Next(&tag, &ok));
      }
      for (const Call& call : calls_) codes.push_back(call.status.error_code());
      return codes;
    }

   private:
    struct Call {
      grpc::ClientContext context;
      grpc::Status status;
      v1::GenerateResponse response;
      std::unique_ptr<grpc::ClientAsyncResponseReader<v1::GenerateResponse>> reader;
    };
    grpc::CompletionQueue queue_;
    std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
    std::vector<Call> calls_;
  };

  TemporaryFolder folder_;
};

// However small the queue is.
TEST_F(HostileTenant, WhoFillsItsPartOfTheQueueKeepsNobodyOut) {
  constexpr int kCalls = 80, kQueue = 16;
  config().queue_requests = kQueue;
  const std::vector<int32_t> alone = TokensOf("dora");
  const int64_t before = server().Status().counters().requests_refused();
  std::atomic<bool> stop = false;
  std::vector<StatusCode> codes;
  std::thread flooding([&] {
    while (!stop) {
      Flood flood(this, std::vector<v1::GenerateRequest>(kCalls, TokensRequest(480)));
      absl::SleepFor(absl::Milliseconds(100));
      for (const StatusCode code : flood.End()) codes.push_back(code);
    }
  });
  server().WaitFor(
      [&](const auto& status) { return status.counters().requests_refused() - before >= kQueue; });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(TokensOf("dora"), alone);
  stop = true;
  flooding.join();
  EXPECT_THAT(codes, Contains(StatusCode::UNAVAILABLE));
  EXPECT_THAT(codes, Each(AnyOf(StatusCode::UNAVAILABLE, StatusCode::CANCELLED, StatusCode::OK)));
}

TEST_F(HostileTenant, WhoFloodsWaitsBehindWhoDoesNot) {
  constexpr int kCalls = 160;
  const std::vector<int32_t> alone = TokensOf("dora");
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kCalls; ++i) {
    WriteTinyAdapter(server().adapters(), absl::StrCat("greedy-", i), 4, false, i);
    requests.push_back(GreedyRequest(i));
  }
  Flood flood(this, requests);
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
  EXPECT_THAT(flood.End(), Each(AnyOf(StatusCode::CANCELLED, StatusCode::OK)));
  leaving.join();
}

}  // namespace
}  // namespace lorica
