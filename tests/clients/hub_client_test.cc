// Goal: our hub for tests speaks the protocol that the hub's own client speaks, so that what
// passes against it means something.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "adapters/hub/hasher.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr int kSkipped = 77;

std::string Sha256Of(const std::string& text) {
  Hasher hasher;
  hasher.Update(text);
  return hasher.Finish();
}

TEST(HubClient, TheHubsOwnClientDownloadsTheSameBytes) {
  FakeHub hub;
  FakeHub::Files files = {{"adapter_config.json", "{\"r\": 8}"},
                          {"README.md", "words\n"},
                          {"adapter_model.safetensors", std::string(3 << 20, 'w')}};
  const std::string commit = hub.Commit("org/name", files, "v1");
  files["README.md"] = "other words\n";
  hub.Commit("org/name", files);
  TemporaryFolder cache;
  for (const std::string& revision : {std::string("v1"), commit}) {
    const RunResult run = RunToEnd({LORICA_SOURCE_DIR "/tests/clients/run_hub_client.sh",
                                    hub.endpoint(), "org/name", revision, cache.path()},
                                   "");
    if (run.code == kSkipped) GTEST_SKIP() << run.error;
    ASSERT_EQ(run.code, 0) << run.error;
    const Json got = Json::parse(run.output);
    EXPECT_EQ(got["commit"], commit);
    EXPECT_EQ(got["snapshot"], commit);
    EXPECT_EQ(got["files"]["alone"], Sha256Of(files["adapter_config.json"]));
    EXPECT_EQ(got["files"]["README.md"], Sha256Of("words\n"));
    EXPECT_EQ(got["files"]["adapter_model.safetensors"],
              Sha256Of(files["adapter_model.safetensors"]));
    EXPECT_EQ(got["files"].size(), 4u);
  }
  // The large file came from elsewhere, and the first revision's commit had to be looked up.
  EXPECT_GE(hub.CountOf("/blobs/", "GET"), 1);
  EXPECT_GE(hub.CountOf("/api/models/org/name/revision/v1"), 1);
}

}  // namespace
}  // namespace lorica
