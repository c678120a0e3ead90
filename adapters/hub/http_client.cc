#include "adapters/hub/http_client.h"

#include <curl/curl.h>
#include <sys/socket.h>

#include <memory>
#include <mutex>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/hub/address_rules.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/steady_now.h"

namespace lorica {
namespace {

constexpr char kUserAgent[] = "lorica";

struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using HeaderList = std::unique_ptr<curl_slist, FreeList>;

struct EndHandle {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
using Handle = std::unique_ptr<CURL, EndHandle>;

CURLSH* NewShare() {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  CURLSH* const share = curl_share_init();
  if (share == nullptr) return nullptr;
  curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_CONNECT);
  curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
  return share;
}

HeaderList ListOf(const HttpClientRequest& request) {
  curl_slist* list = curl_slist_append(nullptr, "Accept-Encoding: identity");
  for (const auto& [name, value] : request.headers) {
    list = curl_slist_append(list, absl::StrCat(name, ": ", value).c_str());
  }
  // libcurl signs the headers it is given; S3 wants this one, and there is no body.
  if (request.aws) list = curl_slist_append(list, "x-amz-content-sha256: UNSIGNED-PAYLOAD");
  if (request.aws && !request.aws->session_token.empty()) {
    list = curl_slist_append(
        list, absl::StrCat("x-amz-security-token: ", request.aws->session_token).c_str());
  }
  return HeaderList(list);
}

// libcurl has one code for a handshake that failed and for one that the network cut; its text
// names OpenSSL's error for the first, and the socket's for the second.
bool IsCutHandshake(absl::string_view text) {
  return !absl::StrContains(text, "SSL routines") || absl::StrContains(text, "unexpected eof");
}

// What a request failed of, as whoever asked for an adapter is told it.
absl::Status InOurWords(CURLcode code, absl::string_view text) {
  const auto not_now = [](absl::string_view what) {
    return absl::UnavailableError(absl::StrCat(
        what, ": ask again, and if it stays so have the server's operator look into its log"));
  };
  const auto refused = [](absl::string_view what) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": the server's operator finds more in its log"));
  };
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return not_now(" is not found by its name");
    case CURLE_COULDNT_CONNECT:
      return not_now(" cannot be connected to");
    case CURLE_OPERATION_TIMEDOUT:
      return not_now(" did not answer in time");
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      return not_now(" ended the connection too soon");
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
      return not_now(" answers with what is no HTTP");
    case CURLE_SSL_CONNECT_ERROR:
      if (IsCutHandshake(text)) return not_now(" ended the connection too soon");
      return refused(" cannot be spoken to over TLS");
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
      return refused(" has a certificate that this server does not trust");
    default:
      return not_now(" cannot be asked");
  }
}

}  // namespace

std::string HttpClientReply::Header(const std::string& lower_name) const {
  const auto found = headers.find(lower_name);
  return found == headers.end() ? "" : found->second;
}

// One request while it runs; libcurl calls back into it.
struct HttpClient::Transfer {
  Transfer(const HttpClientOptions& options, const HttpClientRequest& request, HttpBody* body,
           CURL* curl)
      : options(options), request(request), body(body), curl(curl) {}

  const HttpClientOptions& options;
  const HttpClientRequest& request;
  HttpBody* const body;
  CURL* const curl;
  HttpClientReply reply;
  absl::Status status;  // why we ended it
  bool enough = false;  // we ended it, and nothing is wrong
  bool body_begun = false;
  int64_t header_bytes = 0;
  int64_t body_bytes = 0;
  absl::Time begun = SteadyNow();
  absl::Time window_begun = begun;
  int64_t window_bytes = 0;

  void SetUp(const curl_slist* headers);
  absl::Status Result(CURLcode code, const char* text);
  absl::Status OnHeader(std::string_view line);
  absl::Status OnBody(std::string_view bytes);
  absl::Status CheckTime();
  // Of what `told` says to whoever asked, and to the operator, maybe with more, of which host.
  absl::Status Fail(absl::StatusCode code, absl::string_view told, absl::string_view more) const {
    if (options.on_failure != nullptr) {
      options.on_failure(absl::Status(code, absl::StrCat(Quoted(request.url.host), more)));
    }
    return absl::Status(code, absl::StrCat(options.called, told));
  }
  absl::Status Fail(absl::StatusCode code, absl::string_view told) const {
    return Fail(code, told, told);
  }

  static size_t HeaderCallback(char* data, size_t size, size_t count, void* self) {
    auto* transfer = static_cast<Transfer*>(self);
    transfer->status = transfer->OnHeader({data, size * count});
    return transfer->status.ok() ? size * count : 0;
  }
  static size_t BodyCallback(char* data, size_t size, size_t count, void* self) {
    auto* transfer = static_cast<Transfer*>(self);
    transfer->status = transfer->OnBody({data, size * count});
    return transfer->status.ok() && !transfer->enough ? size * count : 0;
  }
  static int ProgressCallback(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto* transfer = static_cast<Transfer*>(self);
    if (transfer->status.ok()) transfer->status = transfer->CheckTime();
    return transfer->status.ok() ? 0 : 1;
  }
  static curl_socket_t SocketCallback(void* self, curlsocktype, curl_sockaddr* address) {
    auto* transfer = static_cast<Transfer*>(self);
    if (!transfer->request.any_address && !IsPublicAddress(&address->addr)) {
      transfer->status = transfer->Fail(absl::StatusCode::kFailedPrecondition,
                                        " leads to a place whose address is not public",
                                        ", which it leads to, has an address that is not public");
      return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  }
};

void HttpClient::Transfer::SetUp(const curl_slist* headers) {
  const auto set_ms = [this](CURLoption option, absl::Duration limit) {
    curl_easy_setopt(curl, option, static_cast<long>(absl::ToInt64Milliseconds(limit)));
  };
  curl_easy_setopt(curl, CURLOPT_URL, request.url.text.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, kUserAgent);
  curl_easy_setopt(curl, CURLOPT_PROXY, "");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L);  // a look-up that hangs is left to itself
  curl_easy_setopt(curl, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L);
  if (request.aws) {
    curl_easy_setopt(curl, CURLOPT_AWS_SIGV4,
                     absl::StrCat("aws:amz:", request.aws->region, ":s3").c_str());
    curl_easy_setopt(curl, CURLOPT_USERNAME, request.aws->access_key.c_str());
    curl_easy_setopt(curl, CURLOPT_PASSWORD, request.aws->secret_key.c_str());
  }
  if (!options.ca_file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, options.ca_file.c_str());
  set_ms(CURLOPT_CONNECTTIMEOUT_MS, options.limits.connect);
  set_ms(CURLOPT_TIMEOUT_MS, options.limits.total);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &HeaderCallback);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &BodyCallback);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, this);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &ProgressCallback);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, this);
  curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, &SocketCallback);
  curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, this);
}

absl::Status HttpClient::Transfer::OnHeader(std::string_view line) {
  header_bytes += std::ssize(line);
  if (std::ssize(line) > kHeaderLineBytesMax || header_bytes > kHeadersBytesMax) {
    return Fail(absl::StatusCode::kFailedPrecondition, " answers with headers that are too long");
  }
  if (line.substr(0, 5) == "HTTP/") {  // also after an interim reply
    reply.headers.clear();
    return absl::OkStatus();
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return absl::OkStatus();
  const absl::string_view name(line.data(), colon);
  const absl::string_view value(line.data() + colon + 1, line.size() - colon - 1);
  reply.headers[absl::AsciiStrToLower(name)] = std::string(absl::StripAsciiWhitespace(value));
  return absl::OkStatus();
}

absl::Status HttpClient::Transfer::OnBody(std::string_view bytes) {
  if (!body_begun) {
    body_begun = true;
    long status_code = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status_code);
    reply.status = static_cast<int>(status_code);
    // Pages that explain an error are not read.
    enough = body == nullptr || (reply.status != 200 && reply.status != 206);
    if (enough) return absl::OkStatus();
    const std::string encoding = reply.Header("content-encoding");
    if (!encoding.empty() && encoding != "identity") {
      return Fail(absl::StatusCode::kFailedPrecondition,
                  absl::StrCat(" sends the file compressed, as ", Quoted(encoding)));
    }
    if (absl::Status s = body->Begin(reply); !s.ok()) return s;
  }
  body_bytes += std::ssize(bytes);
  absl::Status written = body->Write(bytes);
  enough = written.ok() && body->Enough();
  return written;
}

absl::Status HttpClient::Transfer::CheckTime() {
  if (options.stopped != nullptr && options.stopped->load()) {
    return absl::CancelledError("the server is shutting down");
  }
  const absl::Time now = SteadyNow();
  const HttpLimits& limits = options.limits;
  if (!body_begun) {
    window_begun = now;
    if (now - begun <= limits.head) return absl::OkStatus();
    return Fail(absl::StatusCode::kUnavailable,
                absl::StrCat(" did not answer within ", absl::FormatDuration(limits.head)));
  }
  if (now - window_begun < limits.slow_for) return absl::OkStatus();
  const double wanted =
      static_cast<double>(limits.slow_bytes_per_s) * absl::ToDoubleSeconds(now - window_begun);
  if (static_cast<double>(body_bytes - window_bytes) < wanted) {
    return Fail(absl::StatusCode::kUnavailable, " sends too slowly");
  }
  window_begun = now;
  window_bytes = body_bytes;
  return absl::OkStatus();
}

absl::Status HttpClient::Transfer::Result(CURLcode code, const char* text) {
  if (!status.ok()) return status;
  if (code == CURLE_OK || enough) {
    long status_code = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status_code);
    reply.status = static_cast<int>(status_code);
    const bool has_body = reply.status == 200 || reply.status == 206;
    if (has_body && body != nullptr && !body_begun) {  // an empty one
      return body->Begin(reply);
    }
    return absl::OkStatus();
  }
  // libcurl's text names addresses, too.
  const absl::Status told = InOurWords(code, text);
  return Fail(told.code(), told.message(),
              absl::StrCat(": ", text[0] != '\0' ? text : curl_easy_strerror(code)));
}

HttpClient::HttpClient(HttpClientOptions options)
    : options_(std::move(options)), share_(NewShare()) {}

HttpClient::~HttpClient() { curl_share_cleanup(share_); }

// A handle of its own for each request: libcurl 7.88 reads freed memory where the first header of a
// reply is folded and the handle has had a reply before. Connections are kept in the share.
absl::StatusOr<HttpClientReply> HttpClient::Send(const HttpClientRequest& request, HttpBody* body) {
  const Handle handle(share_ == nullptr ? nullptr : curl_easy_init());
  if (handle == nullptr) return absl::UnavailableError("no memory for a connection");
  CURL* const curl = handle.get();
  curl_easy_setopt(curl, CURLOPT_SHARE, share_);
  Transfer transfer(options_, request, body, curl);
  const HeaderList headers = ListOf(request);
  transfer.SetUp(headers.get());
  char text[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, text);
  const CURLcode code = curl_easy_perform(curl);
  if (absl::Status s = transfer.Result(code, text); !s.ok()) return s;
  return std::move(transfer.reply);
}

}  // namespace lorica
