#include "server/secret_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(SecretFiles, ThoseThatOthersMayReadAreNamed) {
  TemporaryFolder folder;
  Config config;
  const auto file = [&](const char* name, fs::perms mode) {
    folder.Write(name, "secret");
    const std::string path = folder.path() + "/" + name;
    fs::permissions(path, mode);
    return path;
  };
  config.hub_token_file = file("own", fs::perms::owner_read | fs::perms::owner_write);
  config.tls_key = file("group", fs::perms::owner_read | fs::perms::group_read);
  config.s3_credentials_file = file("all", fs::perms::owner_read | fs::perms::others_read);
  std::ostringstream log;
  const auto old_logger = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  WarnOfOpenSecrets(config, Tenants());
  spdlog::set_default_logger(old_logger);
  EXPECT_THAT(log.str(), HasSubstr("/group can be read by others"));
  EXPECT_THAT(log.str(), HasSubstr("/all can be read by others"));
  EXPECT_THAT(log.str(), Not(HasSubstr("/own")));
  EXPECT_THAT(log.str(), Not(HasSubstr("secret")));
}

TEST(SecretFiles, OfTwoMistakesBothAreTold) {
  const absl::Status one = absl::InvalidArgumentError("one");
  const absl::Status other = absl::NotFoundError("other");
  EXPECT_EQ(BothOf(one, other), absl::InvalidArgumentError("one; and other"));
  EXPECT_EQ(BothOf(one, absl::OkStatus()), one);
  EXPECT_EQ(BothOf(absl::OkStatus(), other), other);
  EXPECT_TRUE(BothOf(absl::OkStatus(), absl::OkStatus()).ok());
}

}  // namespace
}  // namespace lorica
