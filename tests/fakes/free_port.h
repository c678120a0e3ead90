// Ports of the loopback that nobody has.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace lorica {

// Gives one to the socket; -1: there is none.
inline int BindToLoopback(int socket) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const where = reinterpret_cast<sockaddr*>(&address);
  if (::bind(socket, where, size) != 0 || ::getsockname(socket, where, &size) != 0) return -1;
  return ntohs(address.sin_port);
}

// For a program that wants to be told one. Another may take it meanwhile.
inline int FreePort() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  const int port = BindToLoopback(socket);
  ::close(socket);
  return port;
}

}  // namespace lorica
