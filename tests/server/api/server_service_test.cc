#include <atomic>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.pb.h"
#include "gtest/gtest.h"
#include "server/api/grpc_service.h"
#include "tests/fakes/free_port.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The answer's only field is the state: 1 serving, 2 not.
RawAnswer Health(const TinyServer& server, const std::string& service) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  return RawCall(server, "/grpc.health.v1.Health/Check", request.SerializeAsString());
}

constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";

TEST(ServerService, StatusShowsModelLimitsAndCounters) {
  Config config;
  config.queue_requests = 17;
  TinyServer server(config);
  const v1::GetStatusResponse before = server.Status();
  EXPECT_EQ(before.state(), v1::SERVING_STATE_SERVING);
  EXPECT_EQ(before.model().architecture(), "llama");
  EXPECT_EQ(before.model().context_tokens(), kTinyContext);
  EXPECT_EQ(before.model().vocabulary(), kTinyVocabulary);
  EXPECT_TRUE(before.model().has_tokenizer());
  EXPECT_EQ(before.limits().queue_requests(), 17);
  EXPECT_EQ(before.limits().message_bytes(), kMessageBytesMax);
  EXPECT_EQ(before.limits().arena_blocks() * before.limits().block_bytes(),
            before.limits().arena_bytes());
  EXPECT_EQ(before.free_blocks(), before.limits().arena_blocks());
  EXPECT_GT(before.resident_bytes(), 0);
  EXPECT_EQ(before.counters().requests_accepted(), 0) << "the warm-up is nobody's request";
  EXPECT_EQ(before.counters().generated_tokens(), 0);

  Context good;
  v1::GenerateResponse response;
  ASSERT_TRUE(server.inference().Generate(&good, TokensRequest(5), &response).ok());
  Context bad;
  EXPECT_FALSE(server.inference().Generate(&bad, TokensRequest(0), &response).ok());
  const v1::GetStatusResponse after = server.Status();
  EXPECT_EQ(after.counters().requests_accepted(), 1);
  EXPECT_EQ(after.counters().requests_refused(), 1);
  EXPECT_EQ(after.counters().generated_tokens(), 5);
}

// The port opens behind the warm-up, so whoever is early is counted as everybody else is.
TEST(ServerService, CallsFromTheFirstMomentOnAreCountedOnce) {
  for (int round = 0; round < 5; ++round) {
    Config config;
    const int port = FreePort();
    config.grpc_address = absl::StrCat("127.0.0.1:", port);
    std::atomic<bool> stop = false;
    std::atomic<int> served = 0;
    std::thread early([&] {
      while (!stop) {
        const auto stub = v1::InferenceService::NewStub(ChannelWithKey(port, ""));
        Context context;
        v1::GenerateResponse response;
        if (stub->Generate(&context, TokensRequest(2), &response).ok()) ++served;
      }
    });
    TinyServer server(config);
    server.WaitFor([&](const auto&) { return served > 3; });
    stop = true;
    early.join();
    const v1::Counters counters = server.Status().counters();
    EXPECT_EQ(counters.requests_accepted(), served);
    EXPECT_EQ(counters.requests_finished(), served);
    EXPECT_EQ(counters.generated_tokens(), 2 * served);
  }
}

TEST(ServerService, ConnectionsWithoutACallHoldUpNoStop) {
  TinyServer server;
  server.Status();  // connects
  Context context;
  v1::GenerateRequest request = TokensRequest(4);
  auto reader = server.inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  while (reader->Read(&chunk)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  const absl::Time began = absl::Now();
  server.server().Stop();
  EXPECT_LT(absl::Now() - began, kStopGrace / 2);
}

// No key is asked for, so its messages hold nothing of what others' may.
TEST(ServerService, HealthsMessagesAreSmall) {
  TinyServer server;
  constexpr size_t kHeadBytes = 4;  // the field's tag, and its length
  const std::string fits(kOpenMessageBytesMax - kHeadBytes, 'a');
  EXPECT_EQ(Health(server, fits).status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Health(server, fits + "a").status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
}

TEST(ServerService, HealthKnowsItsServices) {
  TinyServer server;
  for (const char* name : {"", "lorica.v1.InferenceService", "lorica.v1.AdapterService"}) {
    EXPECT_EQ(Health(server, name).bytes, kServing) << name;
  }
  EXPECT_EQ(Health(server, "nobody").status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(RawCall(server, "/lorica.v1.InferenceService/Nothing", "").status.error_code(),
            StatusCode::UNIMPLEMENTED);
}

TEST(ServerService, ReflectionListsTheServices) {
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services("\x3A\0", 2);
  TinyServer server;
  const RawAnswer answer = RawCall(server, method, list_services);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (const char* name : {"Inference", "Adapter", "Server"}) {
    EXPECT_THAT(answer.bytes, HasSubstr(std::string("lorica.v1.") + name + "Service"));
  }
}

// A tokenizer of another kind, and a template that does not parse: what needs neither works.
TEST(ServerService, AModelWithoutUsableTextStillTakesTokenIds) {
  TemporaryFolder folder;
  std::filesystem::copy(
      LORICA_TEST_DATA "/reference/tiny-llama", folder.path(),
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  folder.Write("tokenizer_config.json", R"({"chat_template": "{% if"})");
  Config config;
  config.model = folder.path();
  const auto codes_of = [&config] {
    TinyServer server(config);
    v1::GenerateRequest requests[3] = {TokensRequest(2), TokensRequest(2), TokensRequest(2)};
    requests[1].clear_token_ids();
    requests[1].set_prompt("hi");
    requests[2].clear_token_ids();
    requests[2].add_messages()->set_role("user");
    std::vector<StatusCode> codes;
    for (const v1::GenerateRequest& request : requests) {
      Context context;
      v1::GenerateResponse response;
      codes.push_back(server.inference().Generate(&context, request, &response).error_code());
    }
    return codes;
  };
  EXPECT_THAT(codes_of(),
              ElementsAre(StatusCode::OK, StatusCode::OK, StatusCode::FAILED_PRECONDITION));
  folder.Write("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})");
  EXPECT_THAT(codes_of(), ElementsAre(StatusCode::OK, StatusCode::FAILED_PRECONDITION,
                                      StatusCode::FAILED_PRECONDITION));
}

TEST(ServerService, DrainEndsRunningStreamsAndRefusesNewCalls) {
  Config config;
  config.drain_notice_seconds = 1;
  TinyServer server(config);
  grpc::ClientContext watch_context;
  auto watch = server.admin().WatchAdapters(&watch_context, {});
  v1::WatchAdaptersResponse event;
  ASSERT_TRUE(watch->Read(&event));
  grpc::ClientContext context;
  v1::GenerateRequest request = TokensRequest(500);
  request.set_logprobs(20);  // does not fit the transport unread: it runs until it is read
  auto reader = server.inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(reader->Read(&chunk));

  std::thread drain([&] { server.server().Drain(); });
  // First balancers may notice, and calls are taken; then none is, on no connection.
  server.WaitFor([](const auto& status) { return status.state() == v1::SERVING_STATE_DRAINING; });
  EXPECT_EQ(Health(server, "").bytes, kNotServing);
  const auto late = [&server] {
    Context context;
    v1::GenerateResponse response;
    return server.inference().Generate(&context, TokensRequest(1), &response).error_code();
  };
  EXPECT_EQ(late(), StatusCode::OK);
  while (watch->Read(&event)) {
  }
  EXPECT_EQ(watch->Finish().error_code(), StatusCode::UNAVAILABLE);
  // Calls that cross the news are cancelled, until the client has it.
  StatusCode refused = late();
  const absl::Time began = absl::Now();
  while (refused != StatusCode::UNAVAILABLE && absl::Now() - began < absl::Seconds(5)) {
    EXPECT_THAT(refused, AnyOf(StatusCode::OK, StatusCode::CANCELLED));
    refused = late();
  }
  EXPECT_EQ(refused, StatusCode::UNAVAILABLE);
  EXPECT_THAT(late(), AnyOf(StatusCode::UNAVAILABLE, StatusCode::CANCELLED));
  while (reader->Read(&chunk)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(chunk.token_count(), 500);
  drain.join();
}

TEST(ServerService, DrainCutsWhatDoesNotEndInTime) {
  Config config;
  config.drain_seconds = 0;
  TinyServer server(config);
  grpc::ClientContext context;
  v1::GenerateRequest request = TokensRequest(500);
  request.set_logprobs(20);
  auto reader = server.inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  server.server().Drain();
  while (reader->Read(&chunk)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
}

TEST(ServerService, StopWhileCallsRunEndsThem) {
  auto server = std::make_unique<TinyServer>();
  grpc::ClientContext context;
  v1::GenerateRequest request = TokensRequest(500);
  request.set_logprobs(20);
  auto reader = server->inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  server->server().Stop();
  while (reader->Read(&chunk)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(ServerService, ATakenPortIsRefusedWithAWayOut) {
  TinyServer first;
  Config config;
  config.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  config.grpc_address = "127.0.0.1:" + std::to_string(first.server().port());
  config.arena_bytes = 1 << 20;
  const auto second = Server::Start(config);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--grpc-address"));
}

TEST(ServerService, StartSaysWhatIsWrong) {
  Config config;
  config.grpc_address = "127.0.0.1:0";
  config.model = "/no/such/model.gguf";
  EXPECT_THAT(std::string(Server::Start(config).status().message()), HasSubstr("--model"));
  config.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  config.adapters_dir = "/no/such/folder";
  EXPECT_THAT(std::string(Server::Start(config).status().message()), HasSubstr("--adapters-dir"));
  config.adapters_dir = "";
  config.arena_bytes = 1;
  EXPECT_THAT(std::string(Server::Start(config).status().message()), HasSubstr("--arena-bytes"));
}

TEST(ServerService, AFullQueueIsUnavailable) {
  Config config;
  config.queue_requests = 1;
  config.running_requests = 1;
  TinyServer server(config);
  std::vector<grpc::Status> statuses(16);
  std::vector<std::thread> threads;
  for (grpc::Status& status : statuses) {
    threads.emplace_back([&server, &status] {
      Context context;
      v1::GenerateResponse response;
      status = server.inference().Generate(&context, TokensRequest(500), &response);
    });
  }
  for (std::thread& thread : threads) thread.join();
  int served = 0;
  for (const grpc::Status& status : statuses) {
    served += status.ok();
    if (status.ok()) continue;
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr("queue"));
  }
  EXPECT_GT(served, 0);
  EXPECT_LT(served, 16);
}

}  // namespace
}  // namespace lorica
