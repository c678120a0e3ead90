#include "adapters/hub/http_client.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/fakes/free_port.h"
#include "tests/fakes/made_certificate.h"
#include "tests/fakes/wire_server.h"

namespace lorica {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Much longer than anything here should take; a failing test takes that long.
constexpr absl::Duration kSoon = absl::Seconds(5);

class Collect : public HttpBody {
 public:
  explicit Collect(size_t bytes_max = 1 << 20) : bytes_max_(bytes_max) {}
  absl::Status Begin(const HttpClientReply& reply) override {
    status = reply.status;
    return absl::OkStatus();
  }
  absl::Status Write(std::string_view bytes) override {
    if (text.size() + bytes.size() > bytes_max_) return absl::OutOfRangeError("too much");
    text += bytes;
    return absl::OkStatus();
  }
  std::string text;
  int status = 0;

 private:
  const size_t bytes_max_;
};

HttpClientOptions QuickOptions() {
  HttpClientOptions options;
  options.limits.connect = absl::Milliseconds(500);
  options.limits.head = absl::Milliseconds(500);
  options.limits.total = absl::Seconds(30);
  options.limits.slow_for = absl::Milliseconds(500);
  return options;
}

// Sends one request to a server that answers these bytes.
class HttpClientTest : public ::testing::Test {
 protected:
  absl::StatusOr<HttpClientReply> Get(WireServer::Handler handler,
                                      HttpClientOptions options = QuickOptions()) {
    WireServer server(std::move(handler));
    HttpClientRequest request{*ParseUrl("http://" + server.place() + "/path?q=1")};
    request.any_address = true;
    request.headers = {{"X-One", "1"}};
    const absl::Time begun = absl::Now();
    auto reply = HttpClient(options).Send(request, &body_);
    EXPECT_LT(absl::Now() - begun, kSoon);
    return reply;
  }
  absl::StatusOr<HttpClientReply> Get(const std::string& bytes) {
    return Get([bytes](const WireRequest&, WireServer::Connection& out) { out.Send(bytes); });
  }

  Collect body_;
};

TEST_F(HttpClientTest, GivesStatusHeadersAndBody) {
  WireRequest seen;
  const auto reply = Get([&](const WireRequest& request, WireServer::Connection& out) {
    seen = request;
    out.Send("HTTP/1.1 100 Continue\r\nX-A: interim\r\n\r\n");
    out.Send("HTTP/1.1 200 OK\r\nX-a:  1 \r\nX-B: 2\r\nContent-Length: 5\r\n\r\nhello");
  });
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->Header("x-a"), "1");
  EXPECT_EQ(reply->Header("x-b"), "2");
  EXPECT_EQ(reply->Header("x-c"), "");
  EXPECT_EQ(body_.text, "hello");
  EXPECT_EQ(seen.target, "/path?q=1");
  EXPECT_EQ(seen.Header("x-one"), "1");
  EXPECT_EQ(seen.Header("accept-encoding"), "identity");
}

TEST_F(HttpClientTest, DoesNotFollowRedirectsNorReadErrorPages) {
  const auto redirect = Get("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n");
  ASSERT_TRUE(redirect.ok()) << redirect.status();
  EXPECT_EQ(redirect->status, 302);
  EXPECT_EQ(redirect->Header("location"), "http://127.0.0.1:1/");
  const auto missing = Get([](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 404 No\r\n\r\n");
    while (out.Send(std::string(1000, 'x'))) {
    }
  });
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_EQ(missing->status, 404);
  EXPECT_EQ(body_.text, "");
}

TEST_F(HttpClientTest, BoundsHeaders) {
  const auto with = [](int64_t value_bytes, int lines) {
    std::string head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
    for (int i = 0; i < lines; ++i) {
      absl::StrAppend(&head, "X-", i, ": ", std::string(value_bytes, 'a'), "\r\n");
    }
    return head + "\r\n";
  };
  const int64_t longest = kHeaderLineBytesMax - 7;  // "X-0: " and the line's end
  EXPECT_TRUE(Get(with(longest, 1)).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Get(with(longest + 1, 1)).status()));
  // As many bytes in all as README promises, the status line and the empty one included.
  constexpr int64_t kHeadersBytes = 64 << 10;
  const auto of_bytes = [&with](int64_t bytes) {
    std::string head = with(1000, 60);
    const int64_t missing = bytes - std::ssize(head) - std::ssize(std::string("Y: \r\n"));
    return head.insert(head.size() - 2, absl::StrCat("Y: ", std::string(missing, 'a'), "\r\n"));
  };
  ASSERT_EQ(std::ssize(of_bytes(kHeadersBytes)), kHeadersBytes);
  EXPECT_TRUE(Get(of_bytes(kHeadersBytes)).ok());
  const absl::Status beyond = Get(of_bytes(kHeadersBytes + 1)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond)) << beyond;
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("headers that are too long"));
}

TEST_F(HttpClientTest, ACutBodyIsUnavailableAndABodysErrorIsItsOwn) {
  EXPECT_TRUE(
      absl::IsUnavailable(Get("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell").status()));
  EXPECT_EQ(body_.text, "hell");
  EXPECT_TRUE(absl::IsUnavailable(Get("").status()));
  EXPECT_TRUE(absl::IsUnavailable(Get("garbage\r\n\r\n").status()));
  const auto endless = Get([](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 200 OK\r\n\r\n");
    while (out.Send(std::string(16384, 'x'))) {
    }
  });
  EXPECT_TRUE(absl::IsOutOfRange(endless.status())) << endless.status();
}

TEST_F(HttpClientTest, RefusesCompressedBodies) {
  const auto reply = Get("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_TRUE(absl::IsFailedPrecondition(reply.status())) << reply.status();
  EXPECT_EQ(body_.text, "");
}

TEST_F(HttpClientTest, GivesUpOnServersThatStall) {
  const auto never = Get(
      [](const WireRequest&, WireServer::Connection& out) { out.Wait(absl::InfiniteDuration()); });
  EXPECT_TRUE(absl::IsUnavailable(never.status()));
  EXPECT_THAT(std::string(never.status().message()), HasSubstr("did not answer within 500ms"));
  const auto dripping_head = Get([](const WireRequest&, WireServer::Connection& out) {
    for (const char c : "HTTP/1.1 200 OK\r\nX: " + std::string(5000, 'a')) {
      if (!out.Wait(absl::Milliseconds(20)) || !out.Send({&c, 1})) return;
    }
  });
  EXPECT_TRUE(absl::IsUnavailable(dripping_head.status()));
  const auto dripping_body = Get([](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
    while (out.Send("x") && out.Wait(absl::Milliseconds(20))) {
    }
  });
  EXPECT_TRUE(absl::IsUnavailable(dripping_body.status()));
  EXPECT_THAT(std::string(dripping_body.status().message()), HasSubstr("too slowly"));
  const auto hanging_body = Get([](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + std::string(4950, 'x'));
    out.Wait(absl::InfiniteDuration());
  });
  EXPECT_TRUE(absl::IsUnavailable(hanging_body.status()));
  HttpClientOptions short_total = QuickOptions();
  short_total.limits.total = absl::Milliseconds(700);
  const auto long_body = Get(
      [](const WireRequest&, WireServer::Connection& out) {
        out.Send("HTTP/1.1 200 OK\r\n\r\n");
        while (out.Send(std::string(1000, 'x')) && out.Wait(absl::Milliseconds(20))) {
        }
      },
      short_total);
  EXPECT_TRUE(absl::IsUnavailable(long_body.status()));
}

// Its queue of connections is full, so the next one's greeting is never answered.
TEST(HttpClient, GivesUpWhereNobodyTakesItsConnection) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int port = BindToLoopback(listener);
  listen(listener, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  std::array<int, 4> waiting{};
  for (int& fd : waiting) {
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  HttpClientRequest request{*ParseUrl(absl::StrCat("http://127.0.0.1:", port, "/x"))};
  request.any_address = true;
  const absl::Time begun = absl::Now();
  const absl::Status status = HttpClient(QuickOptions()).Send(request, nullptr).status();
  const absl::Duration took = absl::Now() - begun;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  // libcurl counts whole milliseconds.
  EXPECT_GT(took, QuickOptions().limits.connect - absl::Milliseconds(1))
      << "it was refused: nothing was tested";
  EXPECT_LT(took, absl::Seconds(2));
  for (const int fd : waiting) close(fd);
  close(listener);
}

TEST_F(HttpClientTest, SaysInOurWordsWhatWentWrong) {
  for (const auto& [bytes, says] :
       {std::pair{"", "the hub ended the connection too soon: ask again"},
        std::pair{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
                  "the hub ended the connection too soon: ask again"},
        std::pair{"220 mail.example ESMTP\r\n", "the hub answers with what is no HTTP"}}) {
    const auto reply = Get(std::string(bytes));
    EXPECT_TRUE(absl::IsUnavailable(reply.status())) << reply.status();
    EXPECT_THAT(std::string(reply.status().message()), StartsWith(says));
  }
}

TEST_F(HttpClientTest, StopsWhenTheServerStops) {
  std::atomic<bool> stopped = false;
  HttpClientOptions options;
  options.stopped = &stopped;
  std::thread stopper([&stopped] {
    absl::SleepFor(absl::Milliseconds(100));
    stopped = true;
  });
  const auto reply = Get(
      [](const WireRequest&, WireServer::Connection& out) { out.Wait(absl::InfiniteDuration()); },
      options);
  stopper.join();
  EXPECT_TRUE(absl::IsCancelled(reply.status())) << reply.status();
}

TEST(HttpClient, ConnectsToPublicAddressesAlone) {
  WireServer server([](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  });
  Collect body;
  HttpClient client(QuickOptions());
  for (const std::string host : {"127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"}) {
    HttpClientRequest request{*ParseUrl(absl::StrCat("http://", host, ":", server.port(), "/"))};
    const absl::Status status = client.Send(request, &body).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << host << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is not public")) << host;
  }
  EXPECT_EQ(server.connections(), 0);
  HttpClientRequest named{*ParseUrl("http://" + server.place())};
  named.any_address = true;
  EXPECT_TRUE(client.Send(named, &body).ok());
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClient, IgnoresProxiesOfTheEnvironment) {
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  WireServer server([](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  });
  HttpClientRequest request{*ParseUrl("http://" + server.place())};
  request.any_address = true;
  Collect body;
  EXPECT_TRUE(HttpClient(QuickOptions()).Send(request, &body).ok());
  unsetenv("http_proxy");
}

// A server that shows `tls`, asked by a client that trusts the certificates in `ca_file`.
absl::Status GetOverTls(const TlsFiles& tls, const std::string& ca_file) {
  WireServer server(
      [](const WireRequest&, WireServer::Connection& out) {
        out.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      },
      tls);
  HttpClientOptions options = QuickOptions();
  options.limits.connect = options.limits.head = kSoon;
  options.ca_file = ca_file;
  HttpClientRequest request{*ParseUrl("https://" + server.place())};
  request.any_address = true;
  Collect body;
  return HttpClient(options).Send(request, &body).status();
}

TEST(HttpClient, VerifiesCertificates) {
  TemporaryFolder folder;
  const absl::Time tomorrow = absl::Now() + absl::Hours(24);
  const TlsFiles good = MakeCertificate(folder, "good", "127.0.0.1", tomorrow);
  const TlsFiles expired =
      MakeCertificate(folder, "expired", "127.0.0.1", absl::Now() - absl::Hours(1));
  const TlsFiles other = MakeCertificate(folder, "other", "hub.example", tomorrow);
  EXPECT_TRUE(GetOverTls(good, good.certificate).ok());
  for (const auto& [tls, ca_file] : {std::pair{good, std::string()},  // signed by nobody known
                                     {good, other.certificate},
                                     {expired, expired.certificate},
                                     {other, other.certificate},  // for another host
                                     {good, folder.path() + "/missing"}}) {
    const absl::Status status = GetOverTls(tls, ca_file);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << tls.certificate << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("that this server does not trust"));
  }
}

TEST(HttpClient, SpeaksNoTlsToAPlainServerAndTheOtherWayRound) {
  TemporaryFolder folder;
  const TlsFiles tls = MakeCertificate(folder, "good", "127.0.0.1", absl::Now() + absl::Hours(24));
  const WireServer::Handler handler = [](const WireRequest&, WireServer::Connection& out) {
    out.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  };
  WireServer plain(handler);
  WireServer secure(handler, tls);
  Collect body;
  for (const std::string& address : {"https://" + plain.place(), "http://" + secure.place()}) {
    HttpClientRequest request{*ParseUrl(address)};
    request.any_address = true;
    EXPECT_FALSE(HttpClient(QuickOptions()).Send(request, &body).ok()) << address;
  }
}

// An operator's address is nobody else's business.
TEST(HttpClient, ErrorsNameNoHostToWhoAsked) {
  HttpClientOptions options = QuickOptions();
  options.called = "the mirror";
  std::string logged;
  options.on_failure = [&](const absl::Status& failure) {
    logged = std::string(failure.message());
  };
  HttpClient client(options);
  for (const std::string host : {"127.0.0.1", "no-such-host.invalid"}) {
    for (const bool any_address : {true, false}) {
      HttpClientRequest request{*ParseUrl(absl::StrCat("http://", host, ":1/x"))};
      request.any_address = any_address;
      const std::string told(client.Send(request, nullptr).status().message());
      EXPECT_THAT(told, StartsWith("the mirror "));
      EXPECT_THAT(told, AnyOf(HasSubstr("have the server's operator look into its log"),
                              HasSubstr("address is not public")));
      EXPECT_THAT(told, testing::Not(HasSubstr("Could")));  // libcurl's words
      EXPECT_THAT(told, testing::Not(HasSubstr(host)));
      EXPECT_THAT(logged, HasSubstr(host));
    }
  }
}

}  // namespace
}  // namespace lorica
