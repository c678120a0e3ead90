// The part of RemoteAdapters that reads the disk and asks the remote source, on threads that may
// wait.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_head.h"
#include "adapters/content_digest.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"
#include "adapters/remote_adapters.h"
#include "adapters/sha256.h"

namespace lorica {
namespace {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr size_t kShownCommitDigits = 12;

absl::Status Refuse(absl::string_view what) { return absl::FailedPreconditionError(what); }

// Hashes what passes, keeps the beginning of it, and tells a ticket how much came.
class HashingSink : public DownloadSink {
 public:
  HashingSink(DownloadSink* out, int64_t head_bytes_max, FetchTicket* ticket)
      : out_(out), head_bytes_max_(head_bytes_max), ticket_(ticket) {}

  absl::Status Append(std::string_view bytes) override {
    Came(std::ssize(bytes));
    hash_.Update(bytes);
    const int64_t room = head_bytes_max_ - std::ssize(head_);
    head_ += bytes.substr(0, std::max<int64_t>(0, room));
    return out_->Append(bytes);
  }
  absl::Status Restart() override {
    Came(-came_);
    hash_ = Sha256();
    head_.clear();
    return out_->Restart();
  }
  const std::string& head() const { return head_; }
  std::string Finish() { return hash_.Finish(); }

 private:
  void Came(int64_t bytes) {
    came_ += bytes;
    if (ticket_ != nullptr) ticket_->Came(bytes);
  }

  DownloadSink* const out_;
  const int64_t head_bytes_max_;
  FetchTicket* const ticket_;
  int64_t came_ = 0;
  Sha256 hash_;
  std::string head_;
};

absl::Status CheckSizes(const RemoteFile& config, const RemoteFile& weights, int64_t bytes_max) {
  if (config.size_bytes > kAdapterConfigBytesMax) {
    return Refuse(absl::StrCat(kConfigFile, " has ", config.size_bytes, " bytes, at most ",
                               kAdapterConfigBytesMax, " are read"));
  }
  const int64_t most = std::min(bytes_max, kAdapterFileBytesMax);
  if (weights.size_bytes > most) {
    return Refuse(absl::StrCat(kWeightsFile, " has ", weights.size_bytes, " bytes, at most ", most,
                               " are fetched"));
  }
  return absl::OkStatus();
}

absl::Status WithoutWeights(RemoteSession& session) {
  for (const char* pickle : {"adapter_model.bin", "adapter_model.pt"}) {
    auto found = session.Look(pickle);
    if (!found.ok()) return found.status();
    if (!found->has_value()) continue;
    return Refuse(absl::StrCat("only safetensors adapters are served: convert ", pickle,
                               " with safetensors"));
  }
  return Refuse(absl::StrCat("it has no ", kWeightsFile));
}

absl::StatusOr<std::string> DownloadTo(RemoteSession& session, const RemoteFile& file,
                                       DiskTier::Staging& staging, FetchTicket* ticket,
                                       std::string* head) {
  auto out = staging.Create(file.name);
  if (!out.ok()) return out.status();
  HashingSink sink(out->get(), head != nullptr ? kAdapterConfigBytesMax : 0, ticket);
  if (absl::Status s = session.Download(file, sink); !s.ok()) return s;
  if (head != nullptr) *head = sink.head();
  return sink.Finish();
}

}  // namespace

// A hub's repository at a commit can be named so; what stands for an object's commit is only shown.
std::string RemoteAdapters::Located(const RemoteName& name, const std::string& commit) {
  const bool is_object = IsObjectLocation(name.repo);
  return absl::StrCat(name.repo, "@", is_object ? commit.substr(0, kShownCommitDigits) : commit);
}

std::optional<RemoteAdapters::Brought> RemoteAdapters::FromHere(const RemoteName& name) {
  const bool wants_now = WantsNow(name);
  const auto lease = wants_now ? std::nullopt : disk_->Find(OriginOf(name));
  if (lease) {
    Result kept = FromDisk(*lease, Located(name, lease->commit()));
    if (!absl::IsDataLoss(kept.status())) return Brought{std::move(kept)};
  }
  if (cache_ != nullptr && name.token.empty() && !wants_now) {
    Result cached = FromCache(name);
    if (!absl::IsNotFound(cached.status())) return Brought{std::move(cached)};
  }
  if (!options_.offline) return std::nullopt;
  return Brought{absl::NotFoundError("it is not on this machine, and the server is offline")};
}

RemoteAdapters::Result RemoteAdapters::FromDisk(const DiskLease& lease,
                                                const std::string& location) {
  const std::shared_ptr<Source> source = lease.source();
  Result generation = contents_.Identify(lease.digest(), source, location);
  std::string digest = generation.ok() ? (*generation)->digest : "";
  if (absl::IsFailedPrecondition(generation.status())) {
    digest = ContentDigest(*source, location).value_or("");
  }
  // Not found: it was dropped by another fetch in the meantime.
  const bool is_lost = absl::IsNotFound(generation.status());
  if (digest == lease.digest() || (digest.empty() && !is_lost)) return generation;
  disk_->Drop(lease.digest());
  return absl::DataLossError(absl::StrCat("what was kept of ", Quoted(location), " is damaged"));
}

RemoteAdapters::Result RemoteAdapters::OnDisk(const std::string& digest,
                                              const std::string& location) {
  const auto lease = disk_->Hold(digest);
  if (!lease) return absl::NotFoundError("it is not on the disk");
  Result kept = FromDisk(*lease, location);
  return absl::IsDataLoss(kept.status()) ? absl::NotFoundError(kept.status().message()) : kept;
}

RemoteAdapters::Result RemoteAdapters::FromCache(const RemoteName& name) {
  const auto commit = cache_->Find(name.repo, name.revision, kConfigFile);
  if (!commit) return absl::NotFoundError("not in the cache");
  auto source = cache_->Snapshot(name.repo, *commit);
  if (!source.ok()) return source.status();
  const std::string location = Located(name, *commit);
  return contents_.Identify(absl::StrCat(name.repo, "@", *commit), *std::move(source), location);
}

absl::StatusOr<std::unique_ptr<RemoteSession>> RemoteAdapters::LookAtConfig(const RemoteName& name,
                                                                            RemoteFile* config) {
  auto session = SourceOf(name.repo)->Begin(name.repo, name.revision, name.token);
  if (!session.ok()) return session.status();
  auto found = (*session)->Look(kConfigFile);
  if (!found.ok()) return found.status();
  if (!found->has_value()) {
    return Refuse(absl::StrCat("it has no ", kConfigFile, ": is it an adapter?"));
  }
  *config = **std::move(found);
  return session;
}

absl::StatusOr<RemoteFile> RemoteAdapters::LookAtWeights(RemoteSession& session,
                                                         const RemoteFile& config) {
  auto weights = session.Look(kWeightsFile);
  if (!weights.ok()) return weights.status();
  if (!weights->has_value()) return WithoutWeights(session);
  absl::Status sizes = CheckSizes(config, **weights, options_.adapter_bytes_max);
  if (!sizes.ok()) return sizes;
  return **std::move(weights);
}

RemoteAdapters::Result RemoteAdapters::FromHub(const RemoteName& name, absl::Time looked) {
  RemoteFile config;
  const auto session = LookAtConfig(name, &config);
  if (!session.ok()) return session.status();
  DatedOrigin dated{OriginOf(name), looked};
  const std::string& commit = dated.origin.commit = (*session)->commit();
  if (const auto lease = disk_->Adopt(dated)) {
    Result kept = FromDisk(*lease, Located(name, lease->commit()));
    if (!absl::IsDataLoss(kept.status())) return kept;
  }
  const auto weights = LookAtWeights(**session, config);
  if (!weights.ok()) return weights.status();
  if (weights->size_bytes > options_.plan_first_bytes) {
    const std::string location = Located(name, commit);
    absl::Status head = CheckHead(**session, config, *weights, location);
    if (!head.ok()) return head;
  }
  return Download(**session, config, *weights, dated, name);
}

absl::Status RemoteAdapters::CheckHead(RemoteSession& session, const RemoteFile& config,
                                       const RemoteFile& weights, const std::string& location) {
  const Result head = FetchAdapterHead(session, config, weights, location);
  if (!head.ok()) return head.status();
  return loader_->Plan(*(*head)->source, location).status();
}

RemoteAdapters::Result RemoteAdapters::HereInstead(const RemoteName& name, const Result& failed) {
  RemoteName before = name;
  before.now = false;
  if (WantsNow(before)) return failed;
  std::optional<Brought> here = FromHere(before);
  if (!here || !here->result.ok()) return failed;
  TellStale(name, failed.status());
  return std::move(here->result);
}

RemoteAdapters::Result RemoteAdapters::HeadFromHub(const RemoteName& name) {
  RemoteFile config;
  const auto session = LookAtConfig(name, &config);
  if (!session.ok()) return session.status();
  const auto weights = LookAtWeights(**session, config);
  if (!weights.ok()) return weights.status();
  return FetchAdapterHead(**session, config, *weights, Located(name, (*session)->commit()));
}

std::shared_ptr<FetchTicket> RemoteAdapters::TicketOf(const RemoteName& name) const {
  const std::string key = OriginKey(OriginOf(name));
  absl::MutexLock lock(&mutex_);
  const auto fetch = fetches_.find(key);
  return fetch == fetches_.end() ? nullptr : fetch->second.ticket;
}

RemoteAdapters::Result RemoteAdapters::Download(RemoteSession& session, const RemoteFile& config,
                                                const RemoteFile& weights,
                                                const DatedOrigin& origin, const RemoteName& name) {
  auto staging = disk_->Stage(config.size_bytes + weights.size_bytes);
  if (!staging.ok()) return staging.status();
  const std::shared_ptr<FetchTicket> ticket = TicketOf(name);
  if (ticket != nullptr) ticket->SetTotal(config.size_bytes + weights.size_bytes);
  std::string text;
  const auto config_sha256 = DownloadTo(session, config, **staging, ticket.get(), &text);
  if (!config_sha256.ok()) return config_sha256.status();
  // What will not be served is not worth its weights.
  if (auto parsed = ParseAdapterConfig(text); !parsed.ok()) return parsed.status();
  const auto weights_sha256 = DownloadTo(session, weights, **staging, ticket.get(), nullptr);
  if (!weights_sha256.ok()) return weights_sha256.status();
  downloaded_bytes_.fetch_add(config.size_bytes + weights.size_bytes, std::memory_order_relaxed);
  const auto lease = disk_->Publish(*std::move(staging),
                                    GenerationDigest(*config_sha256, *weights_sha256), origin);
  if (!lease.ok()) return lease.status();
  return FromDisk(*lease, Located(name, lease->commit()));
}

}  // namespace lorica
