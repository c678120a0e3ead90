// Goal: whatever the schema, an answer that is not cut has its form, whoever shares the batch; and
// no form that a client asks for hurts anybody else. Method: a model of random weights, sampled
// at temperature 1, answers some hundred schemas at once with free requests in between; a
// validator that is not ours looks at every answer.
//
//   structured_output_test                 one answer to each schema
//   structured_output_test --rounds=N      more of them, with other seeds
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/fakes/subprocess.h"
#include "tests/integration/server_process.h"

namespace lorica {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr int kStreams = 32;
constexpr int kMaxTokens = 400;
constexpr int kNoValidator = 77;
// As Debian's package brings it; a virtual environment's Python would not have it.
constexpr char kPython[] = "/usr/bin/python3";

int g_rounds = 1;

std::vector<std::string> Schemas() {
  std::ifstream file(LORICA_TEST_DATA "/schemas.jsonl");
  std::vector<std::string> schemas;
  for (std::string line; std::getline(file, line);) schemas.push_back(line);
  return schemas;
}

class StructuredOutput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ServerProcess::Options options;
    options.model = LORICA_TEST_DATA "/reference/tiny-llama";
    options.flags = {"--arena-bytes", "64MiB", "--grammar-seconds", "1"};
    auto started = ServerProcess::Start(options);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = started->release();
  }
  static void TearDownTestSuite() {
    delete server_;
    server_ = nullptr;
  }

  // Brackets, quotes and the end are made likely: else most strings would never end.
  static v1::GenerateRequest Request(uint64_t seed) {
    v1::GenerateRequest request;
    request.set_prompt("An answer: ");
    request.set_max_tokens(kMaxTokens);
    request.set_temperature(1.0);
    request.set_seed(seed);
    for (const int32_t token : Closing()) {
      v1::LogitBias* bias = request.add_logit_bias();
      bias->set_token_id(token);
      bias->set_bias(3.5);
    }
    return request;
  }

  static std::vector<int32_t> Closing() {
    static const auto* const closing = [] {
      v1::TokenizeRequest request;
      request.set_prompt("\"]}</s>");
      const auto tokens = server_->NewClient()->Tokenize(request);
      auto* ids = new std::vector<int32_t>();
      if (tokens.ok()) ids->assign(tokens->token_ids().begin(), tokens->token_ids().end());
      return ids;
    }();
    return *closing;
  }

  static ServerProcess* server_;
};

ServerProcess* StructuredOutput::server_ = nullptr;

// What the validator says: one line for each fault, then how many it looked at.
std::vector<std::string> Validate(const std::vector<Json>& cases, int* code) {
  std::string lines;
  for (const Json& one : cases) absl::StrAppend(&lines, one.dump(), "\n");
  const RunResult run =
      RunToEnd({kPython, LORICA_SOURCE_DIR "/tests/integration/check_answers.py"}, lines);
  *code = run.code;
  EXPECT_TRUE(run.code == 0 || run.code == kNoValidator) << run.error;
  return absl::StrSplit(run.output, '\n', absl::SkipEmpty());
}

TEST_F(StructuredOutput, EveryAnswerThatIsNotCutFitsItsSchema) {
  const std::vector<std::string> schemas = Schemas();
  ASSERT_GE(schemas.size(), 200);
  std::vector<v1::GenerateRequest> requests;
  for (int round = 0; round < g_rounds; ++round) {
    for (size_t i = 0; i < schemas.size(); ++i) {
      requests.push_back(Request(1000 * round + i));
      requests.back().mutable_response_format()->set_json_schema(schemas[i]);
      if (i % 4 > 0) continue;
      requests.push_back(Request(i));  // free
      requests.back().set_ignore_eos(true);
      requests.back().set_max_tokens(30);
    }
  }
  const std::vector<Generated> answers = GenerateAll(*server_, requests, kStreams);
  std::vector<Json> cases;
  std::set<std::string> complete;
  int cut = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    ASSERT_TRUE(answers[i].status.ok()) << answers[i].status << requests[i].ShortDebugString();
    const v1::FinishReason reason = answers[i].response.finish_reason();
    if (!requests[i].has_response_format()) {
      EXPECT_EQ(answers[i].token_ids.size(), 30);
      continue;
    }
    const std::string& schema = requests[i].response_format().json_schema();
    if (reason == v1::FINISH_REASON_LENGTH) {
      EXPECT_EQ(answers[i].token_ids.size(), kMaxTokens);
      ++cut;
      continue;
    }
    EXPECT_EQ(reason, v1::FINISH_REASON_EOS);
    complete.insert(schema);
    cases.push_back({{"schema", Json::parse(schema)}, {"text", answers[i].text}});
  }
  int code = 0;
  const std::vector<std::string> faults = Validate(cases, &code);
  if (code == kNoValidator) GTEST_SKIP() << absl::StrJoin(faults, "\n");
  ASSERT_FALSE(faults.empty());
  EXPECT_EQ(faults.back(), absl::StrCat(cases.size()));
  EXPECT_EQ(faults.size(), 1) << absl::StrJoin(faults, "\n");
  EXPECT_GE(complete.size(), 200);
  std::printf("%zu answers to %zu schemas are valid, %d were cut\n", cases.size(), complete.size(),
              cut);
}

TEST_F(StructuredOutput, EveryAnswerThatIsNotCutMatchesItsRegex) {
  std::vector<v1::GenerateRequest> requests;
  for (const char* regex : {"yes|no", "[a-z]{3,12}", "\\d{4}-\\d{2}-\\d{2}", "(ab?c)*d",
                            "[A-Z][a-z]+( [A-Z][a-z]+){1,2}", "-?\\d+(\\.\\d{1,3})?",
                            "\"[^\"]{0,8}\"", "(red|green) (light|sky)\\.", "[äöü€]{2}"}) {
    for (int seed = 0; seed < 5; ++seed) {
      requests.push_back(Request(seed));
      requests.back().mutable_response_format()->set_regex(regex);
    }
  }
  const std::vector<Generated> answers = GenerateAll(*server_, requests, kStreams);
  std::vector<Json> cases;
  for (size_t i = 0; i < answers.size(); ++i) {
    ASSERT_TRUE(answers[i].status.ok()) << answers[i].status;
    if (answers[i].response.finish_reason() != v1::FINISH_REASON_EOS) continue;
    cases.push_back({{"regex", requests[i].response_format().regex()}, {"text", answers[i].text}});
  }
  EXPECT_GE(cases.size(), 30);
  int code = 0;
  const std::vector<std::string> faults = Validate(cases, &code);
  if (code == kNoValidator) GTEST_SKIP() << absl::StrJoin(faults, "\n");
  EXPECT_EQ(faults, std::vector<std::string>{absl::StrCat(cases.size())});
}

TEST_F(StructuredOutput, AnAnswerIsTheSameAloneAndInABatch) {
  std::vector<v1::GenerateRequest> requests;
  const std::vector<std::string> schemas = Schemas();
  for (int i = 0; i < 24; ++i) {
    requests.push_back(Request(i));
    requests.back().set_max_tokens(60);
    if (i % 2 == 0) continue;
    requests.back().mutable_response_format()->set_json_schema(schemas[schemas.size() - 1 - i]);
  }
  const std::vector<Generated> together = GenerateAll(*server_, requests, 24);
  const std::vector<Generated> alone = GenerateAll(*server_, requests, 1);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].token_ids, alone[i].token_ids) << i;
  }
}

std::string Nested(const std::string& open, const std::string& close, int levels) {
  std::string text;
  for (int i = 0; i < levels; ++i) text += open;
  text += "{}";
  for (int i = 0; i < levels; ++i) text += close;
  return text;
}

std::vector<v1::ResponseFormat> HostileFormats() {
  std::vector<v1::ResponseFormat> formats;
  const auto schema = [&](const std::string& text) {
    formats.emplace_back().set_json_schema(text);
  };
  const auto regex = [&](const std::string& text) { formats.emplace_back().set_regex(text); };
  const auto ebnf = [&](const std::string& text) { formats.emplace_back().set_ebnf(text); };
  schema("{");
  schema(R"({"$ref": "#"})");
  schema(R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})");
  schema(absl::StrCat(R"({"enum": [")", std::string(1 << 20, 'x'), "\"]}"));
  schema(Nested(R"({"items": )", "}", 100));
  schema(Nested(R"({"items": )", "}", 5000));
  schema(std::string(60000, '['));
  Json patterns = {{"type", "object"}, {"properties", Json::object()}};
  for (int i = 0; i < 300; ++i) {
    patterns["properties"][absl::StrCat("p", i)] = {
        {"type", "string"}, {"pattern", absl::StrCat("^([a-z]{1,", i + 3, "}[0-9]{2,}){1,50}$")}};
  }
  schema(patterns.dump());
  regex("(a+)+$(");
  regex("\\");
  regex(std::string(60000, '('));
  regex("a(?=b)");
  ebnf("root ::= missing");
  ebnf("root ::= root");
  ebnf(std::string(60000, '('));
  return formats;
}

TEST_F(StructuredOutput, AHostileFormIsRefusedInTimeAndHurtsNobody) {
  std::atomic<bool> stop = false;
  std::atomic<int> served = 0;
  absl::Duration slowest;
  std::thread others([&] {
    const auto client = server_->NewClient();
    for (uint64_t seed = 0; !stop; ++seed) {
      v1::GenerateRequest request = Request(seed);
      request.set_max_tokens(20);
      if (seed % 2 == 0) request.mutable_response_format()->set_regex("[a-z]{30}");
      const absl::Time began = absl::Now();
      EXPECT_TRUE(client->Generate(request).ok());
      slowest = std::max(slowest, absl::Now() - began);
      ++served;
    }
  });
  const int64_t before = server_->ResidentBytes();
  std::vector<v1::GenerateRequest> requests;
  for (const v1::ResponseFormat& format : HostileFormats()) {
    requests.push_back(Request(1));
    *requests.back().mutable_response_format() = format;
  }
  const absl::Time began = absl::Now();
  const std::vector<Generated> answers = GenerateAll(*server_, requests, 4);
  const absl::Duration took = absl::Now() - began;
  stop = true;
  others.join();
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_TRUE(absl::IsInvalidArgument(answers[i].status))
        << answers[i].status << " " << requests[i].ShortDebugString().substr(0, 200);
    EXPECT_THAT(std::string(answers[i].status.message()), HasSubstr("response_format"));
  }
  EXPECT_LT(took, absl::Seconds(40));
  EXPECT_LT(slowest, absl::Seconds(5));
  EXPECT_GT(served, 10);
  EXPECT_LT(server_->ResidentBytes() - before, 64 << 20);
  const auto status = server_->NewClient()->GetStatus();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->state(), v1::SERVING_STATE_SERVING);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--rounds=", 0) == 0) {
      lorica::g_rounds = std::atoi(argv[i] + 9);
    } else {
      std::fprintf(stderr, "unknown argument %s; known: --rounds=N\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
