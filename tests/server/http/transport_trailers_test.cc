// Trailers behind a chunked body, as a proxy passes them on.
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/connection.h"
#include "server/http/transport.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::StartsWith;

constexpr char kHead[] =
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";

class TransportTrailersTest : public ::testing::Test {
 protected:
  TransportTrailersTest() {
    TransportOptions options;
    options.address = "127.0.0.1:0";
    HttpRoutes routes;
    routes["/echo"]["POST"] = [](const HttpRequest& request, HttpReply& reply) {
      reply.Send(200, std::string(request.body), "text/plain");
    };
    transport_ = *HttpTransport::Start(options, std::move(routes), nullptr);
  }
  // Of a request with so many bytes of trailers.
  int StatusWith(int64_t bytes) {
    HttpSocket socket(transport_->port());
    socket.Send(
        absl::StrCat(kHead, "3\r\nabc\r\n0\r\na: ", std::string(bytes - 5, 'x'), "\r\n\r\n"));
    return ParseAnswer(socket.Read(absl::Seconds(10), "\r\n\r\n")).status;
  }

  std::unique_ptr<HttpTransport> transport_;
};

TEST_F(TransportTrailersTest, AreReadAndForgotten) {
  HttpSocket socket(transport_->port());
  for (int i = 0; i < 3; ++i) {
    const std::string body = absl::StrCat("body", i);
    socket.Send(absl::StrCat(kHead, "5\r\n", body, "\r\n0\r\nX-Sum: 1\r\nEmpty:\r\n\r\n"));
    EXPECT_THAT(socket.Read(absl::Seconds(10), body), StartsWith("HTTP/1.1 200"));
  }
}

TEST_F(TransportTrailersTest, AreBoundedLikeHeads) {
  EXPECT_EQ(StatusWith(kHeadBytesMax), 200);
  EXPECT_EQ(StatusWith(kHeadBytesMax + 1), 431);
}

}  // namespace
}  // namespace lorica
