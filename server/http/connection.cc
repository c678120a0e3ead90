#include "server/http/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "adapters/hub/steady_now.h"
#include "server/api/socket_name.h"
#include "server/http/field_lines.h"

namespace lorica {
namespace {

constexpr size_t kReadBytes = 16 << 10;
// What the system holds for a client that does not read, twice; megabytes otherwise.
constexpr int kSendBufferBytes = 64 << 10;
constexpr char kTlsHandshake = 0x16;

bool IsBlank(char byte) { return byte == ' ' || byte == '\t'; }

// Waits until `deadline` for one of `events`; what happened, 0 for nothing.
int Poll(int socket, short events, absl::Time deadline) {
  while (true) {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - SteadyNow());
    pollfd entry{socket, events, 0};
    const int count = ::poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left_ms, 0, 60'000)));
    if (count > 0) return entry.revents;
    if (count < 0 && errno != EINTR) return POLLERR;
    if (left_ms <= 0) return 0;
  }
}

}  // namespace

Connection::Connection(int socket, const ConnectionLimits& limits, std::shared_ptr<SSL_CTX> tls)
    : socket_(socket), limits_(limits), context_(std::move(tls)) {
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
  if (context_ == nullptr) return;
  ::fcntl(socket_, F_SETFL, ::fcntl(socket_, F_GETFL) | O_NONBLOCK);
  tls_.reset(SSL_new(context_.get()));
  SSL_set_fd(tls_.get(), socket_);
}

void Connection::FreeTls::operator()(SSL* tls) const { SSL_free(tls); }

Connection::~Connection() {
  if (greeted_ && fault_ == Fault::kNone) SSL_shutdown(tls_.get());
  ::shutdown(socket_, SHUT_RDWR);
  ::close(socket_);
}

bool Connection::AwaitRequest(absl::Duration timeout, const std::function<RequestWatch()>& begins) {
  in_body_ = line_kept_ = named_ = has_value_ = after_return_ = false;
  name_.clear();
  chunks_.reset();
  request_line_.clear();
  line_bytes_ = part_bytes_ = written_bytes_ = 0;
  if (tls_ != nullptr && !greeted_ && !Greet(SteadyNow() + std::min(timeout, limits_.head_time))) {
    return false;
  }
  const absl::Time end = SteadyNow() + timeout;
  const bool at_hand = taken_ < buffer_.size();
  if (!at_hand && !AwaitBytes(end)) return false;
  watch_ = begins();
  if (!at_hand && !Fill(SteadyNow() + limits_.head_time)) return fault_ == Fault::kCrowded;
  deadline_ = SteadyNow() + limits_.head_time;
  return tls_ != nullptr || buffer_[taken_] != kTlsHandshake;
}

bool Connection::AwaitBytes(absl::Time deadline) {
  return (tls_ != nullptr && SSL_pending(tls_.get()) > 0) || Poll(socket_, POLLIN, deadline) != 0;
}

bool Connection::Greet(absl::Time deadline) {
  bool gone = false;
  int result = SSL_accept(tls_.get());
  while (result != 1) {
    if (!AwaitTls(result, deadline, &gone)) {
      Fail(Fault::kGone);
      return false;
    }
    result = SSL_accept(tls_.get());
  }
  greeted_ = true;
  return true;
}

bool Connection::AwaitTls(int result, absl::Time deadline, bool* gone) {
  const int wanted = SSL_get_error(tls_.get(), result);
  ERR_clear_error();
  *gone = wanted != SSL_ERROR_WANT_READ && wanted != SSL_ERROR_WANT_WRITE;
  if (*gone) return false;
  return Poll(socket_, wanted == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline) != 0 &&
         SteadyNow() < deadline;
}

ssize_t Connection::Receive(char* bytes, size_t size, absl::Time deadline) {
  if (tls_ == nullptr) {
    if (Poll(socket_, POLLIN, deadline) == 0) return 0;
    const ssize_t count = ::recv(socket_, bytes, size, 0);
    return count > 0 ? count : -1;
  }
  bool gone = false;
  int count = SSL_read(tls_.get(), bytes, static_cast<int>(size));
  while (count <= 0) {
    if (!AwaitTls(count, deadline, &gone)) return gone ? -1 : 0;
    count = SSL_read(tls_.get(), bytes, static_cast<int>(size));
  }
  return count;
}

ssize_t Connection::SendSome(const char* bytes, size_t size, absl::Time deadline) {
  if (tls_ == nullptr) {
    ssize_t count = 0;
    while ((count = ::send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT)) < 0) {
      if (errno != EAGAIN && errno != EINTR) return -1;
      if ((Poll(socket_, POLLOUT, deadline) & POLLOUT) == 0) return 0;
    }
    return count;
  }
  bool gone = false;
  const int asked = static_cast<int>(std::min<size_t>(size, INT_MAX));
  int count = SSL_write(tls_.get(), bytes, asked);
  while (count <= 0) {
    if (!AwaitTls(count, deadline, &gone)) return gone ? -1 : 0;
    count = SSL_write(tls_.get(), bytes, asked);
  }
  return count;
}

bool Connection::PeerGone() const {
  return fault_ == Fault::kGone ||
         (Poll(socket_, POLLRDHUP, absl::InfinitePast()) & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void Connection::Linger(absl::Duration time) {
  if (greeted_) SSL_shutdown(tls_.get());
  ::shutdown(socket_, SHUT_WR);
  const absl::Time deadline = SteadyNow() + time;
  std::string discarded(kReadBytes, '\0');
  while ((Poll(socket_, POLLIN, deadline) & POLLIN) != 0 && SteadyNow() < deadline) {
    if (::recv(socket_, discarded.data(), discarded.size(), 0) <= 0) return;
  }
}

bool Connection::is_readable() const { return fault_ == Fault::kNone; }

bool Connection::is_writable() const { return fault_ != Fault::kGone; }

ssize_t Connection::Fail(Fault fault) {
  if (fault_ == Fault::kNone) fault_ = fault;
  return -1;
}

bool Connection::Fill(absl::Time deadline) {
  while (true) {
    buffer_.resize(kReadBytes);
    taken_ = 0;
    const ssize_t count =
        Receive(buffer_.data(), buffer_.size(), std::min(deadline, SteadyNow() + kLookTime));
    buffer_.resize(std::max<ssize_t>(count, 0));
    if (count < 0) Fail(Fault::kGone);
    if (watch_.gives_way()) Fail(Fault::kCrowded);
    if (count == 0 && SteadyNow() >= deadline) Fail(Fault::kTooSlow);
    if (count > 0 || fault_ != Fault::kNone) return fault_ == Fault::kNone;
  }
}

// Of a line behind the request line: a name that is none (RFC 9110, 5.6.2), and lines that go on
// the one before, are read in two ways by servers behind each other.
bool Connection::IsWellFormed(char byte) {
  if (!line_kept_) return true;
  if (named_) {
    has_value_ = has_value_ || !IsBlank(byte);
    return true;
  }
  named_ = byte == ':' && line_bytes_ > 0;
  if (!named_) name_ += absl::ascii_tolower(byte);
  return named_ || IsOfFieldName(byte);
}

// The library does not pass on a header without a value, so a body's length would be another one.
bool Connection::LineEndsWell() const { return named_ && (has_value_ || !SaysWhatComes(name_)); }

// The head ends with an empty line.
Connection::Fault Connection::Count(const char* bytes, size_t size) {
  for (size_t i = 0; i < size && !in_body_; ++i) {
    ++part_bytes_;
    // What is no end of a line for all, and what ends a text for some.
    if (bytes[i] == '\0' || (after_return_ && bytes[i] != '\n')) return Fault::kBadHead;
    after_return_ = bytes[i] == '\r';
    if (bytes[i] == '\n') {
      in_body_ = line_bytes_ == 0;
      if (line_kept_ && !in_body_ && !LineEndsWell()) return Fault::kBadHead;
      line_kept_ = true;
      named_ = has_value_ = false;
      name_.clear();
      line_bytes_ = 0;
    } else if (bytes[i] != '\r') {
      if (!IsWellFormed(bytes[i])) return Fault::kBadHead;
      ++line_bytes_;
      if (!line_kept_ && request_line_.size() < kKeptLineBytesMax) request_line_ += bytes[i];
    }
    if (in_body_) {
      part_bytes_ = -static_cast<int64_t>(i) - 1;
      deadline_ = SteadyNow() + limits_.body_time;
    } else if (part_bytes_ > limits_.head_bytes) {
      return Fault::kHeadTooLarge;
    }
  }
  if (in_body_) part_bytes_ += static_cast<int64_t>(size);
  return in_body_ && part_bytes_ > limits_.body_bytes ? Fault::kBodyTooLarge : Fault::kNone;
}

// Trailers are nobody's: the library is given the empty line behind them alone.
ssize_t Connection::read(char* ptr, size_t size) {
  ssize_t count = Give(ptr, size);
  while (count > 0 && chunks_ && chunks_->is_of_trailer()) count = Give(ptr, size);
  return count;
}

ssize_t Connection::Give(char* ptr, size_t size) {
  if (fault_ != Fault::kNone) return -1;
  if (!escape_.empty()) {
    *ptr = escape_.front();
    escape_.remove_prefix(1);
    return 1;
  }
  if (taken_ == buffer_.size() && !Fill(deadline_)) return -1;
  // Byte by byte while it is the head: what follows it must not be counted as such.
  const size_t count = std::min(in_body_ ? size : 1, buffer_.size() - taken_);
  std::memcpy(ptr, buffer_.data() + taken_, count);
  taken_ += count;
  const Fault fault = Count(ptr, count);
  if (fault != Fault::kNone) return Fail(fault);
  if (watch_.has_room && !watch_.has_room(static_cast<int64_t>(count))) {
    return Fail(Fault::kCrowded);
  }
  if (chunks_ && !chunks_->Take(ptr, count)) return Fail(Fault::kBadBody);
  if (chunks_ && chunks_->trailer_bytes() > limits_.head_bytes) return Fail(Fault::kHeadTooLarge);
  // The library takes values for percent-encoded: "%63hunked" would be "chunked", to it alone.
  if (!in_body_ && named_ && *ptr == '%') escape_ = "25";
  return static_cast<ssize_t>(count);
}

ssize_t Connection::write(const char* ptr, size_t size) {
  if (!is_writable()) return -1;
  const absl::Time deadline = SteadyNow() + limits_.write_time;
  size_t done = 0;
  while (done < size) {
    const ssize_t count = SendSome(ptr + done, size - done, deadline);
    if (count <= 0) return Fail(Fault::kGone);
    done += count;
    if (done < size && SteadyNow() >= deadline) return Fail(Fault::kGone);
  }
  written_bytes_ += static_cast<int64_t>(size);
  return static_cast<ssize_t>(size);
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  SocketName name = PeerOf(socket_);
  ip = std::move(name.ip);
  port = name.port;
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  SocketName name = LocalEndOf(socket_);
  ip = std::move(name.ip);
  port = name.port;
}

}  // namespace lorica
