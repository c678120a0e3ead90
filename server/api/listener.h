// A listening TCP socket: HOST:PORT to a descriptor, and an accept loop that survives.
//
// Owned by one thread; Close may be called from any, once, and ends Accept. Connections never take
// the last descriptors of the process: files, pipes and what else is connected need some.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lorica {

inline constexpr int kListenBacklog = 4096;

struct ListenOptions {
  std::string address;  // HOST:PORT; port 0 takes a free one
  std::string flag;     // which gave it, for the error
  // Descriptors that are left to others; at most half of what the process may have.
  int spare_descriptors = 0;
};

class Listener {
 public:
  // Unavailable: it cannot be listened on; says why.
  static absl::StatusOr<std::unique_ptr<Listener>> Listen(const ListenOptions& options);
  ~Listener();

  int port() const { return port_; }
  int socket() const { return socket_; }
  // The next connection, closed when others exec; -1 once closed. Who would take a spare descriptor
  // is hung up on. Waits out a lack of descriptors or memory.
  int Accept();
  void Close();

 private:
  Listener(int socket, int port, int spare)
      : socket_(socket), port_(port), spare_descriptors_(spare) {}

  const int socket_;
  const int port_;
  const int spare_descriptors_;
};

}  // namespace lorica
