#include "adapters/remote_adapters.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/adapter_fault.h"
#include "adapters/adapter_head.h"
#include "adapters/content_digest.h"
#include "adapters/hub/allow_pattern.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"
#include "adapters/sha256.h"

namespace lorica {
namespace {

constexpr char kConfigFile[] = "adapter_config.json";
constexpr char kWeightsFile[] = "adapter_model.safetensors";
constexpr size_t kShownCommitDigits = 12;
constexpr size_t kAccessDigits = 32;
constexpr absl::Duration kBusyDelay = absl::Seconds(5);
constexpr int kTenantRefreshesMax = 1;  // at a time
constexpr char kHeadKey[] = "head\n";   // begins the key of a fetch for those who only look

std::string IdOf(const std::string& repo, const std::string& revision) {
  return revision == kDefaultRevision ? repo : absl::StrCat(repo, "@", revision);
}

// A hub's repository at a commit can be named so; what stands for an object's commit is only shown.
std::string Located(const RemoteName& name, const std::string& commit) {
  const bool is_object = IsObjectLocation(name.repo);
  return absl::StrCat(name.repo, "@", is_object ? commit.substr(0, kShownCommitDigits) : commit);
}

absl::Status Refuse(absl::string_view what) { return absl::FailedPreconditionError(what); }

// What the hub said, and when to try again, about the adapter as it was named.
absl::Status About(const RemoteName& name, const absl::Status& status) {
  const absl::string_view kind = absl::IsFailedPrecondition(status) ? " cannot be served: " : ": ";
  return AdapterFault(WithText(
      status,
      absl::StrCat("adapter ", Quoted(IdOf(name.repo, name.revision)), kind, status.message())));
}

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

// Whose fetch it is; empty: that of the server's own token.
std::string AccessOf(const std::string& tenant, const std::string& token) {
  if (token.empty()) return "";
  Sha256 hash;
  hash.Update(absl::StrCat(tenant, "\n", token));
  return hash.Finish().substr(0, kAccessDigits);
}

// Of an OriginKey.
std::string AccessIn(const std::string& key) { return key.substr(key.rfind('\n') + 1); }

bool IsHeadKey(const std::string& key) { return absl::StartsWith(key, kHeadKey); }

absl::Status NotAllowed(const RemoteName& name) {
  return absl::NotFoundError(
      absl::StrCat("repository ", Quoted(name.repo), " is none that this server may fetch from"));
}

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

absl::Status WithoutWeights(RemoteSession& session, const std::string& repo) {
  for (const char* pickle : {"adapter_model.bin", "adapter_model.pt"}) {
    auto found = session.Look(pickle);
    if (!found.ok()) return found.status();
    if (!found->has_value()) continue;
    return Refuse(absl::StrCat("only safetensors adapters are served: convert ", pickle, " of ",
                               Quoted(repo), " with safetensors"));
  }
  return Refuse(absl::StrCat(Quoted(repo), " has no ", kWeightsFile));
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

RemoteAdapters::RemoteAdapters(RemoteOptions options, RemoteSource* hub, const HfCache* cache,
                               DiskTier* disk, const PeftLoader* loader,
                               const RemoteThreads& threads, std::atomic<bool>* stopped)
    : options_(std::move(options)),
      hub_(hub),
      cache_(cache),
      disk_(disk),
      loader_(loader),
      contents_(loader, kIdentifiedContentsMax),
      here_(threads.here),
      stopped_(stopped),
      failures_(options_.failures_max, options_.failure_ttl, /*seed=*/1),
      downloads_(threads.downloads, options_.tenant_downloads_max),
      refresh_turns_(threads.refreshes, kTenantRefreshesMax) {}

RemoteAdapters::~RemoteAdapters() { Stop(); }

void RemoteAdapters::Stop() {
  stopped_->store(true);
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  mutex_.Await(absl::Condition(
      +[](int* running) { return *running == 0; }, &running_));
}

const RemoteAdapters::ObjectPlace* RemoteAdapters::ObjectsOf(const std::string& repo) const {
  for (const auto& [prefix, place] : objects_) {
    if (absl::StartsWith(repo, prefix)) return &place;
  }
  return nullptr;
}

RemoteSource* RemoteAdapters::SourceOf(const std::string& repo) const {
  const ObjectPlace* objects = ObjectsOf(repo);
  return objects == nullptr ? hub_ : objects->source;
}

bool RemoteAdapters::Allows(const std::string& repo) const {
  if (const ObjectPlace* objects = ObjectsOf(repo)) {
    return IsObjectLocation(repo) && IsAllowed(objects->allow, repo);
  }
  return (IsRepoName(repo) || IsRepoFolder(repo)) &&
         IsAllowed(options_.allow, SplitRepoPlace(repo).repo);
}

RemoteOrigin RemoteAdapters::OriginOf(const RemoteName& name) const {
  RemoteOrigin origin{SourceOf(name.repo)->name(), name.repo, name.revision};
  origin.access = AccessOf(name.tenant, name.token);
  return origin;
}

bool RemoteAdapters::WantsNow(const RemoteName& name) const {
  return IsObjectLocation(name.repo) ||
         (name.now && !options_.offline && !ParseCommit(name.revision).ok());
}

absl::StatusOr<FoundAdapter> RemoteAdapters::Find(const RemoteName& name) {
  if (!Allows(name.repo)) return NotAllowed(name);
  const std::string key = OriginKey(OriginOf(name));
  FoundAdapter found;
  absl::MutexLock lock(&mutex_);
  if (const auto known = known_.find(key); known != known_.end()) {
    found.generation = known->second.generation.lock();
    if (WantsNow(name) && options_.clock() - known->second.looked >= kObjectLookLife) {
      found.generation = nullptr;
    }
    if (found.generation != nullptr) {
      if (IsStale(name, known->second)) {
        known->second.looked = options_.clock();
        StartRefresh(name, key);
      }
      return found;
    }
  }
  absl::StatusOr<std::shared_ptr<FetchTicket>> ticket = JoinOrStartFetch(name, key);
  if (!ticket.ok()) return ticket.status();
  found.ticket = *std::move(ticket);
  return found;
}

absl::StatusOr<FoundAdapter> RemoteAdapters::FindHead(const RemoteName& name) {
  if (!Allows(name.repo)) return NotAllowed(name);
  const std::string key = OriginKey(OriginOf(name));
  absl::MutexLock lock(&mutex_);
  if (const auto known = known_.find(key); known != known_.end() && !IsObjectLocation(name.repo)) {
    if (GenerationPtr here = known->second.generation.lock()) return FoundAdapter{std::move(here)};
  }
  auto ticket = JoinOrStartFetch(name, absl::StrCat(kHeadKey, key));
  if (!ticket.ok()) return ticket.status();
  return FoundAdapter{nullptr, *std::move(ticket)};
}

absl::StatusOr<std::shared_ptr<FetchTicket>> RemoteAdapters::JoinOrStartFetch(
    const RemoteName& name, const std::string& key) {
  const auto fetch = fetches_.find(key);
  if (fetch == fetches_.end()) return StartFetch(name, key);
  JoinFetch(fetch->second, key, name.tenant);
  return fetch->second.ticket;
}

bool RemoteAdapters::IsStale(const RemoteName& name, const Held& known) const {
  return !options_.offline && !stopping_ && refreshes_ < options_.refreshes_max &&
         !ParseCommit(name.revision).ok() && options_.clock() - known.looked >= options_.refresh;
}

int RemoteAdapters::FetchesOf(const std::string& tenant) const {
  return static_cast<int>(std::count_if(
      fetches_.begin(), fetches_.end(),
      [&tenant](const auto& fetch) { return fetch.second.tenants.front() == tenant; }));
}

absl::StatusOr<std::shared_ptr<FetchTicket>> RemoteAdapters::StartFetch(const RemoteName& name,
                                                                        const std::string& key) {
  const absl::Time now = options_.clock();
  failures_.Forget(now);
  if (absl::Status failed = failures_.Find(key, now); !failed.ok()) return failed;
  if (stopping_) return absl::UnavailableError("the server is shutting down");
  if (std::ssize(fetches_) >= options_.fetches_max ||
      FetchesOf(name.tenant) >= options_.tenant_fetches_max) {
    return UnavailableFor("too many adapters are being fetched", kBusyDelay);
  }
  Fetch& fetch = fetches_[key];
  fetch = {std::make_shared<FetchTicket>(), {name.tenant}};
  ++running_;
  fetches_started_.fetch_add(1, std::memory_order_relaxed);
  here_->Run([this, name, key] { LookHere(name, key); });
  return fetch.ticket;
}

void RemoteAdapters::JoinFetch(Fetch& fetch, const std::string& key, const std::string& tenant) {
  if (std::find(fetch.tenants.begin(), fetch.tenants.end(), tenant) != fetch.tenants.end()) return;
  fetch.tenants.push_back(tenant);
  downloads_.Join(key, tenant);
}

void RemoteAdapters::StartRefresh(const RemoteName& name, const std::string& key) {
  ++running_;
  ++refreshes_;
  fetches_started_.fetch_add(1, std::memory_order_relaxed);
  refresh_turns_.Run(key, {name.tenant}, [this, name, key] { Refresh(name, key); });
}

void RemoteAdapters::LookHere(const RemoteName& name, const std::string& key) {
  std::optional<Brought> here;
  if (!stopped_->load()) here = FromHere(name);
  if (here) return EndFetch(name, key, *std::move(here));
  absl::MutexLock lock(&mutex_);
  downloads_.Run(key, fetches_.at(key).tenants, [this, name, key] { LookThere(name, key); });
}

void RemoteAdapters::LookThere(const RemoteName& name, const std::string& key) {
  const absl::Time looked = options_.clock();
  if (stopped_->load()) {
    return EndFetch(name, key, {absl::CancelledError("the server is shutting down")});
  }
  Brought brought{IsHeadKey(key) ? HeadFromHub(name) : FromHub(name), looked};
  if (!IsHeadKey(key)) {
    absl::MutexLock lock(&mutex_);
    ++(brought.result.ok() ? counts_.fetched : counts_.failed);
  }
  if (!brought.result.ok() && name.now) brought.result = HereInstead(name, brought.result);
  EndFetch(name, key, std::move(brought));
}

void RemoteAdapters::EndFetch(const RemoteName& name, const std::string& key, Brought brought) {
  if (!brought.result.ok()) brought.result = About(name, brought.result.status());
  std::shared_ptr<FetchTicket> ticket;
  {
    absl::MutexLock lock(&mutex_);
    ticket = fetches_.extract(key).mapped().ticket;
    Remember(key, brought);
  }
  ticket->End(brought.result);
  absl::MutexLock lock(&mutex_);
  --running_;  // from here on Stop may return
}

void RemoteAdapters::TellStale(const RemoteName& name, const absl::Status& why) const {
  if (options_.on_stale == nullptr || absl::IsCancelled(why)) return;
  options_.on_stale(IdOf(name.repo, name.revision), why);
}

// What is wrong with the hub today is not wrong with what is here.
void RemoteAdapters::Refresh(const RemoteName& name, const std::string& key) {
  const Result result = stopped_->load() ? absl::CancelledError() : FromHub(name);
  if (!result.ok()) TellStale(name, result.status());
  absl::MutexLock lock(&mutex_);
  if (result.ok()) {
    Held& held = known_[key];
    // What somebody uses stays what others find, where it is the same.
    const GenerationPtr used = held.generation.lock();
    const bool is_same =
        used != nullptr && held.digest == (*result)->digest && held.location == (*result)->location;
    if (!is_same) held = {*result, (*result)->digest, (*result)->location, held.looked};
  }
  ++counts_.refreshes;
  --refreshes_;
  --running_;
}

void RemoteAdapters::Remember(const std::string& key, const Brought& brought) {
  if (brought.result.ok()) {
    if (IsHeadKey(key)) return;
    if (std::ssize(known_) >= options_.known_max) Sweep();
    const Generation& generation = **brought.result;
    known_[key] = {*brought.result, generation.digest, generation.location, brought.looked};
  } else if (!absl::IsCancelled(brought.result.status())) {
    failures_.Remember(key, brought.result.status(), options_.clock());
  }
}

// What nobody uses is found on disk again; if that is not enough, neither is the rest lost.
void RemoteAdapters::Sweep() {
  for (auto known = known_.begin(); known != known_.end();) {
    known = known->second.generation.expired() ? known_.erase(known) : std::next(known);
  }
  if (std::ssize(known_) >= options_.known_max) known_.erase(known_.begin());
}

KnownRemote RemoteAdapters::Known(const RemoteName& name) const {
  const RemoteOrigin origin = OriginOf(name);
  const std::string key = OriginKey(origin);
  KnownRemote known;
  {
    absl::MutexLock lock(&mutex_);
    if (const auto found = known_.find(key); found != known_.end()) {
      known.generation = found->second.generation.lock();
      known.digest = found->second.digest;
      known.location = found->second.location;
    }
    if (const auto fetch = fetches_.find(key); fetch != fetches_.end()) {
      known.fetching = true;
      known.fetched_bytes = fetch->second.ticket->bytes();
      known.fetch_bytes_total = fetch->second.ticket->bytes_total();
    }
    known.error = failures_.LastError(key);
  }
  if (known.digest.empty()) {
    if (const auto kept = disk_->Peek(origin)) {
      known.digest = kept->first;
      known.location = Located(name, kept->second);
    }
  }
  known.on_disk = disk_->Has(known.digest);
  known.facts = contents_.Last(known.digest);
  return known;
}

std::vector<std::string> RemoteAdapters::List(const std::string& tenant,
                                              const std::string& token) const {
  const std::string access = AccessOf(tenant, token);
  std::vector<std::string> ids;
  std::vector<RemoteOrigin> origins = disk_->Origins();
  // Content that came as a branch is also known by its commit.
  absl::flat_hash_set<std::string> branches;
  for (const RemoteOrigin& origin : origins) {
    if (origin.revision != origin.commit) branches.insert(origin.repo + "@" + origin.commit);
  }
  for (const RemoteOrigin& origin : origins) {
    const bool is_ours =
        origin.access == access && IsRepoName(origin.repo) && origin.server == hub_->name();
    const bool is_shadow =
        origin.revision == origin.commit && branches.contains(origin.repo + "@" + origin.commit);
    if (is_ours && !is_shadow) ids.push_back(IdOf(origin.repo, origin.revision));
  }
  const auto add = [&](const std::string& key) {
    const std::vector<std::string> parts = absl::StrSplit(key, '\n');
    if (AccessIn(key) == access && IsRepoName(parts[1])) ids.push_back(IdOf(parts[1], parts[2]));
  };
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, known] : known_) add(key);
  for (const auto& [key, fetch] : fetches_) {
    if (!IsHeadKey(key)) add(key);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

absl::Status RemoteAdapters::Forget(const RemoteName& name) {
  const std::string digest = Known(name).digest;
  const std::string access = AccessOf(name.tenant, name.token);
  if (absl::Status s = disk_->Forget(digest, access); !s.ok()) {
    return absl::Status(s.code(), absl::StrCat("adapter ", Quoted(IdOf(name.repo, name.revision)),
                                               ": ", s.message()));
  }
  absl::MutexLock lock(&mutex_);
  absl::erase_if(known_, [&](const auto& known) {
    return known.second.digest == digest && AccessIn(known.first) == access;
  });
  return absl::OkStatus();
}

RemoteStats RemoteAdapters::stats() const {
  RemoteStats stats;
  {
    absl::MutexLock lock(&mutex_);
    stats = counts_;
    stats.under_way = static_cast<int32_t>(fetches_.size());
  }
  stats.disk = disk_->stats();
  stats.downloaded_bytes = downloaded_bytes_.load(std::memory_order_relaxed);
  return stats;
}

// --- on threads that may wait --------------------------------------------------------------

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
    return Refuse(absl::StrCat(Quoted(name.repo), " has no ", kConfigFile, ": is it an adapter?"));
  }
  *config = **std::move(found);
  return session;
}

absl::StatusOr<RemoteFile> RemoteAdapters::LookAtWeights(RemoteSession& session,
                                                         const RemoteFile& config,
                                                         const RemoteName& name) {
  auto weights = session.Look(kWeightsFile);
  if (!weights.ok()) return weights.status();
  if (!weights->has_value()) return WithoutWeights(session, name.repo);
  absl::Status sizes = CheckSizes(config, **weights, options_.adapter_bytes_max);
  if (!sizes.ok()) return sizes;
  return **std::move(weights);
}

RemoteAdapters::Result RemoteAdapters::FromHub(const RemoteName& name) {
  RemoteFile config;
  const auto session = LookAtConfig(name, &config);
  if (!session.ok()) return session.status();
  RemoteOrigin origin = OriginOf(name);
  origin.commit = (*session)->commit();
  if (const auto lease = disk_->Adopt(origin)) {
    Result kept = FromDisk(*lease, Located(name, lease->commit()));
    if (!absl::IsDataLoss(kept.status())) return kept;
  }
  const auto weights = LookAtWeights(**session, config, name);
  if (!weights.ok()) return weights.status();
  if (weights->size_bytes > options_.plan_first_bytes) {
    const std::string location = Located(name, origin.commit);
    absl::Status head = CheckHead(**session, config, *weights, location);
    if (!head.ok()) return head;
  }
  return Download(**session, config, *weights, origin, name);
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
  const auto weights = LookAtWeights(**session, config, name);
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
                                                const RemoteOrigin& origin,
                                                const RemoteName& name) {
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
