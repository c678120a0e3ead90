// What of the flags for adapters that come from elsewhere can be.
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "server/remote_parts.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(RemoteParts, FlagsThatCannotBeAreErrors) {
  TemporaryFolder folder;
  const auto build = [&](const std::function<void(Config&)>& change) {
    Config config;
    config.hub_allow = "*";
    config.data_dir = folder.path();
    change(config);
    return std::string(RemoteParts::Build(config, nullptr).status().message());
  };
  EXPECT_EQ(build([](Config&) {}), "");
  EXPECT_THAT(build([](Config& config) { config.hub_endpoint = "hub"; }),
              HasSubstr("--hub-endpoint: "));
  EXPECT_THAT(build([](Config& config) { config.hub_token_file = "/missing"; }),
              HasSubstr("--hub-token-file: "));
  EXPECT_THAT(build([](Config& config) { config.hf_cache = "/missing"; }),
              HasSubstr("--hf-cache: "));
  EXPECT_THAT(build([](Config& config) { config.data_dir = "/dev/null"; }),
              HasSubstr("--data-dir: "));
  EXPECT_THAT(build([](Config& config) { config.s3_allow = "bucket/*"; }), HasSubstr("--s3-allow"));
  for (const char* list : {"s3://b/*", "*", "https://files.example*", "https://a/*,http://*"}) {
    EXPECT_THAT(build([&](Config& config) { config.mirror_allow = list; }),
                HasSubstr("--mirror-allow: "));
  }
  for (const char* list : {"https://x/*", "team", "org/*,team/*/x"}) {
    EXPECT_THAT(build([&](Config& config) { config.hub_allow = list; }),
                HasSubstr("--hub-allow: "));
  }
  EXPECT_THAT(build([](Config& config) { config.s3_endpoint = "http://s3.example"; }),
              HasSubstr("--s3-endpoint: "));
  EXPECT_THAT(build([](Config& config) { config.s3_credentials_file = "/missing"; }),
              HasSubstr("--s3-credentials-file: "));
}

TEST(RemoteParts, SplitsLists) {
  EXPECT_THAT(SplitList("a, b ,,c/*"), ElementsAre("a", "b", "c/*"));
  EXPECT_TRUE(SplitList(" , ").empty());
}

}  // namespace
}  // namespace lorica
