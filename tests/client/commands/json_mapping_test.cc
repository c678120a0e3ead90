#include "client/commands/json_mapping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace lorica {
namespace {

using ::testing::HasSubstr;

v1::GenerateRequest Parsed(const std::string& text) {
  auto request = RequestFromJson(text);
  EXPECT_TRUE(request.ok()) << text << ": " << request.status();
  return request.ok() ? *request : v1::GenerateRequest();
}

std::string Complaint(const std::string& text) {
  auto request = RequestFromJson(text);
  EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << text;
  return std::string(request.status().message());
}

TEST(RequestFromJson, TakesEveryField) {
  const v1::GenerateRequest request = Parsed(R"({
    "adapter_id": "a", "prompt": "Hi", "max_tokens": 5, "temperature": 1, "top_k": 40,
    "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": -0.5,
    "frequency_penalty": 0.25, "seed": 7, "logit_bias": [{"token_id": 3, "bias": -100}],
    "logprobs": 2, "stop": ["\n", "END"], "stop_token_ids": [1, 2], "ignore_eos": true,
    "skip_special_tokens": false})");
  EXPECT_EQ(request.adapter_id(), "a");
  EXPECT_EQ(request.prompt(), "Hi");
  EXPECT_EQ(request.max_tokens(), 5);
  EXPECT_EQ(request.temperature(), 1.0);
  EXPECT_EQ(request.top_k(), 40);
  EXPECT_EQ(request.top_p(), 0.9);
  EXPECT_EQ(request.min_p(), 0.05);
  EXPECT_EQ(request.repetition_penalty(), 1.1);
  EXPECT_EQ(request.presence_penalty(), -0.5);
  EXPECT_EQ(request.frequency_penalty(), 0.25);
  EXPECT_EQ(request.seed(), 7);
  EXPECT_EQ(request.logit_bias(0).bias(), -100);
  EXPECT_EQ(request.logprobs(), 2);
  EXPECT_EQ(request.stop(1), "END");
  EXPECT_EQ(request.stop_token_ids(1), 2);
  EXPECT_TRUE(request.ignore_eos());
  EXPECT_FALSE(request.skip_special_tokens());
  EXPECT_TRUE(request.has_skip_special_tokens());
}

TEST(RequestFromJson, TakesMixesMessagesAndTokenIds) {
  const v1::GenerateRequest mix =
      Parsed(R"({"adapters": [{"adapter_id": "a", "weight": 0.7}, {"adapter_id": "b"}]})");
  EXPECT_EQ(mix.adapters(0).weight(), 0.7);
  EXPECT_FALSE(mix.adapters(1).has_weight());
  const v1::GenerateRequest chat =
      Parsed(R"({"messages": [{"role": "user", "content": "Grüße"}]})");
  EXPECT_EQ(chat.messages(0).content(), "Grüße");
  EXPECT_FALSE(chat.has_prompt());
  EXPECT_EQ(Parsed(R"({"token_ids": [1, 0, 49151]})").token_ids(2), 49151);
}

TEST(RequestFromJson, KeepsAbsentApartFromZero) {
  const v1::GenerateRequest absent = Parsed(R"({"prompt": "", "seed": null})");
  EXPECT_TRUE(absent.has_prompt());
  EXPECT_FALSE(absent.has_seed());
  EXPECT_FALSE(absent.has_max_tokens());
  EXPECT_TRUE(Parsed(R"({"max_tokens": 0})").has_max_tokens());
}

TEST(RequestFromJson, KeepsTheLargestSeedExact) {
  EXPECT_EQ(Parsed(R"({"seed": 18446744073709551615})").seed(),
            std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(Parsed(R"({"seed": 9007199254740993})").seed(), 9007199254740993u);
  EXPECT_THAT(Complaint(R"({"seed": 18446744073709551616})"), HasSubstr("seed: expected"));
  EXPECT_THAT(Complaint(R"({"seed": -1})"), HasSubstr("seed: expected"));
}

TEST(RequestFromJson, TwoFormsOfOneAnswerAreAMistake) {
  EXPECT_EQ(
      Parsed(R"({"response_format": {"regex": "a", "ebnf": null}})").response_format().regex(),
      "a");
  EXPECT_THAT(Complaint(R"({"response_format": {"regex": "a", "ebnf": "root ::= \"b\""}})"),
              HasSubstr("ebnf: another form is given already"));
}

TEST(RequestFromJson, TakesLogitBiasAsAnObjectToo) {
  const v1::GenerateRequest request = Parsed(R"({"logit_bias": {"50": -100, "7": 2.5}})");
  ASSERT_EQ(request.logit_bias_size(), 2);
  EXPECT_EQ(request.logit_bias(0).token_id(), 50);
  EXPECT_EQ(request.logit_bias(1).bias(), 2.5);
  EXPECT_THAT(Complaint(R"({"logit_bias": {"the": 1}})"), HasSubstr("\"the\""));
}

TEST(RequestFromJson, IsStrictAboutTypes) {
  EXPECT_EQ(Complaint(R"({"max_tokens": "5"})"), "max_tokens: expected an integer, got \"5\"");
  EXPECT_EQ(Complaint(R"({"max_tokens": 5.5})"), "max_tokens: expected an integer, got 5.5");
  EXPECT_EQ(Complaint(R"({"max_tokens": true})"), "max_tokens: expected an integer, got true");
  EXPECT_EQ(Complaint(R"({"max_tokens": 2147483648})"),
            "max_tokens: expected an integer of 32 bits, got 2147483648");
  EXPECT_EQ(Complaint(R"({"max_tokens": -2147483649})"),
            "max_tokens: expected an integer of 32 bits, got -2147483649");
  EXPECT_EQ(Complaint(R"({"temperature": "hot"})"), "temperature: expected a number, got \"hot\"");
  EXPECT_EQ(Complaint(R"({"prompt": 5})"), "prompt: expected a string, got 5");
  EXPECT_EQ(Complaint(R"({"ignore_eos": 1})"), "ignore_eos: expected true or false, got 1");
  EXPECT_EQ(Complaint(R"({"stop": "x"})"), "stop: expected a list, got \"x\"");
  EXPECT_EQ(Complaint(R"({"token_ids": [1, "2"]})"),
            "token_ids[1]: expected an integer, got \"2\"");
  EXPECT_EQ(Complaint(R"({"token_ids": [null]})"), "token_ids[0]: expected an integer, got null");
  EXPECT_EQ(Complaint(R"({"messages": ["hi"]})"), "messages[0]: expected an object, got \"hi\"");
}

TEST(RequestFromJson, TakesTheExtremesOf32Bits) {
  EXPECT_EQ(Parsed(R"({"max_tokens": 2147483647})").max_tokens(), 2147483647);
  EXPECT_EQ(Parsed(R"({"max_tokens": -2147483648})").max_tokens(), -2147483647 - 1);
}

TEST(RequestFromJson, NamesUnknownFieldsAndTheNearestKnownOne) {
  EXPECT_EQ(Complaint(R"({"max_token": 5})"),
            "max_token: unknown field; did you mean \"max_tokens\"?");
  EXPECT_EQ(Complaint(R"({"adapters": [{"adapter_id": "a", "wieght": 1}]})"),
            "adapters[0].wieght: unknown field; did you mean \"weight\"?");
  EXPECT_THAT(Complaint(R"({"frobnicate": 5})"), HasSubstr("known are adapter_id, adapters"));
}

TEST(RequestFromJson, RefusesWhatIsNoRequest) {
  for (const char* text : {"", "{", "[]", "5", "null", "\"x\"", "{\"prompt\": }", "{} {}",
                           "{\"temperature\": NaN}", "{\"prompt\": \"\xFF\"}"}) {
    Complaint(text);
  }
  EXPECT_THAT(Complaint("{\"prompt\": }"), HasSubstr("not JSON: parse error at line 1"));
  EXPECT_EQ(Complaint(R"({"prompt": "a", "prompt": "b"})"), "prompt: given twice");
  EXPECT_THAT(Complaint(R"({"adapters": [{"weight": 1, "weight": 2}]})"), HasSubstr("twice"));
}

TEST(RequestFromJson, BoundsTheDepth) {
  const auto nested = [](int depth) {
    return "{\"x\": " + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_THAT(Complaint(nested(kJsonDepthMax)), HasSubstr("unknown field"));
  EXPECT_THAT(Complaint(nested(kJsonDepthMax + 2)), HasSubstr("nested deeper"));
  EXPECT_THAT(Complaint(nested(100000)), HasSubstr("nested deeper"));
}

TEST(ResultToJson, HasTheSixPartsAndLogprobsOnlyWhenThere) {
  v1::GenerateResponse response;
  response.add_token_ids(5);
  response.set_text("x");
  response.set_finish_reason(v1::FINISH_REASON_LENGTH);
  response.mutable_usage()->set_prompt_tokens(3);
  const Json base = ResultToJson(response);
  EXPECT_EQ(ToLine(base["token_ids"]), "[5]");
  EXPECT_EQ(base["text"], "x");
  EXPECT_EQ(base["finish_reason"], "length");
  EXPECT_EQ(ToLine(base["adapter"]), R"({"adapter_id":"","generation":""})");
  EXPECT_EQ(base["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(base["usage"]["cached_tokens"], 0);
  EXPECT_TRUE(base["timings"].contains("ttft_ms"));
  EXPECT_FALSE(base.contains("logprobs"));

  v1::TokenLogprob* logprob = response.add_logprobs();
  logprob->set_token_id(5);
  logprob->set_logprob(-0.25);
  logprob->add_top()->set_token_id(6);
  EXPECT_EQ(ToLine(ResultToJson(response)["logprobs"]),
            R"([{"token_id":5,"logprob":-0.25,"top":[{"token_id":6,"logprob":0.0}]}])");
}

TEST(ResultToJson, ShowsTheGenerationsOfAMixInItsOrder) {
  v1::GenerateResponse response;
  v1::AdapterUsed* part = response.mutable_adapter()->add_mix();
  part->set_adapter_id("b");
  part->set_generation("ff");
  part->set_weight(0.3);
  EXPECT_EQ(ToLine(ResultToJson(response)["adapter"]),
            R"({"adapter_id":"","generation":"","mix":[)"
            R"({"adapter_id":"b","generation":"ff","weight":0.3}]})");
}

TEST(ResultToJson, ShowsTheWeightOfOneAdapter) {
  v1::GenerateResponse response;
  response.mutable_adapter()->set_adapter_id("b");
  response.mutable_adapter()->set_generation("ff");
  for (const double weight : {0.5, 0.0, 1.0}) {
    response.mutable_adapter()->set_weight(weight);
    EXPECT_EQ(ToLine(ResultToJson(response)["adapter"]),
              R"({"adapter_id":"b","generation":"ff","weight":)" + Json(weight).dump() + "}");
  }
}

TEST(ResultToJson, NamesFinishReasonsInLowerCase) {
  v1::GenerateResponse response;
  response.set_finish_reason(v1::FINISH_REASON_EOS);
  EXPECT_EQ(ResultToJson(response)["finish_reason"], "eos");
  response.set_finish_reason(v1::FINISH_REASON_STOP);
  EXPECT_EQ(ResultToJson(response)["finish_reason"], "stop");
  response.set_finish_reason(v1::FINISH_REASON_UNSPECIFIED);
  EXPECT_TRUE(ResultToJson(response)["finish_reason"].is_null());
}

TEST(ErrorToJson, UsesTheCanonicalCodes) {
  EXPECT_EQ(ToLine(ErrorToJson(absl::InvalidArgumentError("no"))),
            R"({"error":{"code":"INVALID_ARGUMENT","message":"no"}})");
  EXPECT_EQ(ErrorToJson(absl::CancelledError(""))["error"]["code"], "CANCELLED");
}

TEST(MessageToJson, WritesWideNumbersAsNumbers) {
  EXPECT_EQ(ToLine(MessageToJson(Parsed(R"({"seed": 18446744073709551615})"))["seed"]),
            "18446744073709551615");
}

TEST(ToLine, IsOneLineOfValidUtf8) { EXPECT_EQ(ToLine(Json("a\nb\xFF")), "\"a\\nb\xEF\xBF\xBD\""); }

TEST(NearestName, NeedsToBeNear) {
  const std::vector<std::string> known = {"prompt", "messages", "max_tokens"};
  EXPECT_EQ(NearestName("promt", known), "prompt");
  EXPECT_EQ(NearestName("maxtokens", known), "max_tokens");
  EXPECT_EQ(NearestName("completely_different", known), "");
}

}  // namespace
}  // namespace lorica
