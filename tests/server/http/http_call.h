// A small HTTP client whose every byte a test can choose, and a server to call.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace lorica {

struct HttpAnswer {
  int status = 0;                              // 0: no answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without chunks' frames

  nlohmann::json json() const { return nlohmann::json::parse(body, nullptr, false); }
  // The payloads of an event stream; comments are left out.
  std::vector<std::string> events() const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// A connection to 127.0.0.1.
class HttpSocket {
 public:
  explicit HttpSocket(int port, int receive_bytes = 0);
  ~HttpSocket();
  HttpSocket(const HttpSocket&) = delete;
  HttpSocket& operator=(const HttpSocket&) = delete;

  void Send(const std::string& bytes);
  // What comes until the other end closes, `limit` has passed or `enough` is in it.
  std::string Read(absl::Duration limit, const std::string& enough = "");
  void Close();  // with a reset
  int descriptor() const { return socket_; }

 private:
  int socket_;
};

std::string RequestBytes(const std::string& method, const std::string& path,
                         const std::string& body, const HttpHeaders& headers = {});
HttpAnswer ParseAnswer(const std::string& bytes);
// One request on a connection of its own. A body goes out as JSON.
HttpAnswer HttpCall(int port, const std::string& method, const std::string& path,
                    const std::string& body = "", HttpHeaders headers = {});
HttpAnswer Post(int port, const std::string& path, const nlohmann::json& body,
                HttpHeaders headers = {});

}  // namespace lorica
