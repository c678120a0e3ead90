// Goal: clients that people have already, unchanged, get the answers of the reference
// implementation from a real server over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr int kSkipped = 77;
constexpr char kAdapter[] = "ticket-triage";
constexpr int kPatienceSeconds = kInstrumentationFactor * 60;  // of a client, for one answer

class HttpClientsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ServerProcess::Options options;
    options.model = SmolLmPath();
    options.adapters_dir = DemoAdaptersPath();
    options.flags = {"--http-address", "127.0.0.1:0"};
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    std::ifstream file(LORICA_TEST_DATA "/goldens.json");
    const Json goldens = Json::parse(file);
    const auto golden = std::find_if(goldens.begin(), goldens.end(), [](const Json& entry) {
      return entry.at("adapter") == kAdapter && entry.at("min_margin") > 0.1;
    });
    ASSERT_NE(golden, goldens.end());
    golden_ = *golden;
  }
  // What the script prints; null when it was skipped.
  Json Run(const std::string& environment, const std::string& script) {
    const RunResult run = RunToEnd(
        {LORICA_SOURCE_DIR "/tests/clients/run_http_client.sh", environment, script,
         absl::StrCat("http://127.0.0.1:", server_->http_port()), kAdapter,
         std::filesystem::canonical(DemoAdaptersPath()).string(), absl::StrCat(kPatienceSeconds)},
        golden_.at("prompt"));
    if (run.code == kSkipped) return nullptr;
    EXPECT_EQ(run.code, 0) << run.error;
    return Json::parse(run.output, nullptr, /*allow_exceptions=*/false);
  }

  std::unique_ptr<ServerProcess> server_;
  Json golden_;
};

TEST_F(HttpClientsTest, BothLoraxClients) {
  for (const char* version : {"lorax-0.6", "lorax-0.5"}) {
    const Json answer = Run(version, "lorax_client.py");
    if (answer.is_null()) GTEST_SKIP() << "no Python environment";
    ASSERT_TRUE(answer.is_array()) << version;
    EXPECT_EQ(answer[0], golden_.at("output_ids"));
    EXPECT_EQ(answer[1], golden_.at("text"));
  }
}

TEST_F(HttpClientsTest, OpenAisClient) {
  const Json answer = Run("openai", "openai_client.py");
  if (answer.is_null()) GTEST_SKIP() << "no Python environment";
  EXPECT_EQ(answer, golden_.at("text"));
}

}  // namespace
}  // namespace lorica
