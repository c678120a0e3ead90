// Goal: errors name the fields that the caller sent. Method: names by themselves, then calls to a
// whole server whose faults the gateway finds.
#include "server/http/field_names.h"

#include "gmock/gmock.h"
#include "server/api/field_error.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::StartsWith;
using Json = nlohmann::json;

TEST(FieldNamesTest, ANameStandsForWhatLiesBeneathIt) {
  const FieldNames names = {{"list[].weight", "parts.weights[]"}, {"list", "parts"}, {"n", "best"}};
  const struct {
    const char* ours;
    const char* callers;
  } cases[] = {{"n", "best"},
               {"n[3]", "best[3]"},
               {"n.x", "best.x"},
               {"name", "name"},
               {"list[2].weight", "parts.weights[2]"},
               {"list[2].id", "parts[2].id"},
               {"list[", "parts["},
               {"other", "other"}};
  for (const auto& [ours, callers] : cases) {
    const absl::Status status = InWordsOf(names, FieldError(ours, "is wrong"));
    EXPECT_EQ(FieldOf(status), callers);
    EXPECT_EQ(status.message(), std::string(callers) + " is wrong");
    EXPECT_TRUE(absl::IsInvalidArgument(status));
  }
}

TEST(FieldNamesTest, OtherErrorsStayAsTheyAre) {
  const FieldNames names = {{"n", "best"}};
  EXPECT_EQ(InWordsOf(names, absl::NotFoundError("n is gone")), absl::NotFoundError("n is gone"));
  EXPECT_TRUE(InWordsOf(names, absl::OkStatus()).ok());
  absl::Status about = absl::InvalidArgumentError("a text that begins otherwise");
  SetField(&about, "n");
  EXPECT_EQ(InWordsOf(names, about), about);
}

class CallersWords : public ::testing::Test {
 protected:
  int port() { return server_.server().http_port(); }
  TinyServer server_;
};

TEST_F(CallersWords, AreThoseOfLoraxOnItsRoutes) {
  const std::pair<Json, std::string> cases[] = {
      {{{"max_new_tokens", 100000}}, "parameters.max_new_tokens does not fit"},
      {{{"max_new_tokens", 0}}, "parameters.max_new_tokens must be"},
      {{{"temperature", -1}}, "parameters.temperature must be"},
      {{{"top_k", 0}}, "parameters.top_k must be"},
      {{{"top_p", 1.5}}, "parameters.top_p must be"},
      {{{"repetition_penalty", 0}}, "parameters.repetition_penalty must be"},
      {{{"frequency_penalty", 2.5}}, "parameters.frequency_penalty must be"},
      {{{"truncate", 0}}, "parameters.truncate must be"},
      {{{"stop", {""}}}, "parameters.stop[0] has"},
      {{{"api_token", "a b"}}, "parameters.api_token is"},
      {{{"adapter_id", "../x"}}, "parameters.adapter_id '../x': "},
      {{{"merged_adapters", {{"ids", {"a", "../b"}}, {"weights", {1, 1}}}}},
       "parameters.merged_adapters.ids[1] '../b': "},
      {{{"merged_adapters", {{"ids", {"a", "b"}}, {"weights", {1, 1000}}}}},
       "parameters.merged_adapters.weights[1] must be"},
      {{{"response_format", {{"type", "json_object"}}}, {"ignore_eos_token", true}},
       "parameters.response_format cannot"},
      {{{"response_format", {{"type", "regex"}, {"regex", "(a"}}}}, "parameters.response_format"}};
  for (const auto& [parameters, text] : cases) {
    for (const char* path : {"/generate", "/generate_stream"}) {
      const HttpAnswer answer = Post(port(), path, {{"inputs", "hi"}, {"parameters", parameters}});
      const bool stream = answer.status == 200;
      ASSERT_TRUE(!stream || answer.events().size() == 1) << answer.body;
      const Json error = stream ? Json::parse(answer.events()[0]) : answer.json();
      EXPECT_THAT(error.value("error", ""), StartsWith("Input validation error: " + text));
      EXPECT_EQ(error.value("error_type", ""), "validation");
    }
  }
  const Json empty = Post(port(), "/generate", {{"inputs", ""}}).json();
  EXPECT_THAT(empty.value("error", ""), StartsWith("Input validation error: inputs is empty"));
}

TEST_F(CallersWords, AreThoseOfOpenAiAndVllmOnTheirRoutes) {
  const Json messages = {{{"role", "user"}, {"content", "hi"}}};
  const struct {
    bool chat;
    Json more;
    const char* param;
  } cases[] = {
      {false, {{"truncate_prompt_tokens", 0}}, "truncate_prompt_tokens"},
      {false, {{"api_token", "a b"}}, "api_token"},
      {false, {{"logit_bias", {{"100000", 1}}}}, "logit_bias"},
      {false, {{"logit_bias", {{"5", 101}}}}, "logit_bias"},
      {false, {{"prompt", {1, 100000}}}, "prompt[1]"},
      {false, {{"logprobs", 21}, {"echo", true}}, "logprobs"},
      {false, {{"prompt_logprobs", 21}}, "prompt_logprobs"},
      {false, {{"frequency_penalty", 2.5}}, "frequency_penalty"},
      {false, {{"guided_regex", "(a"}}, "guided_regex"},
      {false, {{"guided_json", {{"not", Json::object()}}}}, "guided_json"},
      {false, {{"structured_outputs", {{"grammar", "root ::= ("}}}}, "structured_outputs"},
      {true, {{"max_tokens", 100000}}, "max_tokens"},
      {true, {{"max_completion_tokens", 100000}}, "max_completion_tokens"},
      {true, {{"logprobs", true}, {"top_logprobs", 21}}, "top_logprobs"},
      {true, {{"messages", {{{"role", ""}, {"content", "hi"}}}}}, "messages[0].role"},
  };
  const struct {
    Json bias;
    const char* text;
  } biases[] = {{{{"100000", 1}, {"5", 1}}, "logit_bias names token 100000; token ids"},
                {{{"5", 101}, {"6", 1}}, "logit_bias of token 5 must be a finite number"},
                {{{"5", 1}, {"05", 1}}, "logit_bias names token 5 twice"},
                {{{"the", 1}}, "logit_bias must map token ids to numbers, as 'the' does not"}};
  for (const auto& [bias, text] : biases) {
    const Json body = {{"model", ""}, {"prompt", "hi"}, {"logit_bias", bias}};
    const Json error = Post(port(), "/v1/completions", body).json();
    EXPECT_THAT(error.value("message", ""), StartsWith(text));
  }
  for (const auto& one : cases) {
    Json body = {{"model", ""}, {one.chat ? "messages" : "prompt", one.chat ? messages : "hi"}};
    body.update(one.more);
    const Json error =
        Post(port(), one.chat ? "/v1/chat/completions" : "/v1/completions", body).json();
    EXPECT_EQ(error.value("param", Json()), one.param) << error;
    EXPECT_THAT(error.value("message", ""), StartsWith(one.param)) << error;
  }
}

}  // namespace
}  // namespace lorica
