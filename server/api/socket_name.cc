#include "server/api/socket_name.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace lorica {
namespace {

SocketName NameOf(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return {text, ntohs(v4.sin_port)};
  }
  if (address.ss_family != AF_INET6) return {};
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    ::inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof text);
  } else {
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  }
  return {text, ntohs(v6.sin6_port)};
}

template <typename AskSystem>
SocketName Ask(int descriptor, AskSystem ask) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (ask(descriptor, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return {};
  return NameOf(address);
}

}  // namespace

SocketName PeerOf(int descriptor) { return Ask(descriptor, ::getpeername); }

SocketName LocalEndOf(int descriptor) { return Ask(descriptor, ::getsockname); }

std::string PeerText(const SocketName& name) {
  if (name.ip.empty()) return "";
  if (absl::StrContains(name.ip, ':')) return absl::StrCat("ipv6:[", name.ip, "]:", name.port);
  return absl::StrCat("ipv4:", name.ip, ":", name.port);
}

std::string PeerText(absl::string_view grpc_peer) {
  return absl::StrReplaceAll(grpc_peer, {{"%5B", "["}, {"%5D", "]"}});
}

}  // namespace lorica
