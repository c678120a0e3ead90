#include "server/api/listener.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lorica {
namespace {

constexpr absl::Duration kLackPause = absl::Milliseconds(10);

absl::Status CannotListen(const ListenOptions& options, const char* why) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", options.address, ": ", why,
                                             "; choose another with ", options.flag));
}

// Descriptors are given out from the lowest, so their number tells how many there are.
bool IsSpare(int descriptor, int spare) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return false;
  const rlim_t kept = std::min<rlim_t>(spare, limit.rlim_cur / 2);
  return static_cast<rlim_t>(descriptor) >= limit.rlim_cur - kept;
}

int PortOf(int socket) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size);
  return bound.ss_family == AF_INET6 ? ntohs(reinterpret_cast<sockaddr_in6&>(bound).sin6_port)
                                     : ntohs(reinterpret_cast<sockaddr_in&>(bound).sin_port);
}

int Bind(const addrinfo& entry) {
  const int socket = ::socket(entry.ai_family, entry.ai_socktype | SOCK_CLOEXEC, 0);
  if (socket < 0) return -1;
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(socket, entry.ai_addr, entry.ai_addrlen) == 0 &&
      ::listen(socket, kListenBacklog) == 0) {
    return socket;
  }
  const int error = errno;
  ::close(socket);
  errno = error;
  return -1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Listen(const ListenOptions& options) {
  const std::string& address = options.address;
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return CannotListen(options, "it is not HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found);
  if (failed != 0) return CannotListen(options, ::gai_strerror(failed));
  int socket = -1;
  for (const addrinfo* entry = found; entry != nullptr && socket < 0; entry = entry->ai_next) {
    socket = Bind(*entry);
  }
  ::freeaddrinfo(found);
  if (socket < 0) return CannotListen(options, std::strerror(errno));
  return std::unique_ptr<Listener>(new Listener(socket, PortOf(socket), options.spare_descriptors));
}

Listener::~Listener() { ::close(socket_); }

int Listener::Accept() {
  while (true) {
    const int connection = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection >= 0 && !IsSpare(connection, spare_descriptors_)) return connection;
    if (connection >= 0) {
      ::close(connection);
      continue;
    }
    if (errno == EINVAL || errno == EBADF) return -1;  // shut down
    const bool lack = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (lack) absl::SleepFor(kLackPause);
  }
}

void Listener::Close() { ::shutdown(socket_, SHUT_RDWR); }

}  // namespace lorica
