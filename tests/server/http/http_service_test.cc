// The HTTP face of a whole server: health, overload, clients that leave, drain.
#include "server/http/http_service.h"

#include <atomic>
#include <map>
#include <thread>

#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

Json LongBody(int tokens) {
  return {{"inputs", "hi"},
          {"parameters", {{"max_new_tokens", tokens}, {"ignore_eos_token", true}}}};
}

TEST(HttpServiceTest, HealthHasNoBody) {
  TinyServer server;
  for (const char* path : {"/", "/health", "/ping", "/startup"}) {
    const HttpAnswer answer = HttpCall(server.server().http_port(), "GET", path);
    EXPECT_EQ(answer.status, 200) << path;
    EXPECT_EQ(answer.body, "");
  }
}

// A page that ends in a slash would look for what it loads beneath itself.
TEST(HttpServiceTest, PagesWithASlashLeadToThoseWithout) {
  Config config;
  config.http_prefix = "/lorica";
  TinyServer server(config);
  for (const std::string page : {"console", "docs"}) {
    for (const std::string prefix : {"", "/lorica"}) {
      const int port = server.server().http_port();
      const HttpAnswer answer = HttpCall(port, "GET", prefix + "/" + page + "/");
      EXPECT_EQ(answer.status, 308) << prefix << page;
      EXPECT_EQ(answer.headers.at("location"), "../" + page);
      EXPECT_EQ(HttpCall(port, "GET", prefix + "/" + page).status, 200);
    }
  }
}

// Of the tenant `name`, whose key is called "NAME-key".
Json Tenant(const std::string& name) {
  Sha256 hash;
  hash.Update(name + "-key");
  return {{"name", name}, {"keys", {hash.Finish()}}, {"adapters", {"*"}}};
}

Config WithTenants(const TemporaryFolder& folder, const Json& tenants) {
  folder.Write("tenants.json", Json({{"tenants", tenants}}).dump());
  Config config;
  config.tenants_file = folder.path() + "/tenants.json";
  return config;
}

TEST(HttpServiceTest, MoreBlanksBeforeAKeyAreNoPartOfItOverBothPorts) {
  TemporaryFolder folder;
  TinyServer server(WithTenants(folder, Json::array({Tenant("app")})), " app-key");
  const int port = server.server().http_port();
  for (const auto& [bearer, status] : std::map<std::string, int>{
           {"Bearer app-key", 200}, {"bearer   app-key", 200}, {"Bearer app -key", 401}}) {
    EXPECT_EQ(Post(port, "/generate", LongBody(1), {{"Authorization", bearer}}).status, status)
        << bearer;
  }
  Context context;
  v1::GenerateResponse answer;
  const grpc::Status status = server.inference().Generate(&context, TokensRequest(1), &answer);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

// Who asked again would be refused for ever.
TEST(HttpServiceTest, MoreAnswersThanATenantsStreamsAreTheCallersMistake) {
  TemporaryFolder folder;
  Json app = Tenant("app");
  app["streams"] = 2;
  TinyServer server(WithTenants(folder, Json::array({app})));
  const auto complete = [&](const Json& prompt, int n) {
    const Json body = {{"model", "plain"}, {"prompt", prompt}, {"n", n}, {"max_tokens", 1}};
    return Post(server.server().http_port(), "/v1/completions", body,
                {{"Authorization", "Bearer app-key"}});
  };
  EXPECT_EQ(complete("a", 2).status, 200);
  EXPECT_EQ(complete({"a", "b"}, 1).status, 200);
  for (const HttpAnswer& refused : {complete("a", 3), complete({"a", "b"}, 2)}) {
    EXPECT_EQ(refused.status, 400);
    EXPECT_THAT(refused.body, ::testing::HasSubstr("never has more than 2 streams at a time"));
    EXPECT_EQ(refused.headers.count("retry-after"), 0u);
  }
}

TEST(HttpServiceTest, MoreGenerationsThanTheLimitAreTurnedAway) {
  Config config;
  config.http_generations = 1;
  TinyServer server(config);
  const int port = server.server().http_port();
  // Nobody reads it, so it goes on until its client leaves.
  HttpSocket first(port, /*receive_bytes=*/2048);
  Json unread = LongBody(480);
  unread["parameters"]["return_k_alternatives"] = 20;
  first.Send(RequestBytes("POST", "/generate_stream", unread.dump()));
  server.WaitFor([](const auto& status) { return status.running() == 1; });
  const HttpAnswer refused = Post(port, "/generate", LongBody(1));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.json()["error_type"], "overloaded");
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(HttpCall(port, "GET", "/health").status, 200);
  first.Close();
  const absl::Time end = absl::Now() + absl::Seconds(10);
  int status = 429;
  while (status == 429 && absl::Now() < end) {  // until its thread has noticed
    status = Post(port, "/generate", LongBody(1)).status;
  }
  EXPECT_EQ(status, 200);
}

TEST(HttpServiceTest, OneTenantsGenerationsLeaveHalfOfThePlacesToOthers) {
  TemporaryFolder folder;
  Config config = WithTenants(folder, Json::array({Tenant("greedy"), Tenant("modest")}));
  constexpr int kPart = 2;
  config.http_generations = 2 * kPart + 1;
  TinyServer server(config, "modest-key");
  const int port = server.server().http_port();
  const auto bearer = [](const std::string& name) {
    return HttpHeaders{{"Authorization", "Bearer " + name + "-key"}};
  };
  std::vector<std::unique_ptr<HttpSocket>> streams;
  Json unread = LongBody(480);
  unread["parameters"]["return_k_alternatives"] = 20;  // more than an unread socket takes
  const auto stream = [&](const std::string& name) {
    streams.push_back(std::make_unique<HttpSocket>(port, /*receive_bytes=*/2048));
    streams.back()->Send(RequestBytes("POST", "/generate_stream", unread.dump(), bearer(name)));
    server.WaitFor([&](const auto& status) {
      return status.queued() + status.running() == std::ssize(streams);
    });
  };
  for (int i = 0; i < kPart; ++i) stream("greedy");
  const HttpAnswer refused = Post(port, "/generate", LongBody(1), bearer("greedy"));
  EXPECT_EQ(refused.status, 429);
  EXPECT_THAT(refused.body, ::testing::HasSubstr("2 of this tenant's generations"));
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  EXPECT_EQ(Post(port, "/generate", LongBody(1), bearer("modest")).status, 200);
  for (int i = 0; i < kPart; ++i) stream("modest");
  EXPECT_EQ(Post(port, "/generate", LongBody(1), bearer("modest")).status, 429);
  // Of whoever left.
  for (int i = 0; i < kPart; ++i) streams[i]->Close();
  const absl::Time end = absl::Now() + absl::Seconds(10);
  int status = 429;
  while (status == 429 && absl::Now() < end) {
    status = Post(port, "/generate", LongBody(1), bearer("greedy")).status;
  }
  EXPECT_EQ(status, 200);
}

TEST(HttpServiceTest, WhoFindsTheQueueFullIsNotListenedTo) {
  Config config;
  config.running_requests = config.queue_requests = 1;
  TinyServer server(config);
  const int port = server.server().http_port();
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;  // more than find room, so the queue is never empty for long
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&] {
      while (!stop) Post(port, "/generate", LongBody(480));
    });
  }
  server.WaitFor([](const auto& status) { return status.queued() == 1; });
  Json nobodys = LongBody(1);
  nobodys["parameters"]["adapter_id"] = "nobodys";
  HttpAnswer answer;
  for (int i = 0; i < 10 && answer.status != 429; ++i) answer = Post(port, "/generate", nobodys);
  EXPECT_EQ(answer.status, 429) << "though there is no such adapter";
  EXPECT_THAT(answer.body, ::testing::HasSubstr("the queue is full: its limit is 1 requests"));
  stop = true;
  for (std::thread& other : others) other.join();
  EXPECT_EQ(Post(port, "/generate", nobodys).status, 424);
}

TEST(HttpServiceTest, AClientThatLeavesIsNoticedWhileItWaitsAndWhileItReads) {
  Config config;
  config.running_requests = 1;
  TinyServer server(config);
  const int port = server.server().http_port();
  bool waited = false;
  for (int i = 0; i < 100 && !waited;
       ++i) {  // an answer may be through before the other call comes
    HttpSocket running(port);
    running.Send(RequestBytes("POST", "/generate_stream", LongBody(500).dump()));
    running.Read(absl::Seconds(10), "data:");
    HttpSocket queued(port);
    queued.Send(RequestBytes("POST", "/generate", LongBody(500).dump()));
    for (auto status = server.Status(); status.running() > 0 && !waited; status = server.Status()) {
      waited = status.queued() == 1;
    }
    const absl::Time left = absl::Now();
    queued.Close();
    running.Close();
    server.WaitFor([](const auto& status) { return status.queued() + status.running() == 0; });
    EXPECT_LT(absl::Now() - left, absl::Seconds(2));
  }
  EXPECT_TRUE(waited);
}

TEST(HttpServiceTest, VersionAndNumbersAreJsonForWhoAsks) {
  TinyServer server;
  const int port = server.server().http_port();
  EXPECT_EQ(HttpCall(port, "GET", "/version").json()["version"], server.Status().version());
  Post(port, "/generate", LongBody(3));
  const auto metrics = [port](const std::string& accept) {
    return HttpCall(port, "GET", "/metrics", "", {{"Accept", accept}});
  };
  const HttpAnswer text = metrics("application/openmetrics-text, text/plain;q=0.5, */*;q=0.1");
  EXPECT_EQ(text.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_THAT(text.body, ::testing::HasSubstr("\nlorica_generated_tokens_total 5\n"))
      << "two of them were the warm-up's";
  const Json json = metrics("application/json").json();
  EXPECT_EQ(json["lorica_generated_tokens_total"],
            Json({{"type", "counter"}, {"data", {{{"key", ""}, {"value", 5.0}}}}}));
  EXPECT_TRUE(json["lorica_step_seconds"]["data"].is_array());
}

TEST(HttpServiceTest, DrainEndsRunningStreamsAndRefusesNewCalls) {
  TinyServer server;
  const int port = server.server().http_port();
  HttpSocket running(port);
  running.Send(RequestBytes("POST", "/generate_stream", LongBody(400).dump()));
  running.Read(absl::Seconds(10), "data:");
  std::thread drain([&] { server.server().Drain(); });
  while (HttpCall(port, "GET", "/health").status == 200) absl::SleepFor(absl::Milliseconds(2));
  const Json openai = {{"model", ""}, {"prompt", "hi"}};
  for (const auto& [path, body] :
       {std::pair("/generate", LongBody(1)), std::pair("/generate_stream", LongBody(1)),
        std::pair("/v1/completions", openai)}) {
    const HttpAnswer refused = Post(port, path, body);
    EXPECT_EQ(refused.status, 503) << path;
    EXPECT_EQ(refused.json()["status"], "UNAVAILABLE") << path;
    EXPECT_TRUE(refused.headers.contains("retry-after")) << path;
  }
  EXPECT_THAT(running.Read(absl::Seconds(20)), ::testing::HasSubstr("\"generated_text\":\""));
  drain.join();
}

TEST(HttpServiceTest, HealthAndMetricsAnswerBesideAsManyStreamsAsThereMayBe) {
  Config config;
  config.running_requests = 8;
  TinyServer server(config);
  const int port = server.server().http_port();
  std::vector<std::unique_ptr<HttpSocket>> streams;
  Json body = LongBody(480);
  body["parameters"]["return_k_alternatives"] = 20;  // more than an unread socket takes
  for (int i = 0; i < config.http_generations; ++i) {
    streams.push_back(std::make_unique<HttpSocket>(port, /*receive_bytes=*/2048));
    streams.back()->Send(RequestBytes("POST", "/generate_stream", body.dump()));
  }
  server.WaitFor([&](const auto& status) {
    return status.queued() + status.running() == config.http_generations;
  });
  // One more is one too many, on every face.
  EXPECT_EQ(Post(port, "/generate", LongBody(1)).status, 429);
  const HttpAnswer refused =
      Post(port, "/v1/completions", {{"model", ""}, {"prompt", "hi"}, {"max_tokens", 1}});
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.json()["status"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  for (const char* path : {"/health", "/metrics"}) {
    std::vector<absl::Duration> waits;
    for (int i = 0; i < 21; ++i) {
      const absl::Time began = absl::Now();
      EXPECT_EQ(HttpCall(port, "GET", path).status, 200);
      waits.push_back(absl::Now() - began);
    }
    std::sort(waits.begin(), waits.end());
    EXPECT_LT(waits[10], absl::Milliseconds(50)) << path;
    ::testing::Test::RecordProperty(path[1] == 'h' ? "health_us" : "metrics_us",
                                    static_cast<int>(absl::ToInt64Microseconds(waits[10])));
  }
  EXPECT_EQ(server.Status().queued() + server.Status().running(), config.http_generations);
}

}  // namespace
}  // namespace lorica
