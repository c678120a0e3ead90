#include "server/secret_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <sstream>

#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

// What is logged meanwhile.
std::string LogOf(const std::function<void()>& work) {
  std::ostringstream log;
  const auto old_logger = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  work();
  spdlog::set_default_logger(old_logger);
  return log.str();
}

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
  const std::string log = LogOf([&] { WarnOfOpenSecrets(config, Tenants()); });
  EXPECT_THAT(log, HasSubstr("/group can be read by others"));
  EXPECT_THAT(log, HasSubstr("/all can be read by others"));
  EXPECT_THAT(log, Not(HasSubstr("/own")));
  EXPECT_THAT(log, Not(HasSubstr("secret")));
}

TEST(SecretFiles, KeysThatCrossANetworkInTheClearAreWarnedOf) {
  TemporaryFolder folder;
  folder.Write("tenants.json",
               "{\"tenants\": [{\"name\": \"acme\", \"adapters\": [\"*\"], \"keys\": [\"" +
                   std::string(64, 'a') + "\"]}]}");
  Tenants with_keys;
  const absl::Status loaded = with_keys.LoadFile(folder.path() + "/tenants.json");
  ASSERT_TRUE(loaded.ok()) << loaded;
  Config config;
  config.grpc_address = "127.0.0.1:0";
  config.http_address = "[::1]:0";
  const auto warnings = [&config](const Tenants& tenants) {
    return LogOf([&] { WarnOfKeysInTheClear(config, tenants); });
  };
  EXPECT_EQ(warnings(with_keys), "") << "they stay on this machine";
  config.http_address = "192.168.0.1:8080";
  EXPECT_THAT(warnings(with_keys), HasSubstr("in the clear on 192.168.0.1:8080"));
  config.grpc_address = "0.0.0.0:50051";
  EXPECT_THAT(warnings(with_keys), HasSubstr("in the clear on 0.0.0.0:50051"));
  EXPECT_EQ(warnings(Tenants()), "") << "there are none";
  config.tls_cert = "/tls.pem";
  EXPECT_EQ(warnings(with_keys), "");
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
