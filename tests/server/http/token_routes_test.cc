// Text to tokens and back over HTTP, in LoRAX's words and in vLLM's.
#include "server/http/token_routes.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/json.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

constexpr char kText[] = "h\u00e9\u20ac";

class TokenRoutesTest : public ::testing::Test {
 protected:
  HttpAnswer Tokenize(const Json& body) { return Post(port(), "/tokenize", body); }
  HttpAnswer Detokenize(const Json& body) { return Post(port(), "/detokenize", body); }
  void ExpectFault(const HttpAnswer& answer, int status, const std::string& param) {
    EXPECT_EQ(answer.status, status) << answer.body;
    EXPECT_EQ(answer.json()["error"]["param"], param) << answer.body;
  }
  int port() { return server_.server().http_port(); }

  TinyServer server_;
};

TEST_F(TokenRoutesTest, LoraxsHaveTheirPlaces) {
  const HttpAnswer answer = Tokenize({{"inputs", kText}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json tokens = answer.json();
  ASSERT_EQ(tokens.size(), 6u) << "one a byte";
  EXPECT_EQ(tokens[0], Json({{"id", tokens[0]["id"]}, {"text", "h"}, {"start", 0}, {"stop", 1}}));
  EXPECT_EQ(tokens[1]["start"], 1);
  EXPECT_EQ(tokens[1]["stop"], 2);
  EXPECT_EQ(tokens[2]["start"], 1) << "inside the second character";
  EXPECT_EQ(tokens[5]["start"], 2);
  EXPECT_EQ(tokens[5]["stop"], 3);
  const HttpAnswer none = Tokenize(Json::object());
  EXPECT_EQ(none.status, 422);
  EXPECT_EQ(none.json()["error_type"], "validation");
}

TEST_F(TokenRoutesTest, VllmsAreThoseOfLoraxAndComeBackAsText) {
  const Json lorax = Tokenize({{"inputs", kText}}).json();
  const HttpAnswer answer = Tokenize({{"model", "plain"}, {"prompt", kText}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = answer.json();
  ASSERT_EQ(json["count"], 6);
  EXPECT_EQ(json["max_model_len"], kTinyContext);
  EXPECT_TRUE(json["token_strs"].is_null());
  for (size_t i = 0; i < lorax.size(); ++i) EXPECT_EQ(json["tokens"][i], lorax[i]["id"]);
  EXPECT_EQ(Tokenize({{"prompt", kText}, {"return_token_strs", true}}).json()["token_strs"][0],
            "h");
  const HttpAnswer back = Detokenize({{"model", "plain"}, {"tokens", json["tokens"]}});
  ASSERT_EQ(back.status, 200) << back.body;
  EXPECT_EQ(back.json(), Json({{"prompt", kText}}));
  EXPECT_EQ(Detokenize({{"tokens", Json::array()}}).json(), Json({{"prompt", ""}}));
}

TEST_F(TokenRoutesTest, ThoseOfMessagesAreThoseThatAChatIsMadeOf) {
  const Json messages = {{{"role", "user"}, {"content", "hi"}}};
  const Json tokens = Tokenize({{"messages", messages}}).json()["tokens"];
  const HttpAnswer chat = Post(port(), "/v1/chat/completions",
                               {{"model", ""}, {"messages", messages}, {"max_tokens", 1}});
  EXPECT_EQ(tokens.size(), chat.json()["usage"]["prompt_tokens"]);
  EXPECT_THAT(Detokenize({{"tokens", tokens}}).body, HasSubstr("hi"));
}

TEST_F(TokenRoutesTest, FaultsNameTheirField) {
  ExpectFault(Tokenize({{"prompt", "a"}, {"messages", {{{"role", "user"}}}}}), 400, "prompt");
  ExpectFault(Tokenize({{"prompt", 5}}), 400, "prompt");
  ExpectFault(Tokenize({{"messages", {{{"content", "a"}, {"role", 1}}}}}), 400, "messages[0].role");
  ExpectFault(Tokenize({{"prompt", "a"}, {"add_generation_prompt", false}}), 400,
              "add_generation_prompt");
  EXPECT_EQ(Tokenize({{"prompt", "a"}, {"model", "a b"}}).json()["code"], "model_not_found");
  ExpectFault(Detokenize({{"tokens", "a"}}), 400, "tokens");
  ExpectFault(Detokenize({{"tokens", {1}}, {"model", 1}}), 400, "model");
  ExpectFault(Detokenize(Json::object()), 400, "tokens");
  for (const Json& id : {Json(-1), Json(1 << 30), Json(0.5), Json("1")}) {
    ExpectFault(Detokenize({{"tokens", {id}}}), 400, "tokens");
  }
  EXPECT_EQ(Detokenize({{"tokens", std::vector<int>(kTinyContext, 1)}}).status, 200);
  ExpectFault(Detokenize({{"tokens", std::vector<int>(kTinyContext + 1, 1)}}), 400, "tokens");
}

}  // namespace
}  // namespace lorica
