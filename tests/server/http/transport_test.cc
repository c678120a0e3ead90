// The transport by itself: what a peer may send, how much, how slowly.
#include "server/http/transport.h"

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/connection.h"
#include "server/http/connection_threads.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kBodyMax = 10'000;

class TransportTest : public ::testing::Test {
 protected:
  TransportTest() { Start({}); }
  void Start(TransportOptions options) {
    transport_.reset();
    options.address = "127.0.0.1:0";
    if (options.body_bytes == kHttpBodyBytesMax) options.body_bytes = kBodyMax;
    HttpRoutes routes;
    routes["/echo"]["POST"] = [](const HttpRequest& request, HttpReply& reply) {
      reply.Send(200, std::string(request.body), "text/plain");
    };
    routes["/id"]["GET"] = [](const HttpRequest& request, HttpReply& reply) {
      reply.notes().adapter = "some \"adapter\"\n";
      reply.Send(200, request.id, "text/plain");
    };
    routes["/events"]["GET"] = [this](const HttpRequest&, HttpReply& reply) {
      reply.SendEvents([this](EventStream& events) {
        int count = 0;
        while (count < 1'000'000 && events.Write(std::string(1000, 'x'))) ++count;
        written_.store(count);
      });
    };
    auto started = HttpTransport::Start(options, std::move(routes), log_.get());
    ASSERT_TRUE(started.ok()) << started.status();
    transport_ = *std::move(started);
  }
  int port() { return transport_->port(); }
  int StatusOf(const std::string& bytes, absl::Duration limit = absl::Seconds(10)) {
    HttpSocket socket(port());
    socket.Send(bytes);
    return ParseAnswer(socket.Read(limit)).status;
  }

  std::vector<int> LoggedStatuses() {
    transport_->Stop(absl::Seconds(5));
    std::vector<int> statuses;
    std::ifstream file(folder_.path() + "/access");
    for (std::string line; std::getline(file, line);) {
      statuses.push_back(nlohmann::json::parse(line)["status"]);
    }
    return statuses;
  }

  TemporaryFolder folder_;
  std::unique_ptr<AccessLog> log_ = *AccessLog::Open(folder_.path() + "/access");
  std::atomic<int> written_{-1};
  std::unique_ptr<HttpTransport> transport_;
};

TEST_F(TransportTest, BodiesComeWhole) {
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", "{\"a\": 1}").body, "{\"a\": 1}");
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", "").body, "");
  HttpSocket socket(port());
  socket.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=utf-8\r\n"
      "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_EQ(ParseAnswer(socket.Read(absl::Seconds(10))).body, "abcde");
}

// Else a body that a proxy took for one would be a request of its own here.
TEST_F(TransportTest, HeadersThatServersReadDifferentlyEndTheConnection) {
  const std::string hidden = "GET /id HTTP/1.1\r\nHost: x\r\n\r\n";
  for (const std::string& line :
       {absl::StrCat("Content-Length : ", hidden.size()), absl::StrCat("Content-Length\t: 5"),
        absl::StrCat("X: y\r\n Content-Length: ", hidden.size()),
        absl::StrCat("X: y\r\n\tContent-Length: ", hidden.size()),
        std::string("Transfer-Encoding : chunked"), std::string("no colon"),
        std::string(": no name"), std::string("Content-Length\v: 5"),
        std::string("Content-Length:"), std::string("Content-Length: 27\r\nTransfer-Encoding: \t"),
        std::string("Host: \t")}) {
    HttpSocket socket(port());
    socket.Send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + line +
                "\r\n\r\n" + hidden);
    const std::string answer = socket.Read(absl::Seconds(10));
    EXPECT_EQ(ParseAnswer(answer).status, 400) << line;
    EXPECT_EQ(answer.find("HTTP/1.1", 1), std::string::npos) << line << answer;
  }
}

TEST_F(TransportTest, BodiesThatServersReadDifferentlyEndTheConnection) {
  const std::string hidden = "GET /id HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::string head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  const std::string chunked = "Transfer-Encoding: chunked\r\n";
  for (const std::string& rest :
       {chunked + "\r\nzz\r\nabc\r\n0\r\n\r\n", chunked + "\r\n0x3\r\nabc\r\n0\r\n\r\n",
        chunked + "\r\n+3\r\nabc\r\n0\r\n\r\n", chunked + "\r\n-3\r\nabc\r\n0\r\n\r\n",
        chunked + "\r\n3\r\nabc0\r\n\r\n", chunked + "\r\n3\nabc\n0\n\n",
        chunked + "\r\n0\r\nContent-Length: 27\r\n\r\n", chunked + chunked + "\r\n0\r\n\r\n"}) {
    HttpSocket socket(port());
    socket.Send(head + rest + hidden);
    const std::string answer = socket.Read(absl::Seconds(10));
    EXPECT_EQ(ParseAnswer(answer).status, 400) << rest;
    EXPECT_EQ(answer.find("HTTP/1.1", 1), std::string::npos) << rest << answer;
  }
  EXPECT_EQ(StatusOf(head + "Transfer-Encoding: %63hunked\r\n\r\n0\r\n\r\n" + hidden), 501);
  HttpSocket socket(port());  // and one whose end everybody sees the same way
  socket.Send(head + chunked + "\r\n3;x=y\r\nabc\r\n0\r\n\r\n" + hidden);
  const std::string both = socket.Read(absl::Seconds(10), "\r\n\r\n");
  EXPECT_THAT(both + socket.Read(absl::Seconds(1)), HasSubstr("abc"));
}

TEST_F(TransportTest, ConnectionsAreUsedAgain) {
  HttpSocket socket(port());
  for (int i = 0; i < 5; ++i) {
    socket.Send(RequestBytes("POST", "/echo", absl::StrCat("body", i)));
    EXPECT_THAT(socket.Read(absl::Seconds(10), absl::StrCat("body", i)),
                StartsWith("HTTP/1.1 200"));
  }
}

TEST_F(TransportTest, BodiesAreBoundedAtTheLimit) {
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", std::string(kBodyMax, 'a')).status, 200);
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", std::string(kBodyMax + 1, 'a')).status, 413);
  const std::string head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(StatusOf(head + "Content-Length: 1073741824\r\n\r\nabc"), 413) << "without reading it";
  EXPECT_EQ(StatusOf(head + "Transfer-Encoding: chunked\r\n\r\n" +
                     absl::StrCat(absl::Hex(kBodyMax + 1), "\r\n", std::string(kBodyMax + 1, 'a'),
                                  "\r\n0\r\n\r\n")),
            413);
}

TEST_F(TransportTest, HeadsAreBounded) {
  const std::string head = "GET /id HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
  std::string many;
  for (int i = 0; many.size() + 200 < kHeadBytesMax; ++i) absl::StrAppend(&many, "a", i, ": b\r\n");
  EXPECT_EQ(StatusOf(head + many + "\r\n"), 200);
  EXPECT_EQ(StatusOf(head + many + many + "\r\n"), 431);
  EXPECT_EQ(StatusOf(head + "a: " + std::string(10 << 20, 'b')), 431) << "one endless line";
  EXPECT_EQ(StatusOf(head + "a: " + std::string(20'000, 'b') + "\r\n\r\n"), 400) << "a long one";
}

// The library has a bound of its own on a line that came whole; ours ends one that does not.
TEST_F(TransportTest, RequestLinesAreBoundedAndHaveALineInTheLog) {
  TransportOptions options;
  options.head_time = absl::Seconds(1);
  Start(options);
  const std::string version = " HTTP/1.1\r\nHost: x\r\n\r\n";
  EXPECT_EQ(StatusOf("GET /a?" + std::string(8192 - 20, 'b') + version), 404);
  EXPECT_EQ(StatusOf("GET /b?" + std::string(8192, 'b') + version), 414);
  EXPECT_EQ(StatusOf("PUT /" + std::string(kHeadBytesMax - 7, 'c')), 408) << "more may come";
  HttpSocket socket(port());
  socket.Send("GET /" + std::string(kHeadBytesMax, 'd'));
  const HttpAnswer answer = ParseAnswer(socket.Read(absl::Seconds(10)));
  EXPECT_EQ(answer.status, 414);
  EXPECT_EQ(answer.json()["error"], "the request line is too long");
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_EQ(StatusOf("GET /e\rx HTTP/1.1\r\n\r\n"), 400);
  transport_->Stop(absl::Seconds(5));
  std::vector<std::string> seen;
  std::ifstream file(folder_.path() + "/access");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["peer"], "127.0.0.1");
    const std::string path = json["path"];
    EXPECT_LE(path.size(), 256u);
    seen.push_back(absl::StrCat(json["status"].get<int>(), " ", json["method"].get<std::string>(),
                                " ", path.substr(0, 3), " ", json["code"].get<std::string>()));
  }
  EXPECT_THAT(seen, ElementsAre("404 GET /a UNIMPLEMENTED", "414 GET /b INVALID_ARGUMENT",
                                "408 PUT /cc DEADLINE_EXCEEDED", "414 GET /dd INVALID_ARGUMENT",
                                "400 GET /e INVALID_ARGUMENT"));
}

TEST_F(TransportTest, ARequestNamesOneHost) {
  for (const std::string host :
       {"", "Host: x\r\nHost: x\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: u@b\r\n",
        "Host: b\xC3\xBC\r\n", "Host: [::1\r\n", "Host: localhost:99999\r\n"}) {
    for (const char* path : {"/id", "/nowhere"}) {
      EXPECT_EQ(StatusOf(absl::StrCat("GET ", path, " HTTP/1.1\r\n", host, "\r\n")), 400) << host;
    }
  }
  for (const std::string host : {"Host: a-b.example:80\r\n", "Host: [::1]:8080\r\n"}) {
    EXPECT_EQ(StatusOf("GET /id HTTP/1.1\r\nConnection: close\r\n" + host + "\r\n"), 200) << host;
  }
  EXPECT_EQ(StatusOf("GET /id HTTP/1.0\r\n\r\n"), 200);
}

TEST_F(TransportTest, WhatIsNoRequestIsRefused) {
  for (const std::string bytes :
       {"garbage\r\n\r\n", "GET /id HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3x\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        "GET /id HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /id HTTP/1.1\r\nHost: x\r\na: b\rc: d\r\n\r\n"}) {
    EXPECT_EQ(StatusOf(bytes), 400) << bytes;
  }
  EXPECT_EQ(StatusOf("GET /id\rx HTTP/1.1\r\nHost: x\r\n\r\n"), 400);
  EXPECT_EQ(StatusOf(std::string("GET /id HTTP/1.1\r\nHost: x\r\na: b\0c\r\n\r\n", 37)), 400);
  HttpSocket tls(port());
  tls.Send(std::string("\x16\x03\x01\x02\x00", 5));
  EXPECT_EQ(tls.Read(absl::Seconds(10)), "") << "closed without a word";
}

TEST_F(TransportTest, PathsMethodsAndTypesAreChecked) {
  EXPECT_EQ(HttpCall(port(), "GET", "/none").status, 404);
  EXPECT_EQ(HttpCall(port(), "GET", "/../id").status, 404);
  const HttpAnswer wrong = HttpCall(port(), "GET", "/echo");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
  EXPECT_EQ(wrong.headers.at("content-type"), "application/json");
  EXPECT_EQ(HttpCall(port(), "POST", "/id", "{}").status, 405);
  const HttpAnswer unknown = HttpCall(port(), "QUERY", "/id?a=b");
  EXPECT_EQ(unknown.status, 405);
  EXPECT_EQ(unknown.headers.at("allow"), "GET");
  EXPECT_EQ(HttpCall(port(), "query", "/id").status, 400);
  EXPECT_EQ(HttpCall(port(), "OPTIONS", "/echo").status, 405) << "no CORS";
  EXPECT_EQ(wrong.json()["status"], "UNIMPLEMENTED") << "as over gRPC";
  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
  EXPECT_EQ(StatusOf(post + "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"), 415);
  EXPECT_EQ(StatusOf(post + "Content-Length: 2\r\n\r\n{}"), 415);
  EXPECT_EQ(StatusOf(post + "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"
                            "Content-Length: 2\r\n\r\n{}"),
            415);
  EXPECT_EQ(HttpCall(port(), "HEAD", "/id").status, 200);
  EXPECT_EQ(HttpCall(port(), "HEAD", "/id").body, "");
}

TEST_F(TransportTest, ABodyWhereNoneBelongsIsNotTakenForTheNextRequest) {
  HttpSocket socket(port());
  socket.Send("GET /id HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n" +
              RequestBytes("GET", "/none", ""));
  EXPECT_FALSE(absl::StrContains(socket.Read(absl::Seconds(10)), "404"));
}

TEST_F(TransportTest, PagesOfOtherNamesMaySendNothingWhereTheyAreToldApart) {
  const auto status = [this](const std::string& origin) {
    return StatusOf(
        "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        "Content-Type: application/json\r\nOrigin: " +
        origin + "\r\n\r\n{}");
  };
  EXPECT_EQ(status("http://evil.example:8080"), 200);
  TransportOptions options;
  options.local_pages_only = true;
  Start(options);
  for (const char* local : {"http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080",
                            "https://192.168.7.7"}) {
    EXPECT_EQ(status(local), 200) << local;
  }
  for (const char* other : {"http://evil.example:8080", "https://localhost.evil.example", "null",
                            "http://127.0.0.1.evil.example:8080", "http://127.1x:80"}) {
    EXPECT_EQ(status(other), 403) << other;
  }
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", "{}").status, 200) << "who is no page";
}

TEST_F(TransportTest, PagesOfNamedOriginsMayCallAndRead) {
  TransportOptions options;
  options.local_pages_only = true;
  options.origins = *AllowedOrigins::Parse("https://app.example");
  Start(options);
  const HttpHeaders page = {{"Origin", "https://app.example"}};
  HttpHeaders question = page;
  question.emplace_back("Access-Control-Request-Method", "POST");
  question.emplace_back("Access-Control-Request-Headers", "authorization,content-type");
  const HttpAnswer before = HttpCall(port(), "OPTIONS", "/echo", "", question);
  EXPECT_EQ(before.status, 204);
  EXPECT_EQ(before.headers.at("access-control-allow-origin"), "https://app.example");
  EXPECT_EQ(before.headers.at("access-control-allow-methods"), "POST");
  EXPECT_EQ(before.headers.at("access-control-allow-headers"), "authorization,content-type");
  EXPECT_EQ(HttpCall(port(), "OPTIONS", "/none", "", question).status, 404);
  for (const auto& [path, status] : {std::pair("/echo", 200), std::pair("/none", 404)}) {
    const HttpAnswer answer = HttpCall(port(), "POST", path, "{}", page);
    EXPECT_EQ(answer.status, status);
    EXPECT_EQ(answer.headers.at("access-control-allow-origin"), "https://app.example");
    EXPECT_EQ(answer.headers.at("vary"), "Origin");
  }
  question[0].second = "https://evil.example";
  const HttpAnswer other = HttpCall(port(), "OPTIONS", "/echo", "", question);
  EXPECT_EQ(other.status, 405);
  EXPECT_FALSE(other.headers.contains("access-control-allow-origin"));
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", "{}", {question[0]}).status, 403);
}

TEST_F(TransportTest, HeadersPromiseNothingThatIsNotKept) {
  const HttpAnswer closed = HttpCall(port(), "GET", "/none");
  EXPECT_EQ(closed.headers.at("connection"), "close");
  EXPECT_FALSE(closed.headers.contains("keep-alive"));
  HttpSocket closing(port());
  closing.Send("GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string bytes = closing.Read(absl::Seconds(10));
  EXPECT_NE(bytes.find("Connection: close"), bytes.npos);
  EXPECT_EQ(bytes.find("Connection: close"), bytes.rfind("Connection: close")) << bytes;
  HttpSocket kept(port());
  kept.Send("HEAD /id HTTP/1.1\r\nHost: x\r\n\r\n");
  const HttpAnswer answer = ParseAnswer(kept.Read(absl::Seconds(10), "\r\n\r\n"));
  EXPECT_TRUE(answer.headers.contains("keep-alive"));
  EXPECT_FALSE(answer.headers.contains("accept-ranges"));
}

TEST_F(TransportTest, RequestIdsAreTakenOrMade) {
  EXPECT_EQ(HttpCall(port(), "GET", "/id", "", {{"X-Request-Id", "abc-1.2:3_4"}}).body,
            "abc-1.2:3_4");
  const std::string longest(kRequestIdBytesMax, 'a');
  EXPECT_EQ(HttpCall(port(), "GET", "/id", "", {{"x-request-id", longest}}).body, longest);
  for (const std::string& bad : {longest + "a", std::string("a b"), std::string("a\"b")}) {
    const HttpAnswer answer = HttpCall(port(), "GET", "/id", "", {{"x-request-id", bad}});
    EXPECT_EQ(answer.body.size(), 32u);
    EXPECT_EQ(answer.headers.at("x-request-id"), answer.body);
  }
}

TEST_F(TransportTest, EveryRequestIsALineOfJson) {
  HttpCall(port(), "GET", "/id", "", {{"x-request-id", "mine"}, {"Authorization", "Bearer key"}});
  HttpCall(port(), "GET", "/none");
  HttpCall(port(), "POST", "/echo", "secret");
  transport_->Stop(absl::Seconds(5));
  std::ifstream file(folder_.path() + "/access");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) {
    EXPECT_FALSE(absl::StrContains(line, "secret") || absl::StrContains(line, "key"));
    lines.push_back(nlohmann::json::parse(line));
  }
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["request_id"], "mine");
  EXPECT_EQ(lines[0]["adapter"], "some \"adapter\"\n");
  EXPECT_EQ(lines[0]["status"], 200);
  EXPECT_EQ(lines[0]["peer"], "127.0.0.1");
  EXPECT_GT(lines[0]["bytes"], 0);
  EXPECT_EQ(lines[1]["status"], 404);
  EXPECT_EQ(lines[1]["code"], "UNIMPLEMENTED");
  EXPECT_EQ(lines[2]["path"], "/echo");
}

TEST_F(TransportTest, SlowHeadsAndBodiesEnd) {
  TransportOptions options;
  options.head_time = absl::Milliseconds(300);
  Start(options);
  HttpSocket socket(port());
  const absl::Time began = absl::Now();
  for (int i = 0; i < 10; ++i) {  // a byte now and then keeps nothing alive
    socket.Send(i == 0 ? "GET /id HTTP/1.1\r\n" : "a");
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_EQ(ParseAnswer(socket.Read(absl::Seconds(5))).status, 408);
  EXPECT_LT(absl::Now() - began, absl::Seconds(3));
}

TEST_F(TransportTest, WhoIsNotLetInIsToldSoBeforeItsBodyIsRead) {
  TransportOptions options;
  options.door = [](const HttpRequest& request, HttpReply& reply) {
    const bool known = request.Values("authorization") == std::vector<std::string>{"Bearer key"};
    if (!known) reply.Send(401, "{}");
    return known;
  };
  Start(options);
  const std::string head =
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n";
  for (const std::string more : {"\r\n{", "Expect: 100-continue\r\n\r\n"}) {
    HttpSocket socket(port());
    const absl::Time began = absl::Now();
    socket.Send(head + more);
    const std::string heard = socket.Read(absl::Seconds(20));  // until it is closed
    EXPECT_LT(absl::Now() - began, absl::Seconds(5)) << "the body has 60 s";
    EXPECT_THAT(heard, StartsWith("HTTP/1.1 401"));
    EXPECT_EQ(ParseAnswer(heard).headers.at("connection"), "close");
  }
  HttpSocket known(port());
  known.Send(head + "authorization: Bearer key\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(known.Read(absl::Seconds(5), "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  known.Send("{}");
  EXPECT_THAT(known.Read(absl::Seconds(5), "{}"), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(HttpCall(port(), "GET", "/id").status, 200) << "has no body to be let in";
  EXPECT_EQ(LoggedStatuses(), (std::vector<int>{401, 401, 200, 200}));
}

TEST_F(TransportTest, AReaderThatDoesNotReadIsCut) {
  TransportOptions options;
  options.write_time = absl::Milliseconds(300);
  Start(options);
  HttpSocket socket(port(), /*receive_bytes=*/4096);
  socket.Send(RequestBytes("GET", "/events", ""));
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (written_.load() < 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_GE(written_.load(), 0);
  EXPECT_LT(written_.load(), 1'000'000);
}

TEST_F(TransportTest, PathsBeneathAPrefixAreServedAsAtTheRoot) {
  TransportOptions options;
  options.prefix = "/tenant/x";
  Start(options);
  EXPECT_EQ(HttpCall(port(), "POST", "/tenant/x/echo", "1").body, "1");
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", "1").body, "1");
  for (const char* path : {"/tenant/xecho", "/tenant/x", "/tenant/x/", "/tenant/x/tenant/x/echo"}) {
    EXPECT_EQ(HttpCall(port(), "POST", path, "1").status, 404) << path;
  }
  for (const char* whole : {"http://test/echo", "HTTPS://test:80/tenant/x/echo?a=b"}) {
    EXPECT_EQ(HttpCall(port(), "POST", whole, "1").body, "1") << whole;
  }
  EXPECT_EQ(HttpCall(port(), "GET", "http://test").status, 404);
}

TEST_F(TransportTest, IdleConnectionsGiveWayToNewOnes) {
  TransportOptions options;
  options.connections_max = 4;
  Start(options);
  std::vector<std::unique_ptr<HttpSocket>> idle;
  for (int i = 0; i < 50; ++i) idle.push_back(std::make_unique<HttpSocket>(port()));
  const absl::Time began = absl::Now();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(HttpCall(port(), "GET", "/id").status, 200);
  EXPECT_LT(absl::Now() - began, absl::Seconds(2));
}

TEST_F(TransportTest, SlowHeadsGiveWayToNewOnesAndAreToldSo) {
  constexpr int kSlow = 4;
  for (const std::string head : {"GET /lat", "GET /later HTTP/1.1\r\nHo"}) {
    TransportOptions options;
    options.connections_max = kSlow;
    Start(options);
    std::vector<std::unique_ptr<HttpSocket>> slow;
    for (int i = 0; i < kSlow; ++i) {
      slow.push_back(std::make_unique<HttpSocket>(port()));
      slow[i]->Send(RequestBytes("GET", "/id", "") + head);
      EXPECT_THAT(slow[i]->Read(absl::Seconds(5), "\r\n\r\n"), StartsWith("HTTP/1.1 200"));
    }
    absl::SleepFor(2 * kCrowdedWait);
    const absl::Time began = absl::Now();
    EXPECT_EQ(HttpCall(port(), "GET", "/id").status, 200);
    EXPECT_LT(absl::Now() - began, absl::Seconds(1));
    const auto told = [&](absl::Duration wait) {
      int count = 0;
      for (const auto& socket : slow) {
        const std::string bytes = socket->Read(wait);
        if (!absl::StrContains(bytes, "HTTP/1.1 503 Service Unavailable\r\n")) continue;
        EXPECT_THAT(bytes, HasSubstr("Retry-After: 1\r\n"));
        ++count;
      }
      return count;
    };
    EXPECT_EQ(told(absl::Milliseconds(10)), 1) << "more were not needed";
    transport_->StartDrain();
    EXPECT_EQ(told(absl::Seconds(5)), kSlow - 1);
  }
  const std::vector<int> logged = LoggedStatuses();
  EXPECT_EQ(std::count(logged.begin(), logged.end(), 503), 2 * kSlow);
}

TEST_F(TransportTest, SlowBodiesGiveWayToNewOnesAndAreToldSo) {
  constexpr int kSlow = 40;
  TransportOptions options;
  options.connections_max = 20;
  Start(options);
  HttpSocket stream(port(), 4096);  // that has its whole request
  stream.Send(RequestBytes("GET", "/events", ""));
  EXPECT_THAT(stream.Read(absl::Seconds(5), "\n"), HasSubstr("200"));
  std::vector<std::unique_ptr<HttpSocket>> slow;
  for (int i = 0; i < kSlow; ++i) {
    slow.push_back(std::make_unique<HttpSocket>(port()));
    slow.back()->Send(
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 5000\r\n\r\n{");
  }
  for (int i = 0; i < 10; ++i) {
    const absl::Time began = absl::Now();
    EXPECT_EQ(HttpCall(port(), "GET", "/id").status, 200);
    EXPECT_LT(absl::Now() - began, absl::Seconds(1)) << i;
  }
  int told = 0;
  for (auto& socket : slow) {
    const HttpAnswer answer = ParseAnswer(socket->Read(absl::Milliseconds(5)));
    if (answer.status == 0) continue;  // is still read
    ++told;
    EXPECT_EQ(answer.status, 503);
    EXPECT_EQ(answer.headers.at("retry-after"), "1");
    EXPECT_EQ(answer.json()["error_type"], "overloaded") << answer.body;
  }
  EXPECT_GT(told, kSlow - options.connections_max);
  EXPECT_FALSE(stream.Read(absl::Milliseconds(100), "x").empty()) << "goes on";
}

TEST_F(TransportTest, BodiesAreHeldUpToTheirBoundUntilTheirRequestsEnd) {
  constexpr int64_t kLarge = kSmallBodyBytes + 1000;
  TransportOptions options;
  options.bodies_bytes = 2000;
  options.body_bytes = 2 * kLarge;
  Start(options);
  const auto begin = [this](int64_t announced, int64_t sent) {
    auto socket = std::make_unique<HttpSocket>(port());
    socket->Send(absl::StrCat(
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ",
        announced, "\r\n\r\n", std::string(sent, 'x')));
    return socket;
  };
  const auto refused = [](HttpSocket& socket) {
    const absl::Time began = absl::Now();
    const HttpAnswer answer = ParseAnswer(socket.Read(absl::Seconds(20)));
    EXPECT_LT(absl::Now() - began, absl::Seconds(5)) << "the body has 60 s";
    EXPECT_EQ(answer.headers.count("retry-after"), answer.status == 503 ? 1u : 0u);
    return answer.status == 503;
  };
  const auto first = begin(kLarge + 1, kLarge);
  const auto second = begin(kLarge + 1, kLarge);
  EXPECT_EQ(first->Read(absl::Milliseconds(300)), "") << "both have room";
  EXPECT_EQ(second->Read(absl::Milliseconds(1)), "");
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", std::string(kSmallBodyBytes, 'x')).status, 200);
  EXPECT_TRUE(refused(*begin(kLarge, kSmallBodyBytes + 1))) << "one byte more than there is room";
  second->Send("x");
  EXPECT_TRUE(refused(*second));
  HttpSocket kept(port());
  kept.Send(RequestBytes("POST", "/echo", std::string(kLarge, 'x')));
  EXPECT_THAT(kept.Read(absl::Milliseconds(300)), StartsWith("HTTP/1.1 200"))
      << "what the refused one held is free";
  EXPECT_EQ(HttpCall(port(), "POST", "/echo", std::string(kLarge, 'x')).status, 200)
      << "a connection holds nothing between its requests";
  first->Close();
  const std::vector<int> logged = LoggedStatuses();
  EXPECT_EQ(std::count(logged.begin(), logged.end(), 503), 2);
}

TEST_F(TransportTest, WhoGivesWayBeforeItsFirstRequestIsToldSo) {
  TransportOptions options;
  options.connections_max = 2;
  Start(options);
  std::vector<std::unique_ptr<HttpSocket>> idle;
  for (int i = 0; i < 8; ++i) idle.push_back(std::make_unique<HttpSocket>(port()));
  const HttpAnswer answer = ParseAnswer(idle[0]->Read(absl::Seconds(5)));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.headers.at("retry-after"), "1");
}

TEST_F(TransportTest, WhereAllAreBusyTheRestIsRefused) {
  TransportOptions options;
  options.connections_max = 2;
  Start(options);
  HttpSocket first(port(), 4096);
  HttpSocket second(port(), 4096);
  for (HttpSocket* socket : {&first, &second}) {
    socket->Send(RequestBytes("GET", "/events", ""));
    EXPECT_THAT(socket->Read(absl::Seconds(5), "\n"), HasSubstr("200"));
  }
  std::vector<std::unique_ptr<HttpSocket>> waiting;
  for (int i = 0; i < kWaitingConnectionsMax; ++i) {
    waiting.push_back(std::make_unique<HttpSocket>(port()));
  }
  absl::SleepFor(absl::Milliseconds(100));
  HttpSocket late(port());
  const HttpAnswer answer = ParseAnswer(late.Read(absl::Seconds(5)));
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.json()["error_type"], "overloaded") << answer.body;
  EXPECT_EQ(answer.body.size(), std::stoul(answer.headers.at("content-length")));
}

TEST_F(TransportTest, DrainEndsIdleConnectionsAndServesOneRequestEach) {
  HttpSocket idle(port());
  idle.Send(RequestBytes("GET", "/id", ""));
  idle.Read(absl::Seconds(5), "\r\n\r\n");
  HttpSocket slow(port());
  slow.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 5\r\n\r\n{");
  transport_->StartDrain();
  idle.Read(absl::Seconds(5));
  EXPECT_EQ(ParseAnswer(slow.Read(absl::Seconds(5))).status, 503);
  const HttpAnswer answer = HttpCall(port(), "GET", "/id");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("connection"), "close");
  transport_->Stop(absl::Seconds(1));
}

TEST_F(TransportTest, ATakenPortIsAnError) {
  TransportOptions options;
  options.address = absl::StrCat("127.0.0.1:", port());
  const auto second = HttpTransport::Start(options, {}, nullptr);
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--http-address"));
  options.address = "nowhere.invalid:80";
  EXPECT_FALSE(HttpTransport::Start(options, {}, nullptr).ok());
}

}  // namespace
}  // namespace lorica
