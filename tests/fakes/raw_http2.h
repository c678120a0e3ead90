// HTTP/2 as bytes, so that a test can send what no library would.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lorica {

enum class FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
  kContinuation = 9
};
inline constexpr uint8_t kEndStream = 1;
inline constexpr uint8_t kEndHeaders = 4;

inline std::string BigEndian(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}

inline std::string Frame(FrameType type, uint8_t flags, uint32_t stream, std::string_view payload) {
  std::string frame = BigEndian(payload.size(), 3);
  frame += static_cast<char>(type);
  frame += static_cast<char>(flags);
  return frame + BigEndian(stream, 4) + std::string(payload);
}

// The preface and empty settings.
inline std::string Preface() {
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(FrameType::kSettings, 0, 0, "");
}

// A header that enters no table, its length in HPACK's way.
inline std::string Literal(std::string_view name, std::string_view value) {
  const auto text = [](std::string_view part) {
    std::string bytes;
    if (part.size() < 127) {
      bytes += static_cast<char>(part.size());
    } else {
      bytes += '\x7f';
      size_t rest = part.size() - 127;
      for (; rest >= 128; rest >>= 7) bytes += static_cast<char>(0x80 | (rest & 0x7f));
      bytes += static_cast<char>(rest);
    }
    return bytes + std::string(part);
  };
  return std::string(1, '\0') + text(name) + text(value);
}

using RawHeaders = std::vector<std::pair<std::string, std::string>>;

// HEADERS of a gRPC call, with CONTINUATION where it is long.
inline std::string CallHeaders(uint32_t stream, const std::string& path,
                               const RawHeaders& more = {}, uint8_t flags = 0) {
  constexpr size_t kFrameBytes = 16384;
  std::string block = "\x83\x86";  // POST, http
  block += Literal(":path", path) + Literal(":authority", "x") + Literal("te", "trailers") +
           Literal("content-type", "application/grpc");
  for (const auto& [name, value] : more) block += Literal(name, value);
  std::string frames;
  for (size_t done = 0; done < block.size() || done == 0; done += kFrameBytes) {
    const std::string part = block.substr(done, kFrameBytes);
    const bool last = done + part.size() == block.size();
    frames += Frame(done == 0 ? FrameType::kHeaders : FrameType::kContinuation,
                    static_cast<uint8_t>((done == 0 ? flags : 0) | (last ? kEndHeaders : 0)),
                    stream, part);
  }
  return frames;
}

// DATA with one message of gRPC; `declared`: the length it claims to have.
inline std::string MessageData(uint32_t stream, std::string_view message, bool end = true,
                               bool compressed = false, int64_t declared = -1) {
  constexpr size_t kFrameBytes = 16384;
  const uint64_t length = declared < 0 ? message.size() : declared;
  const std::string bytes =
      std::string(1, compressed ? '\1' : '\0') + BigEndian(length, 4) + std::string(message);
  std::string frames;
  for (size_t done = 0; done < bytes.size(); done += kFrameBytes) {
    const std::string_view part = std::string_view(bytes).substr(done, kFrameBytes);
    const bool last = done + part.size() == bytes.size();
    frames += Frame(FrameType::kData, end && last ? kEndStream : 0, stream, part);
  }
  return frames;
}

// One connection to 127.0.0.1.
class RawConnection {
 public:
  explicit RawConnection(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  RawConnection(const RawConnection&) = delete;
  ~RawConnection() { ::close(socket_); }

  // Sends while the peer takes it, throwing away what it says. False: it has closed, or took
  // nothing until `limit` had passed.
  bool Send(std::string_view bytes, absl::Duration limit = absl::Seconds(20)) {
    const absl::Time end = absl::Now() + limit;
    while (!bytes.empty()) {
      pollfd entry{socket_, POLLIN | POLLOUT, 0};
      const int left_ms = static_cast<int>(absl::ToInt64Milliseconds(end - absl::Now()));
      if (left_ms <= 0 || ::poll(&entry, 1, left_ms) <= 0) return false;
      if ((entry.revents & POLLIN) != 0 && !Take()) return false;
      if ((entry.revents & (POLLERR | POLLHUP)) != 0) return false;
      if ((entry.revents & POLLOUT) == 0) continue;
      const ssize_t count =
          ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count < 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }
  // Whether the peer closes within `limit`; keeps what it says.
  bool ClosedWithin(absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    while (absl::Now() < end) {
      pollfd entry{socket_, POLLIN, 0};
      ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(end - absl::Now())));
      if (entry.revents != 0 && !Take()) return true;
    }
    return false;
  }
  // The same for one who reads nothing of what it says.
  bool EndsUnreadWithin(absl::Duration limit) const {
    pollfd entry{socket_, POLLRDHUP, 0};
    return ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(limit))) == 1;
  }
  // Until `text` is in what came; false when time is up.
  bool WaitFor(std::string_view text, absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    size_t from = 0;  // what stands before was looked at
    while (heard_.find(text, from) == std::string::npos) {
      from = heard_.size() - std::min(heard_.size(), text.size());
      if (absl::Now() >= end) return false;
      pollfd entry{socket_, POLLIN, 0};
      ::poll(&entry, 1, 20);
      if (entry.revents != 0 && !Take()) return heard_.find(text, from) != std::string::npos;
    }
    return true;
  }
  const std::string& heard() const { return heard_; }
  // With a reset.
  void Cut() {
    const linger reset{1, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    ::close(socket_);
    socket_ = -1;
  }

 private:
  static constexpr size_t kHeardBytesMax = 16 << 20;

  bool Take() {
    char bytes[16384];
    const ssize_t count = ::recv(socket_, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count <= 0) return count < 0 && (errno == EAGAIN || errno == EINTR);
    if (heard_.size() < kHeardBytesMax) heard_.append(bytes, static_cast<size_t>(count));
    return true;
  }

  int socket_;
  std::string heard_;
};

}  // namespace lorica
