// A web server that says exactly what a test writes, byte by byte.
//
// It reads the head of a request and hands the connection to the test's handler; one
// request a connection, one thread a connection. Listens on a free port of 127.0.0.1 from
// construction to destruction, which cuts what is still open. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

struct ssl_ctx_st;
struct ssl_st;

namespace lorica {

struct WireRequest {
  std::string method;
  std::string target;                          // path and query, as sent
  std::map<std::string, std::string> headers;  // lower-case names

  std::string Header(const std::string& lower_name) const;
};

// PEM files; empty: plain HTTP.
struct TlsFiles {
  std::string certificate;
  std::string key;
  bool old = false;  // speaks no TLS later than 1.1
};

class WireServer {
 public:
  class Connection {
   public:
    // False once the peer or the server has gone.
    bool Send(std::string_view bytes);
    bool Wait(absl::Duration duration);

   private:
    friend class WireServer;
    WireServer* server_ = nullptr;
    int fd_ = -1;
    ssl_st* ssl_ = nullptr;
  };
  using Handler = std::function<void(const WireRequest& request, Connection& connection)>;

  explicit WireServer(Handler handler, const TlsFiles& tls = {});
  ~WireServer();

  int port() const { return port_; }
  std::string place() const;  // "127.0.0.1:port"
  int connections() const;    // accepted so far

 private:
  struct FreeContext {
    void operator()(ssl_ctx_st* context) const;
  };
  void Accept();
  void Serve(int fd);
  bool Stopping() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_; }

  const Handler handler_;
  std::unique_ptr<ssl_ctx_st, FreeContext> tls_;
  int listener_ = -1;
  int port_ = 0;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int connections_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<int> open_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> workers_ ABSL_GUARDED_BY(mutex_);
  std::thread acceptor_;
};

// "HTTP/1.1 200 OK" and these headers, with the blank line.
std::string WireHead(int status, const std::map<std::string, std::string>& headers);

}  // namespace lorica
