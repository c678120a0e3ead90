#include "server/secret_files.h"

#include <sys/stat.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace lorica {

void WarnOfOpenSecrets(const Config& config, const Tenants& tenants) {
  std::vector<std::string> paths = {config.hub_token_file, config.s3_credentials_file,
                                    config.tls_key};
  for (std::string& path : tenants.HubTokenFiles()) paths.push_back(std::move(path));
  for (const std::string& path : paths) {
    struct stat info = {};
    if (path.empty() || stat(path.c_str(), &info) != 0) continue;
    if ((info.st_mode & (S_IRGRP | S_IROTH)) == 0) continue;
    spdlog::warn("{} can be read by others than this server's user: chmod 600", path);
  }
}

void WarnOfKeysInTheClear(const Config& config, const Tenants& tenants) {
  if (!config.tls_cert.empty() || !tenants.needs_keys()) return;
  for (const std::string& address : {config.grpc_address, config.http_address}) {
    if (address.empty() || IsLoopback(address)) continue;
    spdlog::warn(
        "keys and prompts cross the network in the clear on {}: give --tls-cert and --tls-key",
        address);
  }
}

absl::Status BothOf(const absl::Status& one, const absl::Status& other) {
  if (one.ok() || other.ok()) return one.ok() ? other : one;
  return absl::Status(one.code(), absl::StrCat(one.message(), "; and ", other.message()));
}

}  // namespace lorica
