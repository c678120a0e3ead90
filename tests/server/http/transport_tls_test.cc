// The transport over TLS: the same requests, certificates replaced, clients that must show one.
#include <curl/curl.h>
#include <openssl/ssl.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/server_tls.h"
#include "server/http/transport.h"
#include "tests/fakes/made_certificate.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;

size_t Keep(char* bytes, size_t size, size_t count, void* into) {
  static_cast<std::string*>(into)->append(bytes, size * count);
  return size * count;
}

size_t KeepAndEnd(char* bytes, size_t size, size_t count, void* into) {
  Keep(bytes, size, count, into);
  return 0;
}

// One byte of a body, and no more.
size_t StallAfterOne(char* bytes, size_t, size_t, void* begun) {
  if (std::exchange(*static_cast<bool*>(begun), true)) return CURL_READFUNC_PAUSE;
  *bytes = '{';
  return 1;
}

class TransportTlsTest : public ::testing::Test {
 protected:
  TransportTlsTest() {
    ::signal(SIGPIPE, SIG_IGN);  // as the program does
    for (const char* name : {"one", "two", "client"}) {
      MakeCertificate(folder_, name, "127.0.0.1", absl::Now() + absl::Hours(24));
    }
    Use("one");
    Start("");
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void Use(const std::string& name) {
    for (const char* kind : {".pem", ".key"}) {
      fs::copy_file(Path(name + kind), Path(std::string("used") + kind),
                    fs::copy_options::overwrite_existing);
    }
  }
  void Start(const std::string& client_ca, int connections_max = 320) {
    transport_.reset();
    auto tls = ServerTls::Read({Path("used.pem"), Path("used.key"), client_ca});
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
    TransportOptions options;
    options.address = "127.0.0.1:0";
    options.head_time = absl::Milliseconds(400);
    options.connections_max = connections_max;
    options.tls = [this] { return tls_->context(); };
    HttpRoutes routes;
    routes["/echo"]["POST"] = [](const HttpRequest& request, HttpReply& reply) {
      reply.Send(200, std::string(request.body), "text/plain");
    };
    routes["/events"]["GET"] = [](const HttpRequest&, HttpReply& reply) {
      reply.SendEvents([](EventStream& events) {
        for (int i = 0; i < 2000 && events.Write(std::string(1000, 'x')); ++i) {
        }
      });
    };
    auto started = HttpTransport::Start(options, std::move(routes), nullptr);
    ASSERT_TRUE(started.ok()) << started.status();
    transport_ = *std::move(started);
  }
  // What curl says, and the body.
  CURLcode Ask(const std::string& path, const std::string& ca, std::string* body,
               const std::string& send = "", const std::string& own = "") {
    CURL* const curl = curl_easy_init();
    const std::string url = absl::StrCat("https://127.0.0.1:", transport_->port(), path);
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_CAINFO, Path(ca + ".pem").c_str());
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Keep);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 20L);
    curl_slist* const headers = curl_slist_append(nullptr, "Content-Type: application/json");
    if (!send.empty()) {
      curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
      curl_easy_setopt(curl, CURLOPT_POSTFIELDS, send.c_str());
      curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(send.size()));
    }
    const std::string cert = Path(own + ".pem");
    const std::string key = Path(own + ".key");
    if (!own.empty()) {
      curl_easy_setopt(curl, CURLOPT_SSLCERT, cert.c_str());
      curl_easy_setopt(curl, CURLOPT_SSLKEY, key.c_str());
    }
    const CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return code;
  }
  CURLcode Ask(const std::string& ca, const std::string& own = "") {
    std::string body;
    return Ask("/echo", ca, &body, "{}", own);
  }

  TemporaryFolder folder_;
  std::unique_ptr<ServerTls> tls_;
  std::unique_ptr<HttpTransport> transport_;
};

TEST_F(TransportTlsTest, BodiesAndStreamsComeWhole) {
  for (const size_t bytes : {size_t{2}, size_t{300'000}, size_t{4} << 20}) {
    std::string body;
    ASSERT_EQ(Ask("/echo", "one", &body, std::string(bytes, 'a')), CURLE_OK);
    EXPECT_EQ(body, std::string(bytes, 'a'));
  }
  std::string body;
  ASSERT_EQ(Ask("/events", "one", &body), CURLE_OK);
  EXPECT_EQ(body.size(), 2000u * (1000 + sizeof "data: \n\n" - 1));
}

TEST_F(TransportTlsTest, NewFilesCountForNewConnectionsAndBadOnesDoNot) {
  EXPECT_EQ(Ask("one"), CURLE_OK);
  EXPECT_EQ(Ask("two"), CURLE_PEER_FAILED_VERIFICATION);
  Use("two");
  EXPECT_EQ(Ask("one"), CURLE_OK) << "not before it is told";
  ASSERT_TRUE(tls_->Reload().ok());
  EXPECT_EQ(Ask("two"), CURLE_OK);
  EXPECT_EQ(Ask("one"), CURLE_PEER_FAILED_VERIFICATION);
  fs::copy_file(Path("one.key"), Path("used.key"), fs::copy_options::overwrite_existing);
  EXPECT_FALSE(tls_->Reload().ok());
  EXPECT_EQ(Ask("two"), CURLE_OK) << "the pair from before";
}

TEST_F(TransportTlsTest, ClientsWithoutTheRightCertificateAreTurnedAway) {
  Start(Path("client.pem"));
  EXPECT_EQ(Ask("one", "client"), CURLE_OK);
  EXPECT_NE(Ask("one"), CURLE_OK);
  EXPECT_NE(Ask("one", "two"), CURLE_OK);
}

TEST_F(TransportTlsTest, PlainTextAndStalledGreetingsAreCut) {
  HttpSocket plain(transport_->port());
  plain.Send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(plain.Read(absl::Seconds(5)).find("HTTP/"), std::string::npos);
  const absl::Time began = absl::Now();
  HttpSocket silent(transport_->port());
  HttpSocket half(transport_->port());
  half.Send(std::string("\x16\x03\x01\x02\x00\x01", 6));
  silent.Read(absl::Seconds(5));
  half.Read(absl::Seconds(5));
  EXPECT_LT(absl::Now() - began, absl::Seconds(2)) << "closed after head_time";
  EXPECT_EQ(Ask("one"), CURLE_OK);
}

TEST_F(TransportTlsTest, ABodyThatGivesWayIsToldSo) {
  Start("", /*connections_max=*/1);
  std::string told;
  long status = 0;
  CURLcode ended = CURLE_OK;
  std::thread slow([&] {
    bool begun = false;
    CURL* const curl = curl_easy_init();
    const std::string url = absl::StrCat("https://127.0.0.1:", transport_->port(), "/echo");
    curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_CAINFO, Path("one.pem").c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 5000L);
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, StallAfterOne);
    curl_easy_setopt(curl, CURLOPT_READDATA, &begun);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, KeepAndEnd);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &told);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 20L);
    ended = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
  });
  absl::SleepFor(absl::Milliseconds(300));  // its body is waited for
  const absl::Time began = absl::Now();
  EXPECT_EQ(Ask("one"), CURLE_OK);
  EXPECT_LT(absl::Now() - began, absl::Seconds(2));
  slow.join();
  EXPECT_EQ(ended, CURLE_WRITE_ERROR) << "it was told something";
  EXPECT_EQ(status, 503);
  EXPECT_NE(told.find("overloaded"), std::string::npos) << told;
}

// 200,000 new keys at once, which take longer to read than anybody may.
std::string NewKeys(SSL* tls) {
  std::string records;
  for (int i = 0; i < 200'000; ++i) {
    SSL_key_update(tls, SSL_KEY_UPDATE_NOT_REQUESTED);
    SSL_do_handshake(tls);
    char record[64];
    const int bytes = BIO_read(SSL_get_wbio(tls), record, sizeof record);
    records.append(record, std::max(bytes, 0));
  }
  return records;
}

TEST_F(TransportTlsTest, WhoOnlySendsNewKeysGivesWay) {
  Start("", /*connections_max=*/1);
  HttpSocket socket(transport_->port());
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_client_method()),
                                                             SSL_CTX_free);
  const std::unique_ptr<SSL, void (*)(SSL*)> tls(SSL_new(context.get()), SSL_free);
  SSL_set_fd(tls.get(), socket.descriptor());
  ASSERT_EQ(SSL_connect(tls.get()), 1);
  SSL_set0_wbio(tls.get(), BIO_new(BIO_s_mem()));
  const std::string records = NewKeys(tls.get());
  ASSERT_GT(records.size(), 4'000'000u);
  std::thread sender([&] { socket.Send(records); });
  absl::SleepFor(absl::Milliseconds(100));  // it is at them
  const absl::Time began = absl::Now();
  EXPECT_EQ(Ask("one"), CURLE_OK);
  EXPECT_LT(absl::Now() - began, absl::Milliseconds(700));
  sender.join();
}

TEST_F(TransportTlsTest, AReaderThatLeavesAndOneThatStopsDoNotHurtOthers) {
  for (int i = 0; i < 20; ++i) {
    HttpSocket leaving(transport_->port());
    leaving.Send(std::string("\x16\x03\x01\x02\x00\x01", 6));
    leaving.Close();
  }
  std::string body;
  EXPECT_EQ(Ask("/events", "one", &body), CURLE_OK);
}

}  // namespace
}  // namespace lorica
