// One HTTP request and its reply, as routes see them: no library, no sockets.
//
// The transport makes both and calls a route on the connection's own thread, which may
// block. A route answers exactly once: Send, or SendEvents. Owned by the transport, valid
// until the route (and the function given to SendEvents) has returned; not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lorica {

inline constexpr char kJsonType[] = "application/json";
inline constexpr int kRequestIdBytesMax = 128;

struct HttpRequest {
  std::string id;  // the client's x-request-id where it is plain text, else made here
  std::string method;
  std::string path;       // without the query
  std::string peer;       // address of the other end
  std::string_view body;  // the transport's, while the request lives
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case

  // All values of a header, in order. `name` in lower case.
  std::vector<std::string> Values(std::string_view name) const;
};

// What a route adds to the line that the access log gets for a request.
struct AccessNotes {
  bool refusal_logged = false;  // the server's own log has a line of it
  std::string tenant;
  std::string adapter;
  std::string code;  // of the error, as gRPC names it
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double first_token_ms = 0.0;
};

// Whether somebody still listens.
class Peer {
 public:
  virtual ~Peer() = default;
  // The client has closed its side or reset the connection. Cheap; never waits.
  virtual bool gone() = 0;
};

// The body of an event stream, written piece by piece.
class EventStream : public Peer {
 public:
  // One event, `data: <payload>` and an empty line. False: the client does not read, or
  // has gone; stop.
  virtual bool Write(std::string_view payload) = 0;
  // A comment, so that nobody on the way believes the connection dead.
  virtual bool KeepAlive() = 0;
};

class HttpReply : public Peer {
 public:
  // Before Send or SendEvents. Values must be printable ASCII.
  virtual void SetHeader(std::string_view name, std::string_view value) = 0;
  virtual void Send(int status, std::string body, const char* content_type = kJsonType) = 0;
  // 200 and text/event-stream; `events` runs once the route has returned.
  virtual void SendEvents(std::function<void(EventStream&)> events) = 0;
  virtual AccessNotes& notes() = 0;
  virtual const std::string& path() const = 0;  // that was asked for
};

// What serves a path.
using HttpHandler = std::function<void(const HttpRequest&, HttpReply&)>;

}  // namespace lorica
