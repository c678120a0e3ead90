#include "server/api/server_tls.h"

#include <curl/curl.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/lorica_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "tests/fakes/made_certificate.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ServerTlsTest : public ::testing::Test {
 protected:
  ServerTlsTest() {
    for (const char* name : {"one", "two", "client"}) {
      MakeCertificate(folder_, name, "127.0.0.1", absl::Now() + absl::Hours(24));
    }
    Use("one");
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string Text(const std::string& name) const {
    std::ifstream file(Path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // What the server's flags name.
  void Use(const std::string& name) {
    for (const char* kind : {".pem", ".key"}) {
      fs::copy_file(Path(name + kind), Path(std::string("used") + kind),
                    fs::copy_options::overwrite_existing);
    }
  }
  TlsPaths Paths() const { return {Path("used.pem"), Path("used.key"), ""}; }
  std::string Refusal(const TlsPaths& paths) {
    const auto files = ServerTls::Read(paths);
    return files.ok() ? "" : std::string(files.status().message());
  }
  void StartServer(const std::string& client_ca = "") {
    Config config;
    config.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
    config.grpc_address = "127.0.0.1:0";
    config.http_address = "127.0.0.1:0";
    config.threads = 1;
    config.arena_bytes = 16 << 20;
    config.tls_cert = Path("used.pem");
    config.tls_key = Path("used.key");
    config.tls_client_ca = client_ca;
    auto server = Server::Start(config);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  absl::Status Ask(ClientTls tls) {
    ClientOptions options;
    options.server = absl::StrCat("127.0.0.1:", server_->port());
    options.tls = std::move(tls);
    options.retry.attempts_max = 1;
    return LoricaClient(options).GetStatus({.timeout = absl::Seconds(10)}).status();
  }

  // Whether HTTP's port answers who shows this.
  bool AskHttp(const std::string& own) {
    CURL* const curl = curl_easy_init();
    const std::string url = absl::StrCat("https://127.0.0.1:", server_->http_port(), "/health");
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(curl, CURLOPT_CAINFO, Path("one.pem").c_str());
    curl_easy_setopt(curl, CURLOPT_SSLCERT, Path(own + ".pem").c_str());
    curl_easy_setopt(curl, CURLOPT_SSLKEY, Path(own + ".key").c_str());
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 20L);
    const CURLcode code = curl_easy_perform(curl);
    curl_easy_cleanup(curl);
    return code == CURLE_OK;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTlsTest, RefusesFilesThatDoNotFit) {
  EXPECT_EQ(Refusal(Paths()), "");
  EXPECT_THAT(Refusal({Path("absent"), Path("used.key"), ""}), HasSubstr("cannot be read"));
  EXPECT_THAT(Refusal({Path("used.key"), Path("used.key"), ""}), HasSubstr("no certificate"));
  EXPECT_THAT(Refusal({Path("used.pem"), Path("used.pem"), ""}), HasSubstr("no private key"));
  EXPECT_THAT(Refusal({Path("used.pem"), Path("two.key"), ""}), HasSubstr("is not the key of"));
  EXPECT_THAT(Refusal({Path("used.pem"), Path("used.key"), Path("used.key")}),
              HasSubstr("--tls-client-ca"));
  std::ofstream(Path("half.pem")) << Text("one.pem").substr(0, 200);
  EXPECT_THAT(Refusal({Path("half.pem"), Path("used.key"), ""}), HasSubstr("no certificate"));
  for (const size_t end : {200u, 20u}) {  // of what stands behind a whole one
    const std::string cut = Text("one.pem").substr(0, Text("one.pem").size() - end);
    std::ofstream(Path("half.pem")) << Text("one.pem") << cut;
    EXPECT_THAT(Refusal({Path("half.pem"), Path("used.key"), ""}), HasSubstr("cut short")) << end;
    EXPECT_THAT(Refusal({Path("used.pem"), Path("used.key"), Path("half.pem")}),
                HasSubstr("half.pem holds a certificate that is broken or cut short"));
  }
  std::ofstream(Path("both.pem")) << Text("one.key") << Text("one.pem") << Text("two.pem") << "\n";
  EXPECT_EQ(Refusal({Path("both.pem"), Path("both.pem"), Path("both.pem")}), "");
  std::string padded = Text("one.pem");
  padded.resize(kTlsFileBytesMax, '\n');
  std::ofstream(Path("large.pem")) << padded;
  EXPECT_EQ(Refusal({Path("large.pem"), Path("used.key"), ""}), "");
  std::ofstream(Path("large.pem"), std::ios::app) << "\n";
  EXPECT_THAT(Refusal({Path("large.pem"), Path("used.key"), ""}), HasSubstr("larger than"));
}

TEST_F(ServerTlsTest, ServesClientsThatTrustItsCertificateAndNoOthers) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  EXPECT_TRUE(Ask({.ca = Text("one.pem")}).ok());
  const absl::Status untrusted = Ask({.ca = Text("two.pem")});
  EXPECT_TRUE(absl::IsUnavailable(untrusted)) << untrusted;
  EXPECT_THAT(std::string(untrusted.message()), HasSubstr("--tls-ca"));
  EXPECT_FALSE(Ask({}).ok()) << "plain text";
}

TEST_F(ServerTlsTest, ClientsShowACertificateWhereOneIsAsked) {
  ASSERT_NO_FATAL_FAILURE(StartServer(Path("client.pem")));
  const std::string ca = Text("one.pem");
  EXPECT_TRUE(Ask({.ca = ca, .cert = Text("client.pem"), .key = Text("client.key")}).ok());
  for (int i = 0; i < 5; ++i) {  // whenever its handshake fails
    const absl::Status without = Ask({.ca = ca});
    EXPECT_TRUE(absl::IsUnavailable(without)) << without;
    EXPECT_THAT(std::string(without.message()), HasSubstr("--tls-cert FILE --tls-key FILE"));
  }
  EXPECT_FALSE(Ask({.ca = ca, .cert = Text("two.pem"), .key = Text("two.key")}).ok());
}

// An authority may be one that another has signed, and a certificate that is none lets itself in.
TEST_F(ServerTlsTest, BothPortsLetTheSameClientsIn) {
  const auto make = [this](const char* name, const char* issuer, bool authority) {
    MakeCertificate(folder_, name, "127.0.0.1", absl::Now() + absl::Hours(24),
                    {.issuer = issuer, .authority = authority});
  };
  make("root", "", true);
  make("middle", "root", true);
  make("leaf", "middle", false);
  make("below", "leaf", false);
  make("alone", "", false);
  const std::vector<std::pair<std::string, std::set<std::string>>> all = {
      {"root", {"root", "middle"}},
      {"middle", {"middle", "leaf"}},
      {"leaf", {"leaf"}},
      {"alone", {"alone"}},
  };
  for (const auto& [trusted, let_in] : all) {
    ASSERT_NO_FATAL_FAILURE(StartServer(Path(trusted + ".pem")));
    for (const std::string own : {"root", "middle", "leaf", "below", "alone"}) {
      const bool over_grpc =
          Ask({.ca = Text("one.pem"), .cert = Text(own + ".pem"), .key = Text(own + ".key")}).ok();
      EXPECT_EQ(over_grpc, let_in.contains(own)) << own << " where " << trusted << " is trusted";
      EXPECT_EQ(AskHttp(own), over_grpc) << own << " where " << trusted << " is trusted";
    }
  }
}

TEST_F(ServerTlsTest, ReloadsForNewConnectionsAndKeepsTheOldOneWhenItIsWrong) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  ClientOptions options;
  options.server = absl::StrCat("127.0.0.1:", server_->port());
  options.tls.ca = Text("one.pem");
  LoricaClient open(options);
  ASSERT_TRUE(open.GetStatus().ok());

  fs::copy_file(Path("two.key"), Path("used.key"), fs::copy_options::overwrite_existing);
  const absl::Status mismatch = server_->Reload();
  EXPECT_THAT(std::string(mismatch.message()), HasSubstr("is not the key of"));
  absl::SleepFor(absl::Seconds(2 * kTlsRefreshSeconds));
  EXPECT_TRUE(Ask({.ca = Text("one.pem")}).ok());

  Use("two");
  ASSERT_TRUE(server_->Reload().ok());
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (!Ask({.ca = Text("two.pem")}).ok()) {
    ASSERT_LT(absl::Now(), end) << "the new certificate never came";
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_FALSE(Ask({.ca = Text("one.pem")}).ok());
  EXPECT_TRUE(open.GetStatus().ok()) << "an open connection goes on";
}

}  // namespace
}  // namespace lorica
