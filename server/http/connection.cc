#include "server/http/connection.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/time/clock.h"

namespace lorica {
namespace {

constexpr size_t kReadBytes = 16 << 10;
constexpr char kTlsHandshake = 0x16;

// Waits until `deadline` for one of `events`; what happened, 0 for nothing.
int Poll(int socket, short events, absl::Time deadline) {
  while (true) {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    pollfd entry{socket, events, 0};
    const int count = ::poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left_ms, 0, 60'000)));
    if (count > 0) return entry.revents;
    if (count < 0 && errno != EINTR) return POLLERR;
    if (left_ms <= 0) return 0;
  }
}

void NameOf(const sockaddr_storage& address, std::string& ip, int& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    port = ntohs(v4.sin_port);
  } else if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    port = ntohs(v6.sin6_port);
  }
  ip = text;
}

}  // namespace

Connection::Connection(int socket, const ConnectionLimits& limits)
    : socket_(socket), limits_(limits) {
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

Connection::~Connection() {
  ::shutdown(socket_, SHUT_RDWR);
  ::close(socket_);
}

bool Connection::AwaitRequest(absl::Duration timeout) {
  in_body_ = false;
  line_bytes_ = part_bytes_ = written_bytes_ = 0;
  if (taken_ == buffer_.size() && !Fill(absl::Now() + timeout)) return false;
  deadline_ = absl::Now() + limits_.head_time;
  return buffer_[taken_] != kTlsHandshake;
}

bool Connection::PeerGone() const {
  return fault_ == Fault::kGone ||
         (Poll(socket_, POLLRDHUP, absl::InfinitePast()) & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void Connection::Linger() {
  ::shutdown(socket_, SHUT_WR);
  const absl::Time deadline = absl::Now() + kLingerTime;
  std::string discarded(kReadBytes, '\0');
  while ((Poll(socket_, POLLIN, deadline) & POLLIN) != 0 && absl::Now() < deadline) {
    if (::recv(socket_, discarded.data(), discarded.size(), 0) <= 0) return;
  }
}

bool Connection::is_readable() const { return fault_ == Fault::kNone; }

bool Connection::is_writable() const {
  return fault_ == Fault::kNone || fault_ == Fault::kHeadTooLarge ||
         fault_ == Fault::kBodyTooLarge || fault_ == Fault::kTooSlow;
}

ssize_t Connection::Fail(Fault fault) {
  if (fault_ == Fault::kNone) fault_ = fault;
  return -1;
}

bool Connection::Fill(absl::Time deadline) {
  buffer_.resize(kReadBytes);
  taken_ = 0;
  ssize_t count = 0;
  if (Poll(socket_, POLLIN, deadline) == 0) {
    Fail(Fault::kTooSlow);
  } else {
    count = ::recv(socket_, buffer_.data(), buffer_.size(), 0);
    if (count <= 0) Fail(Fault::kGone);
  }
  buffer_.resize(std::max<ssize_t>(count, 0));
  return count > 0;
}

// The head ends with an empty line.
bool Connection::Count(const char* bytes, size_t size) {
  for (size_t i = 0; i < size && !in_body_; ++i) {
    ++part_bytes_;
    if (bytes[i] == '\n') {
      in_body_ = line_bytes_ == 0;
      line_bytes_ = 0;
    } else if (bytes[i] != '\r') {
      ++line_bytes_;
    }
    if (in_body_) {
      part_bytes_ = -static_cast<int64_t>(i) - 1;
      deadline_ = absl::Now() + limits_.body_time;
    } else if (part_bytes_ > limits_.head_bytes) {
      return false;
    }
  }
  if (in_body_) part_bytes_ += static_cast<int64_t>(size);
  return !in_body_ || part_bytes_ <= limits_.body_bytes;
}

ssize_t Connection::read(char* ptr, size_t size) {
  if (fault_ != Fault::kNone) return -1;
  if (taken_ == buffer_.size() && !Fill(deadline_)) return -1;
  // Byte by byte while it is the head: what follows it must not be counted as such.
  const size_t count = std::min(in_body_ ? size : 1, buffer_.size() - taken_);
  std::memcpy(ptr, buffer_.data() + taken_, count);
  taken_ += count;
  if (!Count(ptr, count)) return Fail(in_body_ ? Fault::kBodyTooLarge : Fault::kHeadTooLarge);
  return static_cast<ssize_t>(count);
}

ssize_t Connection::write(const char* ptr, size_t size) {
  if (!is_writable()) return -1;
  const absl::Time deadline = absl::Now() + limits_.write_time;
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::send(socket_, ptr + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      done += count;
    } else if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
      if ((Poll(socket_, POLLOUT, deadline) & POLLOUT) == 0) return Fail(Fault::kGone);
    } else {
      return Fail(Fault::kGone);
    }
    if (done < size && absl::Now() >= deadline) return Fail(Fault::kGone);
  }
  written_bytes_ += static_cast<int64_t>(size);
  return static_cast<ssize_t>(size);
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    NameOf(address, ip, port);
  }
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    NameOf(address, ip, port);
  }
}

}  // namespace lorica
