#include "adapters/hub/url.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

struct FreeUrl {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using UrlHandle = std::unique_ptr<CURLU, FreeUrl>;

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the address ", what));
}

absl::Status CheckText(std::string_view text) {
  if (text.empty()) return Bad("is empty");
  if (text.size() > kUrlBytesMax) return Bad("is too long");
  const bool plain = std::all_of(text.begin(), text.end(),
                                 [](unsigned char c) { return c > 0x20 && c < 0x7f && c != '\\'; });
  if (!plain) return Bad("holds blanks, control characters or a backslash");
  return absl::OkStatus();
}

std::string PartOf(CURLU* url, CURLUPart part, unsigned int flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
  std::string copy = text;
  curl_free(text);
  return copy;
}

// The library takes any byte that is written as %XX.
bool IsPlainHost(const std::string& host) {
  return std::all_of(host.begin(), host.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == ':';
  });
}

// Lower case, without the brackets of a number of IPv6.
std::string HostOf(CURLU* handle) {
  const std::string host = absl::AsciiStrToLower(PartOf(handle, CURLUPART_HOST));
  return host.size() > 2 && host.front() == '[' ? host.substr(1, host.size() - 2) : host;
}
std::string HostOf(const std::string& text) {
  UrlHandle handle(curl_url());
  curl_url_set(handle.get(), CURLUPART_URL, text.c_str(), 0);
  return HostOf(handle.get());
}

absl::StatusOr<Url> Read(CURLU* handle) {
  Url url;
  url.scheme = absl::AsciiStrToLower(PartOf(handle, CURLUPART_SCHEME));
  if (url.scheme != "http" && url.scheme != "https") {
    return Bad(absl::StrCat("begins with ", Quoted(url.scheme), ", not with https"));
  }
  if (!PartOf(handle, CURLUPART_USER).empty() || !PartOf(handle, CURLUPART_PASSWORD).empty()) {
    return Bad("holds a user name");
  }
  if (!PartOf(handle, CURLUPART_ZONEID).empty()) return Bad("holds a zone id");
  url.host = HostOf(handle);
  if (url.host.empty()) return Bad("names no host");
  if (!IsPlainHost(url.host)) return Bad("names a host with odd characters");
  if (!absl::SimpleAtoi(PartOf(handle, CURLUPART_PORT, CURLU_DEFAULT_PORT), &url.port) ||
      url.port < 1 || url.port > 65535) {
    return Bad("has no valid port");
  }
  curl_url_set(handle, CURLUPART_FRAGMENT, nullptr, 0);
  url.text = PartOf(handle, CURLUPART_URL);
  // A number that is partly written as %XX is seen as one only when it is read again.
  if (HostOf(url.text) != url.host) return Bad("names a host with odd characters");
  return url;
}

}  // namespace

std::string Url::place() const { return absl::StrCat(host, ":", port); }

absl::StatusOr<Url> ParseUrl(std::string_view text) {
  if (absl::Status s = CheckText(text); !s.ok()) return s;
  UrlHandle handle(curl_url());
  if (curl_url_set(handle.get(), CURLUPART_URL, std::string(text).c_str(),
                   CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
    return Bad("cannot be read");
  }
  return Read(handle.get());
}

absl::StatusOr<Url> ResolveUrl(const Url& base, std::string_view location) {
  if (absl::Status s = CheckText(location); !s.ok()) return s;
  UrlHandle handle(curl_url());
  if (curl_url_set(handle.get(), CURLUPART_URL, base.text.c_str(), 0) != CURLUE_OK ||
      curl_url_set(handle.get(), CURLUPART_URL, std::string(location).c_str(),
                   CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
    return Bad("cannot be read");
  }
  return Read(handle.get());
}

bool IsLoopbackHost(const std::string& host) {
  const bool numeric = std::all_of(host.begin(), host.end(),
                                   [](char c) { return absl::ascii_isdigit(c) || c == '.'; });
  return host == "localhost" || host == "::1" || (numeric && host.substr(0, 4) == "127.");
}

std::string EscapeSegment(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const unsigned char c : text) {
    if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out += static_cast<char>(c);
    } else {
      out += {'%', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return out;
}

}  // namespace lorica
