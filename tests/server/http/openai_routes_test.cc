// OpenAI's routes on a whole server.
#include "server/http/openai_routes.h"

#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "server/http/openai_request.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

class OpenAiRoutesTest : public ::testing::Test {
 protected:
  static Json Completion(const Json& more = Json::object()) {
    Json body = {{"model", "tiny-llama"},
                 {"prompt", "hi"},
                 {"max_tokens", 6},
                 {"temperature", 0},
                 {"ignore_eos", true}};
    body.update(more);
    return body;
  }
  static Json Chat(const Json& more = Json::object()) {
    Json body = Completion(more);
    body.erase("prompt");
    body["messages"] = {{{"role", "user"}, {"content", "hi"}}};
    body.update(more);
    return body;
  }
  HttpAnswer Complete(const Json& body) { return Post(port(), "/v1/completions", body); }
  HttpAnswer Converse(const Json& body) { return Post(port(), "/v1/chat/completions", body); }
  void ExpectError(const HttpAnswer& answer, int status, const std::string& code,
                   const Json& param) {
    EXPECT_EQ(answer.status, status) << answer.body;
    const Json error = answer.json().value("error", Json::object());
    EXPECT_EQ(error.value("code", ""), code) << answer.body;
    EXPECT_EQ(error.value("param", Json()), param) << answer.body;
    EXPECT_TRUE(error.value("message", Json()).is_string());
  }
  // The chunks of a stream that must end well.
  std::vector<Json> Chunks(const HttpAnswer& answer) {
    std::vector<std::string> events = answer.events();
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(!events.empty() && events.back() == "[DONE]") << answer.body;
    std::vector<Json> chunks;
    for (size_t i = 0; i + 1 < events.size(); ++i) chunks.push_back(Json::parse(events[i]));
    return chunks;
  }
  int port() { return server_.server().http_port(); }

  TinyServer server_;
};

TEST_F(OpenAiRoutesTest, CompletionsHaveRealValues) {
  const HttpAnswer answer = Complete(Completion());
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = answer.json();
  EXPECT_THAT(json["id"].get<std::string>(), StartsWith("cmpl-"));
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["model"], "tiny-llama");
  EXPECT_GT(json["created"], 1'700'000'000);
  ASSERT_EQ(json["choices"].size(), 1u);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(json["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(json["usage"]["completion_tokens"], 6);
  EXPECT_EQ(json["usage"]["total_tokens"], 8);
}

TEST_F(OpenAiRoutesTest, AnAdapterIsAModelAndAnswersAsOverGrpc) {
  std::set<std::string> texts;
  for (const std::string model : {"tiny-llama", "plain", "dora"}) {
    v1::GenerateRequest request;
    request.set_prompt("hi");
    request.set_adapter_id(model);
    request.set_max_tokens(6);
    request.set_ignore_eos(true);
    Context context;
    v1::GenerateResponse expected;
    ASSERT_TRUE(server_.inference().Generate(&context, request, &expected).ok());
    const Json json = Complete(Completion({{"model", model}})).json();
    EXPECT_EQ(json["choices"][0]["text"], expected.text());
    EXPECT_EQ(json["model"], model);
    texts.insert(expected.text());
  }
  EXPECT_EQ(texts.size(), 3u) << "the adapters make a difference";
}

TEST_F(OpenAiRoutesTest, SeveralPromptsAndChoicesComeInOrder) {
  const Json json =
      Complete(Completion({{"prompt", {"hi", "ho"}}, {"n", 2}, {"echo", true}})).json();
  ASSERT_EQ(json["choices"].size(), 4u) << json;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_THAT(json["choices"][i]["text"].get<std::string>(), StartsWith(i < 2 ? "hi" : "ho"));
  }
  EXPECT_EQ(json["usage"]["prompt_tokens"], 4) << "each prompt counts once";
  EXPECT_EQ(json["usage"]["completion_tokens"], 24);
  const Json tokens = Complete(Completion({{"prompt", {{5, 6}, {7}}}})).json();
  EXPECT_EQ(tokens["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(Complete(Completion({{"prompt", {5, 6}}})).json()["choices"].size(), 1u);
}

TEST_F(OpenAiRoutesTest, BoundsThePromptsOfARequest) {
  Json body = Completion({{"prompt", Json::array()}, {"max_tokens", 1}});
  for (int i = 0; i < kPromptsMax; ++i) body["prompt"].push_back("hi");
  const HttpAnswer answer = Complete(body);
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.json()["choices"].size(), size_t{kPromptsMax});
  body["prompt"].push_back("hi");
  ExpectError(Complete(body), 400, "invalid_value", "prompt");
  EXPECT_THAT(Complete(body).body, HasSubstr("must be 1 to 16 prompts"));
}

TEST_F(OpenAiRoutesTest, BestOfGivesTheLikeliest) {
  const Json sampled = {{"temperature", 2.0}, {"seed", 7}, {"logprobs", 0}};
  Json all = sampled;
  all["n"] = 4;
  Json best = sampled;
  best["best_of"] = 4;
  double likeliest = -1e9;
  std::string text;
  const Json all_choices = Complete(Completion(all)).json()["choices"];
  for (const Json& choice : all_choices) {
    double sum = 0.0;
    for (const Json& logprob : choice["logprobs"]["token_logprobs"]) sum += logprob.get<double>();
    if (sum > likeliest) text = choice["text"];
    likeliest = std::max(likeliest, sum);
  }
  const Json json = Complete(Completion(best)).json();
  ASSERT_EQ(json["choices"].size(), 1u);
  EXPECT_EQ(json["choices"][0]["text"], text);
  EXPECT_EQ(json["usage"]["completion_tokens"], 24);
}

TEST_F(OpenAiRoutesTest, CompletionLogprobsLineUp) {
  const Json logprobs = Complete(Completion({{"logprobs", 2}})).json()["choices"][0]["logprobs"];
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(logprobs[list].size(), 6u) << list;
  }
  for (int i = 0; i < 6; ++i) {
    const Json& top = logprobs["top_logprobs"][i];
    EXPECT_EQ(top.size(), 2u);
    EXPECT_EQ(top[logprobs["tokens"][i].get<std::string>()], logprobs["token_logprobs"][i]);
  }
}

TEST_F(OpenAiRoutesTest, EchoedPromptsHaveLogprobsToo) {
  const Json body = Completion({{"logprobs", 2}, {"echo", true}, {"prompt", "hi th"}});
  const Json choice = Complete(body).json()["choices"][0];
  const Json& logprobs = choice["logprobs"];
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    ASSERT_EQ(logprobs[list].size(), 11u) << list;
  }
  EXPECT_THAT(choice["text"].get<std::string>(), StartsWith("hi th"));
  EXPECT_EQ(logprobs["tokens"][4], "h");
  EXPECT_EQ(logprobs["text_offset"][5], 5);
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  for (int i = 1; i < 11; ++i) {
    const Json& top = logprobs["top_logprobs"][i];
    EXPECT_GE(top.size(), 2u);
    EXPECT_EQ(top[logprobs["tokens"][i].get<std::string>()], logprobs["token_logprobs"][i]);
  }
  Json streamed = body;
  streamed["stream"] = true;
  Json tokens = Json::array();
  for (const Json& chunk : Chunks(Complete(streamed))) {
    const Json& part = chunk["choices"][0]["logprobs"];
    if (part.is_null()) continue;
    tokens.insert(tokens.end(), part["token_logprobs"].begin(), part["token_logprobs"].end());
  }
  EXPECT_EQ(tokens, logprobs["token_logprobs"]);
}

TEST_F(OpenAiRoutesTest, APromptMayBeScoredWithoutAnAnswer) {
  Json body = Completion({{"logprobs", 2}, {"echo", true}, {"prompt", "hi th"}});
  const Json whole = Complete(body).json()["choices"][0]["logprobs"];
  body["max_tokens"] = 0;
  const Json json = Complete(body).json();
  const Json& choice = json["choices"][0];
  EXPECT_EQ(choice["text"], "hi th");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  ASSERT_EQ(choice["logprobs"]["token_logprobs"].size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(choice["logprobs"]["top_logprobs"][i], whole["top_logprobs"][i]);
  }
  body["stream"] = true;
  std::string text;
  for (const Json& chunk : Chunks(Complete(body))) {
    text += chunk["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(text, "hi th");
  EXPECT_EQ(Complete(Completion({{"max_tokens", 0}, {"echo", true}})).status, 400);
}

// vLLM's: a map from token ids for each token of the prompt but the first.
TEST_F(OpenAiRoutesTest, PromptsHaveLogprobsInVllmsWords) {
  const Json body = Completion({{"logprobs", 1}, {"echo", true}, {"prompt", "hi th"}});
  const Json echoed = Complete(body).json()["choices"][0];
  for (const bool echo : {true, false}) {
    Json more = body;
    more["prompt_logprobs"] = 3;
    more["echo"] = echo;
    const Json choice = Complete(more).json()["choices"][0];
    if (echo) {
      EXPECT_EQ(choice["logprobs"], echoed["logprobs"]) << "as many as without";
    }
    const Json& list = choice["prompt_logprobs"];
    ASSERT_EQ(list.size(), 5u) << choice;
    EXPECT_TRUE(list[0].is_null());
    const std::string prompt = "hi th";
    for (size_t i = 1; i < prompt.size(); ++i) {
      const Json& own = list[i][absl::StrCat(static_cast<int>(prompt[i]))];
      EXPECT_EQ(own["decoded_token"], prompt.substr(i, 1));
      EXPECT_EQ(own["logprob"], echoed["logprobs"]["token_logprobs"][i]);
      std::map<int, double> ranked;
      for (const Json& one : list[i]) {
        if (!one["rank"].is_null()) ranked[one["rank"]] = one["logprob"];
      }
      ASSERT_EQ(ranked.size(), 3u);
      EXPECT_TRUE(ranked[1] >= ranked[2] && ranked[2] >= ranked[3]);
      EXPECT_EQ(list[i].size(), own["rank"].is_null() ? 4u : 3u);
    }
  }
  const Json chat = Converse(Chat({{"prompt_logprobs", 0}})).json();
  EXPECT_EQ(chat["prompt_logprobs"].size(), chat["usage"]["prompt_tokens"].get<size_t>());
  EXPECT_FALSE(chat["choices"][0].contains("prompt_logprobs"));
  EXPECT_FALSE(Complete(Completion()).json()["choices"][0].contains("prompt_logprobs"));
}

TEST_F(OpenAiRoutesTest, AnySeedOf64BitsReproduces) {
  const auto text = [this](const Json& seed) {
    const HttpAnswer answer = Complete(Completion({{"temperature", 2.0}, {"seed", seed}}));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return answer.json()["choices"][0]["text"].get<std::string>();
  };
  std::set<std::string> texts;
  for (const Json& seed : {Json(INT64_MIN), Json(-7), Json(7), Json(UINT64_MAX - 1)}) {
    EXPECT_EQ(text(seed), text(seed)) << seed;
    texts.insert(text(seed));
  }
  EXPECT_GE(texts.size(), 3u);
  EXPECT_EQ(Complete(Completion({{"seed", -1}})).status, 200) << "vLLM's way to say none";
  EXPECT_EQ(Complete(Completion({{"seed", 1.5}})).status, 400);
  const HttpAnswer larger = Complete(Completion({{"seed", 18446744073709551616.0}}));  // 2^64
  EXPECT_EQ(larger.status, 400);
  EXPECT_THAT(larger.body, HasSubstr("seed must be a whole number from 0 to 2^64 - 1"));
}

TEST_F(OpenAiRoutesTest, ChatsAnswerAsTheTemplateSays) {
  const HttpAnswer answer = Converse(Chat({{"logprobs", true}, {"top_logprobs", 2}}));
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = answer.json();
  EXPECT_THAT(json["id"].get<std::string>(), StartsWith("chatcmpl-"));
  EXPECT_EQ(json["object"], "chat.completion");
  const Json& choice = json["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  ASSERT_EQ(choice["logprobs"]["content"].size(), 6u);
  const Json& token = choice["logprobs"]["content"][0];
  EXPECT_EQ(token["top_logprobs"].size(), 2u);
  EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]);
  EXPECT_TRUE(token["bytes"].is_array());
  const Json parts = {{{"type", "text"}, {"text", "h"}}, {{"type", "text"}, {"text", "i"}}};
  const Json same = Converse(Chat({{"messages", {{{"role", "user"}, {"content", parts}}}}})).json();
  EXPECT_EQ(same["choices"][0]["message"], choice["message"]) << "parts are joined";
}

TEST_F(OpenAiRoutesTest, StreamsAddUpToTheWhole) {
  for (const bool chat : {false, true}) {
    Json body = chat ? Chat() : Completion();
    const Json whole = (chat ? Converse(body) : Complete(body)).json();
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
    body["logprobs"] = chat ? Json(true) : Json(0);
    const std::vector<Json> chunks = Chunks(chat ? Converse(body) : Complete(body));
    ASSERT_GE(chunks.size(), 3u);
    std::string text;
    size_t logprobs = 0;
    for (size_t i = 0; i + 1 < chunks.size(); ++i) {
      const Json& choice = chunks[i]["choices"].at(0);
      EXPECT_EQ(chunks[i]["id"], chunks[0]["id"]);
      EXPECT_TRUE(chunks[i]["usage"].is_null());
      EXPECT_EQ(choice["finish_reason"].is_null(), i + 2 < chunks.size());
      text += chat ? choice["delta"].value("content", "") : choice["text"].get<std::string>();
      if (chat) {
        EXPECT_EQ(choice["delta"].contains("role"), i == 0);
      }
      if (choice["logprobs"].is_null()) continue;
      logprobs += choice["logprobs"][chat ? "content" : "tokens"].size();
    }
    EXPECT_EQ(text, chat ? whole["choices"][0]["message"]["content"] : whole["choices"][0]["text"]);
    EXPECT_EQ(logprobs, 6u);
    EXPECT_EQ(chunks.back()["choices"], Json::array());
    EXPECT_EQ(chunks.back()["usage"], whole["usage"]);
  }
}

TEST_F(OpenAiRoutesTest, ChoicesOfAStreamAreTold) {
  std::map<int, std::string> texts;
  const Json body = Completion({{"stream", true}, {"n", 3}, {"temperature", 1.0}, {"seed", 3}});
  for (const Json& chunk : Chunks(Complete(body))) {
    texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"];
  }
  ASSERT_EQ(texts.size(), 3u);
  Json whole = body;
  whole["stream"] = false;
  const Json all_choices = Complete(whole).json()["choices"];
  for (const Json& choice : all_choices) {
    EXPECT_EQ(choice["text"], texts[choice["index"]]);
  }
}

TEST_F(OpenAiRoutesTest, UnknownModelsAreNotFound) {
  for (const char* model : {"missing", "gpt-4:x y", "../etc", "a/b/c"}) {
    ExpectError(Complete(Completion({{"model", model}})), 404, "model_not_found", nullptr);
    ExpectError(Converse(Chat({{"model", model}, {"stream", true}})), 404, "model_not_found",
                nullptr);
  }
  EXPECT_EQ(HttpCall(port(), "GET", "/v1/models/missing").status, 404);
}

TEST_F(OpenAiRoutesTest, FaultsNameTheirField) {
  const std::vector<std::pair<Json, const char*>> wrong = {
      {{{"temperature", -1}}, "temperature"},
      {{{"temperature", "hot"}}, "temperature"},
      {{{"n", 0}}, "n"},
      {{{"n", kSamplesMax + 1}}, "n"},
      {{{"best_of", 1}, {"n", 2}}, "best_of"},
      {{{"max_tokens", 0}}, "max_tokens"},
      {{{"max_tokens", 100000}}, "max_tokens"},
      {{{"logprobs", 21}}, "logprobs"},
      {{{"logit_bias", {{"x", 1}}}}, "logit_bias"},
      {{{"stop", {1}}}, "stop"},
      {{{"suffix", "end"}}, "suffix"},
      {{{"prompt", Json::array()}}, "prompt"},
      {{{"prompt", {{{"a", 1}}}}}, "prompt"},
      {{{"stream_options", {{"include_usage", true}}}}, "stream_options"},
      {{{"response_format", {{"type", "xml"}}}}, "response_format.type"},
      {{{"response_format",
         {{"type", "json_schema"}, {"json_schema", {{"schema", {{"not", Json::object()}}}}}}},
        {"ignore_eos", false}},
       "response_format"},
      {{{"response_format", {{"type", "json_object"}}}, {"ignore_eos", true}}, "response_format"},
      {{{"response_format", {{"type", "json_schema"}}}}, "response_format.json_schema"},
      {{{"response_format", {{"type", "regex"}}}}, "response_format.regex"},
      {{{"guided_regex", "a"}, {"guided_choice", {"b"}}}, "guided_choice"},
      {{{"guided_regex", "a"}, {"response_format", {{"type", "json_object"}}}}, "guided_json"},
      {{{"structured_outputs", {{"regex", ""}}}}, "structured_outputs.regex"},
      {{{"guided_choice", Json::array()}}, "guided_choice"},
      {{{"min_tokens", 3}}, "min_tokens"},
      {{{"adapter_source", "bogus"}, {"model", "plain"}}, "adapter_source"},
      {{{"adapter_source", "pbase"}, {"model", "plain"}}, "adapter_source"},
      {{{"adapter_source", 7}}, "adapter_source"},
      {{{"use_beam_search", true}}, "use_beam_search"},
      {{{"early_stopping", true}}, "early_stopping"},
      {{{"prompt_embeds", "x"}}, "prompt_embeds"},
      {{{"web_search_options", Json::object()}}, "web_search_options"},
      {{{"length_penalty", 0.5}}, "length_penalty"},
      {{{"add_generation_prompt", false}}, "add_generation_prompt"},
      {{{"modalities", {"text", "audio"}}}, "modalities"},
      {{{"prompt_logprobs", kLogprobsMax + 1}}, "prompt_logprobs"},
      {{{"prompt_logprobs", -1}}, "prompt_logprobs"},
      {{{"prompt_logprobs", 1}, {"stream", true}}, "prompt_logprobs"},
      {{{"frequency_penalty", 2.01}}, "frequency_penalty"},
      {{{"presence_penalty", -2.01}}, "presence_penalty"},
      {{{"truncate_prompt_tokens", kTinyContext}}, "truncate_prompt_tokens"},
      {{{"echo", true}, {"logprobs", 1}, {"truncate_prompt_tokens", 1}}, "truncate_prompt_tokens"}};
  for (const auto& [more, field] : wrong) {
    ExpectError(Complete(Completion(more)), 400, "invalid_value", field);
  }
  ExpectError(Complete({{"prompt", "hi"}}), 400, "invalid_value", "model");
  ExpectError(Converse(Chat({{"messages", Json::array()}})), 400, "invalid_value", "messages");
  ExpectError(Converse(Chat({{"tools", {Json::object()}}})), 400, "invalid_value", "tools.type");
  ExpectError(Converse(Chat({{"tools", {{{"type", "function"}}}}})), 400, "invalid_value",
              "tools.function");
  ExpectError(Converse(Chat({{"tool_choice", "required"}})), 400, "invalid_value", "tool_choice");
  ExpectError(Converse(Chat({{"top_logprobs", 3}})), 400, "invalid_value", "top_logprobs");
  ExpectError(Complete(Completion({{"model", "broken"}})), 400, "failed_precondition", nullptr);
  ExpectError(HttpCall(port(), "POST", "/v1/completions", "[1"), 400, "invalid_value", nullptr);
}

TEST_F(OpenAiRoutesTest, AnAnswerHasTheFormThatWasAskedFor) {
  const Json value = {{"zulu", 1}, {"alpha", {true, nullptr}}};
  const Json schema = {{"enum", {value}}};
  const Json formats[] = {
      {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"schema", schema}}}},
      {{"type", "json_object"}, {"schema", schema}}};
  for (const Json& format : formats) {
    const Json more = {{"response_format", format}, {"max_tokens", 200}, {"ignore_eos", false}};
    const Json completion = Complete(Completion(more)).json()["choices"][0];
    EXPECT_EQ(Json::parse(completion["text"].get<std::string>()), value);
    EXPECT_EQ(completion["finish_reason"], "stop");
  }
  const Json any = {
      {"response_format", {{"type", "json_object"}}}, {"max_tokens", 20}, {"ignore_eos", false}};
  const Json choice = Complete(Completion(any)).json()["choices"][0];
  EXPECT_EQ(choice["text"].get<std::string>().front(), '{');
  const Json text = {{"response_format", {{"type", "text"}}}};
  EXPECT_EQ(Complete(Completion(text)).json()["choices"], Complete(Completion()).json()["choices"]);
}

// Known only once the call is in: while nothing has been sent, a stream fails as the rest does.
TEST_F(OpenAiRoutesTest, AStreamThatFailsBeforeItsFirstEventIsAnError) {
  server_.WriteHugeAdapter("huge");
  const Json a = Post(port(), "/tokenize", {{"inputs", "a"}}).json()[0]["id"];
  const Json bans_all = {{"guided_regex", "a"}, {"logit_bias", {{a.dump(), -100}}}};
  for (const bool chat : {false, true}) {
    for (const Json& stream : {Json(false), Json(true)}) {
      const auto ask = [&](Json more) {
        more.update({{"stream", stream}, {"ignore_eos", false}});
        return chat ? Converse(Chat(more)) : Complete(Completion(more));
      };
      ExpectError(ask({{"guided_regex", "("}}), 400, "invalid_value", "guided_regex");
      ExpectError(ask({{"guided_grammar", "root ::= x"}}), 400, "invalid_value", "guided_grammar");
      ExpectError(ask(bans_all), 400, "invalid_value", "logit_bias");
      ExpectError(ask({{"model", "broken"}}), 400, "failed_precondition", nullptr);
      ExpectError(ask({{"model", "huge"}}), 500, "internal_error", nullptr);
      ExpectError(ask({{"model", "nobody"}}), 404, "model_not_found", nullptr);
    }
  }
}

TEST_F(OpenAiRoutesTest, FormsMayBeAskedForInVllmsWords) {
  const Json schema = {{"const", "ab"}};
  const std::pair<Json, std::string> cases[] = {
      {{{"response_format", {{"type", "regex"}, {"regex", "ab"}}}}, "ab"},
      {{{"response_format", {{"type", "grammar"}, {"grammar", "root ::= \"ab\""}}}}, "ab"},
      {{{"guided_json", schema}}, "\"ab\""},
      {{{"guided_json", schema.dump()}}, "\"ab\""},
      {{{"guided_regex", "ab"}}, "ab"},
      {{{"guided_grammar", "root ::= \"ab\""}}, "ab"},
      {{{"guided_choice", {"a \"q\"\n"}}}, "a \"q\"\n"},
      {{{"structured_outputs", {{"json", schema}}}}, "\"ab\""},
      {{{"structured_outputs", {{"regex", "ab"}}}}, "ab"},
      {{{"structured_outputs", {{"choice", {"ab"}}}}}, "ab"}};
  for (auto [more, text] : cases) {
    more["ignore_eos"] = false;
    more["max_tokens"] = 20;
    const Json answer = Complete(Completion(more)).json();
    EXPECT_EQ(answer["choices"][0]["text"], text) << more << answer;
  }
}

TEST_F(OpenAiRoutesTest, DefaultsOfWhatIsNotServedAreTaken) {
  const Json more = {{"use_beam_search", false},     {"min_tokens", 0},
                     {"bad_words", Json::array()},   {"length_penalty", 1.0},
                     {"modalities", {"text"}},       {"early_stopping", false},
                     {"add_generation_prompt", true}};
  EXPECT_EQ(Complete(Completion(more)).status, 200);
}

TEST_F(OpenAiRoutesTest, TheHeaderMayNameTheAdapterToo) {
  const Json expected = Complete(Completion({{"model", "plain"}})).json()["choices"];
  const Json answer =
      Post(port(), "/v1/completions", Completion({{"model", ""}}), {{"x-adapter-id", "plain"}})
          .json();
  EXPECT_EQ(answer["choices"], expected);
  EXPECT_EQ(answer["model"], "plain");
  for (const char* model : {"other", "tiny-llama"}) {
    ExpectError(Post(port(), "/v1/completions", Completion({{"model", model}}),
                     {{"x-adapter-id", "plain"}}),
                400, "invalid_value", "x-adapter-id");
  }
}

// As on LoRAX's own routes.
TEST_F(OpenAiRoutesTest, AModelMayBeAPathBeneathTheRoot) {
  const std::string root = server_.adapters().path();
  const auto complete = [this](const std::string& model, const char* source) {
    return Complete(Completion({{"model", model}, {"adapter_source", source}}));
  };
  const Json expected = complete("plain", "local").json()["choices"];
  EXPECT_EQ(complete(root + "/plain", "Local").json()["choices"], expected);
  ExpectError(complete("/etc", "local"), 400, "invalid_value", "model");
  EXPECT_EQ(complete(root + "/plain", "hub").status, 404) << "no path unless it is said to be one";
  // No bucket is allowed here, so there is no such model.
  ExpectError(complete("bucket/team/x", "s3"), 404, "model_not_found", nullptr);
  EXPECT_EQ(complete("tiny-llama", "local").status, 200);
}

TEST_F(OpenAiRoutesTest, AnyKeyDoesWhereThereAreNone) {
  EXPECT_EQ(
      Post(port(), "/v1/completions", Completion(), {{"Authorization", "Bearer sk-x"}}).status,
      200);
}

// The tiny model has a token a byte, so the prompt's tokens count what the template printed.
TEST(ToolsTest, ReachTheTemplateAsTheClientWroteThem) {
  namespace fs = std::filesystem;
  TemporaryFolder folder;
  const std::string model = folder.path() + "/tiny-llama";
  fs::copy(TinyModelPath(), model);
  Json tokenizer = Json::parse(std::ifstream(model + "/tokenizer_config.json"));
  tokenizer["chat_template"] =
      "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}"
      "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.city }}{% endif %}"
      "{% if m.tool_call_id %}{{ m.tool_call_id }}{% endif %}{% endfor %}";
  fs::remove(model + "/tokenizer_config.json");
  folder.Write("tiny-llama/tokenizer_config.json", tokenizer.dump());
  Config config;
  config.model = model;
  TinyServer server(config);
  const int port = server.server().http_port();
  const auto prompt_tokens = [port](const std::string& members, int status = 200) {
    const std::string body =
        absl::StrCat(R"({"model": "", "max_tokens": 1, "temperature": 0, )", members, "}");
    const HttpAnswer answer = HttpCall(port, "POST", "/v1/chat/completions", body);
    EXPECT_EQ(answer.status, status) << answer.body;
    return status == 200 ? answer.json()["usage"]["prompt_tokens"].get<int>() : 0;
  };
  const std::string ask = R"("messages": [{"role": "user", "content": "hi"}])";
  const std::string tools =
      R"([{"type": "function", "function": {"name": "weather", "description": "<s> here"}}])";
  EXPECT_EQ(prompt_tokens(ask), 2);
  EXPECT_EQ(prompt_tokens(absl::StrCat(ask, R"(, "tools": )", tools)), 2 + std::ssize(tools));
  EXPECT_EQ(prompt_tokens(absl::StrCat(ask, R"(, "tool_choice": "none", "tools": )", tools)), 2);
  EXPECT_EQ(
      prompt_tokens(
          R"("messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": null,
          "tool_calls": [{"id": "c1", "type": "function", "function":
          {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
          {"role": "tool", "tool_call_id": "c1", "content": "warm"}])"),
      2 + 4 + 4 + 2);
  const auto sized = [&](int64_t bytes) {
    std::string tool = R"([{"type":"function","function":{"name":"n","description":""}}])";
    tool.insert(tool.size() - 4, std::string(bytes - std::ssize(tool), 'x'));
    return absl::StrCat(ask, R"(, "tools": )", tool);
  };
  // At the bound the next one refuses: the tiny model's context.
  for (const int64_t bytes : {kToolsBytesMax, kToolsBytesMax + 1}) {
    const std::string body = absl::StrCat(R"({"model": "", )", sized(bytes), "}");
    const HttpAnswer answer = HttpCall(port, "POST", "/v1/chat/completions", body);
    EXPECT_EQ(answer.status, 400);
    EXPECT_EQ(answer.json()["param"] == "tools", bytes > kToolsBytesMax) << answer.body;
  }
}

}  // namespace
}  // namespace lorica
