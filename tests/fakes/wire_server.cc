#include "tests/fakes/wire_server.h"

#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/fakes/free_port.h"

namespace lorica {
namespace {

constexpr size_t kRequestBytesMax = 64 << 10;

void Must(bool done, const char* what) {
  if (done) return;
  std::perror(what);
  std::abort();
}

WireRequest ParseRequest(absl::string_view head) {
  WireRequest request;
  const std::vector<absl::string_view> lines = absl::StrSplit(head, "\r\n");
  const std::vector<std::string> first = absl::StrSplit(lines[0], ' ');
  if (first.size() > 1) {
    request.method = first[0];
    request.target = first[1];
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    request.headers[absl::AsciiStrToLower(parts.first)] =
        std::string(absl::StripAsciiWhitespace(parts.second));
  }
  return request;
}

}  // namespace

std::string WireRequest::Header(const std::string& lower_name) const {
  const auto found = headers.find(lower_name);
  return found == headers.end() ? "" : found->second;
}

void WireServer::FreeContext::operator()(ssl_ctx_st* context) const { SSL_CTX_free(context); }

bool WireServer::Connection::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ssl_ != nullptr
                             ? SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size()))
                             : send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(sent);
  }
  return true;
}

bool WireServer::Connection::Wait(absl::Duration duration) {
  absl::MutexLock lock(&server_->mutex_);
  return !server_->mutex_.AwaitWithTimeout(absl::Condition(server_, &WireServer::Stopping),
                                           duration);
}

WireServer::WireServer(Handler handler, const TlsFiles& tls) : handler_(std::move(handler)) {
  signal(SIGPIPE, SIG_IGN);  // of SSL_write
  if (!tls.certificate.empty()) {
    tls_.reset(SSL_CTX_new(TLS_server_method()));
    Must(SSL_CTX_use_certificate_chain_file(tls_.get(), tls.certificate.c_str()) == 1, "cert");
    Must(SSL_CTX_use_PrivateKey_file(tls_.get(), tls.key.c_str(), SSL_FILETYPE_PEM) == 1, "key");
    if (tls.old) {
      SSL_CTX_set_security_level(tls_.get(), 0);
      Must(SSL_CTX_set_max_proto_version(tls_.get(), TLS1_1_VERSION) == 1, "protocol");
    }
  }
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  port_ = BindToLoopback(listener_);
  Must(port_ > 0, "bind");
  Must(listen(listener_, 128) == 0, "listen");
  acceptor_ = std::thread([this] { Accept(); });
}

WireServer::~WireServer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const int fd : open_) shutdown(fd, SHUT_RDWR);
  }
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  std::vector<std::thread> workers;
  {
    absl::MutexLock lock(&mutex_);
    workers.swap(workers_);
  }
  for (std::thread& worker : workers) worker.join();
  close(listener_);
}

std::string WireServer::place() const { return absl::StrCat("127.0.0.1:", port_); }

int WireServer::connections() const {
  absl::MutexLock lock(&mutex_);
  return connections_;
}

void WireServer::Accept() {
  while (true) {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    absl::MutexLock lock(&mutex_);
    if (fd < 0 || stopping_) {
      if (fd >= 0) close(fd);
      return;
    }
    ++connections_;
    open_.push_back(fd);
    workers_.emplace_back([this, fd] { Serve(fd); });
  }
}

void WireServer::Serve(int fd) {
  pthread_setname_np(pthread_self(), "wire_server");
  Connection connection;
  connection.server_ = this;
  connection.fd_ = fd;
  bool ready = true;
  if (tls_ != nullptr) {
    connection.ssl_ = SSL_new(tls_.get());
    SSL_set_fd(connection.ssl_, fd);
    ready = SSL_accept(connection.ssl_) == 1;
  }
  std::string head;
  char bytes[4096];
  size_t end = std::string::npos;
  while (ready && end == std::string::npos && head.size() < kRequestBytesMax) {
    const ssize_t got = connection.ssl_ != nullptr ? SSL_read(connection.ssl_, bytes, sizeof(bytes))
                                                   : recv(fd, bytes, sizeof(bytes), 0);
    if (got <= 0) break;
    head.append(bytes, got);
    end = head.find("\r\n\r\n");
  }
  if (end != std::string::npos) handler_(ParseRequest(head.substr(0, end)), connection);
  if (connection.ssl_ != nullptr) {
    SSL_shutdown(connection.ssl_);
    SSL_free(connection.ssl_);
  }
  absl::MutexLock lock(&mutex_);
  std::erase(open_, fd);
  close(fd);
}

std::string WireHead(int status, const std::map<std::string, std::string>& headers) {
  std::string head = absl::StrCat("HTTP/1.1 ", status, " Said\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
  return absl::StrCat(head, "\r\n");
}

}  // namespace lorica
