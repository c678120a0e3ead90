// OpenAI's list of models on a whole server: the base and its adapters.
#include <map>

#include "server/http/openai_routes.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

class OpenAiModelsTest : public ::testing::Test {
 protected:
  int port() { return server_.server().http_port(); }

  TinyServer server_;
};

TEST_F(OpenAiModelsTest, ModelsListTheBaseAndEveryAdapter) {
  const Json list = HttpCall(port(), "GET", "/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  std::map<std::string, Json> models;
  for (const Json& model : list["data"]) models[model["id"]] = model;
  ASSERT_EQ(models.size(), 5u) << list;
  EXPECT_TRUE(models["tiny-llama"]["parent"].is_null());
  EXPECT_EQ(models["plain"]["parent"], "tiny-llama");
  EXPECT_EQ(models["plain"]["root"], "plain");
  EXPECT_EQ(models["plain"]["object"], "model");
  EXPECT_EQ(models["plain"]["owned_by"], "lorica");
  EXPECT_EQ(models["plain"]["created"], models["tiny-llama"]["created"]);
  EXPECT_EQ(HttpCall(port(), "GET", "/v1/models/plain").json(), models["plain"]);
  EXPECT_EQ(HttpCall(port(), "GET", "/v1/models/tiny-llama").json(), models["tiny-llama"]);
}

TEST_F(OpenAiModelsTest, BoundsTheModelsOfAList) {
  const auto list = [this] { return HttpCall(port(), "GET", "/v1/models").json(); };
  server_.LinkAdapters("x", kListedModelsMax - 4);  // which are there
  const Json all = list();
  EXPECT_EQ(all["data"].size(), size_t{kListedModelsMax} + 1) << "the base as well";
  EXPECT_EQ(all["has_more"], false);
  server_.LinkAdapters("y", 1);
  const Json most = list();
  EXPECT_TRUE(most["data"] == all["data"]) << "the last one is left out";
  EXPECT_EQ(most["has_more"], true);
}

TEST_F(OpenAiModelsTest, ARegisteredModelWasCreatedWhenItWasRegistered) {
  const auto created = [this](const std::string& id) {
    return HttpCall(port(), "GET", "/v1/models/" + id).json()["created"].get<int64_t>();
  };
  const absl::Time started = absl::FromUnixSeconds(created("tiny-llama"));
  absl::SleepFor(started + absl::Seconds(2) - absl::Now());
  const Json body = {{"lora_name", "mine"}, {"lora_path", "plain"}};
  const int64_t before = absl::ToUnixSeconds(absl::Now());
  ASSERT_EQ(Post(port(), "/v1/load_lora_adapter", body).status, 200);
  EXPECT_GE(created("mine"), before - 1) << "by a clock that does not jump";
  EXPECT_LE(created("mine"), absl::ToUnixSeconds(absl::Now()));
  EXPECT_GT(created("mine"), created("tiny-llama"));
  const Json list = HttpCall(port(), "GET", "/v1/models").json()["data"];
  for (const Json& model : list) EXPECT_EQ(model["created"], created(model["id"]));
}

TEST(ModelNameTest, TheBaseModelMayHaveAnotherName) {
  Config config;
  config.model_name = "org/base";
  TinyServer server(config);
  const int port = server.server().http_port();
  EXPECT_EQ(HttpCall(port, "GET", "/v1/models/org/base").status, 200);
  const Json body = {{"model", "org/base"}, {"prompt", "hi"}, {"max_tokens", 1}};
  EXPECT_EQ(Post(port, "/v1/completions", body).status, 200);
}

}  // namespace
}  // namespace lorica
