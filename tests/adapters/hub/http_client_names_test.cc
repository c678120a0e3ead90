// What names resolve to, played by this test: it stands in for the C library's look-up and
// connection, so that names may hang, change their meaning, or lead anywhere, and no packet
// leaves this machine.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "adapters/hub/http_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/free_port.h"
#include "tests/fakes/wire_server.h"

namespace {

// What the next look-ups of any name give, one after the other; the last one stays.
absl::Mutex g_mutex;
std::vector<std::string> g_addresses;
std::vector<std::string> g_connected;  // to anything but this machine
absl::Notification* g_hang = nullptr;  // look-ups wait for it
std::atomic<int> g_lookups = 0;

}  // namespace

extern "C" int getaddrinfo(const char*, const char* service, const addrinfo* hints,
                           addrinfo** result) {
  ++g_lookups;
  if (g_hang != nullptr) g_hang->WaitForNotification();
  std::string address;
  {
    absl::MutexLock lock(&g_mutex);
    if (g_addresses.empty()) return EAI_NONAME;
    address = g_addresses.front();
    if (g_addresses.size() > 1) g_addresses.erase(g_addresses.begin());
  }
  auto* info = static_cast<addrinfo*>(std::calloc(1, sizeof(addrinfo) + sizeof(sockaddr_in6)));
  info->ai_socktype = hints != nullptr ? hints->ai_socktype : SOCK_STREAM;
  info->ai_addr = reinterpret_cast<sockaddr*>(info + 1);
  const uint16_t port = htons(static_cast<uint16_t>(service != nullptr ? std::atoi(service) : 0));
  if (address.find(':') == std::string::npos) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(info->ai_addr);
    *v4 = {.sin_family = AF_INET, .sin_port = port};
    inet_pton(AF_INET, address.c_str(), &v4->sin_addr);
    info->ai_addrlen = sizeof(sockaddr_in);
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(info->ai_addr);
    *v6 = {.sin6_family = AF_INET6, .sin6_port = port};
    inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr);
    info->ai_addrlen = sizeof(sockaddr_in6);
  }
  info->ai_family = info->ai_addr->sa_family;
  *result = info;
  return 0;
}

extern "C" void freeaddrinfo(addrinfo* info) { std::free(info); }

extern "C" int connect(int fd, const sockaddr* address, socklen_t size) {
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
  if (address->sa_family == AF_INET && (ntohl(v4->sin_addr.s_addr) >> 24) == 127) {
    return static_cast<int>(syscall(SYS_connect, fd, address, size));
  }
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
  absl::MutexLock lock(&g_mutex);
  g_connected.emplace_back(text);
  errno = ECONNREFUSED;
  return -1;
}

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class HttpClientNames : public ::testing::Test {
 protected:
  HttpClientNames() {
    absl::MutexLock lock(&g_mutex);
    g_connected.clear();
    g_addresses.clear();
  }
  static void ResolveTo(std::vector<std::string> addresses) {
    absl::MutexLock lock(&g_mutex);
    g_addresses = std::move(addresses);
  }
  absl::Status Ask(HttpClient& client, const std::string& url) {
    return client.Send({*ParseUrl(url), /*head=*/true}, nullptr).status();
  }
  static HttpClientOptions Options() {
    HttpClientOptions options;
    options.limits.connect = absl::Milliseconds(300);
    options.limits.head = absl::Seconds(2);
    return options;
  }
};

TEST_F(HttpClientNames, NamesOfPrivateAddressesAreRefusedWithoutAPacket) {
  for (const char* address :
       {"127.0.0.1", "169.254.169.254", "10.1.2.3", "192.168.0.1", "0.0.0.0", "::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fc00::1", "64:ff9b::a00:1"}) {
    ResolveTo({address});
    HttpClient client(Options());
    const absl::Status status = Ask(client, "http://innocent.example/x");
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << address << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not public"));
  }
  absl::MutexLock lock(&g_mutex);
  EXPECT_THAT(g_connected, IsEmpty());
}

// The address that is judged is the one that is connected to: whatever the name means next.
TEST_F(HttpClientNames, ANameThatChangesItsMeaningGainsNothing) {
  WireServer server([](const WireRequest&, WireServer::Connection& out) {
    out.Send(WireHead(200, {{"Content-Length", "0"}}));
  });
  const std::string url = "http://rebinding.example:" + std::to_string(server.port()) + "/x";
  HttpClient client(Options());
  ResolveTo({"93.184.216.34", "127.0.0.1"});
  EXPECT_TRUE(absl::IsUnavailable(Ask(client, url)));  // our stand-in lets nothing out
  {
    absl::MutexLock lock(&g_mutex);
    EXPECT_THAT(g_connected, ElementsAre("93.184.216.34"));
  }
  HttpClient another(Options());
  const absl::Status status = Ask(another, url);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(server.connections(), 0);
}

TEST_F(HttpClientNames, ALookUpThatHangsIsGivenUp) {
  absl::Notification go;
  g_hang = &go;
  ResolveTo({"93.184.216.34"});
  HttpClient client(Options());
  const absl::Time begun = absl::Now();
  const absl::Status status = Ask(client, "http://slow.example/x");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_LT(absl::Now() - begun, absl::Seconds(2));
  go.Notify();
  absl::SleepFor(absl::Milliseconds(100));  // its thread ends
  g_hang = nullptr;
}

TEST_F(HttpClientNames, NamesThatDoNotExistAreUnavailable) {
  HttpClient client(Options());
  EXPECT_TRUE(absl::IsUnavailable(Ask(client, "http://nowhere.example/x")));
}

class TlsHandshakes : public HttpClientNames {
 protected:
  TlsHandshakes() {
    url_ = "https://127.0.0.1:" + std::to_string(BindToLoopback(listener_));
    listen(listener_, 8);
    ResolveTo({"127.0.0.1"});
  }
  ~TlsHandshakes() override { close(listener_); }
  absl::Status Send(absl::Duration connect) {
    const HttpClientRequest request{*ParseUrl(url_), /*head=*/true, /*any_address=*/true};
    HttpClientOptions options = Options();
    options.limits.connect = connect;
    return HttpClient(options).Send(request, nullptr).status();
  }

  const int listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string url_;
};

// A server that takes the connection and never says a word of TLS.
TEST_F(TlsHandshakes, OneThatHangsIsGivenUp) {
  const absl::Time begun = absl::Now();
  const absl::Status status = Send(absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - begun, absl::Seconds(2));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST_F(TlsHandshakes, OneThatTheNetworkCutsMayGoBetterNextTime) {
  for (const bool reset : {false, true}) {
    std::thread server([&] {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      char greeting[16];
      recv(fd, greeting, sizeof(greeting), 0);
      char rest[4096];
      if (!reset) recv(fd, rest, sizeof(rest), 0);  // what is unread makes it a reset
      close(fd);
    });
    const absl::Status status = Send(absl::Seconds(20));
    EXPECT_TRUE(absl::IsUnavailable(status)) << reset << status;
    server.join();
  }
}

TEST_F(TlsHandshakes, OneOfAnotherProtocolWillNot) {
  std::thread server([&] {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const std::string text = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    char bytes[4096];
    recv(fd, bytes, sizeof(bytes), 0);
    shutdown(fd, SHUT_WR);
    while (recv(fd, bytes, sizeof(bytes), 0) > 0) {
    }
    close(fd);
  });
  const absl::Status status = Send(absl::Seconds(20));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  server.join();
}

}  // namespace
}  // namespace lorica
