// Goal: whatever is sent as an adapter's name is refused with its code, in time, without a
// packet, a path or a line of log that it wrote, and nobody else notices.
#include <atomic>
#include <regex>
#include <set>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "tests/fakes/connect_shim.h"
#include "tests/fakes/fake_hub.h"
#include "tests/integration/bystander.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using grpc::StatusCode;

class HostileIds : public BystanderTest {
 protected:
  StatusCode Register(const std::string& id, const std::string& source = "") {
    return BystanderTest::Register(id, source).error_code();
  }
  // By the field, by the header where it can be sent, as a name to register, and as a source.
  void ExpectRefused(const std::string& id) {
    SCOPED_TRACE(testing::PrintToString(id));
    EXPECT_EQ(CodeOfAdapter(id), StatusCode::INVALID_ARGUMENT);
    const bool printable =
        std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
    if (printable) {
      EXPECT_EQ(Generate(TokensRequest(2), {{"x-adapter-id", id}}).error_code(),
                StatusCode::INVALID_ARGUMENT);
    }
    EXPECT_EQ(Register(id, "plain"), StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(Register("mine", id),
                testing::AnyOf(StatusCode::INVALID_ARGUMENT, StatusCode::NOT_FOUND));
  }
  // The same as bytes on the wire, for what no generated code would send.
  StatusCode CodeOfBytes(const std::string& id) {
    std::string message = "\n";  // field 1, of bytes
    message += static_cast<char>(id.size());
    return Raw("InferenceService/Generate", message + id + "\x2a\x01\x05").error_code();
  }
  // Each line of the metrics is one of theirs.
  void ExpectMetricsWellFormed() {
    const HttpAnswer answer = HttpCall(server().server().http_port(), "GET", "/metrics");
    ASSERT_EQ(answer.status, 200);
    const std::regex line(R"re((#.*|[a-zA-Z_:][\w:]*(\{(\w+="[^"\\\n]*",?)*\})? [-+\w.]+)?)re");
    for (const auto text : absl::StrSplit(answer.body, '\n')) {
      EXPECT_TRUE(std::regex_match(std::string(text), line)) << text;
    }
  }

  FakeHub hub_;
};

TEST_F(HostileIds, PathsAreRefused) {
  for (const char* id : {"../../etc/passwd", "a/../b", "..", "."}) ExpectRefused(id);
}

TEST_F(HostileIds, NothingIsDecoded) {
  for (const char* id : {"%2e%2e%2f", "a%2e%2e", "..\\..\\x", "%252e"}) ExpectRefused(id);
}

TEST_F(HostileIds, ControlCharactersAreRefused) {
  for (const std::string& id : {std::string("a\0b", 3), std::string("a\r\nb"), std::string("a\tb"),
                                std::string("a\x7f"), std::string("\x1b[31m")}) {
    ExpectRefused(id);
  }
  ExpectMetricsWellFormed();
}

TEST_F(HostileIds, WhatBreaksHeadersAndMetricsIsRefused) {
  for (const char* id : {"a,b", "a b", "a\"b", "a\\b", "a{b", "a=b"}) ExpectRefused(id);
  ExpectMetricsWellFormed();
}

TEST_F(HostileIds, LongOnesAreRefused) {
  EXPECT_EQ(CodeOfAdapter(std::string(128, 'a')), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeOfAdapter(std::string(129, 'a')), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(CodeOfAdapter(std::string(8 << 10, 'a')), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(CodeOfAdapter(std::string(4 << 20, 'a')), StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(HostileIds, LettersOfOtherAlphabetsAreRefused) {
  // A Cyrillic a, a combining acute, a full-width full stop.
  for (const char* id : {"pl\xd0\xb0in", "plain\xcc\x81",
                         "a\xef\xbc\x8e"
                         "b"})
    ExpectRefused(id);
  EXPECT_EQ(CodeOfBytes("\xff\xfe"), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(CodeOfBytes("\xc0\xae\xc0\xae"), StatusCode::INVALID_ARGUMENT);
}

TEST_F(HostileIds, WhatHubsAndFileSystemsReadOtherwiseIsRefused) {
  for (const char* id :
       {"a--b", "-a", "a.git", "a/b/c", "a/", "/etc/passwd", "C:\\x", "\\\\host\\share"}) {
    ExpectRefused(id);
  }
}

// Row 8, of one tenant beside another's stream.
TEST_F(HostileIds, UrlsAreRefusedAndNobodyIsAsked) {
  InTwoTenants();
  config().hub_allow = "*";
  config().hub_endpoint = hub_.endpoint();
  config().data_dir = data();
  // The calls' own connections; from here on all others are seen, whoever is asked for.
  const std::vector<std::string> own = {absl::StrCat(server().server().port()),
                                        absl::StrCat(server().server().http_port())};
  const fakes::WatchedConnects connects;
  const auto asked = [&] {
    std::set<std::string> seen;
    for (const std::string& name : connects.Seen()) {
      if (name != "127.0.0.1" && !absl::c_linear_search(own, name)) seen.insert(name);
    }
    return seen;
  };
  const std::string here = hub_.endpoint() + "/org/a";
  for (const std::string& id :
       {std::string("http://169.254.169.254/latest"), std::string("file:///etc/passwd"),
        std::string("s3://bucket/a"), here}) {
    ExpectRefused(id);
  }
  // As a source either: nothing but the hub was allowed.
  for (const std::string& source : {std::string("s3://bucket/a"), here}) {
    EXPECT_EQ(Register("mine", source), StatusCode::NOT_FOUND) << source;
  }
  for (const char* source : {"file:///etc/passwd", "http://169.254.169.254/latest", "/etc"}) {
    EXPECT_EQ(Register("mine", source), StatusCode::INVALID_ARGUMENT) << source;
  }
  EXPECT_TRUE(hub_.requests().empty());
  EXPECT_THAT(asked(), testing::IsEmpty());
  // What may be asked for is, and is seen.
  EXPECT_EQ(CodeOfAdapter("org/nobody"), StatusCode::NOT_FOUND);
  const std::string endpoint = hub_.endpoint();
  EXPECT_THAT(asked(), testing::ElementsAre(endpoint.substr(endpoint.rfind(':') + 1)));
}

TEST_F(HostileIds, NamesThatDifferByCaseAlone) {
  EXPECT_EQ(Register("mine", "plain"), StatusCode::OK);
  EXPECT_EQ(Register("Mine", "plain"), StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Register("PLAIN", "other"), StatusCode::ALREADY_EXISTS);
}

TEST_F(HostileIds, HeaderAndFieldAgreeOrAreRefused) {
  v1::GenerateRequest request = TokensRequest(2);
  request.set_adapter_id("plain");
  EXPECT_EQ(Generate(request, {{"x-adapter-id", "other"}}).error_code(),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Generate(request, {{"x-adapter-id", "plain"}}).error_code(), StatusCode::OK);
  EXPECT_EQ(Generate(request, {{"x-adapter-id", "plain"}, {"x-adapter-id", "plain"}}).error_code(),
            StatusCode::INVALID_ARGUMENT);
  // With underscores it is another header, and means nothing.
  v1::GenerateResponse response;
  EXPECT_EQ(Generate(TokensRequest(2), {{"x_adapter_id", "other"}}, &response).error_code(),
            StatusCode::OK);
  EXPECT_EQ(response.adapter().generation(), "");
}

TEST_F(HostileIds, TheBaseModelsNameAndNoneAreTheBase) {
  const v1::GetStatusResponse status = server().Status();
  v1::GenerateRequest request = TokensRequest(8);
  v1::GenerateResponse unnamed;
  ASSERT_TRUE(Generate(request, {}, &unnamed).ok());
  request.set_adapter_id(status.model().name());
  v1::GenerateResponse named;
  ASSERT_TRUE(Generate(request, {}, &named).ok());
  EXPECT_EQ(named.adapter().generation(), "");
  EXPECT_THAT(named.token_ids(), testing::ElementsAreArray(unnamed.token_ids()));
  EXPECT_EQ(Register(status.model().name(), "plain"), StatusCode::INVALID_ARGUMENT);
}

class ManyIds : public HostileIds {};

TEST_F(ManyIds, UnknownOnesLeaveNothingBehind) {
  AskForMany("warm-", 2000, 4);
  const int64_t before = ResidentBytes();
  AskForMany("nobody-", 20'000, 4);
  EXPECT_LT(ResidentBytes() - before, kGrowthBytesMax);
  ExpectMetricsWellFormed();
}

TEST_F(ManyIds, TheHubIsAskedOnceForEachAndForAFewAtATime) {
  AnswersWithin(kFetchedAnswerMax);
  config().hub_allow = "org/*";
  config().hub_endpoint = hub_.endpoint();
  config().data_dir = data();
  std::atomic<int> now = 0, most = 0;
  hub_.AddFault({.target_part = "org/", .times = -1, .before = [&] {
                   const int together = ++now;
                   for (int seen = most; seen < together;) {
                     if (most.compare_exchange_weak(seen, together)) break;
                   }
                   absl::SleepFor(absl::Milliseconds(20));
                   --now;
                 }});
  // So few that they are all asked for before the first is forgotten, after some ten seconds.
  constexpr int kIds = 100, kCallers = 32;
  AskForMany("org/nobody-", kIds, kCallers);
  EXPECT_GT(most, 1);
  EXPECT_LE(most, config().hub_downloads) << "of " << kCallers << " that wait";
  AskForMany("org/nobody-", kIds, kCallers);  // remembered: not asked for again
  EXPECT_LE(hub_.requests().size(), size_t{kIds});
}

}  // namespace
}  // namespace lorica
