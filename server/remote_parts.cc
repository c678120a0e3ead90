#include "server/remote_parts.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/hub/hub_source.h"

namespace lorica {
namespace {

absl::Status About(const char* flag, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(flag, ": ", status.message()));
}

HubOptions HubOptionsOf(const Config& config, const std::atomic<bool>* stopped) {
  HubOptions options;
  options.endpoint = config.hub_endpoint;
  options.redirect_hosts = SplitList(config.hub_redirect_hosts);
  options.token_file = config.hub_token_file;
  options.http.ca_file = config.hub_ca_file;
  options.http.stopped = stopped;
  return options;
}

}  // namespace

std::vector<std::string> SplitList(const std::string& text) {
  std::vector<std::string> parts;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    part = absl::StripAsciiWhitespace(part);
    if (!part.empty()) parts.emplace_back(part);
  }
  return parts;
}

absl::StatusOr<std::unique_ptr<RemoteParts>> RemoteParts::Build(const Config& config,
                                                                const PeftLoader* loader) {
  auto parts = std::make_unique<RemoteParts>();
  auto disk = DiskTier::Open(config.data_dir + "/fetched", config.disk_bytes);
  if (!disk.ok()) return About("--data-dir", disk.status());
  parts->disk_ = *std::move(disk);
  auto hub = MakeHubSource(HubOptionsOf(config, &parts->stopped_));
  if (!hub.ok()) {
    const bool token = absl::IsFailedPrecondition(hub.status());
    return About(token ? "--hub-token-file" : "--hub-endpoint", hub.status());
  }
  parts->hub_ = *std::move(hub);
  if (!config.hf_cache.empty()) {
    auto cache = HfCache::Open(config.hf_cache);
    if (!cache.ok()) return About("--hf-cache", cache.status());
    parts->cache_ = *std::move(cache);
  }
  RemoteOptions options;
  options.allow = SplitList(config.hub_allow);
  options.offline = config.hub_offline;
  options.refresh = config.hub_refresh_seconds == 0 ? absl::InfiniteDuration()
                                                    : absl::Seconds(config.hub_refresh_seconds);
  options.adapter_bytes_max = config.hub_adapter_bytes;
  parts->threads_ = MakeLoaderThreads(static_cast<int>(config.hub_downloads));
  parts->adapters_ = std::make_unique<RemoteAdapters>(
      std::move(options), parts->hub_.get(), parts->cache_.get(), parts->disk_.get(), loader,
      parts->threads_.get(), &parts->stopped_);
  return parts;
}

}  // namespace lorica
