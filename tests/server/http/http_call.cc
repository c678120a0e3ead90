#include "tests/server/http/http_call.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "adapters/hub/steady_now.h"

namespace lorica {
namespace {

constexpr absl::Duration kCallLimit = absl::Seconds(30);

std::string Unchunk(std::string_view text) {
  std::string body;
  while (true) {
    const size_t line = text.find("\r\n");
    if (line == std::string_view::npos) return body;
    const size_t size = std::strtoul(std::string(text.substr(0, line)).c_str(), nullptr, 16);
    if (size == 0 || text.size() < line + 2 + size) return body;
    body += text.substr(line + 2, size);
    text.remove_prefix(std::min(text.size(), line + 2 + size + 2));
  }
}

}  // namespace

std::vector<std::string> HttpAnswer::events() const {
  std::vector<std::string> events;
  for (absl::string_view block : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    if (absl::StartsWith(block, "data: ")) events.emplace_back(block.substr(6));
  }
  return events;
}

HttpSocket::HttpSocket(int port, int receive_bytes) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
  if (receive_bytes > 0) {
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Close();
}

HttpSocket::~HttpSocket() {
  if (socket_ >= 0) ::close(socket_);
}

void HttpSocket::Close() {
  const linger reset{1, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  ::close(socket_);
  socket_ = -1;
}

void HttpSocket::Send(const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::send(socket_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (count <= 0) return;
    done += count;
  }
}

std::string HttpSocket::Read(absl::Duration limit, const std::string& enough) {
  std::string bytes;
  const absl::Time end = SteadyNow() + limit;
  while (socket_ >= 0 && SteadyNow() < end) {
    if (!enough.empty() && absl::StrContains(bytes, enough)) break;
    pollfd entry{socket_, POLLIN, 0};
    ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(end - SteadyNow())));
    if ((entry.revents & (POLLIN | POLLHUP | POLLERR)) == 0) break;
    char buffer[16384];
    const ssize_t count = ::recv(socket_, buffer, sizeof buffer, 0);
    if (count <= 0) break;
    bytes.append(buffer, count);
  }
  return bytes;
}

std::string RequestBytes(const std::string& method, const std::string& path,
                         const std::string& body, const HttpHeaders& headers) {
  std::string bytes = absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: test\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&bytes, name, ": ", value, "\r\n");
  if (method == "POST") {
    absl::StrAppend(&bytes, "Content-Type: application/json\r\nContent-Length: ", body.size(),
                    "\r\n");
  }
  return absl::StrCat(bytes, "\r\n", body);
}

HttpAnswer ParseAnswer(const std::string& bytes) {
  HttpAnswer answer;
  const size_t head_end = bytes.find("\r\n\r\n");
  if (head_end == std::string::npos || bytes.size() < 12) return answer;
  answer.status = std::atoi(bytes.c_str() + 9);
  const std::vector<std::string> lines = absl::StrSplit(bytes.substr(0, head_end), "\r\n");
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t colon = lines[i].find(": ");
    if (colon == std::string::npos) continue;
    answer.headers[absl::AsciiStrToLower(lines[i].substr(0, colon))] = lines[i].substr(colon + 2);
  }
  answer.body = bytes.substr(head_end + 4);
  if (answer.headers.contains("transfer-encoding")) answer.body = Unchunk(answer.body);
  return answer;
}

HttpAnswer HttpCall(int port, const std::string& method, const std::string& path,
                    const std::string& body, HttpHeaders headers) {
  headers.emplace_back("Connection", "close");
  HttpSocket socket(port);
  socket.Send(RequestBytes(method, path, body, headers));
  return ParseAnswer(socket.Read(kCallLimit));
}

HttpAnswer Post(int port, const std::string& path, const nlohmann::json& body,
                HttpHeaders headers) {
  return HttpCall(port, "POST", path, body.dump(), std::move(headers));
}

}  // namespace lorica
