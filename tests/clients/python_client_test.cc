// Goal: a client that knows the .proto files and nothing else of ours gets the answers of the
// reference implementation from a real server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/fakes/subprocess.h"
#include "tests/fakes/test_paths.h"
#include "tests/integration/server_process.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr int kSkipped = 77;

RunResult PythonClient(const std::string& address, const std::string& adapter,
                       const std::string& prompt) {
  return RunToEnd({LORICA_SOURCE_DIR "/tests/clients/run_python_client.sh", address, adapter},
                  prompt);
}

TEST(PythonClient, StubsFromTheProtoGetTheAnswersOfTheReference) {
  ServerProcess::Options options;
  options.model = SmolLmPath();
  options.adapters_dir = DemoAdaptersPath();
  auto server = ServerProcess::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  std::ifstream file(LORICA_TEST_DATA "/goldens.json");
  const Json goldens = Json::parse(file);
  for (const std::string adapter : {"ticket-triage", "ticket-triage-dora"}) {
    const auto golden = std::find_if(goldens.begin(), goldens.end(), [&](const Json& entry) {
      return entry.at("adapter") == adapter && entry.at("min_margin") > 0.1;
    });
    ASSERT_NE(golden, goldens.end());
    const RunResult run = PythonClient((*server)->address(), adapter, golden->at("prompt"));
    if (run.code == kSkipped) GTEST_SKIP() << run.error;
    ASSERT_EQ(run.code, 0) << run.error;
    const Json answer = Json::parse(run.output);
    EXPECT_EQ(answer[0], adapter);
    EXPECT_EQ(answer[1], golden->at("output_ids"));
    EXPECT_EQ(answer[2], golden->at("text"));
  }
}

}  // namespace
}  // namespace lorica
