#include "client/lorica_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/fakes/fake_server.h"
#include "tests/fakes/free_port.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ClientOptions OptionsFor(const FakeServer& server) {
  ClientOptions options;
  options.server = server.address();
  options.retry.initial_backoff = absl::Milliseconds(5);
  return options;
}

v1::GenerateRequest Prompt(const std::string& prompt, const std::string& adapter = "") {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.set_adapter_id(adapter);
  return request;
}

bool Ignore(const v1::GenerateStreamResponse&) { return true; }

TEST(LoricaClient, ReturnsWhatTheServerSays) {
  FakeServer server;
  LoricaClient client(OptionsFor(server));
  auto response = client.Generate(Prompt("Hello", "a"));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->text(), "Hello");
  EXPECT_EQ(response->adapter().adapter_id(), "a");
}

TEST(LoricaClient, StreamsChunksInOrderAndTheFinishLast) {
  FakeServer server;
  LoricaClient client(OptionsFor(server));
  std::string text;
  bool finished = false;
  absl::Status status =
      client.GenerateStream(Prompt("stream"), [&](const v1::GenerateStreamResponse& chunk) {
        EXPECT_FALSE(finished);
        text += chunk.text();
        finished = chunk.has_finish();
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(text, "stream");
  EXPECT_TRUE(finished);
}

TEST(LoricaClient, SendsTheAdapterAsHeaderTooUnlessAHeaderCannotHoldIt) {
  FakeServer server;
  LoricaClient client(OptionsFor(server));
  for (const std::string id : {"", "ticket-triage", "a/b@c", "two words", "b\xC3\xA4r", "a\nb"}) {
    EXPECT_TRUE(client.Generate(Prompt("x", id)).ok());
  }
  EXPECT_TRUE(client.GenerateStream(Prompt("x", "streamed"), Ignore).ok());
  EXPECT_THAT(server.adapter_headers(),
              ElementsAre("", "ticket-triage", "a/b@c", "", "", "", "streamed"));
}

TEST(LoricaClient, RepeatsUnavailableBeforeTheFirstToken) {
  FakeServer server;
  server.FailNext(2, grpc::Status(grpc::UNAVAILABLE, "queue full"));
  LoricaClient client(OptionsFor(server));
  EXPECT_TRUE(client.Generate(Prompt("x")).ok());
  EXPECT_EQ(server.requests().size(), 3);
  server.FailNext(2, grpc::Status(grpc::UNAVAILABLE, "queue full"));
  EXPECT_TRUE(client.GenerateStream(Prompt("x"), Ignore).ok());
  EXPECT_EQ(server.requests().size(), 6);
}

TEST(LoricaClient, GivesUpAfterAttemptsMax) {
  FakeServer server;
  server.FailNext(100, grpc::Status(grpc::UNAVAILABLE, "queue full"));
  ClientOptions options = OptionsFor(server);
  options.retry.attempts_max = 3;
  LoricaClient client(options);
  auto response = client.Generate(Prompt("x"));
  EXPECT_TRUE(absl::IsUnavailable(response.status()));
  EXPECT_FALSE(IsNoServer(response.status()));
  EXPECT_THAT(std::string(response.status().message()), HasSubstr("queue full"));
  EXPECT_EQ(server.requests().size(), 3);
}

TEST(LoricaClient, NeverRepeatsOtherCodes) {
  FakeServer server;
  LoricaClient client(OptionsFor(server));
  for (const auto code : {grpc::INVALID_ARGUMENT, grpc::RESOURCE_EXHAUSTED, grpc::INTERNAL,
                          grpc::NOT_FOUND, grpc::ABORTED}) {
    const size_t before = server.requests().size();
    server.FailNext(1, grpc::Status(code, "no"));
    EXPECT_EQ(static_cast<int>(client.Generate(Prompt("x")).status().code()), code);
    EXPECT_EQ(server.requests().size(), before + 1);
  }
}

TEST(LoricaClient, NeverRepeatsAfterTheFirstChunk) {
  FakeServer server;
  server.set_stream_break(2, grpc::Status(grpc::UNAVAILABLE, "restarting"));
  LoricaClient client(OptionsFor(server));
  int chunks = 0;
  absl::Status status =
      client.GenerateStream(Prompt("four"), [&](const auto&) { return ++chunks > 0; });
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(chunks, 2);
  EXPECT_EQ(server.requests().size(), 1);
}

TEST(LoricaClient, WaitsAsLongAsTheServerAsks) {
  FakeServer server;
  LoricaClient client(OptionsFor(server));
  for (const bool by_trailer : {true, false}) {
    if (by_trailer) {
      server.FailNext(1, grpc::Status(grpc::UNAVAILABLE, "busy"), "150");
    } else {
      server.FailNext(1, RetryLaterStatus("busy", absl::Milliseconds(150)));
    }
    const absl::Time start = absl::Now();
    EXPECT_TRUE(client.Generate(Prompt("x")).ok());
    EXPECT_GE(absl::Now() - start, absl::Milliseconds(150));
  }
}

TEST(LoricaClient, ANegativePushbackForbidsRepeating) {
  FakeServer server;
  server.FailNext(1, grpc::Status(grpc::UNAVAILABLE, "draining"), "-1");
  LoricaClient client(OptionsFor(server));
  EXPECT_TRUE(absl::IsUnavailable(client.Generate(Prompt("x")).status()));
  EXPECT_EQ(server.requests().size(), 1);
}

TEST(LoricaClient, DoesNotWaitForARetryBeyondTheDeadline) {
  FakeServer server;
  server.FailNext(1, grpc::Status(grpc::UNAVAILABLE, "busy"), "30000");
  LoricaClient client(OptionsFor(server));
  const absl::Time start = absl::Now();
  auto response = client.Generate(Prompt("x"), {.timeout = absl::Seconds(1)});
  EXPECT_TRUE(absl::IsUnavailable(response.status())) << response.status();
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
}

TEST(LoricaClient, TimeoutsSayHowLongTheyWere) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(100));
  LoricaClient client(OptionsFor(server));
  absl::Status status = client.GenerateStream(Prompt(std::string(100, 'x')), Ignore,
                                              {.timeout = absl::Milliseconds(250)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("250ms"));
}

TEST(LoricaClient, ACallbackThatReturnsFalseCancelsTheRequest) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(2));
  LoricaClient client(OptionsFor(server));
  int chunks = 0;
  absl::Status status = client.GenerateStream(Prompt(std::string(5000, 'x')),
                                              [&](const auto&) { return ++chunks < 3; });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(chunks, 3);
  while (server.cancelled() == 0) absl::SleepFor(absl::Milliseconds(1));
}

TEST(LoricaClient, CancellationEndsARunningStreamAndWhatStartsLater) {
  FakeServer server;
  server.set_chunk_delay(absl::Milliseconds(5));
  LoricaClient client(OptionsFor(server));
  Cancellation cancellation;
  std::thread canceller([&] {
    while (server.requests().empty()) absl::SleepFor(absl::Milliseconds(1));
    cancellation.Cancel();
  });
  const CallOptions options = {.cancellation = &cancellation};
  EXPECT_TRUE(
      absl::IsCancelled(client.GenerateStream(Prompt(std::string(5000, 'x')), Ignore, options)));
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(client.Generate(Prompt("x"), options).status()));
  EXPECT_EQ(server.requests().size(), 1);
}

TEST(LoricaClient, CancellationEndsTheWaitBeforeARetry) {
  FakeServer server;
  server.FailNext(1, grpc::Status(grpc::UNAVAILABLE, "busy"), "30000");
  LoricaClient client(OptionsFor(server));
  Cancellation cancellation;
  std::thread canceller([&] {
    while (server.requests().empty()) absl::SleepFor(absl::Milliseconds(1));
    cancellation.Cancel();
  });
  const absl::Time start = absl::Now();
  auto response = client.Generate(Prompt("x"), {.cancellation = &cancellation});
  EXPECT_TRUE(absl::IsCancelled(response.status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  canceller.join();
}

TEST(LoricaClient, NobodyThereSaysWhatToDo) {
  std::string address;
  {
    FakeServer gone;
    address = gone.address();
  }
  LoricaClient client({.server = address});
  const absl::Time start = absl::Now();
  auto response = client.GetStatus();
  EXPECT_TRUE(IsNoServer(response.status())) << response.status();
  EXPECT_TRUE(absl::IsUnavailable(response.status()));
  EXPECT_THAT(std::string(response.status().message()),
              testing::AllOf(HasSubstr(address), HasSubstr("loricad"), HasSubstr("--server")));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
}

TEST(LoricaClient, CancellationEndsTheWaitForAServer) {
  LoricaClient client({.server = "127.0.0.1:1", .connect_wait = absl::Seconds(60)});
  Cancellation cancellation;
  std::thread canceller([&] {
    absl::SleepFor(absl::Milliseconds(100));
    cancellation.Cancel();
  });
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsCancelled(client.GetStatus({.cancellation = &cancellation}).status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  canceller.join();
}

TEST(LoricaClient, ConnectWaitsForAServerThatComesLater) {
  int port = 0;
  {
    FakeServer first;
    port = first.port();
  }
  std::unique_ptr<FakeServer> late;
  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(400));
    late = std::make_unique<FakeServer>(port);
  });
  LoricaClient client({.server = "127.0.0.1:" + std::to_string(port)});
  EXPECT_TRUE(client.Connect(absl::Seconds(20)).ok());
  starter.join();
  EXPECT_TRUE(client.GetStatus().ok());
}

// The way to one connection of a server: nothing comes along for `delay`, then everything.
class SlowWay {
 public:
  SlowWay(int port, absl::Duration delay) : port_(BindToLoopback(listener_)) {
    ::listen(listener_, 1);
    there_ = std::thread([this, port, delay] {
      near_ = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      absl::SleepFor(delay);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<uint16_t>(port));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      ::connect(far_, reinterpret_cast<sockaddr*>(&address), sizeof address);
      std::thread back([this] { Carry(far_, near_); });
      Carry(near_, far_);
      back.join();
    });
  }
  ~SlowWay() {
    for (const int socket : {listener_, near_.load(), far_}) ::shutdown(socket, SHUT_RDWR);
    there_.join();
    for (const int socket : {listener_, near_.load(), far_}) ::close(socket);
  }
  int port() const { return port_; }

 private:
  static void Carry(int from, int to) {
    char bytes[4096];
    for (ssize_t got; (got = ::recv(from, bytes, sizeof bytes, 0)) > 0;) {
      ::send(to, bytes, got, MSG_NOSIGNAL);
    }
    ::shutdown(to, SHUT_RDWR);
  }

  const int listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int far_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int port_;
  std::atomic<int> near_{-1};
  std::thread there_;
};

// Over an ocean, by TLS, or of a machine that is busy: greetings take a while.
TEST(LoricaClient, AServerWhoseGreetingTakesASecondIsThere) {
  FakeServer server;
  SlowWay way(server.port(), absl::Seconds(1));
  LoricaClient client({.server = "127.0.0.1:" + std::to_string(way.port())});
  const auto status = client.GetStatus();
  EXPECT_TRUE(status.ok()) << status.status();
}

TEST(LoricaClient, ReconnectsToAServerThatWasRestarted) {
  auto server = std::make_unique<FakeServer>();
  const int port = server->port();
  LoricaClient client(OptionsFor(*server));
  ASSERT_TRUE(client.Generate(Prompt("before")).ok());
  server.reset();
  std::thread starter([&] {
    absl::SleepFor(absl::Milliseconds(20));
    server = std::make_unique<FakeServer>(port);
  });
  absl::StatusOr<v1::GenerateResponse> after = client.Generate(Prompt("after"));
  for (int i = 0; i < 100 && !after.ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(50));
    after = client.Generate(Prompt("after"));
  }
  starter.join();
  EXPECT_TRUE(after.ok()) << after.status();
}

TEST(LoricaClient, AllAdaptersFollowsThePages) {
  FakeServer server;
  for (const char* id : {"a", "b", "c", "d", "e"}) server.AddAdapter(id);
  LoricaClient client(OptionsFor(server));
  auto adapters = client.AllAdapters();
  ASSERT_TRUE(adapters.ok());
  std::string ids;
  for (const v1::Adapter& adapter : *adapters) ids += adapter.adapter_id();
  EXPECT_EQ(ids, "abcde");
}

TEST(LoricaClient, WatchingEndsWithOkWhenTheCallbackHasSeenEnough) {
  FakeServer server;
  server.AddAdapter("a");
  LoricaClient client(OptionsFor(server));
  int events = 0;
  EXPECT_TRUE(client.WatchAdapters({}, [&](const auto&) { return ++events < 2; }).ok());
  EXPECT_EQ(events, 2);
}

}  // namespace
}  // namespace lorica
