#include "server/remote_parts.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/hub/allow_pattern.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/steady_now.h"
#include "server/api/refusal_log.h"
#include "server/base_model.h"

namespace lorica {
namespace {

constexpr int kHereThreads = 2;
constexpr int kRefreshThreads = 2;
constexpr int kTenantDownloadsMax = 2;  // at a time, of --hub-downloads
constexpr int kTenantFetchesPart = 4;   // of all that may wait or run, the fourth is one tenant's
constexpr absl::Duration kBaseModelFetchMax = absl::Hours(12);

absl::Status About(const char* flag, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(flag, ": ", status.message()));
}

void LogOf(const absl::Status& failure) { LogUnreached(failure, SteadyNow()); }

HubOptions HubOptionsOf(const Config& config, const std::atomic<bool>* stopped) {
  HubOptions options;
  options.endpoint = config.hub_endpoint;
  options.redirect_hosts = SplitList(config.hub_redirect_hosts);
  options.token_file = config.hub_token_file;
  options.http.ca_file = config.hub_ca_file;
  options.http.stopped = stopped;
  options.http.on_failure = LogOf;
  return options;
}

absl::StatusOr<std::vector<std::string>> AllowList(const char* flag, AllowKind kind,
                                                   const std::string& text) {
  std::vector<std::string> patterns = SplitList(text);
  for (const std::string& pattern : patterns) {
    if (absl::Status s = CheckAllowPattern(kind, pattern); !s.ok()) return About(flag, s);
  }
  return patterns;
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

bool RemoteParts::Wanted(const Config& config) {
  return !config.hub_allow.empty() || !config.s3_allow.empty() || !config.mirror_allow.empty();
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
  auto allow = AllowList("--hub-allow", AllowKind::kRepository, config.hub_allow);
  if (!allow.ok()) return allow.status();
  options.allow = *std::move(allow);
  options.offline = config.hub_offline;
  options.refresh = config.hub_refresh_seconds == 0 ? absl::InfiniteDuration()
                                                    : absl::Seconds(config.hub_refresh_seconds);
  options.adapter_bytes_max = config.hub_adapter_bytes;
  options.on_stale = [](const std::string& id, const absl::Status& why) {
    LogStale(id, why, SteadyNow());
  };
  const int downloads = static_cast<int>(config.hub_downloads);
  const bool has_tenants = !config.tenants_file.empty();
  options.tenant_downloads_max = has_tenants ? kTenantDownloadsMax : downloads;
  if (has_tenants) options.tenant_fetches_max = options.fetches_max / kTenantFetchesPart;
  parts->here_threads_ = MakeLoaderThreads(kHereThreads);
  parts->download_threads_ = MakeLoaderThreads(downloads);
  parts->refresh_threads_ = MakeLoaderThreads(kRefreshThreads);
  parts->adapters_ = std::make_unique<RemoteAdapters>(
      std::move(options), parts->hub_.get(), parts->cache_.get(), parts->disk_.get(), loader,
      RemoteThreads{parts->here_threads_.get(), parts->download_threads_.get(),
                    parts->refresh_threads_.get()},
      &parts->stopped_);
  if (absl::Status s = parts->AddObjectSources(config); !s.ok()) return s;
  return parts;
}

std::string BaseNameOf(const Config& config) {
  if (!config.model_name.empty()) return config.model_name;
  const auto name = ParseBaseModelName(config.model);
  return name && name->file.empty() ? name->repo : "";
}

absl::StatusOr<std::string> BringBaseModel(const Config& config) {
  const auto name = ParseBaseModelName(config.model);
  if (!name) return config.model;
  if (config.data_dir.empty()) {
    return absl::FailedPreconditionError(
        "no such path here, and a repository of the hub needs --data-dir to be fetched into");
  }
  HubOptions options = HubOptionsOf(config, nullptr);
  options.http.limits.total = options.retry.total_max = kBaseModelFetchMax;
  auto hub = MakeHubSource(std::move(options));
  if (!hub.ok()) return About("--hub-endpoint", hub.status());
  return FetchBaseModel(*name, {config.data_dir + "/models", config.hub_offline, config.hf_cache},
                        **hub);
}

absl::Status RemoteParts::AddObjectSources(const Config& config) {
  S3Options options;
  options.endpoint = config.s3_endpoint;
  options.region = config.s3_region;
  options.credentials_file = config.s3_credentials_file;
  options.object.http.ca_file = config.hub_ca_file;
  options.object.http.stopped = &stopped_;
  options.object.http.on_failure = LogOf;
  mirror_ = MakeMirrorSource(options.object);
  auto s3 = MakeS3Source(std::move(options));
  if (!s3.ok()) {
    const bool keys = absl::IsFailedPrecondition(s3.status());
    return About(keys ? "--s3-credentials-file" : "--s3-endpoint", s3.status());
  }
  s3_ = *std::move(s3);
  auto buckets = AllowList("--s3-allow", AllowKind::kBucket, config.s3_allow);
  if (!buckets.ok()) return buckets.status();
  auto mirrors = AllowList("--mirror-allow", AllowKind::kMirror, config.mirror_allow);
  if (!mirrors.ok()) return mirrors.status();
  adapters_->AddSource("s3://", s3_.get(), *std::move(buckets));
  adapters_->AddSource("https://", mirror_.get(), *mirrors);
  adapters_->AddSource("http://", mirror_.get(), *mirrors);
  return absl::OkStatus();
}

}  // namespace lorica
