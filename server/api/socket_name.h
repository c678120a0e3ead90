// Who is at either end of a socket, by numbers.
//
// Pure functions over a descriptor that the caller keeps open.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace lorica {

// An IPv4 address that came through an IPv6 socket is the IPv4 address.
struct SocketName {
  std::string ip;  // empty: neither IPv4 nor IPv6, or not connected
  int port = 0;
};

SocketName PeerOf(int descriptor);
SocketName LocalEndOf(int descriptor);

// "ipv4:127.0.0.1:80", "ipv6:[::1]:80", as gRPC names a peer when its escapes are undone; empty
// for an empty ip.
std::string PeerText(const SocketName& name);
// Undoes them.
std::string PeerText(absl::string_view grpc_peer);

}  // namespace lorica
