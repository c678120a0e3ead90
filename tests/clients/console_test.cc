// Goal: the console does what it shows, in a real browser, without and with keys.
//
// LORICA_SCREENSHOTS names a folder to leave its pictures in.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "tests/fakes/subprocess.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

constexpr int kSkipped = 77;
constexpr char kKey[] = "operators-key";

class ConsoleTest : public ::testing::Test {
 protected:
  std::string Pictures(const std::string& kind) const {
    const char* const kept = std::getenv("LORICA_SCREENSHOTS");
    return absl::StrCat(kept == nullptr ? folder_.path() : kept, "/", kind);
  }
  static RunResult Use(TinyServer& server, const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {
        LORICA_SOURCE_DIR "/tests/clients/run_console.sh",
        absl::StrCat("http://127.0.0.1:", server.server().http_port())};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return RunToEnd(argv);
  }

  TemporaryFolder folder_;
};

TEST_F(ConsoleTest, WorksInABrowser) {
  TinyServer server;
  const RunResult run = Use(server, {Pictures("open")});
  if (run.code == kSkipped) GTEST_SKIP() << run.error;
  EXPECT_EQ(run.code, 0) << run.output << run.error;
  EXPECT_TRUE(std::filesystem::exists(Pictures("open") + "/dark.png"));
}

TEST_F(ConsoleTest, AsksForAKeyWhereOneIsNeeded) {
  Sha256 hash;
  hash.Update(kKey);
  const nlohmann::json tenants = {
      {"tenants",
       {{{"name", "ops"}, {"keys", {hash.Finish()}}, {"role", "operator"}, {"adapters", {"*"}}}}}};
  folder_.Write("tenants.json", tenants.dump());
  Config config;
  config.tenants_file = folder_.path() + "/tenants.json";
  TinyServer server(config);
  const RunResult run = Use(server, {Pictures("keys"), kKey});
  if (run.code == kSkipped) GTEST_SKIP() << run.error;
  EXPECT_EQ(run.code, 0) << run.output << run.error;
}

TEST_F(ConsoleTest, MayDoNothingButLoadItsFilesAndCallThisServer) {
  TinyServer server;
  for (const char* path : {"/console", "/docs", "/console/console.js", "/openapi.json"}) {
    const HttpAnswer answer = HttpCall(server.server().http_port(), "GET", path);
    EXPECT_EQ(answer.status, 200) << path;
    const std::string& policy = answer.headers.at("content-security-policy");
    EXPECT_EQ(policy.find("default-src 'none'"), 0u) << policy;
    EXPECT_EQ(policy.find("unsafe"), std::string::npos) << policy;
    EXPECT_EQ(answer.headers.at("x-content-type-options"), "nosniff");
  }
}

}  // namespace
}  // namespace lorica
