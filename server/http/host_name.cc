#include "server/http/host_name.h"

#include <arpa/inet.h>

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace lorica {
namespace {

constexpr int kPortMax = 65535;

bool IsPlain(char c) { return absl::ascii_isalnum(c) || absl::StrContains("-._~!$&'()*+,;=", c); }

bool IsName(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (IsPlain(text[i])) continue;
    const bool escaped = text[i] == '%' && text.size() - i > 2 &&
                         absl::ascii_isxdigit(text[i + 1]) && absl::ascii_isxdigit(text[i + 2]);
    if (!escaped) return false;
    i += 2;
  }
  return true;
}

bool IsIpv6(std::string_view text) {
  const size_t end = std::min(text.find('%'), text.size());
  const std::string_view zone = text.substr(end);  // with its sign, escaped or not
  in6_addr address{};
  return (zone.empty() || IsName(zone.substr(1))) &&
         ::inet_pton(AF_INET6, std::string(text.substr(0, end)).c_str(), &address) == 1;
}

// With its colon; none is one, too.
bool IsPort(std::string_view text) {
  if (text.empty()) return true;
  if (text[0] != ':') return false;
  int port = 0;
  for (const char c : text.substr(1)) {
    if (!absl::ascii_isdigit(c)) return false;
    port = port * 10 + (c - '0');
    if (port > kPortMax) return false;
  }
  return true;
}

}  // namespace

bool IsHost(std::string_view text) {
  if (!text.starts_with('[')) {
    const size_t colon = std::min(text.find(':'), text.size());
    return IsName(text.substr(0, colon)) && IsPort(text.substr(colon));
  }
  const size_t end = text.find(']');
  return end != std::string_view::npos && IsIpv6(text.substr(1, end - 1)) &&
         IsPort(text.substr(end + 1));
}

}  // namespace lorica
