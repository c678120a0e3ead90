// One TCP connection with bounds on everything a peer can do with it: the bytes and the
// time of a request's head and body, the time of a write.
//
// It is the stream that the HTTP library reads and writes, plain or over TLS; what the library
// does not bound is bounded here. Belongs to the connection's thread; the table of connections
// alone may shut it down from another.
#pragma once

#include <httplib.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/time/time.h"
#include "server/http/chunk_framing.h"

struct ssl_ctx_st;
struct ssl_st;

namespace lorica {

inline constexpr int64_t kHeadBytesMax = 32 << 10;  // request line and headers
inline constexpr size_t kKeptLineBytesMax = 1 << 10;
inline constexpr absl::Duration kHeadTimeMax = absl::Seconds(10);
inline constexpr absl::Duration kBodyTimeMax = absl::Seconds(60);
inline constexpr absl::Duration kWriteTimeMax = absl::Seconds(30);
inline constexpr absl::Duration kLookTime = absl::Milliseconds(50);
inline constexpr absl::Duration kLingerTime = absl::Milliseconds(500);

struct ConnectionLimits {
  int64_t head_bytes = kHeadBytesMax;
  int64_t body_bytes = 0;
  absl::Duration head_time = kHeadTimeMax;
  absl::Duration body_time = kBodyTimeMax;
  absl::Duration write_time = kWriteTimeMax;
};

// Who is asked about a head or body that comes; the connection ends with kCrowded where it may not.
struct RequestWatch {
  std::function<bool()> gives_way;  // while it is waited for, at least every kLookTime
  // For so many bytes more, before they are read; may be null.
  std::function<bool(int64_t)> has_room;
};

class Connection final : public httplib::Stream {
 public:
  // Closes `socket` in the end. `tls`: null speaks plain.
  Connection(int socket, const ConnectionLimits& limits, std::shared_ptr<ssl_ctx_st> tls = nullptr);
  ~Connection() override;

  // Waits for the first byte of a request; the first time greets the peer by TLS before. `begins`
  // is called when there is something to read, before it is, and says who watches the head. False:
  // the peer has gone, speaks TLS where it should not or not where it should, or said nothing for
  // `timeout`.
  bool AwaitRequest(absl::Duration timeout, const std::function<RequestWatch()>& begins);

  enum class Fault : uint8_t {
    kNone,
    kCrowded,
    kBadHead,
    kBadBody,
    kHeadTooLarge,
    kBodyTooLarge,
    kTooSlow,
    kGone
  };
  // The body that comes is in chunks, whose framing is looked at from here on.
  void ExpectChunks() { chunks_.emplace(); }
  void WatchBody(RequestWatch watch) { watch_ = std::move(watch); }
  Fault fault() const { return fault_; }  // of this request; the connection is of no more use
  // The request line, as far as it came, at most kKeptLineBytesMax of it.
  const std::string& request_line() const { return request_line_; }
  bool PeerGone() const;
  // Ends what we say and throws away what still comes, for a moment: a peer that is sending
  // would otherwise be reset before it has read the answer.
  void Linger(absl::Duration time = kLingerTime);
  int64_t written_bytes() const { return written_bytes_; }

  bool is_readable() const override;
  bool is_writable() const override;
  // The bytes asked for at most, at least one; -1 after a fault.
  ssize_t read(char* ptr, size_t size) override;
  // All of it, or -1.
  ssize_t write(const char* ptr, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  struct FreeTls {
    void operator()(ssl_st* tls) const;
  };

  bool Greet(absl::Time deadline);
  // What OpenSSL's last call wants before it can go on. False: it cannot, or time is up.
  bool AwaitTls(int result, absl::Time deadline, bool* gone);
  // Bytes; 0: nothing until `deadline`; -1: the peer has gone.
  ssize_t Receive(char* bytes, size_t size, absl::Time deadline);
  ssize_t SendSome(const char* bytes, size_t size, absl::Time deadline);
  // False: nothing until `deadline`.
  bool AwaitBytes(absl::Time deadline);
  bool Fill(absl::Time deadline);
  // As read, trailers as well.
  ssize_t Give(char* ptr, size_t size);
  // Counts what the reader has been given; kNone: it may go on.
  Fault Count(const char* bytes, size_t size);
  bool IsWellFormed(char byte);
  bool LineEndsWell() const;
  ssize_t Fail(Fault fault);

  const int socket_;
  const ConnectionLimits limits_;
  const std::shared_ptr<ssl_ctx_st> context_;
  std::unique_ptr<ssl_st, FreeTls> tls_;  // null: plain
  bool greeted_ = false;
  std::string buffer_;
  size_t taken_ = 0;         // of buffer_
  std::string_view escape_;  // what the reader is given before the next byte
  Fault fault_ = Fault::kNone;
  bool in_body_ = false;
  std::string request_line_;
  bool line_kept_ = false;
  std::string name_;    // of the line's header, lower-case
  bool named_ = false;  // it has ended
  bool has_value_ = false;
  bool after_return_ = false;  // only a line's end may come
  int64_t line_bytes_ = 0;
  std::optional<ChunkFraming> chunks_;
  RequestWatch watch_;
  int64_t part_bytes_ = 0;  // of head or body
  absl::Time deadline_;
  int64_t written_bytes_ = 0;
};

}  // namespace lorica
