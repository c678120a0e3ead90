// One HTTP request at a time, with every bound set.
//
// Follows no redirects and repeats nothing: what a reply means is its caller's business.
// Certificates are always verified, proxies of the environment are not used, nothing is
// decompressed, and a socket is only made to a public address unless the request says
// otherwise. Belongs to one thread and blocks it; connections are kept between requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/hub/url.h"

namespace lorica {

inline constexpr int64_t kHeaderLineBytesMax = 8 << 10;
inline constexpr int64_t kHeadersBytesMax = 64 << 10;  // of one reply

struct HttpLimits {
  absl::Duration connect = absl::Seconds(10);  // name, TCP and TLS
  absl::Duration head = absl::Seconds(20);     // until the headers are complete
  absl::Duration total = absl::Minutes(30);
  // A body slower than this, over `slow_for`, is given up.
  int64_t slow_bytes_per_s = 1024;
  absl::Duration slow_for = absl::Seconds(20);
};

struct HttpClientOptions {
  HttpLimits limits;
  std::string ca_file;                         // empty: the system's certificates
  const std::atomic<bool>* stopped = nullptr;  // true: give up soon
  // What errors call the server that was asked: whoever asks need not know where it is.
  std::string called = "the hub";
  // Told each error with the host and all that is known, for the operator. Any thread.
  std::function<void(const absl::Status& failure)> on_failure;
};

// Signs a request for S3 (AWS Signature Version 4).
struct AwsKeys {
  std::string access_key;
  std::string secret_key;
  std::string session_token;  // empty: none
  std::string region;
};

struct HttpClientRequest {
  Url url;
  bool head = false;         // headers alone
  bool any_address = false;  // the operator named this place: private addresses are fine
  std::vector<std::pair<std::string, std::string>> headers;
  std::optional<AwsKeys> aws;
};

struct HttpClientReply {
  int status = 0;
  std::map<std::string, std::string> headers;  // lower-case names; the last one counts

  // Empty when there is none.
  std::string Header(const std::string& lower_name) const;
};

// Where the body of a reply of status 200 or 206 goes. An error ends the request.
class HttpBody {
 public:
  virtual ~HttpBody() = default;
  virtual absl::Status Begin(const HttpClientReply& reply) = 0;
  virtual absl::Status Write(std::string_view bytes) = 0;
  // After Write: that nothing more is wanted. Ends the request, without an error.
  virtual bool Enough() const { return false; }
};

class HttpClient {
 public:
  explicit HttpClient(HttpClientOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Unavailable: no connection, too slow, or cut off: trying again may help.
  // FailedPrecondition: a forbidden address, a certificate that does not verify, headers
  // beyond their bounds, a compressed body. Cancelled: `stopped`. Others: the body's.
  // `body` may be null when the request is for headers alone.
  absl::StatusOr<HttpClientReply> Send(const HttpClientRequest& request, HttpBody* body);

 private:
  struct Transfer;
  const HttpClientOptions options_;
  void* const share_;  // CURLSH: its connections
};

}  // namespace lorica
