// Goal: an error has the code by which each family's clients know what to do.
#include "server/http/errors.h"

#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_fault.h"
#include "gmock/gmock.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "tests/fakes/fake_hub.h"
#include "tests/server/api/log_lines.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

TEST(ErrorsTest, LoraxHasOneCodeForAnAdapterThatCannotBeHad) {
  for (const auto code : {absl::StatusCode::kUnavailable, absl::StatusCode::kResourceExhausted,
                          absl::StatusCode::kPermissionDenied, absl::StatusCode::kNotFound,
                          absl::StatusCode::kDataLoss, absl::StatusCode::kDeadlineExceeded}) {
    const HttpError error = LoraxError(AdapterFault(absl::Status(code, "adapter 'a': no")));
    EXPECT_EQ(error.status, 424) << code;
    EXPECT_EQ(error.body["error_type"], "generation") << code;
    EXPECT_EQ(error.body["error"],
              "Request failed during generation: Server error: adapter 'a': no");
  }
  EXPECT_FALSE(IsAdapterFault(AdapterFault(absl::OkStatus())));
}

TEST(ErrorsTest, WhatIsTooMuchForNowSaysWhenToTryAgain) {
  for (const absl::Status& status : {TryLater("full"), TooMuch("full")}) {
    const HttpError lorax = LoraxError(status);
    EXPECT_EQ(lorax.status, 429);
    EXPECT_EQ(lorax.body["error_type"], "overloaded");
    EXPECT_EQ(lorax.retry_after, absl::Seconds(1));
    EXPECT_EQ(OpenAiError(status).retry_after, absl::Seconds(1));
  }
  EXPECT_EQ(OpenAiError(TooMuch("full")).status, 429);
  EXPECT_EQ(OpenAiError(TryLater("full")).status, 503);
  EXPECT_EQ(LoraxError(GoElsewhere("ends")).status, 503);
}

// As nginx counts them, so that no alert on 5xx rings for clients who left.
TEST(ErrorsTest, WhoLeftIsNoFaultOfTheServers) {
  const absl::Status gone = absl::CancelledError("the client has gone");
  EXPECT_EQ(OpenAiError(gone).status, 499);
  EXPECT_EQ(OpenAiError(gone).body["code"], "client_closed_request");
  EXPECT_EQ(LoraxError(gone).status, 499);
}

class HubFaults : public ::testing::Test {
 protected:
  HubFaults() {
    Config config;
    config.hub_allow = "org/*";
    config.hub_endpoint = hub_.endpoint();
    config.hub_redirect_hosts = hub_.cdn_place();
    config.data_dir = data_.path() + "/data";
    config.drain_seconds = 0;
    server_ = std::make_unique<TinyServer>(config);
    hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/plain"));
  }
  HttpAnswer Lorax(const char* adapter, bool stream = false) {
    return Post(server_->server().http_port(), "/",
                {{"inputs", "hi"},
                 {"stream", stream},
                 {"parameters", {{"adapter_id", adapter}, {"max_new_tokens", 1}}}});
  }
  HttpAnswer OpenAi(const char* adapter) {
    return Post(server_->server().http_port(), "/v1/completions",
                {{"model", adapter}, {"prompt", "hi"}, {"max_tokens", 1}});
  }

  FakeHub hub_;
  TemporaryFolder data_;
  std::unique_ptr<TinyServer> server_;
};

// It asks for more patience than a fetch has, so nobody waits for it.
TEST_F(HubFaults, AHubThatCannotNowIsNoOverload) {
  hub_.AddFault({.times = -1, .status = 503, .headers = {{"Retry-After", "77"}}});
  const HttpAnswer answer = Lorax("org/a");
  EXPECT_EQ(answer.status, 424) << answer.body;
  EXPECT_EQ(answer.json()["error_type"], "generation");
  EXPECT_EQ(answer.json()["status"], "UNAVAILABLE");
  EXPECT_THAT(answer.json()["error"].get<std::string>(), HasSubstr("'org/a'"));
  const HttpAnswer streamed = Lorax("org/a", /*stream=*/true);  // the failure is remembered
  EXPECT_EQ(streamed.status, 200);
  ASSERT_EQ(streamed.events().size(), 1u) << streamed.body;
  EXPECT_EQ(Json::parse(streamed.events()[0])["error_type"], "generation");
  const HttpAnswer openai = OpenAi("org/a");
  EXPECT_EQ(openai.status, 503);
  EXPECT_EQ(openai.headers.at("retry-after"), "77");
}

TEST_F(HubFaults, WhatTheHubKeepsToItselfIsNoMatterOfOurKeys) {
  hub_.SetAccess("org/a", HubAccess::kGated, "secret");
  const HttpAnswer answer = Lorax("org/a");
  EXPECT_EQ(answer.status, 424) << answer.body;
  EXPECT_EQ(answer.json()["error_type"], "generation");
  EXPECT_EQ(OpenAi("org/a").status, 403);
}

TEST_F(HubFaults, AFaultNamesItsAdapterOnce) {
  hub_.Commit("org/bad", {{"adapter_config.json", R"({"peft_type": "LORA", "r": 0})"},
                          {"adapter_model.safetensors", "none"}});
  for (int times = 0; times < 2; ++times) {  // the second one is remembered
    const HttpAnswer answer =
        Post(server_->server().http_port(), "/lorica.v1.AdapterService/RegisterAdapter",
             {{"adapter_id", "mine"}, {"source", "org/bad"}});
    EXPECT_EQ(answer.status, 400) << answer.body;
    const std::string text = answer.json()["message"];
    EXPECT_THAT(text, StartsWith("adapter 'org/bad' cannot be served: "));
    EXPECT_EQ(text.find("cannot be served"), text.rfind("cannot be served")) << text;
  }
}

// One each, whether a call is refused by the face, the gateway or a service behind it.
TEST(RefusalsOverHttp, HaveOneLineInTheLog) {
  TinyServer server;
  const Json good = {{"inputs", "hi"}, {"parameters", {{"max_new_tokens", 1}}}};
  Json unknown = good, wrong = good;
  unknown["parameters"]["adapter_id"] = "nobody";
  wrong["parameters"]["temperature"] = -1;
  Json streamed = wrong;
  streamed["stream"] = true;
  absl::SleepFor(absl::Seconds(1));  // other tests have used up theirs
  const std::string admin = "/lorica.v1.AdapterService/GetAdapter";
  for (const auto& [path, body, line] :
       std::vector<std::tuple<std::string, std::string, std::string>>{
           {"/generate", "{", "code=INVALID_ARGUMENT adapter=\"\""},
           {"/generate", wrong.dump(), "code=INVALID_ARGUMENT"},
           {"/", streamed.dump(), "code=INVALID_ARGUMENT"},
           {"/generate", unknown.dump(), "code=NOT_FOUND adapter=\"nobody\""},
           {"/v1/completions", R"({"model": "nobody", "prompt": "hi"})",
            "code=NOT_FOUND adapter=\"nobody\""},
           {"/v1/chat/completions", "{}", "code=INVALID_ARGUMENT"},
           {"/tokenize", R"({"inputs": 5})", "code=INVALID_ARGUMENT"},
           {"/v1/load_lora_adapter", R"({"lora_name": "a", "lora_path": "nobody"})",
            "code=NOT_FOUND adapter=\"a\""},
           {admin, "[", "code=INVALID_ARGUMENT"},
           {admin, R"({"adapter_id": "nobody"})", "method=GetAdapter code=NOT_FOUND"}}) {
    absl::SleepFor(absl::Seconds(1.0 / (kRefusalLinesPerSecond - 1)));
    const std::vector<std::string> lines = LinesOf([&, path = path, body = body] {
      HttpCall(server.server().http_port(), "POST", path, body,
               {{"Content-Type", "application/json"}});
    });
    ASSERT_EQ(lines.size(), 1u) << path << body;
    EXPECT_THAT(lines[0], StartsWith("refused method="));
    EXPECT_THAT(lines[0], HasSubstr(line)) << path << body;
  }
  EXPECT_EQ(LinesOf([&] { Post(server.server().http_port(), "/generate", good); }).size(), 0u);
}

// The same where the call had been let in.
TEST(FailuresOverHttp, HaveOneLineWithTheirRouteInTheLog) {
  TinyServer server;
  server.WriteHugeAdapter("huge");
  const std::string huge =
      R"({"inputs": "hi", "parameters": {"adapter_id": "huge"}, "prompt": "hi", "model": "huge",
          "messages": [{"role": "user", "content": "hi"}], "stream": )";
  const std::string formless =
      R"({"inputs": "hi", "parameters": {"response_format": {"type": "regex", "regex": "("}},
          "prompt": "hi", "model": "", "messages": [{"role": "user", "content": "hi"}],
          "guided_regex": "(", "stream": )";
  absl::SleepFor(absl::Seconds(1));  // other tests have used up theirs
  for (const std::string path :
       {"/", "/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions"}) {
    for (const char* stream : {"false}", "true}"}) {
      for (const auto& [body, rest] : {std::pair(huge, "code=DATA_LOSS adapter=\"huge\""),
                                       std::pair(formless, "code=INVALID_ARGUMENT adapter=\"\"")}) {
        absl::SleepFor(absl::Seconds(1.0 / (kRefusalLinesPerSecond - 1)));
        EXPECT_THAT(LinesOf([&, body = body] {
                      HttpCall(server.server().http_port(), "POST", path, body + stream,
                               {{"Content-Type", "application/json"}});
                    }),
                    ElementsAre(StartsWith(absl::StrCat("failed method=", path, " ", rest))))
            << body << stream;
      }
    }
  }
}

TEST(BodiesThatAreNoJson, Are400OnEveryRoute) {
  TinyServer server;
  for (const char* path : {"/", "/generate", "/generate_stream", "/invocations", "/tokenize",
                           "/v1/completions", "/v1/chat/completions"}) {
    for (const std::string body : {R"({"inputs": )", "hi", "", R"({"a": 1, "a": 2})", "{}{}"}) {
      const HttpAnswer answer = HttpCall(server.server().http_port(), "POST", path, body,
                                         {{"Content-Type", "application/json"}});
      EXPECT_EQ(answer.status, 400) << path << body << answer.body;
      EXPECT_EQ(answer.headers.at("content-type"), "application/json");
      const Json error = answer.json();
      EXPECT_TRUE(error.contains("error")) << path << body << answer.body;
      if (path[1] != 'v') {
        EXPECT_EQ(error["error_type"], "validation") << path << body;
      }
    }
  }
  const HttpAnswer answer = HttpCall(server.server().http_port(), "POST", "/generate", "{\"in");
  EXPECT_THAT(answer.json()["error"].get<std::string>(),
              StartsWith("Input validation error: the body is not usable JSON: a syntax error"));
}

TEST(TransportErrorTest, OpenAisClientsFindTheTextWhereTheyLook) {
  for (const int status : {404, 405, 413, 415}) {
    const Json plain = Json::parse(TransportError(status, "/generate"));
    const Json openai = Json::parse(TransportError(status, "/v1/completions"));
    EXPECT_EQ(plain["error"], plain["message"]);
    EXPECT_EQ(openai["error"]["message"], plain["message"]);
    EXPECT_EQ(openai["error"]["code"], status);
    for (const char* same : {"message", "error_type", "type", "code", "status"}) {
      EXPECT_EQ(openai[same], plain[same]) << same;
    }
  }
  EXPECT_EQ(Json::parse(TransportError(413, ""))["status"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(Json::parse(TransportError(404, ""))["status"], "UNIMPLEMENTED");
}

TEST(RoutesOfOtherModels, SayThatThisOneGeneratesText) {
  TinyServer server;
  const int port = server.server().http_port();
  for (const char* path : {"/embed", "/classify", "/classify_batch"}) {
    const HttpAnswer answer = Post(port, path, {{"inputs", "hi"}});
    EXPECT_EQ(answer.status, 424) << path;
    EXPECT_EQ(answer.json()["error_type"], "generation");
    EXPECT_THAT(answer.json()["error"].get<std::string>(), HasSubstr("model generates text"));
  }
  const HttpAnswer answer = Post(port, "/v1/embeddings", {{"input", "hi"}, {"model", ""}});
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.json()["error"]["code"], "failed_precondition");
}

}  // namespace
}  // namespace lorica
