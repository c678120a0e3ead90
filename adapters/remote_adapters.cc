#include "adapters/remote_adapters.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/adapter_fault.h"
#include "adapters/hub/allow_pattern.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"
#include "adapters/sha256.h"

namespace lorica {
namespace {

constexpr size_t kAccessDigits = 32;
constexpr absl::Duration kBusyDelay = absl::Seconds(5);
constexpr int kTenantRefreshesMax = 1;  // at a time
constexpr char kHeadKey[] = "head\n";   // begins the key of a fetch for those who only look

std::string IdOf(const std::string& repo, const std::string& revision) {
  return revision == kDefaultRevision ? repo : absl::StrCat(repo, "@", revision);
}

// What the hub said, and when to try again, about the adapter as it was named.
absl::Status About(const RemoteName& name, const absl::Status& status) {
  const absl::string_view kind = absl::IsFailedPrecondition(status) ? " cannot be served: " : ": ";
  return AdapterFault(WithText(
      status,
      absl::StrCat("adapter ", Quoted(IdOf(name.repo, name.revision)), kind, status.message())));
}

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
        known->second.refresh_began = options_.clock();
        StartRefresh(name, key, known->second.refresh_began);
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
  const bool may_be_old = WantsNow(name) && !fetch->second.wants_now;
  return may_be_old ? FindAfter(*fetch->second.ticket, name) : fetch->second.ticket;
}

// It ends without the lock, later than now.
std::shared_ptr<FetchTicket> RemoteAdapters::FindAfter(FetchTicket& earlier,
                                                       const RemoteName& name) {
  auto ticket = std::make_shared<FetchTicket>();
  earlier.WhenDone([this, name, ticket](const Result&) {
    const absl::StatusOr<FoundAdapter> found = Find(name);
    if (!found.ok()) return ticket->End(found.status());
    if (found->ticket == nullptr) return ticket->End(found->generation);
    found->ticket->WhenDone([ticket](const Result& result) { ticket->End(result); });
  });
  return ticket;
}

bool RemoteAdapters::IsStale(const RemoteName& name, const Held& known) const {
  return !options_.offline && !stopping_ && refreshes_ < options_.refreshes_max &&
         !ParseCommit(name.revision).ok() &&
         options_.clock() - std::max(known.looked, known.refresh_began) >= options_.refresh;
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
  fetch = {std::make_shared<FetchTicket>(), {name.tenant}, WantsNow(name)};
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

void RemoteAdapters::StartRefresh(const RemoteName& name, const std::string& key, absl::Time now) {
  ++running_;
  ++refreshes_;
  fetches_started_.fetch_add(1, std::memory_order_relaxed);
  refresh_turns_.Run(key, {name.tenant}, [this, name, key, now] { Refresh(name, key, now); });
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
  Brought brought{IsHeadKey(key) ? HeadFromHub(name) : FromHub(name, looked), looked};
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
void RemoteAdapters::Refresh(const RemoteName& name, const std::string& key, absl::Time began) {
  Result result = stopped_->load() ? absl::CancelledError() : FromHub(name, began);
  if (!result.ok()) TellStale(name, result.status());
  bool is_wanted = true;
  {
    absl::MutexLock lock(&mutex_);
    if (result.ok()) is_wanted = RememberRefreshed(key, *result, began);
  }
  if (!is_wanted) {
    const std::string digest = (*result)->digest;
    result = GenerationPtr();  // lets go of it
    disk_->Forget(digest, AccessIn(key)).IgnoreError();
  }
  absl::MutexLock lock(&mutex_);
  ++counts_.refreshes;
  --refreshes_;
  --running_;
}

bool RemoteAdapters::RememberRefreshed(const std::string& key, const GenerationPtr& found,
                                       absl::Time began) {
  const auto known = known_.find(key);
  if (known == known_.end()) return fetches_.contains(key);
  Held& held = known->second;
  if (held.looked > began) return true;  // somebody has looked since
  // What somebody uses stays what others find, where it is the same.
  const GenerationPtr used = held.generation.lock();
  const bool is_same =
      used != nullptr && held.digest == found->digest && held.location == found->location;
  if (!is_same) held.generation = found;
  held.digest = found->digest;
  held.location = found->location;
  held.looked = began;
  return true;
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
    stats.known = static_cast<int32_t>(known_.size());
  }
  stats.disk = disk_->stats();
  stats.downloaded_bytes = downloaded_bytes_.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace lorica
