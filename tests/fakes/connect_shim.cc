#include "tests/fakes/connect_shim.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <iterator>
#include <mutex>
#include <utility>

namespace {

std::mutex g_mutex;
bool g_watching = false;
std::vector<std::string> g_seen;

void See(std::string what) {
  const std::lock_guard<std::mutex> lock(g_mutex);
  if (g_watching) g_seen.push_back(std::move(what));
}

std::string NameOf(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    const auto* ipv4 = reinterpret_cast<const sockaddr_in*>(address);
    if (ntohl(ipv4->sin_addr.s_addr) == INADDR_LOOPBACK) {
      return std::to_string(ntohs(ipv4->sin_port));
    }
    return inet_ntop(AF_INET, &ipv4->sin_addr, text, std::size(text));
  }
  if (address->sa_family == AF_INET6) {
    const auto* ipv6 = reinterpret_cast<const sockaddr_in6*>(address);
    const std::string host = inet_ntop(AF_INET6, &ipv6->sin6_addr, text, std::size(text));
    const bool is_here = host == "::1" || host == "::ffff:127.0.0.1";
    return is_here ? std::to_string(ntohs(ipv6->sin6_port)) : host;
  }
  return "family " + std::to_string(address->sa_family);
}

template <typename Function>
Function* Real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

namespace lorica::fakes {

WatchedConnects::WatchedConnects() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  g_watching = true;
  g_seen.clear();
}

WatchedConnects::~WatchedConnects() {
  const std::lock_guard<std::mutex> lock(g_mutex);
  g_watching = false;
}

std::vector<std::string> WatchedConnects::Seen() const {
  const std::lock_guard<std::mutex> lock(g_mutex);
  return g_seen;
}

}  // namespace lorica::fakes

extern "C" int connect(int fd, const sockaddr* address, socklen_t size) {
  static auto* const real = Real<int(int, const sockaddr*, socklen_t)>("connect");
  See(NameOf(address));
  return real(fd, address, size);
}

extern "C" int getaddrinfo(const char* node, const char* service, const addrinfo* hints,
                           addrinfo** result) {
  static auto* const real =
      Real<int(const char*, const char*, const addrinfo*, addrinfo**)>("getaddrinfo");
  if (node != nullptr) See(node);
  return real(node, service, hints, result);
}
