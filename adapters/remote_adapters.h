// Adapters that have to be brought here first: one fetch each, however many ask.
//
// Find answers at once: with the generation, an error, or a ticket for a fetch that is
// under way. A fetch looks on the disk tier, in the operator's Hugging Face cache and then
// at the remote source, pins the revision to a commit, verifies and keeps what comes. What
// failed is remembered for a short, jittered time. A branch that is in use is looked at
// again from time to time, behind the calls that go on with what is here; where it has
// moved, later calls get the new content, and where the look fails nothing changes. What is here
// never waits for what has to be fetched, and no tenant for more of another's fetches than
// tenant_downloads_max. Thread-safe; nothing but Stop waits.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/adapter_pool.h"
#include "adapters/disk_tier.h"
#include "adapters/failure_memory.h"
#include "adapters/hub/hf_cache.h"
#include "adapters/hub/remote_source.h"
#include "adapters/hub/steady_now.h"
#include "adapters/identified_contents.h"
#include "adapters/peft_loader.h"
#include "adapters/tenant_turns.h"

namespace lorica {

inline constexpr char kDefaultRevision[] = "main";

// How long a look counts for who wants what is there now: as long as a registration takes. That is
// everybody who names an object. Branches of a hub, which requests name, are looked at again from
// time to time instead.
inline constexpr absl::Duration kObjectLookLife = absl::Seconds(10);

struct RemoteOptions {
  // Which repositories of the hub may be named (hub/allow_pattern.h).
  std::vector<std::string> allow;
  bool offline = false;                              // what is on this machine is all there is
  int64_t adapter_bytes_max = kAdapterFileBytesMax;  // of a weight file
  int64_t plan_first_bytes = 16 << 20;               // larger ones are planned by their head first
  int fetches_max = 256;                             // tickets open at a time
  int tenant_fetches_max = 256;                      // ... that one tenant was the first to want
  int tenant_downloads_max = 2;                      // of one tenant at a time
  int refreshes_max = 64;                            // waiting or under way; one of a tenant runs
  int known_max = 1'000'000;                         // remembered names
  int failures_max = 4096;
  absl::Duration failure_ttl = absl::Seconds(10);  // each lives 0.75 to 1.25 times this
  absl::Duration refresh = absl::Minutes(10);      // between looks; infinite = never again
  std::function<absl::Time()> clock = SteadyNow;
  // What is here of a repository goes on being served, since the hub did not say what there is now.
  // Null: nobody hears. On any thread; must not block.
  std::function<void(const std::string& id, const absl::Status& why)> on_stale;
};

// An adapter as a request may name it, beyond what is registered or a local folder.
struct RemoteName {
  std::string repo;  // of the hub, or an object's location
  std::string revision = kDefaultRevision;
  std::string token;   // whoever fetches with another one sees nothing of it; "" = the server's
  std::string tenant;  // who asks, and whose token it is
  // Not what was here before of a branch or a tag, unless the hub has nothing to give.
  bool now = false;
};

// What runs where, so that a hub that hangs holds up nothing that is here. All outlive the
// adapters.
struct RemoteThreads {
  LoaderExecutor* here = nullptr;       // disk tier and cache
  LoaderExecutor* downloads = nullptr;  // looks at the remote source, downloads
  LoaderExecutor* refreshes = nullptr;  // looks at branches that are served already
};

// A fetch under way. It ends once, with one result for all who wait.
class FetchTicket {
 public:
  using Done = std::function<void(const absl::StatusOr<GenerationPtr>&)>;
  // `done` is called once: at once when it has ended, else on the fetching thread. It must
  // not block.
  void WhenDone(Done done);
  // Once, by whoever fetches.
  void End(const absl::StatusOr<GenerationPtr>& result);

  // How far it is. A total of 0: nobody knows yet. Any thread.
  int64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  int64_t bytes_total() const { return bytes_total_.load(std::memory_order_relaxed); }
  // By whoever fetches; a download that begins again takes back what it had.
  void SetTotal(int64_t bytes) { bytes_total_.store(bytes, std::memory_order_relaxed); }
  void Came(int64_t bytes) { bytes_.fetch_add(bytes, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> bytes_{0};
  std::atomic<int64_t> bytes_total_{0};
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::StatusOr<GenerationPtr> result_ ABSL_GUARDED_BY(mutex_) = GenerationPtr();
  std::vector<Done> waiting_ ABSL_GUARDED_BY(mutex_);
};

// Exactly one of the two.
struct FoundAdapter {
  GenerationPtr generation;
  std::shared_ptr<FetchTicket> ticket;
  bool is_local = false;  // the ticket is of a look on this machine, no fetch
};

// What is known of a name, for those who only look.
struct KnownRemote {
  GenerationPtr generation;  // null while nobody uses it
  GenerationPtr facts;       // the same without a source, also then; null: not looked at here
  std::string digest;        // what it was when it was here last; empty: never
  std::string location;      // "org/name@commit"
  bool on_disk = false;      // in the disk tier
  absl::Status error;        // of the last fetch, while it is remembered
  bool fetching = false;
  int64_t fetched_bytes = 0;      // while it is on its way
  int64_t fetch_bytes_total = 0;  // 0: not known yet
};

struct RemoteStats {
  TierStats disk;
  int64_t fetched = 0;  // what was not on this machine and came, by the remote source's count
  int64_t failed = 0;   // ... and did not
  int64_t downloaded_bytes = 0;
  int64_t refreshes = 0;  // looks at branches that are served already
  int32_t known = 0;      // revisions that are remembered
  int32_t under_way = 0;  // tickets, also of what waits for its turn
};

class RemoteAdapters {
 public:
  // `cache` may be null. All outlive it. `stopped` is what the hub's own transfers look at.
  RemoteAdapters(RemoteOptions options, RemoteSource* hub, const HfCache* cache, DiskTier* disk,
                 const PeftLoader* loader, const RemoteThreads& threads,
                 std::atomic<bool>* stopped);
  ~RemoteAdapters();

  // Locations that begin so come from there instead of the hub, where `allow` lets them be
  // named. Before any other call; the source outlives the adapters.
  void AddSource(const std::string& prefix, RemoteSource* source, std::vector<std::string> allow) {
    objects_[prefix] = {source, std::move(allow)};
  }

  // NotFound: it may not be named, does not exist, or may not be read. Unavailable: too
  // many fetches, altogether or of this tenant. Otherwise the error of a fetch that failed just
  // before.
  absl::StatusOr<FoundAdapter> Find(const RemoteName& name);
  // As Find, for those who only look: what is not here comes without its weights
  // (FetchAdapterHead), and nothing is kept of it.
  absl::StatusOr<FoundAdapter> FindHead(const RemoteName& name);
  // Fetched content that is still on the disk, for whoever has a right to it already. NotFound: it
  // is not.
  absl::StatusOr<GenerationPtr> OnDisk(const std::string& digest, const std::string& location);
  bool Allows(const std::string& repo) const;
  KnownRemote Known(const RemoteName& name) const;
  // Names without revision "main" as "repo", others as "repo@revision"; sorted. No objects and no
  // folders of repositories, which nobody asks for by an id. Only what that
  // token of that tenant brings or brought here ("": the server's own, whose tenant is nobody's
  // business): now, or before a restart and still in the disk tier.
  std::vector<std::string> List(const std::string& tenant = "",
                                const std::string& token = "") const;
  // Knows nothing any more of what the name stands for, by any name that the same token brought it
  // under; the content leaves the disk tier unless another's token or the server's has brought it,
  // too. FailedPrecondition: it is in use.
  absl::Status Forget(const RemoteName& name);
  // Ends what is under way (its tickets with Cancelled), and starts nothing more. Waits for
  // it. Idempotent.
  void Stop();

  RemoteStats stats() const;
  int64_t fetches_started() const { return fetches_started_.load(std::memory_order_relaxed); }

 private:
  using Result = absl::StatusOr<GenerationPtr>;

  struct ObjectPlace {
    RemoteSource* source;
    std::vector<std::string> allow;
  };
  const ObjectPlace* ObjectsOf(const std::string& repo) const;  // null: the hub's
  RemoteSource* SourceOf(const std::string& repo) const;
  RemoteOrigin OriginOf(const RemoteName& name) const;
  bool WantsNow(const RemoteName& name) const;
  struct Held {
    std::weak_ptr<const Generation> generation;
    std::string digest;    // also when nobody uses it here: the pool may, by another name
    std::string location;  // "org/name@commit"
    absl::Time looked = absl::InfinitePast();  // at the remote source: this is of then
    absl::Time refresh_began = absl::InfinitePast();
  };
  // Result of a fetch, and when the remote source was asked for it.
  struct Brought {
    Result result;
    absl::Time looked = absl::InfinitePast();
  };
  struct Fetch {
    std::shared_ptr<FetchTicket> ticket;
    std::vector<std::string> tenants;  // who want it, the first of them first
    bool wants_now = false;            // WantsNow of the first
  };

  absl::StatusOr<std::shared_ptr<FetchTicket>> JoinOrStartFetch(const RemoteName& name,
                                                                const std::string& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<FetchTicket>> StartFetch(const RemoteName& name,
                                                          const std::string& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<FetchTicket> FindAfter(FetchTicket& earlier, const RemoteName& name);
  void StartRefresh(const RemoteName& name, const std::string& key, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void JoinFetch(Fetch& fetch, const std::string& key, const std::string& tenant)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int FetchesOf(const std::string& tenant) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsStale(const RemoteName& name, const Held& known) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The steps of a fetch: on this machine, then beyond it.
  void LookHere(const RemoteName& name, const std::string& key);
  void LookThere(const RemoteName& name, const std::string& key);
  void EndFetch(const RemoteName& name, const std::string& key, Brought brought);
  void Refresh(const RemoteName& name, const std::string& key, absl::Time began);
  // False: nobody has the name any more.
  bool RememberRefreshed(const std::string& key, const GenerationPtr& found, absl::Time began)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remember(const std::string& key, const Brought& brought)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  static std::string Located(const RemoteName& name, const std::string& commit);
  // nullopt: it has to be fetched.
  std::optional<Brought> FromHere(const RemoteName& name);
  // DataLoss: it is damaged, and is not there any more.
  Result FromDisk(const DiskLease& lease, const std::string& location);
  Result FromCache(const RemoteName& name);
  // Null: a look that nobody waits for.
  std::shared_ptr<FetchTicket> TicketOf(const RemoteName& name) const;
  // Both refuse what is not there or too large.
  absl::StatusOr<std::unique_ptr<RemoteSession>> LookAtConfig(const RemoteName& name,
                                                              RemoteFile* config);
  absl::StatusOr<RemoteFile> LookAtWeights(RemoteSession& session, const RemoteFile& config);
  Result FromHub(const RemoteName& name, absl::Time looked);
  void TellStale(const RemoteName& name, const absl::Status& why) const;
  // For who wants what is there now, `failed`: what is here all the same.
  Result HereInstead(const RemoteName& name, const Result& failed);
  Result HeadFromHub(const RemoteName& name);
  // What can be said of the weights before all of them are here.
  absl::Status CheckHead(RemoteSession& session, const RemoteFile& config,
                         const RemoteFile& weights, const std::string& location);
  Result Download(RemoteSession& session, const RemoteFile& config, const RemoteFile& weights,
                  const DatedOrigin& origin, const RemoteName& name);

  const RemoteOptions options_;
  RemoteSource* const hub_;
  absl::btree_map<std::string, ObjectPlace> objects_;  // by prefix
  const HfCache* const cache_;
  DiskTier* const disk_;
  const PeftLoader* const loader_;
  IdentifiedContents contents_;
  LoaderExecutor* const here_;
  std::atomic<bool>* const stopped_;
  std::atomic<int64_t> fetches_started_{0};
  std::atomic<int64_t> downloaded_bytes_{0};

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;  // fetches, until all who waited have been told
  int refreshes_ ABSL_GUARDED_BY(mutex_) = 0;
  RemoteStats counts_ ABSL_GUARDED_BY(mutex_);  // fetched, failed, refreshes
  absl::btree_map<std::string, Fetch> fetches_ ABSL_GUARDED_BY(mutex_);
  absl::btree_map<std::string, Held> known_ ABSL_GUARDED_BY(mutex_);
  FailureMemory failures_ ABSL_GUARDED_BY(mutex_);
  TenantTurns downloads_;  // last: their ends wait for what still runs
  TenantTurns refresh_turns_;
};

}  // namespace lorica
