// A listening TCP socket: HOST:PORT to a descriptor, and an accept loop that survives.
//
// Owned by one thread; Close may be called from any, once, and ends Accept.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lorica {

inline constexpr int kListenBacklog = 1024;

class Listener {
 public:
  // Port 0 takes a free one. Unavailable: it cannot be listened on; says why.
  static absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& address);
  ~Listener();

  int port() const { return port_; }
  int socket() const { return socket_; }
  // The next connection; -1 once closed. Waits out a lack of descriptors or memory.
  int Accept();
  void Close();

 private:
  Listener(int socket, int port) : socket_(socket), port_(port) {}

  const int socket_;
  const int port_;
};

}  // namespace lorica
