// Goal: whatever stands in a request is taken, or refused with its code in time; nobody else
// notices. The bounds themselves are tested at their edges in request_checks_test.
#include <cmath>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/integration/bystander.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using testing::AnyOf;
using testing::ElementsAreArray;
using testing::Eq;
using Json = nlohmann::json;
using Request = v1::GenerateRequest;

const auto kRefused = StatusCode::INVALID_ARGUMENT;
const auto kOk = StatusCode::OK;

class HostileRequests : public BystanderTest {
 protected:
  StatusCode CodeOfPrompt(const std::string& prompt) {
    return CodeOf([&](Request& request) {
      request.clear_token_ids();
      request.set_prompt(prompt);
    });
  }
  // `bytes` behind a request that is right; by hand, for what no generated code would send.
  StatusCode CodeOfBytes(const std::string& bytes) {
    return Raw("InferenceService/Generate", TokensRequest(2).SerializeAsString() + bytes)
        .error_code();
  }
  int HttpStatusOf(const std::string& path, const Json& change) {
    Json body = {{"model", "plain"}, {"prompt", "hi"}, {"max_tokens", 2}};
    body.update(change);
    if (body.contains("messages")) body.erase("prompt");
    const int port = server().server().http_port();
    const absl::Time begun = absl::Now();
    const int status = Post(port, path, body).status;
    EXPECT_LT(absl::Now() - begun, kAnswerMax);
    return status;
  }
  std::vector<int32_t> SampledWith(uint64_t seed) {
    Request request = TokensRequest(8);
    request.set_temperature(1.0);
    request.set_seed(seed);
    v1::GenerateResponse response;
    EXPECT_TRUE(Generate(request, {}, &response).ok());
    return {response.token_ids().begin(), response.token_ids().end()};
  }
};

TEST_F(HostileRequests, PromptsOfEveryLength) {
  EXPECT_EQ(CodeOfPrompt(""), kRefused);
  EXPECT_EQ(CodeOfPrompt("   "), kOk);
  const auto tokens = [this](int count, int answer) {
    return CodeOf([&](Request& request) {
      while (request.token_ids_size() < count) request.add_token_ids(5);
      request.set_max_tokens(answer);
    });
  };
  EXPECT_EQ(tokens(kTinyContext - 1, 1), kOk);
  EXPECT_EQ(tokens(kTinyContext - 1, 2), kRefused);
  EXPECT_EQ(tokens(kTinyContext, 1), kRefused);
  EXPECT_EQ(tokens(kTinyContext + 1, 1), kRefused);
  EXPECT_EQ(CodeOf([](Request& request) {
              request.clear_token_ids();
              for (const int special : {256, 257, 258}) request.add_token_ids(special);
            }),
            kOk)
      << "nothing but special tokens";
}

TEST_F(HostileRequests, TextThatIsNone) {
  for (const char* bytes : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\x80"}) {
    const std::string text = bytes;
    std::string message = "\x1a";  // field 3, the prompt
    message += static_cast<char>(text.size());
    EXPECT_EQ(Raw("InferenceService/Generate", message + text).error_code(), kRefused)
        << testing::PrintToString(text);
  }
  EXPECT_EQ(CodeOfPrompt(std::string("a\0b", 3)), kOk);
  EXPECT_EQ(CodeOfPrompt("\xef\xbb\xbfhi"), kOk);  // a byte order mark
}

TEST_F(HostileRequests, LongTextOfOneKindTakesLinearTime) {
  constexpr size_t kBytes = 3'900'000;
  // A zero-width-joiner chain of emoji; the mark of a SentencePiece word; letters; blanks.
  for (const std::string unit : {"a", " ", "\xe2\x96\x81", "\xf0\x9f\x91\xa9\xe2\x80\x8d"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    EXPECT_EQ(CodeOfPrompt(text), kRefused) << unit;  // more tokens than the context holds
  }
}

// Row 16. Of a message each byte is a token of the tiny model, whatever it spells.
TEST_F(HostileRequests, SpecialTokensInMessagesAreText) {
  const auto prompt_tokens = [this](const std::string& content) {
    Request request = TokensRequest(2);
    request.clear_token_ids();
    v1::ChatMessage* message = request.add_messages();
    message->set_role("user");
    message->set_content(content);
    v1::GenerateResponse response;
    EXPECT_EQ(Generate(request, {}, &response).error_code(), kOk) << content;
    return response.usage().prompt_tokens();
  };
  for (const std::string text :
       {"<s>", "</s>", "<|end|>", "<|im_end|>", "<|eot_id|>", "[INST]", "<0x0A>"}) {
    EXPECT_EQ(prompt_tokens(text), prompt_tokens(std::string(text.size(), 'x'))) << text;
  }
}

TEST_F(HostileRequests, TokenIdsThatAreNone) {
  EXPECT_EQ(CodeOfBytes("\x28\x80\x80\x80\x80\x08"), kRefused) << "2^31";

  for (const int32_t id : {-1, kTinyVocabulary, 271, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(CodeOf([id](Request& request) { request.add_token_ids(id); }), kRefused) << id;
  }
}

TEST_F(HostileRequests, CountsOfTokens) {
  for (const int32_t count : {0, -1, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(CodeOf([count](Request& request) { request.set_max_tokens(count); }), kRefused);
  }
  // 2^63 - 1 on the wire; 32 bits of it are -1.
  EXPECT_EQ(CodeOfBytes("\x30\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), kRefused);
}

TEST_F(HostileRequests, CountsOfAnswers) {
  for (const char* field : {"n", "best_of"}) {
    for (const int64_t count : {int64_t{0}, int64_t{-1}, int64_t{1'000'000'000}}) {
      EXPECT_THAT(HttpStatusOf("/v1/completions", {{field, count}}), AnyOf(Eq(400), Eq(422)))
          << field << " " << count;
    }
  }
}

TEST_F(HostileRequests, SamplingNumbers) {
  const double nan = std::nan("");
  const double infinity = std::numeric_limits<double>::infinity();
  using Set = void (Request::*)(double);
  const std::vector<std::tuple<Set, double, StatusCode>> doubles = {
      {&Request::set_temperature, -1, kRefused},
      {&Request::set_temperature, nan, kRefused},
      {&Request::set_temperature, infinity, kRefused},
      {&Request::set_temperature, 1e-45, kOk},
      {&Request::set_temperature, 1e38, kRefused},
      {&Request::set_top_p, 0, kRefused},
      {&Request::set_top_p, 1, kOk},
      {&Request::set_top_p, 1.0001, kRefused},
      {&Request::set_top_p, nan, kRefused},
      {&Request::set_min_p, 2, kRefused},
      {&Request::set_min_p, nan, kRefused},
      {&Request::set_repetition_penalty, 0, kRefused},
      {&Request::set_repetition_penalty, -1, kRefused},
      {&Request::set_repetition_penalty, nan, kRefused},
      {&Request::set_repetition_penalty, 1e38, kRefused},
      {&Request::set_presence_penalty, infinity, kRefused},
      {&Request::set_frequency_penalty, nan, kRefused},
  };
  for (const auto& [set, value, code] : doubles) {
    EXPECT_EQ(CodeOf([&](Request& request) { (request.*set)(value); }), code) << value;
  }
  for (const auto& [top_k, code] : std::vector<std::pair<int32_t, StatusCode>>{
           {-1, kRefused}, {0, kOk}, {INT32_MAX, kOk}, {INT32_MIN, kRefused}}) {
    EXPECT_EQ(CodeOf([&](Request& request) { request.set_top_k(top_k); }), code) << top_k;
  }
}

TEST_F(HostileRequests, Biases) {
  const auto with = [this](int count, int32_t id, double bias) {
    return CodeOf([&](Request& request) {
      for (int i = 0; i < count; ++i) {
        v1::LogitBias* one = request.add_logit_bias();
        one->set_token_id(count > 1 ? i % kTinyVocabulary : id);
        one->set_bias(bias);
      }
    });
  };
  EXPECT_EQ(with(300'000, 0, 1), kRefused);  // a million of them are more than a message may hold
  EXPECT_EQ(with(1, kTinyVocabulary, 1), kRefused);
  EXPECT_EQ(with(1, -1, 1), kRefused);
  EXPECT_EQ(with(1, 5, std::nan("")), kRefused);
  EXPECT_EQ(with(1, 5, 1e30), kRefused);
  EXPECT_EQ(with(1, 5, -1e30), kOk);                    // a ban
  EXPECT_EQ(with(kTinyVocabulary, 0, -100), kRefused);  // all banned
}

TEST_F(HostileRequests, StopLists) {
  const auto with = [this](int count, const std::string& stop) {
    return CodeOf([&](Request& request) {
      for (int i = 0; i < count; ++i) request.add_stop(stop);
    });
  };
  EXPECT_EQ(with(100'000, "x"), kRefused);
  EXPECT_EQ(with(1, ""), kRefused);
  EXPECT_EQ(with(1, std::string(1 << 20, 'x')), kRefused);
  EXPECT_EQ(CodeOf([](Request& request) {
              for (const char* stop : {"ab", "abc", "b", "ab"}) request.add_stop(stop);
            }),
            kOk);
  Request at_once = TokensRequest(8);
  v1::LogitBias* bias = at_once.add_logit_bias();
  bias->set_token_id('a');
  bias->set_bias(100);
  at_once.add_stop("a");
  v1::GenerateResponse response;
  EXPECT_EQ(Generate(at_once, {}, &response).error_code(), kOk);
  EXPECT_EQ(response.text(), "");
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST_F(HostileRequests, Logprobs) {
  for (const int32_t count : {1'000'000, 21, -1}) {
    EXPECT_EQ(CodeOf([count](Request& request) { request.set_logprobs(count); }), kRefused);
  }
}

TEST_F(HostileRequests, SeedsOfEverySizeReproduce) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_THAT(SampledWith(seed), ElementsAreArray(SampledWith(seed))) << seed;
  }
  EXPECT_NE(SampledWith(0), SampledWith(UINT64_MAX));
}

TEST_F(HostileRequests, Messages) {
  TakesLongTexts();
  const auto with = [this](int count, const std::string& role, const std::string& content) {
    return CodeOf([&](Request& request) {
      request.clear_token_ids();
      for (int i = 0; i < count; ++i) {
        v1::ChatMessage* message = request.add_messages();
        message->set_role(role);
        message->set_content(content);
      }
    });
  };
  EXPECT_EQ(with(0, "user", "hi"), kRefused);
  EXPECT_EQ(with(100'000, "user", "hi"), kRefused);
  EXPECT_EQ(with(1, "", "hi"), kRefused);
  EXPECT_EQ(with(1, std::string(65, 'r'), "hi"), kRefused);
  EXPECT_EQ(with(1, "nobody", "hi"), kOk);  // the tiny model's template takes any
  Json deep = "x";
  for (int i = 0; i < 1000; ++i) deep = Json::array({deep});
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  const auto chat = [&](const Json& change) {
    Json body = {{"messages", messages}};
    body.update(change);
    return HttpStatusOf("/v1/chat/completions", body);
  };
  const Json tool = {{"type", "function"},
                     {"function", {{"name", "f"}, {"description", std::string(1 << 20, 'd')}}}};
  EXPECT_THAT(
      chat({{"tools", Json::array({tool, tool, tool, tool, tool, tool, tool, tool, tool, tool})}}),
      AnyOf(Eq(400), Eq(413), Eq(422)));
  EXPECT_THAT(chat({{"messages", Json::array({{{"role", "user"}, {"content", deep}}})}}),
              AnyOf(Eq(400), Eq(422)));
  EXPECT_THAT(chat({{"messages", Json::array()}}), AnyOf(Eq(400), Eq(422)));
}

// Served or not: a grammar that is wrong is refused, and the server lives. Those that take long to
// compile are in structured_output_test.
TEST_F(HostileRequests, Grammars) {
  TakesLongTexts();
  Json wide = Json::object();
  for (int i = 0; i < 20'000; ++i) wide[absl::StrCat("property_", i)] = {{"type", "string"}};
  const Json schemas[] = {
      {{"type", "string"}, {"pattern", "(a+)+$\\"}},
      {{"type", "string"}, {"pattern", "\\x"}},
      {{"$ref", "#"}},
      {{"type", 5}},
      {{"type", "object"}, {"properties", wide}},
      {{"type", "string"}, {"description", std::string(5 << 20, 'd')}},
  };
  for (const Json& schema : schemas) {
    const Json format = {{"type", "json_schema"},
                         {"json_schema", {{"name", "x"}, {"schema", schema}}}};
    const int status = HttpStatusOf("/v1/completions", {{"response_format", format}});
    EXPECT_THAT(status, AnyOf(Eq(400), Eq(413), Eq(422))) << schema.dump().substr(0, 80);
  }
  const auto with = [this](const char* pattern) {
    return CodeOf([pattern](Request& request) {
      request.set_ignore_eos(false);
      request.mutable_response_format()->set_regex(pattern);
    });
  };
  EXPECT_EQ(with("(a"), kRefused);
  EXPECT_EQ(with("(a+)+$"), kOk) << "nothing goes back to try again";
  EXPECT_EQ(with("a{1,1000000}"), kOk) << "it is counted and not written out";
  EXPECT_EQ(with("a+"), kOk) << "and leaves a child that waits for the next";
  EXPECT_EQ(CodeOfPrompt("still here"), kOk);
}

TEST_F(HostileRequests, BytesThatAreNoMessage) {
  EXPECT_EQ(CodeOfBytes("\xfa\x3f\x01x"), kOk);         // a field nobody knows
  EXPECT_EQ(CodeOfBytes("\x2a\x01\x05\x28\x06"), kOk);  // packed and unpacked
  // A form twice, of which the last counts: "(a", which is none, and "a+".
  const auto forms = [](const std::string& one, const std::string& another) {
    return "\x98\x01" + std::string(1, '\0') + "\xaa\x01\x04\x1a\x02" + one +
           "\xaa\x01\x04\x1a\x02" + another;
  };
  EXPECT_EQ(CodeOfBytes(forms("(a", "a+")), kOk);
  EXPECT_EQ(CodeOfBytes(forms("a+", "(a")), kRefused);
  EXPECT_EQ(CodeOfBytes("\x32"), kRefused);                      // cut
  EXPECT_EQ(CodeOfBytes("\x2a\xff\xff\xff\xff\x0f"), kRefused);  // a length beyond the end
  EXPECT_EQ(CodeOfBytes(std::string(100'000, '\xff')), kRefused);
  // Groups within groups, deeper than any message.
  EXPECT_EQ(CodeOfBytes(std::string(2000, '\xfb')), kRefused);
  EXPECT_EQ(Raw("AdapterService/LoadAdapter", std::string("\x0a\x05plain\x10\x63", 9)).error_code(),
            kRefused);  // a tier that is none
}

// Requests carry no identity that could clash; HTTP's is a mark for logs.
TEST_F(HostileRequests, EqualRequestIdsAreIndependent) {
  const int port = server().server().http_port();
  const Json body = {{"model", "plain"}, {"prompt", "hi"}, {"max_tokens", 8}, {"temperature", 0}};
  const absl::Time begun = absl::Now();
  std::vector<HttpAnswer> answers(4);
  std::vector<std::thread> callers;
  for (HttpAnswer& answer : answers) {
    callers.emplace_back([&answer, &body, port] {
      answer = Post(port, "/v1/completions", body, {{"X-Request-Id", "the-same"}});
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_LT(absl::Now() - begun, kAnswerMax);
  for (const HttpAnswer& answer : answers) {
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.json()["choices"][0]["text"], answers[0].json()["choices"][0]["text"]);
  }
}

// Rows 26 and 27: a model whose template knows no narrator, and does harm when it is told to.
class HostileTemplates : public BystanderTest {
 protected:
  HostileTemplates() {
    std::filesystem::copy(TinyModelPath(), model_.path(),
                          std::filesystem::copy_options::recursive |
                              std::filesystem::copy_options::overwrite_existing);
    const std::string endless = "{% for i in range(10000) %}{% for j in range(10000) %}";
    const std::string ends = "{% endfor %}{% endfor %}";
    const Json text = {
        {"bos_token", "<s>"},
        {"chat_template",
         absl::StrCat("{% set what = messages[0]['content'] %}{% if what == 'raise' ",
                      "or messages[0]['role'] == 'narrator' %}",
                      "{{ raise_exception('no such role') }}{% elif what == 'loop' %}", endless,
                      ends, "{% elif what == 'huge' %}", endless, std::string(1000, 'x'), ends,
                      "{% else %}{{ what }}{% endif %}")}};
    model_.Write("tokenizer_config.json", text.dump());
    config().model = model_.path();
  }
  StatusCode CodeOfContent(const std::string& content, const std::string& role = "user") {
    return CodeOf([&](Request& request) {
      request.clear_token_ids();
      v1::ChatMessage* message = request.add_messages();
      message->set_role(role);
      message->set_content(content);
    });
  }

  TemporaryFolder model_;
};

TEST_F(HostileTemplates, ARoleThatTheTemplateDoesNotKnowIsRefused) {
  EXPECT_EQ(CodeOfContent("hi", "narrator"), kRefused);
  EXPECT_EQ(CodeOfContent("hi"), kOk);
}

TEST_F(HostileTemplates, RaiseLoopAndGrowWithinBounds) {
  EXPECT_EQ(CodeOfContent("hi"), kOk);
  for (const char* what : {"raise", "loop", "huge"}) {
    const auto ask = [&] { EXPECT_EQ(CodeOfContent(what), kRefused) << what; };
    EXPECT_LT(PeakGrowthBytes(ask), kGrowthBytesMax) << what;
  }
  EXPECT_EQ(CodeOfContent("hi"), kOk);
}

}  // namespace
}  // namespace lorica
