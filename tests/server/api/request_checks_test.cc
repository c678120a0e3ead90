#include "server/api/request_checks.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int32_t kVocabulary = 1000;

GatewayLimits Limits() {
  GatewayLimits limits;
  limits.context_tokens = 100;
  limits.vocabulary = kVocabulary;
  limits.base_name = "the base: model";
  return limits;
}

using Change = std::function<void(GenerateCall&)>;

GenerateCall CallWith(const Change& change) {
  GenerateCall call;
  call.prompt = "hello";
  change(call);
  return call;
}

ResponseFormat Regex(int64_t bytes) {
  return {FormatKind::kRegex, std::string(static_cast<size_t>(bytes), 'a')};
}

// A change to a good call, and the field that is refused then ("" = none is).
struct FieldCase {
  std::string field;
  Change change;
};

std::vector<ChatTurn> Turns(int count) { return std::vector<ChatTurn>(count, {"user", "x"}); }

void OnlyMessages(GenerateCall& call, std::vector<ChatTurn> messages) {
  call.prompt.reset();
  call.messages = std::move(messages);
}

void OnlyTokens(GenerateCall& call, std::vector<int32_t> tokens) {
  call.prompt.reset();
  call.token_ids = std::move(tokens);
}

std::vector<std::pair<int32_t, double>> Biases(int count) {
  std::vector<std::pair<int32_t, double>> biases;
  for (int i = 0; i < count; ++i) biases.emplace_back(i % kVocabulary, 1.0);
  return biases;
}

const std::vector<FieldCase>& FieldCases() {
  static const auto& cases = *new std::vector<FieldCase>{
      {"", [](GenerateCall&) {}},
      // Exactly one input.
      {"prompt", [](GenerateCall& c) { c.prompt.reset(); }},
      {"prompt", [](GenerateCall& c) { c.token_ids = {1}; }},
      {"prompt", [](GenerateCall& c) { c.messages = Turns(1); }},
      {"messages",
       [](GenerateCall& c) {
         OnlyMessages(c, Turns(1));
         c.token_ids = {1};
       }},
      // Text.
      {"prompt", [](GenerateCall& c) { c.prompt = ""; }},
      {"", [](GenerateCall& c) { c.prompt = "   "; }},
      {"", [](GenerateCall& c) { c.prompt = std::string("a\0b", 3); }},
      {"", [](GenerateCall& c) { c.prompt = "\xEF\xBB\xBFhello"; }},
      {"prompt", [](GenerateCall& c) { c.prompt = "\xC3"; }},
      {"prompt", [](GenerateCall& c) { c.prompt = "\xED\xA0\x80"; }},  // a lone surrogate
      {"", [](GenerateCall& c) { c.prompt = std::string(kPromptBytesMax, 'a'); }},
      {"prompt", [](GenerateCall& c) { c.prompt = std::string(kPromptBytesMax + 1, 'a'); }},
      // Messages.
      {"", [](GenerateCall& c) { OnlyMessages(c, Turns(kChatMessagesMax)); }},
      {"messages", [](GenerateCall& c) { OnlyMessages(c, Turns(kChatMessagesMax + 1)); }},
      {"messages[0].role",
       [](GenerateCall& c) {
         OnlyMessages(c, {{"", "x"}});
       }},
      {"",
       [](GenerateCall& c) {
         OnlyMessages(c, {{std::string(kRoleBytesMax, 'r'), "x"}});
       }},
      {"messages[0].role",
       [](GenerateCall& c) {
         OnlyMessages(c, {{std::string(kRoleBytesMax + 1, 'r'), "x"}});
       }},
      {"messages[1].content",
       [](GenerateCall& c) {
         OnlyMessages(c, {{"user", "x"}, {"user", "\xFF"}});
       }},
      {"messages",
       [](GenerateCall& c) {
         OnlyMessages(c, {{"user", std::string(kPromptBytesMax, 'a')}, {"user", "b"}});
       }},
      // Token ids.
      {"",
       [](GenerateCall& c) {
         OnlyTokens(c, {0, kVocabulary - 1});
       }},
      {"token_ids[0]", [](GenerateCall& c) { OnlyTokens(c, {-1}); }},
      {"token_ids[1]",
       [](GenerateCall& c) {
         OnlyTokens(c, {1, kVocabulary});
       }},
      {"token_ids[0]", [](GenerateCall& c) { OnlyTokens(c, {INT32_MAX}); }},
      {"", [](GenerateCall& c) { OnlyTokens(c, std::vector<int32_t>(100, 1)); }},
      {"token_ids", [](GenerateCall& c) { OnlyTokens(c, std::vector<int32_t>(101, 1)); }},
      // Lengths.
      {"", [](GenerateCall& c) { c.max_tokens = 1; }},
      {"max_tokens", [](GenerateCall& c) { c.max_tokens = 0; }},
      {"max_tokens", [](GenerateCall& c) { c.max_tokens = -1; }},
      {"", [](GenerateCall& c) { c.max_tokens = INT32_MAX; }},  // the context decides later
      // Sampling.
      {"", [](GenerateCall& c) { c.temperature = 0.0; }},
      {"", [](GenerateCall& c) { c.temperature = 1e-45; }},
      {"", [](GenerateCall& c) { c.temperature = kTemperatureMax; }},
      {"temperature", [](GenerateCall& c) { c.temperature = std::nextafter(100.0, 101.0); }},
      {"temperature", [](GenerateCall& c) { c.temperature = -1.0; }},
      {"temperature", [](GenerateCall& c) { c.temperature = kNan; }},
      {"temperature", [](GenerateCall& c) { c.temperature = kInf; }},
      {"temperature", [](GenerateCall& c) { c.temperature = 1e38; }},
      {"top_p", [](GenerateCall& c) { c.top_p = 0.0; }},
      {"", [](GenerateCall& c) { c.top_p = 1.0; }},
      {"top_p", [](GenerateCall& c) { c.top_p = 1.0001; }},
      {"top_p", [](GenerateCall& c) { c.top_p = kNan; }},
      {"top_k", [](GenerateCall& c) { c.top_k = -1; }},
      {"", [](GenerateCall& c) { c.top_k = 0; }},
      {"", [](GenerateCall& c) { c.top_k = INT32_MAX; }},
      {"", [](GenerateCall& c) { c.min_p = 1.0; }},
      {"min_p", [](GenerateCall& c) { c.min_p = 2.0; }},
      {"min_p", [](GenerateCall& c) { c.min_p = -0.1; }},
      {"repetition_penalty", [](GenerateCall& c) { c.repetition_penalty = 0.0; }},
      {"repetition_penalty", [](GenerateCall& c) { c.repetition_penalty = -1.0; }},
      {"repetition_penalty", [](GenerateCall& c) { c.repetition_penalty = kNan; }},
      {"repetition_penalty", [](GenerateCall& c) { c.repetition_penalty = 1e38; }},
      {"", [](GenerateCall& c) { c.repetition_penalty = kRepetitionPenaltyMin; }},
      {"", [](GenerateCall& c) { c.presence_penalty = -100.0; }},
      {"presence_penalty", [](GenerateCall& c) { c.presence_penalty = -100.1; }},
      {"frequency_penalty", [](GenerateCall& c) { c.frequency_penalty = kInf; }},
      {"", [](GenerateCall& c) { c.logprobs = kLogprobsMax; }},
      {"logprobs", [](GenerateCall& c) { c.logprobs = kLogprobsMax + 1; }},
      {"logprobs", [](GenerateCall& c) { c.logprobs = -1; }},
      {"", [](GenerateCall& c) { c.prompt_logprobs = kLogprobsMax; }},
      {"prompt_logprobs", [](GenerateCall& c) { c.prompt_logprobs = kLogprobsMax + 1; }},
      {"prompt_logprobs", [](GenerateCall& c) { c.prompt_logprobs = -1; }},
      {"", [](GenerateCall& c) { c.seed = UINT64_MAX; }},
      // Logit bias.
      {"", [](GenerateCall& c) { c.logit_bias = Biases(kVocabulary); }},
      {"logit_bias", [](GenerateCall& c) { c.logit_bias = Biases(kLogitBiasMax + 1); }},
      {"logit_bias[0].token_id",
       [](GenerateCall& c) {
         c.logit_bias = {{kVocabulary, 1.0}};
       }},
      {"logit_bias[0].bias",
       [](GenerateCall& c) {
         c.logit_bias = {{1, kNan}};
       }},
      {"logit_bias[0].bias",
       [](GenerateCall& c) {
         c.logit_bias = {{1, 1e30}};
       }},
      {"logit_bias[0].bias",
       [](GenerateCall& c) {
         c.logit_bias = {{1, -kInf}};
       }},
      {"",
       [](GenerateCall& c) {
         c.logit_bias = {{1, -1e30}};
       }},
      {"logit_bias[1].token_id",
       [](GenerateCall& c) {
         c.logit_bias = {{1, 1.0}, {1, 2.0}};
       }},
      // Stops.
      {"", [](GenerateCall& c) { c.stop.assign(kStopStringsMax, "s"); }},
      {"stop", [](GenerateCall& c) { c.stop.assign(kStopStringsMax + 1, "s"); }},
      {"stop[0]", [](GenerateCall& c) { c.stop = {""}; }},
      {"", [](GenerateCall& c) { c.stop = {std::string(kStopStringBytesMax, 's')}; }},
      {"stop[1]",
       [](GenerateCall& c) { c.stop = {"s", std::string(kStopStringBytesMax + 1, 's')}; }},
      {"stop[0]", [](GenerateCall& c) { c.stop = {"\xC3"}; }},
      {"", [](GenerateCall& c) { c.stop_token_ids.assign(kStopTokensMax, 3); }},
      {"stop_token_ids", [](GenerateCall& c) { c.stop_token_ids.assign(kStopTokensMax + 1, 3); }},
      {"stop_token_ids[0]", [](GenerateCall& c) { c.stop_token_ids = {-1}; }},
      // The form of the answer.
      {"", [](GenerateCall& c) { c.format = {FormatKind::kJsonObject, ""}; }},
      {"", [](GenerateCall& c) { c.format = {FormatKind::kJsonSchema, "{}"}; }},
      {"", [](GenerateCall& c) { c.format = Regex(kFormatBytesMax); }},
      {"response_format", [](GenerateCall& c) { c.format = Regex(kFormatBytesMax + 1); }},
      {"response_format", [](GenerateCall& c) { c.format = {FormatKind::kRegex, "\xff"}; }},
      {"response_format", [](GenerateCall& c) { c.format = {FormatKind::kJsonSchema, "{"}; }},
      {"response_format",
       [](GenerateCall& c) { c.format = {FormatKind::kRegex, "a{2147483648}"}; }},
      {"response_format",
       [](GenerateCall& c) {
         c.format = Regex(1);
         c.ignore_eos = true;
       }},
  };
  return cases;
}

TEST(RequestChecks, AnExpectedGenerationIsDigitsOfOne) {
  for (const std::string& good : {std::string(), std::string("0123abcd"), std::string(64, 'f')}) {
    EXPECT_TRUE(CheckExpectedGeneration(good).ok()) << good;
  }
  for (const std::string& bad : {std::string("zzzz"), std::string("0123abc"), std::string(65, 'f'),
                                 std::string("0123ABCD"), std::string("0123abcd ")}) {
    const absl::Status status = CheckExpectedGeneration(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_EQ(FieldOf(status), "expected_generation");
  }
}

TEST(RequestChecks, EveryFieldHasItsBoundsAndTheErrorNamesIt) {
  for (size_t i = 0; i < FieldCases().size(); ++i) {
    const FieldCase& one = FieldCases()[i];
    const absl::Status status = CheckFields(CallWith(one.change), Limits());
    if (one.field.empty()) {
      EXPECT_TRUE(status.ok()) << "case " << i << ": " << status;
      continue;
    }
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << "case " << i << ": " << status;
    EXPECT_EQ(FieldOf(status).value_or("none"), one.field) << "case " << i << ": " << status;
  }
}

TEST(RequestChecks, TheErrorSaysWhatWasSentAndWhatIsTaken) {
  const std::pair<Change, std::string> cases[] = {
      {[](GenerateCall& c) { c.top_p = 0; },
       "top_p must be above 0 and at most 1, not 0; leave it out (or 1) to switch it off"},
      {[](GenerateCall& c) { c.top_p = 1.0000001; },
       "top_p must be above 0 and at most 1, not 1.0000001; leave it out (or 1) to switch it off"},
      {[](GenerateCall& c) { c.top_k = -2; }, "top_k must be 0 (off) or more, not -2"},
      {[](GenerateCall& c) { c.logprobs = INT32_MAX; },
       "logprobs must be from 0 to 20, not 2147483647"},
      {[](GenerateCall& c) { c.min_p = kNan; }, "min_p must be from 0 to 1, not nan"},
      {[](GenerateCall& c) {
         c.logit_bias = {{5, 1.0}, {kVocabulary, 1.0}};
       },
       "logit_bias[1].token_id names token 1000; token ids are 0 to 999"},
      {[](GenerateCall& c) {
         c.logit_bias = {{5, 1.0}, {7, 101.0}};
       },
       "logit_bias[1].bias of token 7 must be a finite number of at most 100 (-100 or less bans "
       "the token)"},
      {[](GenerateCall& c) {
         c.logit_bias = {{7, 1.0}, {7, 1.0}};
       },
       "logit_bias[1].token_id names token 7 twice"},
      {[](GenerateCall& c) {
         c.format = {FormatKind::kEbnf, std::string(1, '\0')};
       },
       "response_format holds a NUL, at which its reader would end: write \\0"},
  };
  for (const auto& [change, text] : cases) {
    EXPECT_EQ(CheckFields(CallWith(change), Limits()).message(), text);
  }
}

TEST(RequestChecks, ABadIdIsCalledOneOnce) {
  const std::string why = " 'a b': only letters, digits, '.', '_' and '-' are allowed in a part";
  const auto chosen =
      ChooseAdapters(CallWith([](GenerateCall& c) { c.adapter_id = "a b"; }), "base");
  EXPECT_EQ(chosen.status().message(), "adapter_id" + why);
  EXPECT_EQ(CheckNamed("alias", "a b").message(), "alias" + why);
}

std::string Long(int bytes) { return std::string(bytes, 'a'); }

TEST(RequestChecks, LogprobsOfAPromptAreBoundedTogether) {
  GenerateCall call;
  EXPECT_TRUE(CheckPromptLogprobs(call, kPromptLogprobsMax + 1).ok());
  call.prompt_logprobs = 0;
  EXPECT_TRUE(CheckPromptLogprobs(call, kPromptLogprobsMax).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckPromptLogprobs(call, kPromptLogprobsMax + 1)));
  call.prompt_logprobs = 3;
  EXPECT_TRUE(CheckPromptLogprobs(call, kPromptLogprobsMax / 4).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckPromptLogprobs(call, kPromptLogprobsMax / 4 + 1)));
}

TEST(RequestChecks, BadAdapterIdsAreRefusedWhereverTheyStand) {
  const std::string bad[] = {"../../etc/passwd",
                             "a/../b",
                             "..",
                             ".",
                             "%2e%2e%2f",
                             "..\\..\\x",
                             "%252e",
                             std::string("a\0b", 3),
                             "a\r\nb",
                             "a\tb",
                             "a\x7f",
                             "a\x1b[0m",
                             "a,b",
                             "a b",
                             "a\"b",
                             "a\\b",
                             "a{b",
                             "a=b",
                             Long(kAdapterIdBytesMax + 1),
                             Long(8192),
                             "\xd0\xb0",
                             "e\xcc\x81",
                             "\xff",
                             "a--b",
                             "-a",
                             "a.git",
                             "a/b/c",
                             "a/",
                             "/a",
                             "C:\\x",
                             "\\\\host\\share",
                             "http://169.254.169.254/x",
                             "file:///etc/passwd",
                             "s3://bucket/x"};
  for (const std::string& id : bad) {
    const GenerateCall calls[] = {
        CallWith([&](GenerateCall& c) { c.adapter_id = id; }),
        CallWith([&](GenerateCall& c) { c.adapter_headers = {id}; }),
        CallWith([&](GenerateCall& c) {
          c.adapters = {{id, 1.0}};
        }),
    };
    const std::string fields[] = {"adapter_id", "x-adapter-id", "adapters[0].adapter_id"};
    for (int i = 0; i < 3; ++i) {
      const auto chosen = ChooseAdapters(calls[i], "base");
      EXPECT_TRUE(absl::IsInvalidArgument(chosen.status())) << fields[i] << " took " << id;
      EXPECT_EQ(FieldOf(chosen.status()).value_or("none"), fields[i]);
    }
  }
}

// Clients repeat the message's id in the header: then the message is at fault.
TEST(RequestChecks, ABadIdInBothIsTheMessages) {
  const auto chosen = ChooseAdapters(CallWith([](GenerateCall& c) {
                                       c.adapter_id = "../x";
                                       c.adapter_headers = {"../x"};
                                     }),
                                     "base");
  EXPECT_EQ(FieldOf(chosen.status()).value_or("none"), "adapter_id");
}

std::vector<std::string> Chosen(const Change& change) {
  const auto chosen = ChooseAdapters(CallWith(change), Limits().base_name);
  if (!chosen.ok()) return {"error", FieldOf(chosen.status()).value_or("none")};
  std::vector<std::string> ids;
  for (const AdapterChoice& choice : *chosen) ids.push_back(choice.adapter_id);
  return ids;
}

TEST(RequestChecks, HeaderAndFieldsAgreeOrAreRefused) {
  using ::testing::ElementsAre;
  using ::testing::IsEmpty;
  const std::string base = Limits().base_name;
  EXPECT_THAT(Chosen([](GenerateCall&) {}), IsEmpty());
  EXPECT_THAT(Chosen([&](GenerateCall& c) { c.adapter_id = base; }), IsEmpty());
  EXPECT_THAT(Chosen([&](GenerateCall& c) { c.adapter_headers = {base}; }), IsEmpty());
  EXPECT_THAT(Chosen([](GenerateCall& c) { c.adapter_headers = {""}; }), IsEmpty());
  EXPECT_THAT(Chosen([](GenerateCall& c) { c.adapter_id = "a"; }), ElementsAre("a"));
  EXPECT_THAT(Chosen([](GenerateCall& c) { c.adapter_headers = {"a"}; }), ElementsAre("a"));
  EXPECT_THAT(Chosen([](GenerateCall& c) {
                c.adapter_headers = {"a"};
                c.adapter_id = "a";
              }),
              ElementsAre("a"));
  EXPECT_THAT(Chosen([](GenerateCall& c) {
                c.adapter_headers = {"a"};
                c.adapters = {{"a", 0.5}};
              }),
              ElementsAre("a"));
  EXPECT_THAT(Chosen([](GenerateCall& c) {
                c.adapter_headers = {"a"};
                c.adapter_id = "b";
              }),
              ElementsAre("error", "x-adapter-id"));
  EXPECT_THAT(Chosen([&](GenerateCall& c) {
                c.adapter_headers = {"a"};
                c.adapter_id = base;
              }),
              ElementsAre("error", "x-adapter-id"));
  EXPECT_THAT(Chosen([](GenerateCall& c) {
                c.adapter_headers = {"a", "a"};
              }),
              ElementsAre("error", "x-adapter-id"));
  EXPECT_THAT(Chosen([](GenerateCall& c) {
                c.adapter_headers = {"a"};
                c.adapters = {{"a", 1.0}, {"b", 1.0}};
              }),
              ElementsAre("error", "x-adapter-id"));
  EXPECT_THAT(Chosen([](GenerateCall& c) {
                c.adapter_id = "a";
                c.adapters = {{"a", 1.0}};
              }),
              ElementsAre("error", "adapters"));
}

TEST(RequestChecks, MixesHaveBounds) {
  const auto field = [](std::vector<AdapterChoice> mix) {
    const auto chosen =
        ChooseAdapters(CallWith([&](GenerateCall& c) { c.adapters = mix; }), "base");
    return chosen.ok() ? "" : FieldOf(chosen.status()).value_or("none");
  };
  std::vector<AdapterChoice> mix;
  for (int i = 0; i < kMixTermsMax; ++i) mix.push_back({"a" + std::to_string(i), 1.0});
  EXPECT_EQ(field(mix), "");
  mix.push_back({"last", 1.0});
  EXPECT_EQ(field(mix), "adapters");
  EXPECT_EQ(field({{"a", 1.0}, {"a", 2.0}}), "adapters[1].adapter_id");
  EXPECT_EQ(field({{"a", 1.0}, {"", 1.0}}), "adapters[1].adapter_id");
  EXPECT_EQ(field({{"base", 1.0}}), "adapters[0].adapter_id");
  for (const double weight : {kNan, kInf, 100.1, -100.1}) {
    EXPECT_EQ(field({{"a", weight}}), "adapters[0].weight") << weight;
  }
  for (const double weight : {0.0, -100.0, 100.0}) EXPECT_EQ(field({{"a", weight}}), "");
}

TEST(RequestChecks, ParametersBecomeSafeFloats) {
  GenerateCall call;
  EXPECT_EQ(ToSampleParams(call, 5).temperature, 0.0f);
  EXPECT_EQ(ToSampleParams(call, 5).seed, 5u);
  EXPECT_EQ(ToSampleParams(call, 5).logprobs, -1);
  call.temperature = 1e-45;
  call.top_p = 1e-300;
  call.seed = 9;
  EXPECT_EQ(ToSampleParams(call, 5).temperature, 0.0f) << "greedy in all but name";
  EXPECT_GT(ToSampleParams(call, 5).top_p, 0.0f);
  EXPECT_EQ(ToSampleParams(call, 5).seed, 9u);
  call.logit_bias = {{3, -1e300}, {4, 2.5}};
  EXPECT_EQ(ToTokenBias(call)[0].bias, -100.0f);
  EXPECT_EQ(ToTokenBias(call)[1].bias, 2.5f);
}

TEST(RequestChecks, ASourceIsAFolderARepositoryOrAPlaceInABucket) {
  for (const char* source : {"a", "a/b", "a@main", "org/name/folder", "org/name/a/b@v1.0",
                             "s3://bucket/a", "https://host/a"}) {
    EXPECT_TRUE(CheckSource("source", source).ok()) << source;
  }
  for (const std::string& source :
       {std::string(), std::string("../a"), std::string("/a/b/c"), std::string("org/name/../x"),
        std::string("org/name/x/"), std::string("org/name/x@"), std::string("org/name/x@a b"),
        std::string("org/name/x@../y"), std::string("org/name/x@a@b"), std::string("org/name/x\ny"),
        std::string("file:///a/b"), "org/name/x@" + std::string(200, 'a')}) {
    const absl::Status status = CheckSource("source", source);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << source;
    EXPECT_EQ(FieldOf(status).value_or(""), "source");
  }
}

}  // namespace
}  // namespace lorica
