// What the access log says of clients that leave before they are answered.
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/transport.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;

// "status code" of each line.
std::vector<std::string> LinesOf(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    lines.push_back(absl::StrCat(json["status"].get<int>(), " ", json.value("code", "")));
  }
  return lines;
}

TEST(TransportGone, WhoLeavesWithAResetHasOneLine) {
  TemporaryFolder folder;
  const std::string path = folder.path() + "/access";
  const auto log = *AccessLog::Open(path);
  absl::Notification begun, left;
  HttpRoutes routes;
  routes["/slow"]["GET"] = [&](const HttpRequest&, HttpReply& reply) {
    begun.Notify();
    left.WaitForNotification();
    EXPECT_TRUE(reply.gone());
    reply.Send(200, "nobody reads this");
  };
  routes["/echo"]["POST"] = [](const HttpRequest& request, HttpReply& reply) {
    reply.Send(200, std::string(request.body));
  };
  auto transport = HttpTransport::Start({.address = "127.0.0.1:0"}, std::move(routes), log.get());
  ASSERT_TRUE(transport.ok()) << transport.status();
  const int port = (*transport)->port();
  HttpSocket leaving(port);
  leaving.Send(RequestBytes("GET", "/slow", ""));
  begun.WaitForNotification();
  leaving.Close();
  left.Notify();
  while (LinesOf(path).empty()) absl::SleepFor(absl::Milliseconds(1));
  HttpSocket cut(port);  // within its body
  cut.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
      "Content-Length: 5\r\n\r\n{");
  absl::SleepFor(absl::Milliseconds(100));
  cut.Close();
  while (LinesOf(path).size() < 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(HttpCall(port, "POST", "/echo", "{}").status, 200);
  (*transport)->Stop(absl::Seconds(5));
  EXPECT_THAT(LinesOf(path), ElementsAre("499 CANCELLED", "499 CANCELLED", "200 "));
}

}  // namespace
}  // namespace lorica
