#include "server/http/transport.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "server/api/listener.h"
#include "server/http/connection.h"
#include "server/http/connection_threads.h"
#include "server/http/errors.h"
#include "server/http/host_name.h"

namespace lorica {
namespace {

constexpr char kFull[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    "Connection: close\r\nContent-Length: 92\r\n\r\n"
    "{\"error\":\"too many connections; try again\",\"error_type\":\"overloaded\","
    "\"status\":\"UNAVAILABLE\"}";
constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr absl::Duration kStopPoll = absl::Milliseconds(5);
constexpr size_t kMethodBytesMax = 16;
constexpr char kRetrySeconds[] = "1";
constexpr char kPreflightSeconds[] = "600";
constexpr int kSpareDescriptors = 64;  // for files, fetches and children

std::string NewRequestId() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return absl::StrFormat("%016x%016x", generator(), generator());
}

bool IsPlainId(const std::string& id) {
  if (id.empty() || id.size() > kRequestIdBytesMax) return false;
  for (const unsigned char c : id) {
    if (!std::isalnum(c) && c != '-' && c != '_' && c != '.' && c != ':') return false;
  }
  return true;
}

// The library adds what it knows of the connection as if it were headers.
bool IsMadeUp(const std::string& name) {
  return name == "REMOTE_ADDR" || name == "REMOTE_PORT" || name == "LOCAL_ADDR" ||
         name == "LOCAL_PORT";
}

bool IsMethod(const std::string& word) {
  return !word.empty() && word.size() <= kMethodBytesMax &&
         std::all_of(word.begin(), word.end(), absl::ascii_isupper);
}

// What is said of a head or body that broke its bounds; 0: nothing, to nobody.
int StatusOf(Connection::Fault fault) {
  switch (fault) {
    case Connection::Fault::kBadHead:
    case Connection::Fault::kBadBody:
      return 400;
    case Connection::Fault::kHeadTooLarge:
      return 431;
    case Connection::Fault::kBodyTooLarge:
      return 413;
    case Connection::Fault::kTooSlow:
      return 408;
    case Connection::Fault::kCrowded:
      return 503;
    case Connection::Fault::kNone:
    case Connection::Fault::kGone:
      return 0;
  }
  return 0;
}

// Everything about the request that a connection is at.
struct Exchange {
  HttpRequest request;
  AccessEntry entry;
  std::unique_ptr<BodyRoom::Body> body;
  bool expects_continue = false;  // the client waits for a word before it sends the body
  bool close = false;             // the connection must not be used again
};

class Events final : public EventStream {
 public:
  Events(httplib::DataSink* sink, Connection* connection) : sink_(sink), connection_(connection) {}
  bool Write(std::string_view payload) override {
    return Put(absl::StrCat("data: ", absl::string_view(payload.data(), payload.size()), "\n\n"));
  }
  bool KeepAlive() override { return Put(":\n\n"); }
  bool gone() override { return connection_->PeerGone(); }

 private:
  bool Put(const std::string& bytes) { return sink_->write(bytes.data(), bytes.size()); }

  httplib::DataSink* const sink_;
  Connection* const connection_;
};

class Reply final : public HttpReply {
 public:
  Reply(httplib::Response* response, Connection* connection, Exchange* exchange)
      : response_(*response), connection_(connection), exchange_(exchange) {}

  void SetHeader(std::string_view name, std::string_view value) override {
    response_.set_header(std::string(name), std::string(value));
  }
  void Send(int status, std::string body, const char* content_type) override {
    response_.status = exchange_->entry.status = status;
    response_.set_content(body, content_type);
  }
  void SendEvents(std::function<void(EventStream&)> events) override {
    response_.status = exchange_->entry.status = 200;
    SetHeader("Cache-Control", "no-cache");
    SetHeader("X-Accel-Buffering", "no");
    response_.set_chunked_content_provider(
        "text/event-stream",
        [connection = connection_, events = std::move(events)](size_t, httplib::DataSink& sink) {
          Events stream(&sink, connection);
          events(stream);
          sink.done();
          return true;
        });
  }
  bool gone() override { return connection_->PeerGone(); }
  AccessNotes& notes() override { return exchange_->entry.notes; }
  const std::string& path() const override { return exchange_->request.path; }

 private:
  httplib::Response& response_;
  Connection* const connection_;
  Exchange* const exchange_;
};

}  // namespace

// The library's server without its sockets and threads.
class HttpTransport::Library final : public httplib::Server {
 public:
  Library(const TransportOptions& options, HttpRoutes routes, AccessLog* log,
          std::unique_ptr<Listener> listener)
      : options_(options),
        routes_(std::move(routes)),
        log_(log),
        listener_(std::move(listener)),
        bodies_(options.bodies_bytes, options.tenant_parts),
        threads_(options.connections_max, options.tls ? "" : kFull) {
    svr_sock_ = listener_->socket();  // the library ends streams when it has none
    set_payload_max_length(options.body_bytes);
    set_keep_alive_timeout(absl::ToInt64Seconds(options.keep_alive));
    set_keep_alive_max_count(1 << 20);
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      return Route(request, response);
    });
    Post(".*", [this](const httplib::Request& request, httplib::Response& response) {
      Dispatch(request, response);
    });
    set_error_handler(Handler(
        [this](const httplib::Request&, httplib::Response& response) { DescribeError(response); }));
    set_post_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      CorrectHeaders(request, response);
    });
  }

  int port() const { return listener_->port(); }
  void AcceptLoop() {
    for (int socket = listener_->Accept(); socket >= 0; socket = listener_->Accept()) {
      if (!threads_.TryRun([this, socket] { Serve(socket); })) threads_.TurnAway(socket);
    }
  }
  void StartDrain() {
    draining_.store(true);
    threads_.StartDrain();
  }
  void Stop(absl::Duration grace) {
    StartDrain();
    listener_->Close();
    const absl::Time end = SteadyNow() + grace;
    while (active_.load() > 0 && SteadyNow() < end) absl::SleepFor(kStopPoll);
    threads_.Stop();
  }

 private:
  // What the thread that serves a connection is at.
  struct Current {
    Connection* connection = nullptr;
    ConnectionThreads::Place* place = nullptr;
    httplib::Request* request = nullptr;
    Exchange exchange;
    absl::Time began;  // by SteadyNow
  };
  static Current& current() {
    thread_local Current current;
    return current;
  }

  void Serve(int socket) {
    Connection connection(socket,
                          {.body_bytes = options_.body_bytes,
                           .head_time = options_.head_time,
                           .body_time = options_.body_time,
                           .write_time = options_.write_time},
                          options_.tls ? options_.tls() : nullptr);
    ConnectionThreads::Place place(&threads_, socket);
    while (true) {
      const absl::Duration wait = place.SetIdle(options_.keep_alive);
      if (wait == absl::ZeroDuration()) return;
      const auto begins = [&place] {
        place.SetBegun();
        return RequestWatch{.gives_way = [&place] { return place.MustGiveWay(); }};
      };
      if (!connection.AwaitRequest(wait, begins)) return place.GiveWay();
      if (!ServeOne(connection, place)) return;
    }
  }

  bool ServeOne(Connection& connection, ConnectionThreads::Place& place) {
    Current& now = current();
    now.connection = &connection;
    now.place = &place;
    now.exchange = Exchange();
    now.exchange.entry.began = absl::Now();
    now.began = SteadyNow();
    active_.fetch_add(1);
    bool closed = false;
    const bool kept = process_request(connection, draining_.load(), closed,
                                      [&](httplib::Request& request) { SetUp(request); });
    if (connection.written_bytes() == 0) NoteUntold(connection, place.told(), now.exchange.entry);
    if (now.exchange.request.id.empty()) NameRequest(connection, now.exchange.entry);
    Log(connection, now.exchange.entry);
    active_.fetch_sub(1);
    const bool refused = now.exchange.close || connection.fault() != Connection::Fault::kNone;
    now.exchange = Exchange();  // what it held is others' from here on
    if (refused && connection.fault() != Connection::Fault::kGone) {
      place.SetBusy();  // it has its answer, and gives way from here on
      connection.Linger(std::max(place.SetIdle(kLingerTime), kCrowdedWait));
    }
    return kept && !closed && !refused && !draining_.load();
  }

  void Log(const Connection& connection, AccessEntry& entry) {
    if (log_ == nullptr || (entry.status == 0 && connection.written_bytes() == 0)) return;
    entry.took = SteadyNow() - current().began;
    entry.bytes = connection.written_bytes();
    log_->Write(entry);
  }

  // Nothing was answered here, or nobody was there to be answered.
  static void NoteUntold(Connection& connection, bool told, AccessEntry& entry) {
    if (entry.status == 0 && !told) return RefuseLine(connection, entry);
    entry.status = told ? 503 : kClientGone;
    entry.notes.code = TransportCode(entry.status);
  }

  // A request line that does not come whole is none to the library, and it says nothing.
  static void RefuseLine(Connection& connection, AccessEntry& entry) {
    entry.status = StatusOf(connection.fault());
    if (entry.status == 0) return;
    if (entry.status == 431) entry.status = 414;
    entry.notes.code = TransportCode(entry.status);
    const char* const reason = entry.status == 414   ? "URI Too Long"
                               : entry.status == 408 ? "Request Timeout"
                               : entry.status == 503 ? "Service Unavailable"
                                                     : "Bad Request";
    const std::string retry =
        entry.status == 503 ? absl::StrCat("Retry-After: ", kRetrySeconds, "\r\n") : "";
    const std::string body = TransportError(entry.status, "");
    const std::string answer = absl::StrCat(
        "HTTP/1.1 ", entry.status, " ", reason, "\r\n", retry, "Content-Type: ", kJsonType,
        "\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
    connection.write(answer.data(), answer.size());
  }

  // Of a request whose head the library did not come through: what its first line says.
  static void NameRequest(const Connection& connection, AccessEntry& entry) {
    int port = 0;
    connection.get_remote_ip_and_port(entry.peer, port);
    const std::vector<std::string> words = absl::StrSplit(connection.request_line(), ' ');
    if (IsMethod(words[0])) entry.method = words[0];
    if (words.size() > 1) entry.path = words[1].substr(0, words[1].find('?'));
  }

  // Answers are neither compressed nor cut into ranges.
  void SetUp(httplib::Request& request) const {
    current().request = &request;
    request.path = OriginForm(request.path);
    current().exchange.entry.path = request.path;
    const std::string_view inside = Inside(request.path);
    request.path = inside.empty() ? "/" : std::string(inside);
    request.headers.erase("Accept-Encoding");
    request.ranges.clear();
    Exchange& exchange = current().exchange;
    // The library would ask for a body before anybody has looked at the head.
    exchange.expects_continue =
        request.version == "HTTP/1.1" &&
        absl::EqualsIgnoreCase(request.get_header_value("Expect"), "100-continue");
    request.headers.erase("Expect");
    HttpRequest& ours = exchange.request;
    for (const auto& [name, value] : request.headers) {
      if (!IsMadeUp(name)) ours.headers.emplace_back(absl::AsciiStrToLower(name), value);
    }
    const std::vector<std::string> ids = ours.Values("x-request-id");
    ours.id = !ids.empty() && IsPlainId(ids[0]) ? ids[0] : NewRequestId();
    ours.method = request.method;
    ours.path = request.path;
    ours.peer = request.remote_addr;
    exchange.entry.request_id = ours.id;
    exchange.entry.peer = ours.peer;
    exchange.entry.method = ours.method;
  }

  // A client that takes us for a proxy sends the whole address, which counts as its path.
  static std::string OriginForm(const std::string& target) {
    if (!absl::StartsWithIgnoreCase(target, "http://") &&
        !absl::StartsWithIgnoreCase(target, "https://")) {
      return target;
    }
    const size_t path = target.find('/', target.find("://") + 3);
    return path == std::string::npos ? "/" : target.substr(path);
  }

  // What of a path is behind the prefix, if it begins with that.
  std::string_view Inside(std::string_view path) const {
    const size_t size = options_.prefix.size();
    const bool beneath =
        path.starts_with(options_.prefix) && (path.size() == size || path[size] == '/');
    return beneath ? path.substr(size) : path;
  }

  // Everything that can be said without the body.
  HandlerResponse Route(const httplib::Request& request, httplib::Response& response) {
    current().place->SetBusy();
    if (!HasOneHost(request)) return Refuse(response, 400);
    const Methods* const methods = Find(request.path);
    if (methods == nullptr) return Refuse(response, 404);
    const std::string method = request.method == "HEAD" ? "GET" : request.method;
    if (IsPreflight(request)) return AnswerPreflight(*methods, request, response);
    if (!methods->contains(method)) {
      SetAllow(*methods, response);
      return Refuse(response, 405);
    }
    const int wrong = WrongFraming(request);
    if (wrong != 0) return Refuse(response, wrong);
    if (options_.local_pages_only && method == "POST" && IsOfNamedPage(request) &&
        !IsOfAllowedPage(request)) {
      return Refuse(response, 403);
    }
    if (method == "POST" && HasBody(request)) return AwaitBody(request, response);
    if (HasBody(request)) current().exchange.close = true;  // it is left unread
    Dispatch(request, response);
    return HandlerResponse::Handled;
  }

  HandlerResponse AwaitBody(const httplib::Request& request, httplib::Response& response) {
    Current& now = current();
    if (options_.door) {
      Reply reply(&response, now.connection, &now.exchange);
      if (!options_.door(now.exchange.request, reply)) {
        response.set_header("x-request-id", now.exchange.request.id);
        response.set_header("Connection", "close");
        now.exchange.close = true;  // the body is left unread
        return HandlerResponse::Handled;
      }
    }
    now.place->SetReading(now.exchange.entry.notes.tenant);
    now.exchange.body = std::make_unique<BodyRoom::Body>(&bodies_, now.exchange.entry.notes.tenant);
    now.connection->WatchBody({.gives_way = [place = now.place] { return place->MustGiveWay(); },
                               .has_room = [body = now.exchange.body.get()](
                                               int64_t bytes) { return body->Take(bytes); }});
    if (IsChunked(request)) {
      now.connection->ExpectChunks();
    } else {  // grown step by step it would leave pieces of half its size behind
      now.request->body.reserve(request.get_header_value<uint64_t>("Content-Length"));
    }
    if (now.exchange.expects_continue) {
      now.connection->write(kContinue, sizeof kContinue - 1);
    }
    return HandlerResponse::Unhandled;
  }

  using Methods = HttpRoutes::mapped_type;
  const Methods* Find(const std::string& path) const {
    if (const auto route = routes_.find(path); route != routes_.end()) return &route->second;
    for (const auto& [pattern, methods] : routes_) {
      const std::string_view begin(pattern.data(), pattern.size() - 1);
      if (pattern.ends_with('*') && path.starts_with(begin)) return &methods;
    }
    return nullptr;
  }

  static std::string NamesOf(const Methods& methods) {
    std::string names;
    for (const auto& [name, handler] : methods) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", name);
    }
    return names;
  }
  static void SetAllow(const Methods& methods, httplib::Response& response) {
    response.set_header("Allow", NamesOf(methods));
  }

  // The path of a request whose method is a word that the library does not know.
  const Methods* FindForUnknownMethod(const std::string& request_line) const {
    const std::vector<std::string> words = absl::StrSplit(request_line, ' ');
    static const auto* const known = new std::set<std::string>{
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"};
    if (words.size() != 3 || !IsMethod(words[0]) || known->contains(words[0]) ||
        (words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0")) {
      return nullptr;
    }
    return Find(words[1].substr(0, words[1].find('?')));
  }

  // Browsers say where the page that sends a body came from. An address cannot be made to mean
  // another machine; a name can.
  static bool IsOfNamedPage(const httplib::Request& request) {
    if (!request.has_header("Origin")) return false;
    const std::string origin = request.get_header_value("Origin");
    const size_t begin = origin.find("://");
    if (begin == std::string::npos) return true;
    const std::string_view rest = std::string_view(origin).substr(begin + 3);
    if (rest.starts_with('[')) return false;
    const std::string_view host = rest.substr(0, rest.find(':'));
    const auto of_address = [](char c) { return absl::ascii_isdigit(c) || c == '.'; };
    return host != "localhost" && !std::all_of(host.begin(), host.end(), of_address);
  }

  bool IsOfAllowedPage(const httplib::Request& request) const {
    return request.has_header("Origin") &&
           options_.origins.Allows(request.get_header_value("Origin"));
  }

  // A browser's question before it lets a page of another origin call.
  bool IsPreflight(const httplib::Request& request) const {
    return request.method == "OPTIONS" && request.has_header("Access-Control-Request-Method") &&
           IsOfAllowedPage(request);
  }

  static HandlerResponse AnswerPreflight(const Methods& methods, const httplib::Request& request,
                                         httplib::Response& response) {
    response.set_header("Access-Control-Allow-Methods", NamesOf(methods));
    response.set_header("Access-Control-Max-Age", kPreflightSeconds);
    const char* const asked = "Access-Control-Request-Headers";
    if (request.has_header(asked)) {
      response.set_header("Access-Control-Allow-Headers", request.get_header_value(asked));
    }
    response.status = current().exchange.entry.status = 204;
    return HandlerResponse::Handled;
  }

  // The library promises ranges, which are not served, and to keep connections that we close; and
  // where the client closes as well, it says so a second time.
  void CorrectHeaders(const httplib::Request& request, httplib::Response& response) const {
    response.headers.erase("Accept-Ranges");
    if (response.get_header_value("Connection") == "close") {
      response.headers.erase("Keep-Alive");
      response.headers.erase("Connection");
      response.set_header("Connection", "close");
    }
    if (options_.origins.none()) return;
    response.set_header("Vary", "Origin");
    if (!IsOfAllowedPage(request)) return;
    response.set_header("Access-Control-Allow-Origin", request.get_header_value("Origin"));
    response.set_header("Access-Control-Expose-Headers", "*");
  }

  static bool IsChunked(const httplib::Request& request) {
    return request.has_header("Transfer-Encoding");
  }

  static bool HasBody(const httplib::Request& request) {
    return IsChunked(request) || (request.has_header("Content-Length") &&
                                  request.get_header_value("Content-Length") != "0");
  }

  // As RFC 9112 wants it of every request; older ones have none.
  static bool HasOneHost(const httplib::Request& request) {
    const size_t hosts = request.get_header_value_count("Host");
    if (hosts != 1) return hosts == 0 && request.version != "HTTP/1.1";
    return IsHost(request.get_header_value("Host"));
  }

  // The status for a body that is not taken; 0 if all is well.
  int WrongFraming(const httplib::Request& request) const {
    const bool chunked = IsChunked(request);
    const size_t lengths = request.get_header_value_count("Content-Length");
    if (lengths > 1 || (chunked && lengths > 0)) return 400;
    if (request.get_header_value_count("Transfer-Encoding") > 1) return 400;
    if (chunked && request.version != "HTTP/1.1") return 400;
    int64_t length = 0;
    if (lengths == 1) {
      const std::string digits = request.get_header_value("Content-Length");
      const bool plain = std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit);
      if (!plain || !absl::SimpleAtoi(digits, &length)) return 400;
    }
    if (length > options_.body_bytes) return 413;
    if (chunked &&
        !absl::EqualsIgnoreCase(request.get_header_value("Transfer-Encoding"), "chunked")) {
      return 501;
    }
    if (!HasBody(request) || request.method != "POST") return 0;
    if (request.has_header("Content-Encoding")) return 415;
    const std::string type = absl::AsciiStrToLower(request.get_header_value("Content-Type"));
    const std::string base(absl::StripAsciiWhitespace(type.substr(0, type.find(';'))));
    return base == kJsonType ? 0 : 415;
  }

  HandlerResponse Refuse(httplib::Response& response, int status) const {
    response.status = status;
    DescribeError(response);
    return HandlerResponse::Handled;
  }

  void Dispatch(const httplib::Request& request, httplib::Response& response) {
    Current& now = current();
    if (!now.place->SetBusy()) {
      Refuse(response, 503);
      return;
    }
    now.exchange.request.body = request.body;
    response.set_header("x-request-id", now.exchange.request.id);
    const std::string method = request.method == "HEAD" ? "GET" : request.method;
    Reply reply(&response, now.connection, &now.exchange);
    Find(request.path)->at(method)(now.exchange.request, reply);
  }

  // What the library refused by itself, or we before the route.
  void DescribeError(httplib::Response& response) const {
    Current& now = current();
    if (!response.body.empty()) return;  // the route has said it
    if (const int status = StatusOf(now.connection->fault())) response.status = status;
    if (response.status == 400 && now.exchange.request.id.empty()) {
      if (const Methods* methods = FindForUnknownMethod(now.connection->request_line())) {
        response.status = 405;
        SetAllow(*methods, response);
      }
    }
    now.exchange.entry.status = response.status;
    now.exchange.entry.notes.code = TransportCode(response.status);
    now.exchange.close = true;  // where the next request would begin is not known
    response.set_header("Connection", "close");
    if (response.status == 503) response.set_header("Retry-After", kRetrySeconds);
    if (!now.exchange.request.id.empty()) {  // its headers were read
      response.set_header("x-request-id", now.exchange.request.id);
    }
    response.set_content(TransportError(response.status, now.exchange.request.path), kJsonType);
  }

  const TransportOptions options_;
  const HttpRoutes routes_;
  AccessLog* const log_;
  const std::unique_ptr<Listener> listener_;
  BodyRoom bodies_;
  std::atomic<bool> draining_{false};
  std::atomic<int> active_{0};
  ConnectionThreads threads_;
};

HttpTransport::HttpTransport() = default;

HttpTransport::~HttpTransport() { Stop(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<HttpTransport>> HttpTransport::Start(const TransportOptions& options,
                                                                    HttpRoutes routes,
                                                                    AccessLog* log) {
  auto listener = Listener::Listen({.address = options.address,
                                    .flag = "--http-address",
                                    .spare_descriptors = kSpareDescriptors});
  if (!listener.ok()) return listener.status();
  std::unique_ptr<HttpTransport> transport(new HttpTransport);
  transport->library_ =
      std::make_unique<Library>(options, std::move(routes), log, *std::move(listener));
  transport->accept_thread_ = std::thread([raw = transport->library_.get()] { raw->AcceptLoop(); });
  return transport;
}

int HttpTransport::port() const { return library_->port(); }

void HttpTransport::StartDrain() { library_->StartDrain(); }

void HttpTransport::Stop(absl::Duration grace) {
  if (!accept_thread_.joinable()) return;
  library_->Stop(grace);
  accept_thread_.join();
}

}  // namespace lorica
