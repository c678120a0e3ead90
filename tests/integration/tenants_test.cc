// Goal: keys, TLS and names through the real programs, and what signals and kills leave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/made_certificate.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

class TenantPrograms : public ::testing::Test {
 protected:
  TenantPrograms() {
    MakeCertificate(folder_, "tls", "127.0.0.1", absl::Now() + absl::Hours(24));
    for (const char* tenant : {"acme", "op"}) {
      const RunResult made = RunToEnd({LORICA_BINARY, "key"});
      EXPECT_EQ(made.code, 0);
      folder_.Write(absl::StrCat(tenant, ".key"), made.output);
      const RunResult hash = RunToEnd({LORICA_BINARY, "key", "--hash"}, made.output);
      EXPECT_THAT(made.error, HasSubstr(hash.output));
      hashes_.push_back(hash.output.substr(0, 64));
      secrets_.push_back(made.output.substr(0, made.output.size() - 1));
    }
    WriteTenants(hashes_[0]);
  }
  void WriteTenants(const std::string& acme) {
    const Json file = {
        {"tenants",
         {{{"name", "acme"},
           {"role", "manager"},
           {"adapters", {"intent", "headline"}},
           {"keys", {acme}}},
          {{"name", "op"}, {"role", "operator"}, {"adapters", {"*"}}, {"keys", {hashes_[1]}}}}}};
    folder_.Write("tenants.json", file.dump());
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void StartServer() {
    server_.reset();
    std::ifstream ca(Path("tls.pem"));
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = DemoAdaptersPath();
    options.data_dir = Path("data");
    options.flags = {"--tenants-file", Path("tenants.json"), "--tls-cert",
                     Path("tls.pem"),  "--tls-key",          Path("tls.key")};
    options.client.api_key = secrets_[1];
    options.client.tls.ca = {std::istreambuf_iterator<char>(ca), {}};
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  RunResult Lorica(const std::string& tenant, std::vector<std::string> arguments) {
    std::vector<std::string> command = {LORICA_BINARY, "--server", server_->address(), "--tls-ca",
                                        Path("tls.pem")};
    if (!tenant.empty()) command.insert(command.end(), {"--api-key-file", Path(tenant + ".key")});
    command.insert(command.end(), arguments.begin(), arguments.end());
    return RunToEnd(command);
  }
  void HangUpAndWaitFor(const std::string& line) {
    server_->Signal(SIGHUP);
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (!absl::StrContains(server_->Log(), line)) {
      ASSERT_LT(absl::Now(), end) << server_->Log();
      absl::SleepFor(absl::Milliseconds(10));
    }
  }

  TemporaryFolder folder_;
  std::vector<std::string> hashes_;
  std::vector<std::string> secrets_;
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(TenantPrograms, TheCommandShowsKeysAndCertificates) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  EXPECT_THAT(Lorica("", {"adapters", "list"}).error, HasSubstr("UNAUTHENTICATED"));
  const RunResult list = Lorica("acme", {"adapters", "list"});
  EXPECT_EQ(list.code, 0) << list.error;
  EXPECT_THAT(list.output, HasSubstr("intent"));
  EXPECT_THAT(list.output, Not(HasSubstr("text-to-sql")));
  const RunResult plain =
      RunToEnd({LORICA_BINARY, "--server", server_->address(), "--retries", "0", "status"});
  EXPECT_EQ(plain.code, 3);

  const RunResult answer = Lorica(
      "acme", {"generate", "--json", "--chat", "-a", "intent", "-n", "4", "my card is gone"});
  ASSERT_EQ(answer.code, 0) << answer.error;
  const Json said = Json::parse(answer.output);
  const Json usage = Json::parse(Lorica("acme", {"usage", "--json"}).output);
  ASSERT_EQ(usage["rows"].size(), 1u);
  EXPECT_EQ(usage["rows"][0]["tenant"], "acme");
  EXPECT_EQ(usage["rows"][0]["generation"], said["adapter"]["generation"]);
  EXPECT_EQ(usage["rows"][0]["prompt_tokens"], said["usage"]["prompt_tokens"]);
  EXPECT_EQ(usage["rows"][0]["completion_tokens"], said["usage"]["completion_tokens"]);
  EXPECT_EQ(Lorica("acme", {"adapters", "pin", "intent"}).code, 1);
  EXPECT_EQ(Lorica("op", {"--tenant", "acme", "adapters", "pin", "intent"}).code, 0);
  for (const std::string& secret : secrets_) {
    EXPECT_THAT(server_->Log(), Not(HasSubstr(secret)));
  }
}

TEST_F(TenantPrograms, HangUpReadsTheFilesAgainAndAMistakeKeepsTheOld) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  folder_.Write("tenants.json", "{\"tenants\": [{]}");
  ASSERT_NO_FATAL_FAILURE(HangUpAndWaitFor("kept the old file"));
  EXPECT_EQ(Lorica("acme", {"status"}).code, 0);
  WriteTenants(std::string(64, '0'));
  ASSERT_NO_FATAL_FAILURE(HangUpAndWaitFor("read the files again"));
  EXPECT_THAT(Lorica("acme", {"status"}).error, HasSubstr("UNAUTHENTICATED"));
  EXPECT_EQ(Lorica("op", {"status"}).code, 0);
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->WaitForExit(absl::Seconds(20)), 0) << "hang-ups are no first signals";
}

TEST_F(TenantPrograms, NamesSurviveAKill) {
  ASSERT_NO_FATAL_FAILURE(StartServer());
  ASSERT_EQ(Lorica("acme", {"adapters", "register", "app", "--source", "intent"}).code, 0);
  ASSERT_EQ(
      Lorica("acme", {"adapters", "register", "app", "--source", "headline", "--replace"}).code, 0);
  ASSERT_EQ(Lorica("acme", {"adapters", "alias", "live", "app"}).code, 0);
  server_->Signal(SIGKILL);
  ASSERT_EQ(server_->WaitForExit(absl::Seconds(10)), 128 + SIGKILL);
  ASSERT_NO_FATAL_FAILURE(StartServer());
  const Json live = Json::parse(Lorica("acme", {"adapters", "get", "live", "--json"}).output);
  EXPECT_EQ(live["source"], "headline");
  EXPECT_EQ(live["alias_of"], "app");
  EXPECT_EQ(live["history"].size(), 2u);
  const RunResult back = Lorica("acme", {"adapters", "rollback", "app", "--json"});
  EXPECT_EQ(back.code, 0) << back.error;
  EXPECT_EQ(Json::parse(back.output)["adapters"][0]["source"], "intent");
}

}  // namespace
}  // namespace lorica
