// The calls of controllers, replayed: which they make, in which order, and what they
// count as success.
#include "server/http/lifecycle_routes.h"

#include <fstream>
#include <set>

#include "gmock/gmock.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class LifecycleRoutesTest : public ::testing::Test {
 protected:
  HttpAnswer Load(const Json& body) { return Post(port(), "/v1/load_lora_adapter", body); }
  HttpAnswer Unload(const Json& body) { return Post(port(), "/v1/unload_lora_adapter", body); }
  std::set<std::string> Models() {
    std::set<std::string> ids;
    const Json all_models = HttpCall(port(), "GET", "/v1/models").json()["data"];
    for (const Json& model : all_models) {
      ids.insert(model["id"].get<std::string>());
    }
    return ids;
  }
  int Complete(const std::string& model) {
    return Post(port(), "/v1/completions", {{"model", model}, {"prompt", "hi"}, {"max_tokens", 1}})
        .status;
  }
  // Both shapes of vLLM's errors.
  void ExpectError(const HttpAnswer& answer, int status) {
    EXPECT_EQ(answer.status, status) << answer.body;
    const Json json = answer.json();
    for (const char* member : {"message", "type", "code"}) {
      EXPECT_TRUE(json.contains(member)) << answer.body;
      EXPECT_EQ(json["error"][member], json[member]);
    }
  }
  int port() { return server_.server().http_port(); }

  TinyServer server_;
};

TEST_F(LifecycleRoutesTest, LoadedMeansReadyToRun) {
  const HttpAnswer answer = Load({{"lora_name", "mine"}, {"lora_path", "plain"}});
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(server_.Status().device_tier().adapters(), 1);
  EXPECT_TRUE(Models().contains("mine"));
  EXPECT_EQ(Complete("mine"), 200);
  EXPECT_EQ(server_.Status().device_tier().misses(), 1) << "the load's own";
}

TEST_F(LifecycleRoutesTest, WhatCannotBeLoadedGetsNoName) {
  server_.WriteAdapter("bad", 4, false);
  const std::string path = server_.adapters().path() + "/bad/adapter_model.safetensors";
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(-4, std::ios::end);
  file.write("\0\0\xc0\x7f", 4);
  file.close();
  ASSERT_EQ(Load({{"lora_name", "mine"}, {"lora_path", "plain"}}).status, 200);
  for (const char* name : {"new", "mine"}) {
    const HttpAnswer answer =
        Load({{"lora_name", name}, {"lora_path", "bad"}, {"load_inplace", true}});
    EXPECT_GE(answer.status, 400) << answer.body;
    EXPECT_THAT(answer.body, HasSubstr("holds NaN or infinity"));
  }
  EXPECT_FALSE(Models().contains("new"));
  EXPECT_EQ(Complete("mine"), 200);
}

TEST_F(LifecycleRoutesTest, TheBaseIsNotUnloaded) {
  const std::string base = server_.Status().model().name();
  for (const bool folder : {false, true}) {
    if (folder) server_.WriteAdapter(base, 4, false);
    ExpectError(Unload({{"lora_name", base}}), 400);
    ExpectError(Load({{"lora_name", base}, {"lora_path", "plain"}}), 400);
    EXPECT_EQ(Complete(base), 200);
  }
}

TEST_F(LifecycleRoutesTest, BothCallsAreIdempotent) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", "plain"}}).status, 200);
  }
  EXPECT_EQ(server_.Status().counters().adapter_loads(), 1);
  EXPECT_EQ(Unload({{"lora_name", "mine"}}).status, 200);
  EXPECT_FALSE(Models().contains("mine"));
  ExpectError(Unload({{"lora_name", "mine"}}), 404);
  server_.WaitFor([](const auto& status) { return status.device_tier().adapters() == 0; });
  EXPECT_EQ(Complete("mine"), 404);
  EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", "plain"}}).status, 200);
}

TEST_F(LifecycleRoutesTest, OtherContentNeedsToBeAskedFor) {
  EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", "plain"}}).status, 200);
  const HttpAnswer conflict = Load({{"lora_name", "mine"}, {"lora_path", "other"}});
  ExpectError(conflict, 409);
  EXPECT_THAT(conflict.body, HasSubstr(": send load_inplace to move the name\""));
  EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", "other"}, {"load_inplace", true}}).status,
            200);
}

TEST_F(LifecycleRoutesTest, PathsAreHeldBeneathTheRoot) {
  const std::string root = server_.adapters().path();
  EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", root + "/plain"}}).status, 200);
  EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", root + "/other/../plain"}}).status, 200);
  for (const std::string path : {std::string("/etc"), root + "/../x", root, std::string("../x"),
                                 std::string("http://169.254.169.254/x"),
                                 std::string("file:///etc/passwd"), std::string("s3://b/../x")}) {
    ExpectError(Load({{"lora_name", "bad"}, {"lora_path", path}}), 400);
  }
  // Places that may be in what an operator allows; here is nothing.
  for (const char* place : {"s3://bucket/x", "https://files.example/x"}) {
    ExpectError(Load({{"lora_name", "bad"}, {"lora_path", place}}), 404);
  }
  EXPECT_EQ(Load({{"lora_name", "mine"}, {"lora_path", "huggingface://plain"}}).status, 200);
  EXPECT_FALSE(Models().contains("bad"));
}

TEST_F(LifecycleRoutesTest, FaultsAreTold) {
  ExpectError(Load({{"lora_path", "plain"}}), 400);
  ExpectError(Load({{"lora_name", "mine"}}), 400);
  ExpectError(Load({{"lora_name", "a,b"}, {"lora_path", "plain"}}), 400);
  ExpectError(Load({{"lora_name", "mine"}, {"lora_path", "missing"}}), 404);
  ExpectError(Load({{"lora_name", "mine"}, {"lora_path", "broken"}}), 400);
  ExpectError(Unload(Json::object()), 400);
  ExpectError(Unload({{"lora_name", "mine"}}), 404);
}

TEST_F(LifecycleRoutesTest, SglangsNamesDoTheSameAndPin) {
  const HttpAnswer answer = Post(port(), "/load_lora_adapter",
                                 {{"lora_name", "mine"}, {"lora_path", "plain"}, {"pinned", true}});
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.json()["success"], true);
  v1::GetAdapterRequest request;
  request.set_adapter_id("mine");
  v1::GetAdapterResponse response;
  Context context;
  ASSERT_TRUE(server_.admin().GetAdapter(&context, request, &response).ok());
  EXPECT_EQ(response.adapter().pinned(), v1::TIER_DEVICE);
  EXPECT_EQ(Post(port(), "/unload_lora_adapter", {{"lora_name", "mine"}}).status, 200);
  // The content has another name, which shows that the pin is gone.
  request.set_adapter_id("plain");
  const absl::Time end = absl::Now() + absl::Seconds(10);
  do {
    Context again;
    ASSERT_TRUE(server_.admin().GetAdapter(&again, request, &response).ok());
  } while (response.adapter().pinned() == v1::TIER_DEVICE && absl::Now() < end);
  EXPECT_NE(response.adapter().pinned(), v1::TIER_DEVICE);
}

// Waits for health, compares the list of models, loads and unloads; repeats for ever and
// takes whatever is not 200 for a failure.
TEST_F(LifecycleRoutesTest, ASyncerSettles) {
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(HttpCall(port(), "GET", "/health").status, 200);
    const std::set<std::string> before = Models();
    if (!before.contains("wanted")) {
      EXPECT_EQ(round, 0);
      EXPECT_EQ(Load({{"lora_name", "wanted"},
                      {"lora_path", server_.adapters().path() + "/plain"},
                      {"base_model_name", "org/some-base"}})
                    .status,
                200);
    }
    if (before.contains("other")) {
      EXPECT_EQ(round, 0);
      EXPECT_EQ(Unload({{"lora_name", "other"}}).status, 200);
    }
  }
  EXPECT_TRUE(Models().contains("wanted"));
  EXPECT_FALSE(Models().contains("other"));
}

// Looks for `id` in the list, loads with a bearer key, takes 200 or 201, looks again.
TEST_F(LifecycleRoutesTest, AnAdapterControllerBinds) {
  const HttpHeaders key = {{"Authorization", "Bearer some-key"}};
  EXPECT_FALSE(Models().contains("model-adapter"));
  const Json load = {{"lora_name", "model-adapter"}, {"lora_path", "plain"}};
  EXPECT_EQ(Post(port(), "/v1/load_lora_adapter", load, key).status, 200);
  EXPECT_TRUE(Models().contains("model-adapter"));
  EXPECT_EQ(Post(port(), "/v1/load_lora_adapter", load, key).status, 200) << "a retry";
  EXPECT_EQ(Post(port(), "/v1/unload_lora_adapter", {{"lora_name", "model-adapter"}}, key).status,
            200);
}

// Takes entries with a parent for adapters, and exactly 200 for success.
TEST_F(LifecycleRoutesTest, AnOperatorSeesParents) {
  EXPECT_EQ(Load({{"lora_name", "placed"}, {"lora_path", "other"}}).status, 200);
  bool found = false;
  const Json all_models = HttpCall(port(), "GET", "/v1/models").json()["data"];
  for (const Json& model : all_models) {
    if (model["id"] != "placed") continue;
    found = true;
    EXPECT_EQ(model["parent"], "tiny-llama");
    EXPECT_TRUE(model["root"].is_string() && model["created"].is_number_integer());
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(Unload({{"lora_name", "placed"}}).status, 200);
}

}  // namespace
}  // namespace lorica
