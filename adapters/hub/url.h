// Web addresses, read by one parser: the one that connects.
//
// What a parser and a client read differently is how a request ends up elsewhere, so
// this is libcurl's own parser, and the client is given the text that it wrote. Only
// http and https; user names, control characters, backslashes and zone ids are refused.
// Plain values and pure functions.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lorica {

inline constexpr int kUrlBytesMax = 8192;

struct Url {
  std::string text;    // whole, normalised
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case; IPv6 without brackets
  int port = 0;

  bool secure() const { return scheme == "https"; }
  // "host:port", the unit that credentials belong to.
  std::string place() const;
};

// InvalidArgument says what is wrong, without quoting the whole of it.
absl::StatusOr<Url> ParseUrl(std::string_view text);
// Where a Location header leads from `base`: an address, or a path on the same place.
absl::StatusOr<Url> ResolveUrl(const Url& base, std::string_view location);
// Whether a host is this machine by its name alone: "localhost", "127.…", "::1".
bool IsLoopbackHost(const std::string& host);
// `text` as one segment of a path: everything but letters, digits and -._~ is escaped.
std::string EscapeSegment(std::string_view text);

}  // namespace lorica
