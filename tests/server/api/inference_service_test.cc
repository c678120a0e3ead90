#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/gateway.h"
#include "server/api/grpc_service.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

TinyServer& Shared() {
  static auto& server = *new TinyServer;
  return server;
}

struct Answered {
  grpc::Status status;
  v1::GenerateResponse response;
};

Answered Generate(const v1::GenerateRequest& request, std::vector<std::string> headers = {}) {
  Context context;
  for (const std::string& header : headers) context.AddMetadata("x-adapter-id", header);
  Answered answered;
  answered.status = Shared().inference().Generate(&context, request, &answered.response);
  return answered;
}

struct Streamed {
  grpc::Status status;
  std::vector<int32_t> token_ids;
  std::string text;
  int chunks = 0;
  v1::GenerateStreamResponse last;
};

Streamed Stream(const v1::GenerateRequest& request) {
  Context context;
  auto reader = Shared().inference().GenerateStream(&context, request);
  Streamed streamed;
  while (reader->Read(&streamed.last)) {
    ++streamed.chunks;
    streamed.token_ids.insert(streamed.token_ids.end(), streamed.last.token_ids().begin(),
                              streamed.last.token_ids().end());
    streamed.text += streamed.last.text();
    EXPECT_EQ(streamed.last.token_count(), streamed.token_ids.size());
  }
  streamed.status = reader->Finish();
  return streamed;
}

std::string FieldOf(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  google::rpc::BadRequest bad;
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&bad)) return bad.field_violations(0).field();
  }
  return "";
}

v1::GenerateRequest Shaped() {
  v1::GenerateRequest request;
  request.set_prompt("hi");
  request.set_max_tokens(100);
  return request;
}

TEST(InferenceService, AnAnswerHasTheFormThatWasAskedForAndEndsThere) {
  v1::GenerateRequest request = Shaped();
  request.mutable_response_format()->set_regex("(north|south)-[0-9]{3}");
  const Answered unary = Generate(request);
  ASSERT_TRUE(unary.status.ok()) << unary.status.error_message();
  EXPECT_THAT(unary.response.text(), ::testing::MatchesRegex("(north|south)-[0-9][0-9][0-9]"));
  EXPECT_EQ(unary.response.finish_reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(unary.response.usage().completion_tokens(), 10);
  const Streamed streamed = Stream(request);
  EXPECT_EQ(streamed.text, unary.response.text());
  request.mutable_response_format()->set_ebnf("root ::= \"<\" [a-c] \">\"");
  EXPECT_THAT(Generate(request).response.text(), ::testing::MatchesRegex("<[abc]>"));
  request.mutable_response_format()->set_json_schema(R"({"const": {"b": [1], "a": null}})");
  EXPECT_THAT(Generate(request).response.text(), ::testing::HasSubstr("\"b\""));
  request.set_max_tokens(3);
  request.mutable_response_format()->mutable_json_object();
  const Answered cut = Generate(request);
  EXPECT_EQ(cut.response.text()[0], '{');
  request.mutable_response_format()->set_regex("[a-z]{10}");
  EXPECT_EQ(Generate(request).response.finish_reason(), v1::FINISH_REASON_LENGTH);
  request.set_max_tokens(100);
  request.add_stop(Generate(request).response.text().substr(4, 2));
  const Answered stopped = Generate(request);
  EXPECT_EQ(stopped.response.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST(InferenceService, AFormThatCannotBeKeptIsRefusedByItsField) {
  const auto refusal = [](const std::function<void(v1::ResponseFormat*)>& set) {
    v1::GenerateRequest request = Shaped();
    set(request.mutable_response_format());
    const Answered answered = Generate(request);
    EXPECT_EQ(answered.status.error_code(), StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(FieldOf(answered.status), "response_format");
    return answered.status.error_message();
  };
  EXPECT_THAT(refusal([](v1::ResponseFormat* f) { f->set_json_schema(R"({"not": {}})"); }),
              HasSubstr("not is not served"));
  EXPECT_THAT(refusal([](v1::ResponseFormat* f) { f->set_regex("(a"); }),
              HasSubstr("'(' is not closed"));
  EXPECT_THAT(refusal([](v1::ResponseFormat* f) { f->set_ebnf("root ::= root"); }),
              HasSubstr("no text fits"));
  EXPECT_THAT(
      refusal([](v1::ResponseFormat* f) { f->set_ebnf("root ::= \"a\" b\nb ::= b \"c\""); }),
      HasSubstr("no text fits"));
}

TEST(InferenceService, UnaryAndStreamSayTheSame) {
  v1::GenerateRequest request = TokensRequest(20);
  request.set_logprobs(2);
  const Answered unary = Generate(request);
  ASSERT_TRUE(unary.status.ok()) << unary.status.error_message();
  EXPECT_EQ(unary.response.token_ids_size(), 20);
  EXPECT_EQ(unary.response.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(unary.response.usage().prompt_tokens(), 3);
  EXPECT_EQ(unary.response.usage().completion_tokens(), 20);
  EXPECT_EQ(unary.response.logprobs_size(), 20);
  EXPECT_EQ(unary.response.logprobs(0).top_size(), 2);
  EXPECT_GT(unary.response.timings().total_ms(), 0.0);
  EXPECT_EQ(unary.response.adapter().adapter_id(), "");

  const Streamed stream = Stream(request);
  ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
  EXPECT_THAT(stream.token_ids, ElementsAreArray(unary.response.token_ids()));
  EXPECT_EQ(stream.text, unary.response.text());
  EXPECT_TRUE(stream.last.has_finish());
  EXPECT_EQ(stream.last.finish().usage().completion_tokens(), 20);
}

TEST(InferenceService, ReportsTheGenerationThatAnswered) {
  v1::GenerateRequest request = TokensRequest(4);
  request.set_adapter_id("plain");
  const Answered by_field = Generate(request);
  ASSERT_TRUE(by_field.status.ok()) << by_field.status.error_message();
  EXPECT_EQ(by_field.response.adapter().adapter_id(), "plain");
  EXPECT_EQ(by_field.response.adapter().generation().size(), 64u);
  EXPECT_EQ(by_field.response.adapter().weight(), 1.0);

  const Answered by_header = Generate(TokensRequest(4), {"plain"});
  EXPECT_THAT(by_header.response.token_ids(), ElementsAreArray(by_field.response.token_ids()));
  EXPECT_EQ(by_header.response.adapter().generation(), by_field.response.adapter().generation());
}

TEST(InferenceService, AMixOfOneIsReportedWithItsWeight) {
  v1::GenerateRequest request = TokensRequest(2);
  request.add_adapters()->set_adapter_id("plain");
  request.mutable_adapters(0)->set_weight(-0.5);
  const Answered answered = Generate(request);
  ASSERT_TRUE(answered.status.ok()) << answered.status.error_message();
  EXPECT_EQ(answered.response.adapter().adapter_id(), "plain");
  EXPECT_EQ(answered.response.adapter().weight(), -0.5);
  EXPECT_EQ(answered.response.adapter().mix_size(), 0);
}

TEST(InferenceService, MixesAreReportedInOrderAndZeroWeightsChangeNothing) {
  v1::GenerateRequest request = TokensRequest(8);
  for (const char* id : {"other", "plain"}) request.add_adapters()->set_adapter_id(id);
  request.mutable_adapters(0)->set_weight(0.0);
  const Answered mixed = Generate(request);
  ASSERT_TRUE(mixed.status.ok()) << mixed.status.error_message();
  ASSERT_EQ(mixed.response.adapter().mix_size(), 2);
  EXPECT_EQ(mixed.response.adapter().mix(0).adapter_id(), "other");
  EXPECT_EQ(mixed.response.adapter().mix(0).weight(), 0.0);
  v1::GenerateRequest alone = TokensRequest(8);
  alone.set_adapter_id("plain");
  EXPECT_THAT(mixed.response.token_ids(), ElementsAreArray(Generate(alone).response.token_ids()));

  request.mutable_adapters(1)->set_weight(0.0);
  const Answered none = Generate(request);
  EXPECT_THAT(none.response.token_ids(),
              ElementsAreArray(Generate(TokensRequest(8)).response.token_ids()));
  EXPECT_EQ(none.response.adapter().mix_size(), 2);
}

TEST(InferenceService, DoraRunsAloneAtWeightOneOnly) {
  v1::GenerateRequest request = TokensRequest(2);
  request.add_adapters()->set_adapter_id("dora");
  EXPECT_TRUE(Generate(request).status.ok());
  request.mutable_adapters(0)->set_weight(0.5);
  EXPECT_EQ(FieldOf(Generate(request).status), "adapters");
  request.mutable_adapters(0)->set_weight(1.0);
  request.add_adapters()->set_adapter_id("plain");
  const grpc::Status status = Generate(request).status;
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("DoRA"));
}

TEST(InferenceService, EqualSeedsGiveEqualAnswers) {
  v1::GenerateRequest request = TokensRequest(16);
  request.set_temperature(5.0);
  request.set_seed(UINT64_MAX);
  const Answered first = Generate(request);
  EXPECT_THAT(Generate(request).response.token_ids(), ElementsAreArray(first.response.token_ids()));
  request.clear_seed();
  std::vector<std::string> answers;
  for (int i = 0; i < 4; ++i) answers.push_back(Generate(request).response.SerializeAsString());
  EXPECT_FALSE(std::all_of(answers.begin(), answers.end(), [&](const std::string& one) {
    return one == answers[0];
  })) << "without a seed the server chooses, and not always the same";
}

TEST(InferenceService, AStopStringCutsTextTokensAndUsage) {
  v1::GenerateRequest request = TokensRequest(60);
  const Answered whole = Generate(request);
  const std::string& text = whole.response.text();
  const auto letter = std::find_if(text.begin() + text.size() / 2, text.end(),
                                   [](char c) { return c > ' ' && c < 0x7f; });
  ASSERT_NE(letter, text.end());
  const std::string stop(1, *letter);
  request.add_stop(stop);
  const Answered cut = Generate(request);
  ASSERT_TRUE(cut.status.ok()) << cut.status.error_message();
  EXPECT_EQ(cut.response.text(), text.substr(0, text.find(stop)));
  EXPECT_EQ(cut.response.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(cut.response.usage().completion_tokens(), cut.response.token_ids_size());
  EXPECT_LT(cut.response.token_ids_size(), 60);
}

// What is wrong with a request, and what must be said.
struct BadCall {
  std::string name;
  std::function<void(v1::GenerateRequest&)> change;
  std::vector<std::string> headers;
  StatusCode code = StatusCode::INVALID_ARGUMENT;
  std::string field;
};

TEST(InferenceService, BadCallsGetTheirCodeAndField) {
  const BadCall calls[] = {
      {"traversal",
       [](auto& r) { r.set_adapter_id("../../etc/passwd"); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "adapter_id"},
      {"newline",
       [](auto& r) { r.set_adapter_id("a\r\nb"); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "adapter_id"},
      {"long id",
       [](auto& r) { r.set_adapter_id(std::string(129, 'a')); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "adapter_id"},
      {"url",
       [](auto& r) { r.set_adapter_id("http://169.254.169.254/x"); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "adapter_id"},
      {"unknown", [](auto& r) { r.set_adapter_id("nobody"); }, {}, StatusCode::NOT_FOUND, ""},
      {"broken",
       [](auto& r) { r.set_adapter_id("broken"); },
       {},
       StatusCode::FAILED_PRECONDITION,
       ""},
      {"both differ",
       [](auto& r) { r.set_adapter_id("plain"); },
       {"other"},
       StatusCode::INVALID_ARGUMENT,
       "x-adapter-id"},
      {"header twice",
       [](auto&) {},
       {"plain", "plain"},
       StatusCode::INVALID_ARGUMENT,
       "x-adapter-id"},
      {"header list", [](auto&) {}, {"plain,other"}, StatusCode::INVALID_ARGUMENT, "x-adapter-id"},
      {"no input",
       [](auto& r) { r.clear_token_ids(); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "prompt"},
      {"empty prompt",
       [](auto& r) {
         r.clear_token_ids();
         r.set_prompt("");
       },
       {},
       StatusCode::INVALID_ARGUMENT,
       "prompt"},
      {"two inputs",
       [](auto& r) { r.set_prompt("x"); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "prompt"},
      {"padded id",
       [](auto& r) { r.add_token_ids(kTinyVocabulary); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "token_ids[3]"},
      {"negative id",
       [](auto& r) { r.add_token_ids(-1); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "token_ids[3]"},
      {"max_tokens 0",
       [](auto& r) { r.set_max_tokens(0); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "max_tokens"},
      {"max_tokens huge",
       [](auto& r) { r.set_max_tokens(INT32_MAX); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "max_tokens"},
      {"one beyond the context",
       [](auto& r) { r.set_max_tokens(kTinyContext - 2); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "max_tokens"},
      {"no room",
       [](auto& r) {
         while (r.token_ids_size() < kTinyContext) r.add_token_ids(1);
         r.clear_max_tokens();
       },
       {},
       StatusCode::INVALID_ARGUMENT,
       "prompt"},
      {"temperature",
       [](auto& r) { r.set_temperature(NAN); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "temperature"},
      {"logprobs",
       [](auto& r) { r.set_logprobs(1'000'000); },
       {},
       StatusCode::INVALID_ARGUMENT,
       "logprobs"},
      {"empty stop", [](auto& r) { r.add_stop(""); }, {}, StatusCode::INVALID_ARGUMENT, "stop[0]"},
      {"many biases",
       [](auto& r) {
         for (int i = 0; i < 100'000; ++i) r.add_logit_bias()->set_token_id(1);
       },
       {},
       StatusCode::INVALID_ARGUMENT,
       "logit_bias"},
      {"every token banned",
       [](auto& r) {
         for (int id = 0; id < kTinyVocabulary; ++id) {
           r.add_logit_bias()->set_token_id(id);
           r.mutable_logit_bias(id)->set_bias(-100);
         }
       },
       {},
       StatusCode::INVALID_ARGUMENT,
       "logit_bias"},
      {"message over the limit",
       [](auto& r) { r.set_adapter_id(std::string(kMessageBytesMax, 'a')); },
       {},
       StatusCode::RESOURCE_EXHAUSTED,
       ""},
  };
  for (const BadCall& call : calls) {
    v1::GenerateRequest request = TokensRequest(2);
    call.change(request);
    const grpc::Status unary = Generate(request, call.headers).status;
    EXPECT_EQ(unary.error_code(), call.code) << call.name << ": " << unary.error_message();
    EXPECT_EQ(FieldOf(unary), call.field) << call.name;
    EXPECT_LE(unary.error_message().size(), 1024u) << call.name;
    EXPECT_EQ(unary.error_message().find(Shared().adapters().path()), std::string::npos)
        << "no paths of the host: " << unary.error_message();
    if (!call.headers.empty()) continue;
    EXPECT_EQ(Stream(request).status.error_code(), call.code) << call.name;
  }
  EXPECT_TRUE(Generate(TokensRequest(2)).status.ok()) << "and others are not touched";
}

TEST(InferenceService, MessagesThatCannotBeParsedAreTheClientsMistake) {
  const std::string generate = "/lorica.v1.InferenceService/Generate";
  const struct {
    std::string method;
    std::string bytes;
    std::string field;
  } cases[] = {{generate, "\x1A\x02\xFF\xFE", "prompt"},
               {"/lorica.v1.InferenceService/GenerateStream", "\x1A\x02\xFF\xFE", "prompt"},
               {generate, "\x0A\x01\xC3", "adapter_id"},
               {generate, "\x22\x03\x12\x01\x80", "content"},
               {"/lorica.v1.AdapterService/GetAdapter", "\x0A\x01\xC3", "adapter_id"},
               {generate, "\x1A\x05hi", ""},
               {generate, std::string(100, '\x9B'), ""}};
  for (const auto& one : cases) {
    const grpc::Status status = RawCall(Shared(), one.method, one.bytes).status;
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << one.method << one.field;
    EXPECT_EQ(FieldOf(status), one.field);
    EXPECT_THAT(status.error_message(), HasSubstr("UTF-8"));
  }
  for (const char* unknown :
       {"/lorica.v1.InferenceService/Nothing", "/lorica.v1.Nothing/Generate"}) {
    EXPECT_EQ(RawCall(Shared(), unknown, "").status.error_code(), StatusCode::UNIMPLEMENTED);
  }
  EXPECT_TRUE(Generate(TokensRequest(2)).status.ok());
}

TEST(InferenceService, TheWholeContextMayBeUsed) {
  const Answered answered = Generate(TokensRequest(kTinyContext - 3));
  ASSERT_TRUE(answered.status.ok()) << answered.status.error_message();
  EXPECT_EQ(answered.response.token_ids_size(), kTinyContext - 3);
  v1::GenerateRequest request = TokensRequest(1);
  request.clear_max_tokens();
  EXPECT_EQ(Generate(request).response.token_ids_size(), kMaxTokensDefault);
}

TEST(InferenceService, DeadlinesInThePastAreRefusedAndOthersKept) {
  Context past;
  past.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  v1::GenerateResponse response;
  EXPECT_EQ(Shared().inference().Generate(&past, TokensRequest(2), &response).error_code(),
            StatusCode::DEADLINE_EXCEEDED);
  Context soon;
  soon.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(5));
  EXPECT_EQ(Shared().inference().Generate(&soon, TokensRequest(500), &response).error_code(),
            StatusCode::DEADLINE_EXCEEDED);
  Shared().WaitFor([](const auto& status) { return status.running() + status.kv_blocks() == 0; });
}

TEST(InferenceService, CancelFreesEverything) {
  for (int reads : {0, 1, 5}) {
    Context context;
    auto reader = Shared().inference().GenerateStream(&context, TokensRequest(500));
    v1::GenerateStreamResponse chunk;
    for (int i = 0; i < reads; ++i) ASSERT_TRUE(reader->Read(&chunk));
    context.TryCancel();
    while (reader->Read(&chunk)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  }
  Shared().WaitFor([](const auto& status) {
    return status.running() + status.queued() + status.kv_blocks() == 0;
  });
}

TEST(InferenceService, ManyCallsAtOnceAnswerAsIfAlone) {
  v1::GenerateRequest request = TokensRequest(40);
  const Answered alone = Generate(request);
  std::vector<std::thread> threads;
  std::vector<Streamed> streams(24);
  for (Streamed& stream : streams) {
    threads.emplace_back([&stream, &request] { stream = Stream(request); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Streamed& stream : streams) {
    ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_THAT(stream.token_ids, ElementsAreArray(alone.response.token_ids()));
  }
}

// More streams than run at a time, most of them cancelled somewhere, beside some that are not.
TEST(InferenceService, AStormOfCancelsTouchesNobodyElseAndLeavesNothing) {
  v1::GenerateRequest request = TokensRequest(60);
  const Answered alone = Generate(request);
  std::vector<std::thread> threads;
  std::vector<Streamed> steady(8);
  for (Streamed& stream : steady) {
    threads.emplace_back([&stream, &request] { stream = Stream(request); });
  }
  for (int caller = 0; caller < 80; ++caller) {
    threads.emplace_back([caller] {
      for (int i = 0; i < 5; ++i) {
        v1::GenerateRequest doomed = TokensRequest(400);
        if (caller % 3 == 0) doomed.set_adapter_id(i % 2 == 0 ? "plain" : "other");
        Context context;
        auto reader = Shared().inference().GenerateStream(&context, doomed);
        v1::GenerateStreamResponse chunk;
        for (int reads = (caller + i) % 6; reads > 0 && reader->Read(&chunk); --reads) {
        }
        context.TryCancel();
        while (reader->Read(&chunk)) {
        }
        EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Streamed& stream : steady) {
    ASSERT_TRUE(stream.status.ok()) << stream.status.error_message();
    EXPECT_THAT(stream.token_ids, ElementsAreArray(alone.response.token_ids()));
  }
  Shared().WaitFor([](const auto& status) {
    return status.running() + status.queued() + status.kv_blocks() == 0;
  });
}

TEST(InferenceService, TokenizeSaysWhatGenerateSees) {
  Context context;
  v1::TokenizeRequest request;
  request.set_prompt("hello");
  v1::TokenizeResponse response;
  ASSERT_TRUE(Shared().inference().Tokenize(&context, request, &response).ok());
  EXPECT_EQ(response.token_ids_size(), response.tokens_size());
  std::string joined;
  for (const std::string& token : response.tokens()) joined += token;
  EXPECT_EQ(joined, "hello");

  v1::GenerateRequest generate;
  generate.set_prompt("hello");
  generate.set_max_tokens(1);
  EXPECT_EQ(Generate(generate).response.usage().prompt_tokens(), response.token_ids_size());

  Context chat_context;
  v1::TokenizeRequest chat;
  auto* message = chat.add_messages();
  message->set_role("user");
  message->set_content("hello");
  EXPECT_TRUE(Shared().inference().Tokenize(&chat_context, chat, &response).ok());
  Context both_context;
  chat.set_prompt("x");
  EXPECT_EQ(Shared().inference().Tokenize(&both_context, chat, &response).error_code(),
            StatusCode::INVALID_ARGUMENT);
}

TEST(InferenceService, AnUnreadStreamIsPausedNotBuffered) {
  v1::GenerateRequest request = TokensRequest(500);
  request.set_logprobs(20);  // so that it is more than the transport's window takes
  const Answered whole = Generate(request);
  const auto generated = [] { return Shared().Status().counters().generated_tokens(); };
  const int64_t before = generated();
  Context context;
  auto reader = Shared().inference().GenerateStream(&context, request);
  int64_t seen = -1;
  while (seen != generated()) {
    seen = generated();
    absl::SleepFor(absl::Milliseconds(300));
  }
  EXPECT_GT(seen - before, kPendingTokensMax);
  EXPECT_LT(seen - before, 500) << "nobody has read anything yet";
  EXPECT_EQ(Shared().Status().running(), 1);
  std::vector<int32_t> token_ids;
  v1::GenerateStreamResponse chunk;
  while (reader->Read(&chunk)) {
    token_ids.insert(token_ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(token_ids, ElementsAreArray(whole.response.token_ids()));
}

}  // namespace
}  // namespace lorica
