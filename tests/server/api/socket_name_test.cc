#include "server/api/socket_name.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

// A socket that listens on this machine's address of a family, and one connected to it.
class Pair {
 public:
  Pair(int listener_family, const char* listener_ip, int family, const char* ip) {
    listener_ = ::socket(listener_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int off = 0;
    ::setsockopt(listener_, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    sockaddr_storage address = Address(listener_family, listener_ip, 0);
    is_there_ = Bind(address) && ::listen(listener_, 1) == 0;
    address = Address(family, ip, LocalEndOf(listener_).port);
    client_ = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    is_there_ = is_there_ && ::connect(client_, reinterpret_cast<const sockaddr*>(&address),
                                       sizeof address) == 0;
    if (is_there_) accepted_ = ::accept(listener_, nullptr, nullptr);
  }
  ~Pair() {
    for (const int descriptor : {listener_, client_, accepted_}) {
      if (descriptor >= 0) ::close(descriptor);
    }
  }
  bool is_there() const { return is_there_; }
  int listener() const { return listener_; }
  int client() const { return client_; }
  int accepted() const { return accepted_; }

 private:
  static sockaddr_storage Address(int family, const char* ip, int port) {
    sockaddr_storage address{};
    address.ss_family = static_cast<sa_family_t>(family);
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v4.sin_port = htons(static_cast<uint16_t>(port));  // where v6 has it, too
    void* const number = family == AF_INET ? static_cast<void*>(&v4.sin_addr) : &v6.sin6_addr;
    EXPECT_EQ(::inet_pton(family, ip, number), 1);
    return address;
  }
  bool Bind(const sockaddr_storage& address) const {
    return ::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }

  int listener_ = -1;
  int client_ = -1;
  int accepted_ = -1;
  bool is_there_ = false;
};

void ExpectNames(const Pair& pair, const std::string& ip, const std::string& text_begin) {
  const SocketName peer = PeerOf(pair.accepted());
  EXPECT_EQ(peer.ip, ip);
  EXPECT_EQ(peer.port, LocalEndOf(pair.client()).port);
  EXPECT_GT(peer.port, 0);
  EXPECT_EQ(PeerText(peer), absl::StrCat(text_begin, peer.port));
  EXPECT_EQ(LocalEndOf(pair.accepted()).port, PeerOf(pair.client()).port);
}

TEST(SocketName, IsTheAddressAndThePort) {
  const Pair pair(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
  ASSERT_TRUE(pair.is_there());
  ExpectNames(pair, "127.0.0.1", "ipv4:127.0.0.1:");
}

TEST(SocketName, OfIpV6HasBrackets) {
  const Pair pair(AF_INET6, "::1", AF_INET6, "::1");
  if (!pair.is_there()) GTEST_SKIP() << "this machine has no IPv6";
  ExpectNames(pair, "::1", "ipv6:[::1]:");
}

TEST(SocketName, IpV4BehindIpV6IsIpV4) {
  const Pair pair(AF_INET6, "::", AF_INET, "127.0.0.1");
  if (!pair.is_there()) GTEST_SKIP() << "this machine has no IPv6";
  ExpectNames(pair, "127.0.0.1", "ipv4:127.0.0.1:");
}

TEST(SocketName, OfAnythingElseIsEmpty) {
  int local[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, local), 0);
  EXPECT_EQ(PeerText(PeerOf(local[0])), "");
  for (const int descriptor : local) ::close(descriptor);
  const Pair pair(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
  EXPECT_EQ(PeerText(PeerOf(pair.listener())), "") << "not connected";
  EXPECT_EQ(PeerOf(-1).ip, "");
}

}  // namespace
}  // namespace lorica
