// Goal: whoever asks for more than there is, of adapters' room, of KV or of descriptors, and
// whoever moves adapters about while they are used, waits or is refused in time; somebody else's
// stream and what is shared stay as they were.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/fakes/no_descriptors.h"
#include "tests/integration/bystander.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using grpc::StatusCode;

constexpr int64_t kBlockBytes = 16384;  // of the tiny model
constexpr int kWideRank = 256;
constexpr int kWideBlocks = 11;  // of it, which kNarrowBytes holds once beside others
constexpr int64_t kNarrowBytes = 17 * kBlockBytes;

class HostilePool : public BystanderTest {
 protected:
  template <typename Call>
  StatusCode Admin(const Call& call) {
    const absl::Time begun = absl::Now();
    Context context;
    const grpc::Status status = call(&context, server().admin());
    EXPECT_LT(absl::Now() - begun, kFetchedAnswerMax) << status.error_message();
    return status.error_code();
  }
  StatusCode Pin(const std::string& id) {
    return Admin([&id](Context* context, v1::AdapterService::Stub& admin) {
      v1::PinAdapterRequest request;
      request.set_adapter_id(id);
      request.set_tier(v1::TIER_DEVICE);
      v1::PinAdapterResponse response;
      return admin.PinAdapter(context, request, &response);
    });
  }
  StatusCode Unpin(const std::string& id) {
    return Admin([&id](Context* context, v1::AdapterService::Stub& admin) {
      v1::UnpinAdapterRequest request;
      request.set_adapter_id(id);
      v1::UnpinAdapterResponse response;
      return admin.UnpinAdapter(context, request, &response);
    });
  }
  StatusCode Evict(const std::string& id, bool wait) {
    return Admin([&](Context* context, v1::AdapterService::Stub& admin) {
      v1::EvictAdapterRequest request;
      request.set_adapter_id(id);
      request.set_wait(wait);
      v1::EvictAdapterResponse response;
      return admin.EvictAdapter(context, request, &response);
    });
  }
  int64_t PinnedBytes() {
    const std::string page = HttpCall(server().server().http_port(), "GET", "/metrics").body;
    const std::string series = "lorica_tier_pinned_bytes{tier=\"device\"} ";
    const size_t at = page.find(series);
    EXPECT_NE(at, std::string::npos);
    return at == std::string::npos ? -1 : std::stoll(page.substr(at + series.size()));
  }
  static v1::GenerateRequest Request(const std::string& adapter, int prompt, int tokens) {
    v1::GenerateRequest request = TokensRequest(tokens);
    request.set_adapter_id(adapter);
    request.clear_token_ids();
    for (int i = 0; i < prompt; ++i) request.add_token_ids((i * 7 + 3) % 256);
    return request;
  }
  v1::GenerateResponse Answer(const std::string& adapter, int prompt, int tokens) {
    v1::GenerateResponse response;
    const grpc::Status status = Generate(Request(adapter, prompt, tokens), {}, &response);
    EXPECT_TRUE(status.ok()) << adapter << ": " << status.error_message();
    return response;
  }
  static std::vector<int32_t> Tokens(const v1::GenerateResponse& response) {
    return {response.token_ids().begin(), response.token_ids().end()};
  }
};

// Row 91.
TEST_F(HostilePool, MoreAdaptersThanFitTakeTurns) {
  config().arena_bytes = kNarrowBytes;
  constexpr int kAdapters = 12;
  for (int i = 0; i < kAdapters; ++i) {
    WriteTinyAdapter(server().adapters(), absl::StrCat("wide-", i), kWideRank, false, i);
  }
  std::vector<std::thread> callers;
  for (int i = 0; i < kAdapters; ++i) {
    callers.emplace_back(
        [this, i] { EXPECT_EQ(CodeOfAdapter(absl::StrCat("wide-", i)), StatusCode::OK) << i; });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_GT(server().Status().device_tier().evictions(), 0);
}

// Row 74: of what lies in a folder here.
TEST_F(HostilePool, WhatNeverFitsIsRefused) {
  config().arena_bytes = kWideBlocks * kBlockBytes;  // no block is left for a prompt
  WriteTinyAdapter(server().adapters(), "wide", kWideRank, false);
  v1::GenerateRequest request = Request("wide", 1, 1);
  const grpc::Status status = Generate(request);
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("adapter 'wide' cannot be served"));
  EXPECT_THAT(status.error_message(), testing::HasSubstr("--arena-bytes"));
  EXPECT_EQ(Pin("wide"), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Admin([](Context* context, v1::AdapterService::Stub& admin) {
              v1::RegisterAdapterRequest register_it;
              register_it.set_adapter_id("mine");
              register_it.set_source("wide");
              v1::RegisterAdapterResponse response;
              return admin.RegisterAdapter(context, register_it, &response);
            }),
            StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(CodeOfAdapter("plain"), StatusCode::OK);
}

// Row 74, with one block more.
TEST_F(HostilePool, WhatJustFitsIsServed) {
  config().arena_bytes = (kWideBlocks + 1) * kBlockBytes;
  WriteTinyAdapter(server().adapters(), "wide", kWideRank, false);
  EXPECT_EQ(Generate(Request("wide", 1, 1)).error_code(), StatusCode::OK);
  EXPECT_EQ(Generate(Request("wide", 15, 2)).error_code(), StatusCode::OK);
  EXPECT_EQ(Generate(Request("wide", 16, 2)).error_code(), StatusCode::INVALID_ARGUMENT)
      << "more positions than its block has";
}

// Row 91, where nothing may be evicted.
TEST_F(HostilePool, WhatPinsCrowdOutIsRefusedUntilTheyAreTakenBack) {
  config().arena_bytes = kNarrowBytes;
  for (const int i : {0, 1}) {
    WriteTinyAdapter(server().adapters(), absl::StrCat("wide-", i), kWideRank, false, i);
  }
  ASSERT_EQ(Pin("other"), StatusCode::OK) << "the bystander's";
  ASSERT_EQ(Pin("wide-0"), StatusCode::OK);
  EXPECT_EQ(Pin("wide-1"), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(PinnedBytes(), (kWideBlocks + 1) * kBlockBytes);
  EXPECT_EQ(CodeOfAdapter("wide-1"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(CodeOfAdapter("wide-0"), StatusCode::OK);
  EXPECT_EQ(Unpin("wide-0"), StatusCode::OK);
  EXPECT_EQ(CodeOfAdapter("wide-1"), StatusCode::OK);
  EXPECT_EQ(Unpin("other"), StatusCode::OK);
  EXPECT_EQ(PinnedBytes(), 0);
}

// Row 92: evicted while in use, while it is loaded, loaded while it is evicted, twice.
TEST_F(HostilePool, EvictionsBesideLoadsAndStreamsChangeNoAnswer) {
  AnswersWithin(kFetchedAnswerMax);  // each call loads anew, at the lowest priority
  const std::vector<int32_t> alone = Tokens(Answer("plain", 20, 24));
  std::atomic<bool> stop = false;
  std::atomic<int> evictions = 0;
  std::vector<std::thread> evicting;
  for (const bool wait : {false, true}) {
    evicting.emplace_back([&, wait] {
      while (!stop) {
        const StatusCode code = Evict("plain", wait);
        EXPECT_TRUE(code == StatusCode::OK || (!wait && code == StatusCode::FAILED_PRECONDITION))
            << code;
        ++evictions;
      }
    });
  }
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] {
      for (int turn = 0; turn < 20; ++turn) EXPECT_EQ(Tokens(Answer("plain", 20, 24)), alone);
    });
  }
  for (std::thread& caller : callers) caller.join();
  stop = true;
  for (std::thread& thread : evicting) thread.join();
  EXPECT_GT(evictions, 0);
}

// Row 92: other content under the same id while streams of the old one run.
TEST_F(HostilePool, NewContentIsForNewStreamsAlone) {
  LeavesUnnamed(1);
  WriteTinyAdapter(server().adapters(), "next", 4, false, /*seed=*/1);
  const std::vector<int32_t> old_tokens = Tokens(Answer("plain", 20, 400));
  const std::vector<int32_t> new_tokens = Tokens(Answer("next", 20, 24));
  ASSERT_FALSE(std::equal(new_tokens.begin(), new_tokens.end(), old_tokens.begin()))
      << "old and new content must be told apart";
  v1::GenerateRequest request = Request("plain", 20, 400);
  Context context;
  const auto running = server().inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(running->Read(&chunk));
  std::vector<int32_t> tokens(chunk.token_ids().begin(), chunk.token_ids().end());
  WriteTinyAdapter(server().adapters(), "plain", 4, false, /*seed=*/1);
  EXPECT_EQ(Tokens(Answer("plain", 20, 24)), new_tokens);
  while (running->Read(&chunk)) {
    tokens.insert(tokens.end(), chunk.token_ids().begin(), chunk.token_ids().end());
  }
  EXPECT_TRUE(running->Finish().ok());
  EXPECT_EQ(tokens, old_tokens);
}

// Row 97.
TEST_F(HostilePool, WhereKvRunsOutAllAnswerAsIfAlone) {
  config().arena_bytes = 18 * kBlockBytes;
  constexpr int kCallers = 6;
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kCallers; ++i) alone.push_back(Tokens(Answer("plain", 20 + i, 140)));
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back(
        [&, i] { EXPECT_EQ(Tokens(Answer("plain", 20 + i, 140)), alone[i]) << i; });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_GT(server().Status().counters().preemptions(), 0) << "nothing was tested";
}

// Row 103, beside the stream of a tenant that asks for the same.
TEST_F(HostilePool, APrefixIsFoundUnderItsOwnTenantAndGenerationAlone) {
  InTwoTenants();
  LeavesUnnamed(1);
  constexpr int kPrompt = 64, kWholeBlocks = 48;
  std::vector<std::vector<int32_t>> first;
  for (const int found : {0, kWholeBlocks}) {
    size_t next = 0;
    for (const char* adapter : {"", "plain", "dora"}) {
      const v1::GenerateResponse response = Answer(adapter, kPrompt, 8);
      EXPECT_EQ(response.usage().cached_tokens(), found) << adapter;
      if (found == 0) first.push_back(Tokens(response));
      EXPECT_EQ(Tokens(response), first[next]) << adapter;
      v1::GenerateResponse others;
      EXPECT_TRUE(GenerateAsBystander(Request(adapter, kPrompt, 8), &others).ok());
      EXPECT_EQ(others.usage().cached_tokens(), found) << adapter << " of another tenant";
      EXPECT_EQ(Tokens(others), first[next++]) << adapter;
    }
  }
  WriteTinyAdapter(server().adapters(), "plain", 4, false, /*seed=*/1);
  EXPECT_EQ(Answer("plain", kPrompt, 8).usage().cached_tokens(), 0) << "another generation";
}

// New calls for adapters look at their folders; so beside it are callers of the base, and a stream.
class WithoutDescriptors : public HostilePool {
 protected:
  WithoutDescriptors() { LetsTheBystanderAskForTheBase(); }
};

// Row 105: what cannot be opened is an error of its own call, and is tried again afterwards.
TEST_F(WithoutDescriptors, LoadsAreRefusedAndStreamsGoOn) {
  const v1::GenerateRequest request = Request("plain", 20, 400);
  const std::vector<int32_t> alone = Tokens(Answer("plain", 20, 400));
  Context context;
  const auto running = server().inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(running->Read(&chunk));
  std::vector<int32_t> tokens(chunk.token_ids().begin(), chunk.token_ids().end());
  {
    NoDescriptors none;
    EXPECT_EQ(CodeOfAdapter("dora"), StatusCode::UNAVAILABLE);
    EXPECT_EQ(CodeOfAdapter(""), StatusCode::OK) << "the base needs no file";
    while (running->Read(&chunk)) {
      tokens.insert(tokens.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    }
    EXPECT_TRUE(running->Finish().ok());
  }
  EXPECT_EQ(tokens, alone);
  EXPECT_EQ(CodeOfAdapter("dora"), StatusCode::OK);
}

// Row 105: the library's own listener would be lost for ever.
TEST_F(WithoutDescriptors, ThePortIsServedAfterwards) {
  const int port = server().server().port();
  const int early = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  {
    NoDescriptors none;
    ASSERT_EQ(::connect(early, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    absl::SleepFor(absl::Milliseconds(200));
  }
  ::close(early);
  const auto channel = ChannelWithKey(port, "");
  EXPECT_TRUE(channel->WaitForConnected(std::chrono::system_clock::now() +
                                        absl::ToChronoMilliseconds(kAnswerMax)));
}

// Row 109: on the same folder, and on the same port.
TEST_F(HostilePool, ASecondServerIsRefusedAndTheFirstGoesOn) {
  config().data_dir = data();
  const int port = server().server().port();
  Config second = config();
  second.model = TinyModelPath();
  second.adapters_dir = server().adapters().path();
  second.grpc_address = "127.0.0.1:0";
  const absl::Time begun = absl::Now();
  const auto same_folder = Server::Start(second);
  ASSERT_FALSE(same_folder.ok());
  EXPECT_THAT(std::string(same_folder.status().message()),
              testing::HasSubstr(absl::StrCat(data(), " is in use by another server")));
  TemporaryFolder elsewhere;
  second.data_dir = elsewhere.path();
  second.grpc_address = absl::StrCat("127.0.0.1:", port);
  const auto same_port = Server::Start(second);
  ASSERT_FALSE(same_port.ok());
  EXPECT_EQ(same_port.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(same_port.status().message()), testing::HasSubstr("--grpc-address"));
  EXPECT_LT(absl::Now() - begun, 2 * kAnswerMax);
  EXPECT_EQ(CodeOfAdapter("plain"), StatusCode::OK);
}

}  // namespace
}  // namespace lorica
