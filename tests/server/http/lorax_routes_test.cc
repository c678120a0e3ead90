// LoRAX's routes on a whole server: what its clients count on, byte by byte where they do.
#include "server/http/lorax_routes.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "server/http/lorax_answer.h"
#include "tests/fakes/fake_hub.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// What the Python client sends: every key, most of them null.
Json ClientBody(Json parameters = Json::object(), bool stream = false) {
  Json all = Json::parse(R"({"adapter_id":null,"adapter_source":null,"merged_adapters":null,
    "api_token":null,"do_sample":false,"max_new_tokens":6,"ignore_eos_token":true,
    "repetition_penalty":null,"return_full_text":false,"stop":[],"seed":null,"temperature":null,
    "top_k":null,"top_p":null,"truncate":null,"typical_p":null,"best_of":null,"watermark":false,
    "details":true,"decoder_input_details":false,"return_k_alternatives":null,
    "response_format":null})");
  all.update(parameters);
  return {{"inputs", "hi"}, {"parameters", all}, {"stream", stream}};
}

class LoraxRoutesTest : public ::testing::Test {
 protected:
  HttpAnswer Generate(const Json& body, const std::string& path = "/") {
    return Post(port(), path, body);
  }
  // An error of `status` and `type`; its text.
  std::string Error(const HttpAnswer& answer, int status, const std::string& type) {
    EXPECT_EQ(answer.status, status) << answer.body;
    const Json json = answer.json();
    EXPECT_TRUE(json.is_object()) << answer.body;
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
    EXPECT_EQ(json.value("error_type", ""), type) << answer.body;
    return json.value("error", "");
  }
  int port() { return server_.server().http_port(); }

  TinyServer server_;
};

TEST_F(LoraxRoutesTest, TheRootAnswersAnArrayOfOne) {
  const HttpAnswer answer = Generate(ClientBody());
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json json = answer.json();
  ASSERT_TRUE(json.is_array() && json.size() == 1) << answer.body;
  EXPECT_TRUE(json[0]["generated_text"].is_string());
  EXPECT_EQ(Generate(ClientBody(), "/invocations").json(), json);
  EXPECT_EQ(Generate(ClientBody(Json::object(), true), "/generate").json(), json[0])
      << "`stream` is ignored";
}

TEST_F(LoraxRoutesTest, DetailsHoldWhatEveryClientVersionDemands) {
  const Json details = Generate(ClientBody()).json()[0]["details"];
  EXPECT_EQ(details["finish_reason"], "length");
  EXPECT_EQ(details["prompt_tokens"], 2);
  EXPECT_EQ(details["generated_tokens"], 6);
  EXPECT_EQ(details["skipped_tokens"], 0);
  EXPECT_TRUE(details["seed"].is_null()) << "greedy";
  EXPECT_EQ(details["prefill"], Json::array());
  ASSERT_EQ(details["tokens"].size(), 6u);
  for (const Json& token : details["tokens"]) {
    EXPECT_TRUE(token["id"].is_number_integer());
    EXPECT_TRUE(token["text"].is_string());
    EXPECT_TRUE(token["logprob"].is_number_float());
    EXPECT_TRUE(token["special"].is_boolean());
    EXPECT_EQ(token["skipped"], false);
    EXPECT_FALSE(token.contains("alternative_tokens"));
  }
  EXPECT_FALSE(Generate(ClientBody({{"details", false}})).json()[0].contains("details"));
}

TEST_F(LoraxRoutesTest, TheAnswerIsThatOfGrpc) {
  for (const std::string adapter : {"", "plain", "dora"}) {
    v1::GenerateRequest request;
    request.set_prompt("hi");
    request.set_adapter_id(adapter);
    request.set_max_tokens(6);
    request.set_ignore_eos(true);
    Context context;
    v1::GenerateResponse expected;
    ASSERT_TRUE(server_.inference().Generate(&context, request, &expected).ok());
    const HttpAnswer answer = Generate(ClientBody({{"adapter_id", adapter}}));
    const Json json = answer.json()[0];
    EXPECT_EQ(json["generated_text"], expected.text());
    for (int i = 0; i < 6; ++i) {
      EXPECT_EQ(json["details"]["tokens"][i]["id"], expected.token_ids(i));
    }
    EXPECT_EQ(answer.headers.contains("x-adapter-id"), !adapter.empty());
  }
}

TEST_F(LoraxRoutesTest, InputDetailsHoldThePromptAsGrpcScoresIt) {
  v1::GenerateRequest request;
  request.set_prompt("hi there");
  request.set_adapter_id("plain");
  request.set_max_tokens(6);
  request.set_ignore_eos(true);
  request.set_prompt_logprobs(0);
  Context context;
  v1::GenerateResponse expected;
  ASSERT_TRUE(server_.inference().Generate(&context, request, &expected).ok());
  Json body =
      ClientBody({{"adapter_id", "plain"}, {"decoder_input_details", true}, {"details", false}});
  body["inputs"] = "hi there";
  const Json prefill = Generate(body).json()[0]["details"]["prefill"];
  ASSERT_EQ(prefill.size(), 8u);
  EXPECT_EQ(prefill[0], Json({{"id", 'h'}, {"text", "h"}, {"logprob", nullptr}}));
  for (int i = 1; i < 8; ++i) {
    const v1::TokenLogprob& scored = expected.prompt_logprobs(i - 1);
    EXPECT_EQ(prefill[i]["id"], scored.token_id());
    EXPECT_FLOAT_EQ(prefill[i]["logprob"].get<double>(), scored.logprob());
  }
  EXPECT_EQ(prefill[7]["text"], "e");
  body["parameters"]["best_of"] = 2;
  body["parameters"]["do_sample"] = true;
  const Json details = Generate(body).json()[0]["details"];
  EXPECT_EQ(details["prefill"], prefill);
  EXPECT_EQ(details["best_of_sequences"][0]["prefill"], prefill);
}

TEST_F(LoraxRoutesTest, HeadersCountAndTime) {
  HttpAnswer answer = Generate(ClientBody({{"adapter_id", "plain"}}));
  EXPECT_EQ(answer.headers["x-prompt-tokens"], "2");
  EXPECT_EQ(answer.headers["x-generated-tokens"], "6");
  EXPECT_EQ(answer.headers["x-total-tokens"], "8");
  EXPECT_EQ(answer.headers["x-compute-characters"], "2");
  EXPECT_EQ(answer.headers["x-adapter-id"], "plain");
  EXPECT_EQ(answer.headers["x-model-id"], "tiny-llama");
  for (const char* name : {"x-total-time", "x-queue-time", "x-inference-time", "x-validation-time",
                           "x-time-per-token", "x-time-to-first-token"}) {
    EXPECT_TRUE(answer.headers.contains(name)) << name;
  }
}

TEST_F(LoraxRoutesTest, StreamsHaveOneEventATokenAndEndWithTheText) {
  const Json whole = Generate(ClientBody()).json()[0];
  const HttpAnswer answer = Generate(ClientBody(Json::object(), true));
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("content-type"), "text/event-stream");
  EXPECT_EQ(answer.headers.at("x-accel-buffering"), "no");
  const std::vector<std::string> events = answer.events();
  ASSERT_EQ(events.size(), 6u) << answer.body;
  for (size_t i = 0; i < 6; ++i) {
    const OrderedJson event = OrderedJson::parse(events[i]);
    EXPECT_EQ(event["token"]["id"], whole["details"]["tokens"][i]["id"].get<int>());
    EXPECT_EQ(event["generated_text"].is_null(), i < 5);
    EXPECT_EQ(event["details"].is_null(), i < 5);
  }
  EXPECT_THAT(events[0], StartsWith(R"({"token":{"id":)"));
  const Json last = Json::parse(events[5]);
  EXPECT_EQ(last["generated_text"], whole["generated_text"]);
  EXPECT_EQ(last["details"], Json({{"finish_reason", "length"},
                                   {"prompt_tokens", 2},
                                   {"generated_tokens", 6},
                                   {"seed", nullptr}}));
  EXPECT_EQ(Post(port(), "/generate_stream", ClientBody()).events(), events);
}

TEST_F(LoraxRoutesTest, SamplingSaysItsSeedAndReproduces) {
  const Json first = Generate(ClientBody({{"do_sample", true}, {"temperature", 1.5}})).json()[0];
  ASSERT_TRUE(first["details"]["seed"].is_number_unsigned());
  const Json again =
      Generate(ClientBody(
                   {{"do_sample", true}, {"temperature", 1.5}, {"seed", first["details"]["seed"]}}))
          .json()[0];
  EXPECT_EQ(again, first);
}

TEST_F(LoraxRoutesTest, BestOfPutsTheLikeliestFirst) {
  const Json json =
      Generate(ClientBody({{"do_sample", true}, {"temperature", 2.0}, {"best_of", 3}})).json()[0];
  const Json others = json["details"]["best_of_sequences"];
  ASSERT_EQ(others.size(), 2u) << json;
  const auto sum = [](const Json& tokens) {
    double sum = 0.0;
    for (const Json& token : tokens) sum += token["logprob"].get<double>();
    return sum;
  };
  for (const Json& other : others) {
    EXPECT_EQ(other["tokens"].size(), 6u);
    EXPECT_LE(sum(other["tokens"]), sum(json["details"]["tokens"]));
  }
}

TEST_F(LoraxRoutesTest, AlternativesAreSortedAndHoldTheGreedyChoice) {
  const Json json = Generate(ClientBody({{"return_k_alternatives", 3}})).json()[0];
  for (const Json& token : json["details"]["tokens"]) {
    const Json& alternatives = token["alternative_tokens"];
    ASSERT_EQ(alternatives.size(), 3u);
    EXPECT_EQ(alternatives[0]["id"], token["id"]);
    EXPECT_GE(alternatives[0]["logprob"], alternatives[1]["logprob"]);
    EXPECT_TRUE(alternatives[1]["text"].is_string());
  }
}

TEST_F(LoraxRoutesTest, MoreAlternativesThanThereMayBeAreAsManyAsThereMayBe) {
  for (const int64_t count :
       {int64_t{kLogprobsMax}, int64_t{kLogprobsMax + 1}, int64_t{INT32_MAX}}) {
    const Json json = Generate(ClientBody({{"return_k_alternatives", count}})).json()[0];
    EXPECT_EQ(json["details"]["tokens"][0]["alternative_tokens"].size(), kLogprobsMax) << count;
  }
}

TEST_F(LoraxRoutesTest, AStopStringStaysInTheText) {
  const Json sampled = {{"do_sample", true}, {"temperature", 3.0}, {"max_new_tokens", 40}};
  for (int seed = 1; seed <= 20; ++seed) {
    Json parameters = sampled;
    parameters["seed"] = seed;
    const std::string whole = Generate(ClientBody(parameters)).json()[0]["generated_text"];
    const auto plain = std::find_if(whole.begin() + whole.size() / 2, whole.end(),
                                    [](char c) { return c > ' ' && c < 0x7f; });
    if (plain == whole.end()) continue;
    parameters["stop"] = {std::string(1, *plain)};
    const Json json = Generate(ClientBody(parameters)).json()[0];
    EXPECT_EQ(json["details"]["finish_reason"], "stop_sequence");
    EXPECT_EQ(json["generated_text"], whole.substr(0, whole.find(*plain) + 1));
    const auto events = Generate(ClientBody(parameters, true)).events();
    EXPECT_EQ(events.size(), json["details"]["tokens"].size());
    EXPECT_EQ(Json::parse(events.back())["generated_text"], json["generated_text"]);
    return;
  }
  FAIL() << "no seed gives a plain character to stop at";
}

TEST_F(LoraxRoutesTest, FullTextAndTruncation) {
  const std::string text = Generate(ClientBody()).json()[0]["generated_text"];
  EXPECT_EQ(Generate(ClientBody({{"return_full_text", true}})).json()[0]["generated_text"],
            "hi" + text);
  const Json cut = Generate(ClientBody({{"truncate", 1}})).json()[0];
  EXPECT_EQ(cut["details"]["prompt_tokens"], 1);
}

TEST_F(LoraxRoutesTest, LocalAdaptersMayBePathsBeneathTheRoot) {
  const std::string root = server_.adapters().path();
  const Json expected = Generate(ClientBody({{"adapter_id", "plain"}})).json();
  EXPECT_EQ(
      Generate(ClientBody({{"adapter_id", root + "/plain"}, {"adapter_source", "local"}})).json(),
      expected);
  for (const std::string path : {"/etc/passwd", "/", "/../etc"}) {
    Error(Generate(ClientBody({{"adapter_id", path}, {"adapter_source", "local"}})), 422,
          "validation");
  }
  Error(Generate(ClientBody({{"adapter_id", root}, {"adapter_source", "local"}})), 422,
        "validation");
}

TEST_F(LoraxRoutesTest, EveryFaultHasItsClass) {
  EXPECT_THAT(Error(Generate(ClientBody({{"adapter_id", "missing"}})), 424, "generation"),
              StartsWith("Request failed during generation: Server error: "));
  Error(Generate(ClientBody({{"adapter_id", "broken"}})), 424, "generation");
  EXPECT_THAT(Error(Generate(ClientBody({{"adapter_id", "x"}, {"adapter_source", "pbase"}})), 424,
                    "generation"),
              HasSubstr("pbase"));
  for (const char* place : {"s3://bucket/team/x", "bucket/team/x"}) {  // no prefix is allowed here
    EXPECT_THAT(Error(Generate(ClientBody({{"adapter_id", place}, {"adapter_source", "s3"}})), 424,
                      "generation"),
                HasSubstr("s3://bucket/team/x"));
  }
  Error(Generate(ClientBody({{"adapter_id", "../x"}, {"adapter_source", "s3"}})), 422,
        "validation");
  const std::vector<Json> invalid = {
      {{"temperature", -1.0}},
      {{"top_k", 0}},
      {{"top_p", 0.0}},
      {{"top_p", 1.5}},
      {{"repetition_penalty", 0.0}},
      {{"max_new_tokens", 0}},
      {{"max_new_tokens", -1}},
      {{"max_new_tokens", 100000}},
      {{"best_of", 2}},
      {{"best_of", 2}, {"do_sample", true}, {"seed", 1}},
      {{"best_of", kSamplesMax + 1}, {"do_sample", true}},
      {{"truncate", 0}},
      {{"truncate", kTinyContext}},
      {{"frequency_penalty", 2.01}},
      {{"presence_penalty", -2.01}},
      {{"return_k_alternatives", 0}},
      {{"typical_p", 0.5}},
      {{"watermark", true}},
      {{"stop", 7}},
      {{"stop", std::vector<std::string>(kStopStringsMax + 1, "x")}},
      {{"seed", -1}},
      {{"details", "yes"}},
      {{"adapter_id", "../x"}},
      {{"adapter_id", "a"}, {"merged_adapters", {{"ids", {"b"}}, {"weights", {1.0}}}}},
      {{"merged_adapters", {{"ids", {"a", "b"}}, {"weights", {1.0}}}}},
      {{"merged_adapters", {{"ids", {"a", "b"}}, {"weights", {1.0, "x"}}}}},
      {{"merged_adapters", {{"ids", {"a", "b"}}, {"weights", {1.0, 100.5}}}}},
      {{"merged_adapters", {{"ids", Json::array()}, {"weights", Json::array()}}}},
      {{"response_format", {{"type", "xml"}}}, {"ignore_eos_token", false}},
      {{"response_format", "json_object"}, {"ignore_eos_token", false}},
      {{"response_format", {{"type", "json_object"}, {"schema", {{"not", Json::object()}}}}},
       {"ignore_eos_token", false}},
      {{"response_format", {{"type", "json_object"}, {"schema", 7}}}, {"ignore_eos_token", false}},
      {{"response_format", {{"type", "json_object"}}}, {"ignore_eos_token", true}}};
  for (const Json& parameters : invalid) {
    EXPECT_THAT(Error(Generate(ClientBody(parameters)), 422, "validation"),
                StartsWith("Input validation error: "))
        << parameters;
  }
  Error(Post(port(), "/", {{"inputs", ""}}), 422, "validation");
  Error(Post(port(), "/", Json::object()), 422, "validation");
  Error(Post(port(), "/", {{"inputs", 7}}), 422, "validation");
  Error(Post(port(), "/", Json::array()), 422, "validation");
}

TEST_F(LoraxRoutesTest, WhatIsAtItsBoundIsTaken) {
  for (const Json& parameters : {Json({{"truncate", kTinyContext - 1}}), Json({{"truncate", 1}}),
                                 Json({{"frequency_penalty", 2.0}, {"presence_penalty", -2.0}}),
                                 Json({{"best_of", kSamplesMax}, {"do_sample", true}})}) {
    const HttpAnswer answer = Generate(ClientBody(parameters));
    EXPECT_EQ(answer.status, 200) << answer.body;
  }
}

TEST_F(LoraxRoutesTest, ALastTokenThatEndsTheAnswerCountsAsLength) {
  Json parameters = {{"response_format", {{"type", "regex"}, {"regex", "abc"}}},
                     {"ignore_eos_token", false},
                     {"max_new_tokens", 50}};
  const Json whole = Generate(ClientBody(parameters)).json()[0];
  EXPECT_EQ(whole["details"]["finish_reason"], "eos_token");
  const int tokens = whole["details"]["generated_tokens"];
  EXPECT_EQ(whole["details"]["tokens"][tokens - 1]["special"], true);
  for (const auto& [most, reason] : {std::pair(tokens, "length"), {tokens + 1, "eos_token"}}) {
    parameters["max_new_tokens"] = most;
    const Json json = Generate(ClientBody(parameters)).json()[0];
    EXPECT_EQ(json["details"]["finish_reason"], reason) << most;
    EXPECT_EQ(json["generated_text"], "abc");
    const auto events = Generate(ClientBody(parameters, true)).events();
    EXPECT_EQ(Json::parse(events.back())["details"]["finish_reason"], reason) << most;
  }
}

TEST_F(LoraxRoutesTest, AnAnswerHasTheFormThatWasAskedFor) {
  const auto answer = [&](const Json& format) {
    const Json body = ClientBody(
        {{"response_format", format}, {"max_new_tokens", 200}, {"ignore_eos_token", false}});
    const HttpAnswer got = Generate(body, "/generate");
    EXPECT_EQ(got.status, 200) << got.body;
    return got.json();
  };
  const Json schema = {{"enum", {{{"zulu", 1}, {"alpha", {true, nullptr}}}}}};
  for (const char* type : {"json_object", "json_schema", "JsonSchema"}) {
    const Json fixed = answer({{"type", type}, {"schema", schema}});
    EXPECT_EQ(Json::parse(fixed["generated_text"].get<std::string>()), schema["enum"][0]);
    EXPECT_EQ(fixed["details"]["finish_reason"], "eos_token");
  }
  // The client that knows no schema sends null, and means any object.
  const std::string any = answer({{"type", "json_object"}, {"schema", nullptr}})["generated_text"];
  EXPECT_EQ(any.front(), '{');
  EXPECT_EQ(answer({{"type", "text"}}), answer(nullptr));
}

TEST_F(LoraxRoutesTest, ASchemasPropertiesKeepTheirOrder) {
  const std::string body =
      R"({"inputs": "x", "parameters": {"max_new_tokens": 200, "response_format": {
          "type": "json_object", "schema": {"type": "object", "properties": {
            "zulu": {"const": 1}, "mike": {"const": 2}, "alpha": {"const": 3}},
          "required": ["zulu", "mike", "alpha"]}}}})";
  const HttpAnswer answer = HttpCall(port(), "POST", "/generate", body);
  ASSERT_EQ(answer.status, 200) << answer.body;
  const std::string text = answer.json()["generated_text"];
  EXPECT_LT(text.find("zulu"), text.find("mike"));
  EXPECT_LT(text.find("mike"), text.find("alpha"));
}

TEST_F(LoraxRoutesTest, OneMergedAdapterIsThatAdapter) {
  EXPECT_EQ(
      Generate(ClientBody({{"merged_adapters", {{"ids", {"plain"}}, {"weights", {0.5}}}}})).json(),
      Generate(ClientBody({{"adapter_id", "plain"}})).json());
}

// `merge` with two adapters in it.
Json Merged(const char* one, const char* two, Json merge = Json::object()) {
  merge["ids"] = {one, two};
  merge["weights"] = {0.7, 0.3};
  return ClientBody({{"merged_adapters", merge}});
}

TEST_F(LoraxRoutesTest, SeveralMergedAdaptersAreOneNewAdapter) {
  server_.WriteAdapter("twin", 4, false);
  const HttpAnswer merged = Generate(Merged("plain", "twin"));
  ASSERT_EQ(merged.status, 200) << merged.body;
  EXPECT_EQ(Generate(Merged("plain", "twin")).json(), merged.json());
  // As the client sends it: null and a density that linear does not look at.
  EXPECT_EQ(Generate(Merged("plain", "twin",
                            {{"merge_strategy", nullptr},
                             {"density", 0.0},
                             {"majority_sign_method", nullptr}}))
                .json(),
            merged.json());
  for (const char* strategy : {"ties", "dare_linear", "dare_ties"}) {
    for (const char* sign : {"total", "frequency"}) {
      const HttpAnswer answer = Generate(
          Merged("plain", "twin",
                 {{"merge_strategy", strategy}, {"density", 0.5}, {"majority_sign_method", sign}}));
      EXPECT_EQ(answer.status, 200) << answer.body;
    }
  }
}

TEST_F(LoraxRoutesTest, MergesAreMadeOfWhatTheirSourceHas) {
  server_.WriteAdapter("twin", 4, false);
  const Json expected = Generate(Merged("plain", "twin")).json();
  const std::string root = server_.adapters().path();
  const auto from = [](Json body, const char* source) {
    body["parameters"]["adapter_source"] = source;
    return body;
  };
  const HttpAnswer local = Generate(from(Merged((root + "/plain").c_str(), "twin"), "local"));
  EXPECT_EQ(local.json(), expected) << local.body;
  EXPECT_EQ(local.headers.at("x-adapter-source"), "local");
  Error(Generate(from(Merged("/etc", "twin"), "local")), 422, "validation");
  EXPECT_THAT(Error(Generate(from(Merged("plain", "twin"), "pbase")), 424, "generation"),
              HasSubstr("'plain', 'twin': Predibase's own store (pbase) is not served"));
  EXPECT_THAT(Error(Generate(from(Merged("plain", "twin"), "elsewhere")), 424, "generation"),
              HasSubstr("invalid source 'elsewhere' when downloading adapter 'plain', 'twin'"));
  EXPECT_THAT(Error(Generate(from(Merged("plain", "twin"), "s3")), 424, "generation"),
              HasSubstr("register each"));
}

TEST_F(LoraxRoutesTest, MergesThatCannotBeMadeSayWhy) {
  EXPECT_THAT(Error(Generate(Merged("plain", "other")), 424, "generation"),
              HasSubstr("linear needs equal ranks"));
  EXPECT_THAT(Error(Generate(Merged("plain", "dora")), 424, "generation"), HasSubstr("DoRA"));
  Error(Generate(Merged("plain", "missing")), 424, "generation");
  for (const Json& merge :
       {Json({{"merge_strategy", "svd"}}), Json({{"merge_strategy", "ties"}}),
        Json({{"merge_strategy", "ties"}, {"density", 1.01}}),
        Json({{"merge_strategy", "ties"}, {"density", 0.5}, {"majority_sign_method", "most"}})}) {
    Error(Generate(Merged("plain", "other", merge)), 422, "validation");
  }
  std::vector<std::string> ids;
  for (int i = 0; i <= kMixTermsMax; ++i) ids.push_back(absl::StrCat("a", i));
  const std::vector<double> weights(ids.size(), 0.1);
  Error(Generate(ClientBody({{"merged_adapters", {{"ids", ids}, {"weights", weights}}}})), 422,
        "validation");
}

// The tokens were sent one by one; the whole text would be a line that some clients refuse.
TEST_F(LoraxRoutesTest, NoEventIsLongerThanClientsRead) {
  for (const int bytes : {1000, 140'000}) {
    const Json body = {
        {"inputs", std::string(bytes, 'x')},
        {"parameters", {{"max_new_tokens", 3}, {"truncate", 16}, {"return_full_text", true}}}};
    const std::vector<std::string> events = Post(port(), "/generate_stream", body).events();
    ASSERT_FALSE(events.empty());
    for (const std::string& event : events) EXPECT_LE(std::ssize(event), kLoraxEventBytesMax);
    const Json last = Json::parse(events.back());
    EXPECT_EQ(last["generated_text"].is_null(), bytes > kLoraxEventBytesMax) << bytes;
    EXPECT_TRUE(last["token"].is_object());
  }
}

TEST_F(LoraxRoutesTest, FaultsOfStreamsAreEvents) {
  for (const Json& parameters :
       {Json({{"temperature", -1.0}}), Json({{"adapter_id", "missing"}}),
        Json({{"best_of", 2}, {"do_sample", true}}), Json({{"decoder_input_details", true}})}) {
    const HttpAnswer answer = Generate(ClientBody(parameters, true));
    EXPECT_EQ(answer.status, 200);
    ASSERT_EQ(answer.events().size(), 1u);
    EXPECT_TRUE(Json::parse(answer.events()[0]).contains("error_type"));
  }
}

TEST_F(LoraxRoutesTest, UnknownMembersAndNullsAreNobodysBusiness) {
  EXPECT_EQ(
      Post(port(), "/generate", {{"inputs", "hi"}, {"parameters", nullptr}, {"x", {1, 2}}}).status,
      200);
}

// Whatever the client says or leaves out.
TEST(LoraxSources, AnAnswerSaysWhereItsAdapterIsFrom) {
  FakeHub hub;
  TemporaryFolder data;
  Config config;
  config.hub_allow = "org/*";
  config.hub_endpoint = hub.endpoint();
  config.hub_redirect_hosts = hub.cdn_place();
  config.data_dir = data.path();
  TinyServer server(config);
  hub.Commit("org/a", FakeHub::FilesOf(server.adapters().path() + "/plain"));
  const auto source = [&server](Json parameters, bool stream = false) {
    HttpAnswer answer =
        Post(server.server().http_port(), "/", ClientBody(std::move(parameters), stream));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return answer.headers["x-adapter-source"];
  };
  EXPECT_EQ(source({{"adapter_id", "org/a"}}), "hub");
  EXPECT_EQ(source({{"adapter_id", "org/a"}}, /*stream=*/true), "hub");
  EXPECT_EQ(source({{"adapter_id", "plain"}}), "local");
  EXPECT_EQ(source({{"adapter_id", "plain"}, {"adapter_source", "hub"}}), "local")
      << "a folder comes before the hub";
  EXPECT_EQ(source(Json::object()), "");
  EXPECT_EQ(source({{"merged_adapters", {{"ids", {"plain", "org/a"}}, {"weights", {0.5, 0.5}}}}}),
            "local,hub");
  const HttpAnswer loaded = Post(server.server().http_port(), "/v1/load_lora_adapter",
                                 {{"lora_name", "mine"}, {"lora_path", "org/a"}});
  EXPECT_EQ(loaded.status, 200) << loaded.body;
  EXPECT_EQ(source({{"adapter_id", "mine"}}), "hub");
}

TEST_F(LoraxRoutesTest, InfoSaysTheLimits) {
  const Json info = HttpCall(port(), "GET", "/info").json();
  EXPECT_EQ(info["model_id"], "tiny-llama");
  EXPECT_EQ(info["max_total_tokens"], kTinyContext);
  EXPECT_EQ(info["max_stop_sequences"], kStopStringsMax);
  EXPECT_EQ(info["max_best_of"], kSamplesMax);
}

}  // namespace
}  // namespace lorica
