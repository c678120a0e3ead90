// Goal: whatever a peer does to the HTTP port, its own request fails with the right status, in
// time, and nobody beside it notices; nothing is left behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "adapters/sha256.h"
#include "server/api/gateway.h"
#include "server/http/connection.h"
#include "server/http/generation.h"
#include "server/http/http_service.h"
#include "server/http/transport.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/raw_http2.h"
#include "tests/integration/neighbours.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using Json = nlohmann::json;
using ::testing::AnyOf;

const absl::Duration kUnaffected = kInstrumentationFactor * absl::Seconds(4);
constexpr int64_t kBodyGrowthBytesMax = 64 << 20;  // several of the largest, and as text

std::string HashOf(const std::string& key) {
  Sha256 sum;
  sum.Update(key);
  return sum.Finish();
}

// Lines of an access log.
int LoggedWith(const std::string& log, int status) {
  std::ifstream file(log);
  int count = 0;
  for (std::string line; std::getline(file, line);) {
    count += Json::parse(line)["status"] == status ? 1 : 0;
  }
  return count;
}

class HttpFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTinyAdapter(adapters_, "plain", 4, false);
    Start({});
  }
  void Start(std::vector<std::string> flags, const std::string& key = "") {
    ServerProcess::Options options;
    options.client.api_key = key;
    options.model = TinyModelPath();
    options.adapters_dir = adapters_.path();
    options.flags = {"--http-address", "127.0.0.1:0", "--threads", "1", "--arena-bytes", "16MiB"};
    options.flags.insert(options.flags.end(), flags.begin(), flags.end());
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int port() const { return server_->http_port(); }
  static std::string Generation(int tokens, const HttpHeaders& headers = {}) {
    const Json body = {{"inputs", "hi"},
                       {"parameters", {{"max_new_tokens", tokens}, {"ignore_eos_token", true}}}};
    return RequestBytes("POST", "/generate_stream", body.dump(), headers);
  }
  int64_t OpenCalls() const {
    const auto status = server_->NewClient()->GetStatus();
    return status.ok() ? status->running() + status->queued() : -1;
  }

  TemporaryFolder adapters_;
  TemporaryFolder folder_;
  std::unique_ptr<ServerProcess> server_;
};

// Row 31.
TEST_F(HttpFaults, HeadersOfAnySizeEndTheirOwnConnection) {
  Neighbours neighbours(server_.get());
  for (const int mb : {1, 5, 10, 20, 40}) {
    const absl::Time began = absl::Now();
    HttpSocket socket(port());
    socket.Send("GET /health HTTP/1.1\r\nHost: x\r\nx-long: " + std::string(mb << 20, 'a'));
    EXPECT_EQ(ParseAnswer(socket.Read(absl::Seconds(10))).status, 431) << mb;
    EXPECT_LT(absl::Now() - began, absl::Seconds(3));
  }
  EXPECT_LT(neighbours.ProcessorTime(), absl::Seconds(10));
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 33: what HTTP/1.1 has of it, pipelined requests and resets.
TEST_F(HttpFaults, RequestsAndResetsInMasses) {
  Neighbours neighbours(server_.get());
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  for (int i = 0; i < 10; ++i) {
    RawConnection connection(port());
    EXPECT_TRUE(connection.Send(many));
  }
  for (int i = 0; i < 3000; ++i) {
    RawConnection connection(port());
    connection.Send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    connection.Cut();
  }
  neighbours.Check(absl::Seconds(10));
  neighbours.ExpectNothingLeft(absl::Seconds(20));
  EXPECT_LT(neighbours.ProcessorTime(), absl::Seconds(60));
}

// Row 34.
TEST_F(HttpFaults, IdleConnectionsKeepNobodyOut) {
  Neighbours neighbours(server_.get());
  constexpr int kIdle = 10'000;
  const int64_t before = server_->ResidentBytes();
  {
    std::vector<std::unique_ptr<RawConnection>> idle;
    for (int i = 0; i < kIdle; ++i) idle.push_back(std::make_unique<RawConnection>(port()));
    // In the crush itself a new one may be told 503; idle ones give way within a moment.
    const absl::Time began = absl::Now();
    int served = 0;
    while (served < 10 && absl::Now() - began < kUnaffected) {
      const int status = HttpCall(port(), "GET", "/health").status;
      EXPECT_THAT(status, AnyOf(200, 503));
      served += status == 200 ? 1 : 0;
    }
    EXPECT_EQ(served, 10);
    EXPECT_LT(server_->ResidentBytes() - before, kInstrumentationFactor * int64_t{256} << 20);
  }
  neighbours.ExpectNothingLeft(absl::Seconds(20));
  // New connections may be turned away in the crush itself; gRPC is never.
}

// Row 35.
TEST_F(HttpFaults, BodiesAreBoundedWhateverTheyAnnounce) {
  Neighbours neighbours(server_.get());
  const int64_t before = server_->ResidentBytes();
  const absl::Time began = absl::Now();
  const auto status = [this](const std::string& framing, const std::string& body) {
    HttpSocket socket(port());
    socket.Send("POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
                framing + "\r\n\r\n" + body);
    return ParseAnswer(socket.Read(absl::Seconds(5), "\r\n\r\n")).status;
  };
  const auto sized = [&](int64_t bytes) {
    return status(absl::StrCat("Content-Length: ", bytes), std::string(bytes, ' '));
  };
  EXPECT_EQ(sized(kHttpBodyBytesMax), 400) << "read, and no JSON";
  EXPECT_EQ(sized(kHttpBodyBytesMax + 1), 413);
  EXPECT_EQ(status("Content-Length: 4294967296", "{"), 413);
  EXPECT_EQ(status("Content-Length: 99999999999999999999", "{"), 400);
  const std::string chunk = absl::StrCat("100000\r\n", std::string(1 << 20, ' '), "\r\n");
  std::string chunks;
  for (int i = 0; i < 9; ++i) chunks += chunk;
  EXPECT_EQ(status("Transfer-Encoding: chunked", chunks), 413);
  // Nothing is unpacked.
  EXPECT_EQ(status("Content-Encoding: gzip\r\nContent-Length: 2", "{}"), 415);
  EXPECT_EQ(status("Transfer-Encoding: gzip", "{}"), 501);
  EXPECT_LT(server_->ResidentBytes() - before, kInstrumentationFactor * kBodyGrowthBytesMax);
  EXPECT_LT(absl::Now() - began, absl::Seconds(20));
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Rows 36 and 37.
TEST_F(HttpFaults, ReadersThatDoNotReadAreCut) {
  Neighbours neighbours(server_.get());
  const absl::Time began = absl::Now();
  std::vector<std::unique_ptr<HttpSocket>> readers;
  for (int i = 0; i < 8; ++i) {
    readers.push_back(std::make_unique<HttpSocket>(port(), /*receive_bytes=*/2048));
    readers.back()->Send(Generation(480));
  }
  while (OpenCalls() == 0 && absl::Now() - began < kUnaffected) {  // until they have begun
    absl::SleepFor(absl::Milliseconds(5));
  }
  int64_t open = OpenCalls();  // of the neighbours as well, which come and go
  while (open != 0 && absl::Now() - began < kSlowReaderLimit + absl::Seconds(20)) {
    for (size_t i = 0; i < 4; ++i) readers[i]->Read(absl::Milliseconds(1), "x");
    absl::SleepFor(absl::Milliseconds(250));
    open = OpenCalls();
  }
  EXPECT_EQ(open, 0);
  readers.clear();
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Rows 38 and 40: while it waits, in the prefill, while it decodes.
TEST_F(HttpFaults, ClientsThatVanishAreNoticedWithinTwoSeconds) {
  Start({"--running-requests", "1"});
  Neighbours neighbours(server_.get());
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<HttpSocket>> clients;
    for (int i = 0; i < 4; ++i) {
      clients.push_back(std::make_unique<HttpSocket>(port()));
      clients.back()->Send(Generation(480));
    }
    absl::SleepFor(absl::Milliseconds(round));
    for (auto& client : clients) client->Close();
  }
  const absl::Time left = absl::Now();
  // The neighbours themselves have two calls open.
  while (OpenCalls() > 2 && absl::Now() - left < absl::Seconds(10)) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_LT(absl::Now() - left, absl::Seconds(2));
  neighbours.Check(absl::Seconds(10));
  neighbours.ExpectNothingLeft(absl::Seconds(3));
}

// Row 38, while what they asked for is fetched.
TEST_F(HttpFaults, ClientsThatVanishWhileAnAdapterIsFetchedAreFreed) {
  FakeHub hub;
  hub.Commit("org/cold", FakeHub::FilesOf(adapters_.path() + "/plain"));
  absl::Notification go_on;
  hub.AddFault({.target_part = "/blobs/", .before = [&] { go_on.WaitForNotification(); }});
  Start({"--hub-allow", "org/*", "--hub-endpoint", hub.endpoint(), "--hub-redirect-hosts",
         hub.cdn_place()});
  Neighbours neighbours(server_.get());
  const Json body = {{"model", "org/cold"}, {"prompt", "hi"}, {"max_tokens", 2}, {"stream", true}};
  std::vector<std::unique_ptr<HttpSocket>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<HttpSocket>(port()));
    clients.back()->Send(RequestBytes("POST", "/v1/completions", body.dump()));
  }
  const auto wait_until = [&](int waiting, absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    auto status = server_->NewClient()->GetStatus();
    while (status.ok() && status->waiting() != waiting && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(10));
      status = server_->NewClient()->GetStatus();
    }
    ASSERT_TRUE(status.ok()) << status.status();
    EXPECT_EQ(status->waiting(), waiting);
  };
  wait_until(4, absl::Seconds(10));
  for (auto& client : clients) client->Close();
  wait_until(0, absl::Seconds(2));
  go_on.Notify();
  Json alone = body;
  alone["stream"] = false;
  EXPECT_EQ(Post(port(), "/v1/completions", alone).status, 200) << "for whoever comes next";
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(3));
}

// Row 41: the body that was announced never ends; the connection ends. So does one that is
// kept open after its answer (TransportTest), after kHttpKeepAlive.
TEST_F(HttpFaults, ABodyThatNeverComesEndsItsConnection) {
  constexpr absl::Duration kBodyTime = absl::Seconds(3);
  Start({"--http-body-seconds", "3"});
  Neighbours neighbours(server_.get());
  const absl::Time began = absl::Now();
  RawConnection connection(port());
  connection.Send(
      "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 100\r\n\r\n{\"inputs\": ");
  EXPECT_TRUE(connection.ClosedWithin(kBodyTime + absl::Seconds(5)));
  EXPECT_GT(absl::Now() - began, kBodyTime - absl::Milliseconds(100));
  EXPECT_THAT(connection.heard(), ::testing::StartsWith("HTTP/1.1 408"));
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 42.
TEST_F(HttpFaults, OtherProtocolsAreClosed) {
  Neighbours neighbours(server_.get());
  const size_t log = server_->Log().size();
  for (int round = 0; round < 200; ++round) {
    for (const std::string bytes :
         {Preface() + CallHeaders(1, "/lorica.v1.InferenceService/Generate"),
          std::string("\x16\x03\x01\x02\x00\x01\x00", 7), std::string(64, '\x7f') + "\r\n\r\n"}) {
      RawConnection connection(port());
      connection.Send(bytes);
      if (round == 0) {
        EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(15))) << bytes;
      }
    }
  }
  EXPECT_LT(server_->Log().size(), log + 4000) << "the log is not flooded";
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(20));
}

// Row 43.
TEST_F(HttpFaults, WhatIsNotThereIsNotFound) {
  Neighbours neighbours(server_.get());
  const absl::Time began = absl::Now();
  for (const char* path : {"/none", "//", "/v1", "/v1/none", "/lorica.v1.AdapterService/None",
                           "/none.Service/None", "/grpc.health.v1.Health/Check"}) {
    const HttpAnswer answer = HttpCall(port(), "POST", path, "{}");
    EXPECT_EQ(answer.status, 404) << path;
    EXPECT_TRUE(answer.json().contains("error")) << path;
  }
  for (const auto& [method, path] :
       {std::pair("GET", "/generate"), std::pair("POST", "/health"), std::pair("PUT", "/v1/models"),
        std::pair("DELETE", "/lorica.v1.AdapterService/DeleteAdapter"),
        std::pair("BREW", "/generate")}) {
    EXPECT_EQ(HttpCall(port(), method, path).status, 405) << method << path;
  }
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 44, of who sends no key and then a body without end.
TEST_F(HttpFaults, BodiesWithoutAKeyAreNotWaitedFor) {
  folder_.Write(
      "tenants.json",
      Json{{"tenants", {{{"name", "near"}, {"keys", {HashOf("near-key")}}, {"adapters", {"*"}}}}}}
          .dump());
  const std::string log = folder_.path() + "/access";
  Start({"--tenants-file", folder_.path() + "/tenants.json", "--http-access-log", log,
         "--http-generations", "4"},
        "near-key");
  Neighbours neighbours(server_.get(), "near-key");
  constexpr int kSlow = 100;
  std::vector<std::unique_ptr<RawConnection>> slow;
  for (int i = 0; i < kSlow; ++i) {
    slow.push_back(std::make_unique<RawConnection>(port()));
    slow.back()->Send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 8000000\r\n\r\n{");
  }
  const absl::Time began = absl::Now();
  EXPECT_EQ(HttpCall(port(), "GET", "/health").status, 200);
  EXPECT_LT(absl::Now() - began, kInstrumentationFactor * absl::Seconds(1));
  int told = 0;
  for (auto& connection : slow) {
    EXPECT_TRUE(connection->ClosedWithin(absl::Seconds(5)));
    // In the crush itself one may be turned away before its head is read.
    EXPECT_THAT(connection->heard(), AnyOf(::testing::StartsWith("HTTP/1.1 401"),
                                           ::testing::StartsWith("HTTP/1.1 503")));
    told += connection->heard().starts_with("HTTP/1.1 401") ? 1 : 0;
  }
  EXPECT_GT(told, kSlow / 2);
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
  EXPECT_EQ(LoggedWith(log, 401), told);
}

// Row 41, of so many that there is no thread for anybody else, where nobody needs a key.
TEST_F(HttpFaults, SlowBodiesKeepNobodyOut) {
  const std::string log = folder_.path() + "/access";
  Start({"--http-generations", "4", "--http-access-log", log});
  Neighbours neighbours(server_.get());
  constexpr int kTooMany = 40;
  constexpr int kSlow = 4 + kSpareConnections + kTooMany;
  HttpSocket stream(port());
  stream.Send(Generation(480, {{"Connection", "close"}}));
  const std::string begun = stream.Read(absl::Seconds(5), "data");
  std::vector<std::unique_ptr<HttpSocket>> slow;
  for (int i = 0; i < kSlow; ++i) {
    slow.push_back(std::make_unique<HttpSocket>(port()));
    slow.back()->Send(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 8000000\r\n\r\n{");
  }
  for (int i = 0; i < 10; ++i) {
    const absl::Time began = absl::Now();
    EXPECT_EQ(HttpCall(port(), "GET", "/health").status, 200);
    EXPECT_LT(absl::Now() - began, kInstrumentationFactor * absl::Seconds(1)) << i;
  }
  absl::SleepFor(2 * kLookTime);  // so that whoever gives way has seen it
  int told = 0;
  for (auto& socket : slow) {
    told += ParseAnswer(socket->Read(absl::Milliseconds(5))).status == 503 ? 1 : 0;
  }
  EXPECT_GE(told, kTooMany);
  const HttpAnswer streamed = ParseAnswer(begun + stream.Read(absl::Seconds(60)));
  ASSERT_FALSE(streamed.events().empty());
  EXPECT_TRUE(Json::parse(streamed.events().back())["generated_text"].is_string());
  slow.clear();
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
  EXPECT_EQ(LoggedWith(log, 503), told);
}

// Row 35, of many at once.
TEST_F(HttpFaults, BodiesInMassesAreBoundedTogether) {
  constexpr int kBodies = 4 * kBodiesBytesMax / kHttpBodyBytesMax;
  Neighbours neighbours(server_.get());
  const int64_t before = server_->ResidentBytes();
  const std::string body(kHttpBodyBytesMax - 1, ' ');
  std::vector<std::unique_ptr<HttpSocket>> bodies;
  for (int i = 0; i < kBodies; ++i) {
    bodies.push_back(std::make_unique<HttpSocket>(port()));
    bodies.back()->Send(
        absl::StrCat("POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     "Content-Length: ",
                     kHttpBodyBytesMax, "\r\n\r\n", body));
  }
  int refused = 0;
  for (auto& socket : bodies) {
    refused += ParseAnswer(socket->Read(absl::Milliseconds(20))).status == 503 ? 1 : 0;
  }
  EXPECT_GE(refused, kBodies * 3 / 4 - 1) << "less than all of each body comes, and some is free";
  EXPECT_LT(refused, kBodies);
  EXPECT_LT(server_->ResidentBytes() - before,
            kInstrumentationFactor * (kBodiesBytesMax + 2 * kBodyGrowthBytesMax));
  const absl::Time began = absl::Now();
  EXPECT_EQ(HttpCall(port(), "POST", "/generate", R"({"inputs": "hi"})").status, 200)
      << "one of ordinary size";
  EXPECT_LT(absl::Now() - began, kUnaffected);
  bodies.clear();
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 35, of connections that stay open for another request.
TEST_F(HttpFaults, NoBodyIsKeptLongerThanItsRequest) {
  constexpr int kBodies = 64;
  Neighbours neighbours(server_.get());
  const int64_t before = server_->ResidentBytes();
  const std::string request =
      RequestBytes("POST", "/generate", std::string(kHttpBodyBytesMax, ' '));
  std::vector<std::unique_ptr<HttpSocket>> kept;
  for (int i = 0; i < kBodies; ++i) {
    kept.push_back(std::make_unique<HttpSocket>(port()));
    kept.back()->Send(request);
    EXPECT_THAT(kept.back()->Read(absl::Seconds(5), "\r\n\r\n"),
                ::testing::StartsWith("HTTP/1.1 400"));
  }
  // What the allocator keeps for its threads is less than half of them.
  EXPECT_LT(server_->ResidentBytes() - before,
            kInstrumentationFactor * kBodies * kHttpBodyBytesMax / 2);
  neighbours.Check(kUnaffected);
  kept.clear();
  neighbours.ExpectNothingLeft();
}

// Rows 44 and 45.
TEST_F(HttpFaults, KeysAreAskedForAndAForgedTenantCountsForNothing) {
  const Json expired = {{"sha256", HashOf("old-key")}, {"expires", "2020-01-01T00:00:00Z"}};
  folder_.Write(
      "tenants.json",
      Json{{"tenants",
            {{{"name", "app"}, {"keys", {HashOf("app-key"), expired}}, {"adapters", {"*"}}},
             {{"name", "rich"}, {"keys", {HashOf("rich-key")}}, {"adapters", {"*"}}},
             {{"name", "near"}, {"keys", {HashOf("near-key")}}, {"adapters", {"*"}}}}}}
          .dump());
  Start({"--tenants-file", folder_.path() + "/tenants.json"}, "near-key");
  Neighbours neighbours(server_.get(), "near-key");
  const std::string body = Json({{"model", ""}, {"prompt", "hi"}, {"max_tokens", 1}}).dump();
  const auto status = [&](const HttpHeaders& headers) {
    return HttpCall(port(), "POST", "/v1/completions", body, headers).status;
  };
  const auto bearer = [](const std::string& key) {
    return std::pair<std::string, std::string>("authorization", "Bearer " + key);
  };
  const absl::Time began = absl::Now();
  EXPECT_EQ(status({bearer("app-key")}), 200);
  EXPECT_EQ(status({}), 401);
  EXPECT_EQ(status({bearer("app-kez")}), 401);
  EXPECT_EQ(status({bearer("old-key")}), 401);
  EXPECT_EQ(status({bearer(std::string(5'000, 'k'))}), 401);
  EXPECT_EQ(status({bearer(std::string(20'000, 'k'))}), 400) << "no line of a head is so long";
  EXPECT_EQ(status({bearer(std::string(1 << 20, 'k'))}), 431);
  EXPECT_EQ(status({bearer("app-key"), {"x-tenant-id", "rich"}}), 200);
  EXPECT_EQ(status({bearer("app-key"), {"x-tenant-id", "none"}}), 200);
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  ClientOptions client;
  client.server = server_->address();
  client.api_key = "rich-key";
  const auto usage = LoricaClient(client).GetUsage({});
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->rows_size(), 0) << "nothing was charged to the forged tenant";
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 46.
TEST_F(HttpFaults, ScrapesInMassesAndSlowOnes) {
  Neighbours neighbours(server_.get());
  std::vector<std::unique_ptr<HttpSocket>> slow;
  for (int i = 0; i < 20; ++i) {
    slow.push_back(std::make_unique<HttpSocket>(port(), /*receive_bytes=*/2048));
    slow.back()->Send(RequestBytes("GET", "/metrics", ""));
  }
  const absl::Time began = absl::Now();
  std::atomic<int> answered{0};
  std::vector<std::thread> scrapers;
  for (int i = 0; i < 4; ++i) {
    scrapers.emplace_back([&] {
      for (int k = 0; k < 500; ++k) {
        if (HttpCall(port(), "GET", "/metrics").status == 200) answered.fetch_add(1);
      }
    });
  }
  for (std::thread& scraper : scrapers) scraper.join();
  const absl::Duration took = absl::Now() - began;
  RecordProperty("scrapes_a_second", static_cast<int>(2000 / absl::ToDoubleSeconds(took)));
  EXPECT_EQ(answered.load(), 2000);
  EXPECT_LT(took, absl::Seconds(20));
  EXPECT_EQ(HttpCall(port(), "GET", "/metrics/../").status, 404);
  EXPECT_EQ(HttpCall(port(), "GET", "/metrics/%2e%2e/info").status, 404);
  EXPECT_EQ(HttpCall(port(), "POST", "/metrics", "{}").status, 405);
  HttpSocket large(port());
  large.Send(
      "POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 1073741824\r\n\r\n{");
  EXPECT_EQ(ParseAnswer(large.Read(absl::Seconds(5))).status, 413);
  slow.clear();
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Slowloris: a byte a second is no request after kHeadTimeMax.
TEST_F(HttpFaults, HeadsThatDripAreCutAndNobodyWaitsForThem) {
  Neighbours neighbours(server_.get());
  std::vector<std::unique_ptr<RawConnection>> drips;
  for (int i = 0; i < 300; ++i) drips.push_back(std::make_unique<RawConnection>(port()));
  const absl::Time began = absl::Now();
  while (absl::Now() - began < kHeadTimeMax + absl::Seconds(2)) {
    for (auto& drip : drips) drip->Send("a", absl::Milliseconds(50));
    absl::SleepFor(absl::Seconds(1));
  }
  int closed = 0;
  for (auto& drip : drips) closed += drip->ClosedWithin(absl::Milliseconds(10)) ? 1 : 0;
  EXPECT_EQ(closed, 300);
  drips.clear();
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

}  // namespace
}  // namespace lorica
