// Names to generations: registered names and aliases first, then folders beneath the root.
//
// Resolve is what every request calls. A folder's own name stands for what the folder
// holds now: digests are kept by file stamp, so an unchanged folder costs two stats;
// changed content becomes a new generation and whoever holds the old one keeps it. A
// registered name stands for the generation it was registered with, whatever becomes of
// the folder, until Register or Rollback moves it: at once and for all, so that a request
// sees the one or the other. An alias stands for what its target stands for.
//
// Names are per tenant. With Restore they survive a restart and their content is copied;
// without it they live in memory, and a registered name whose folder has changed is
// refused. Thread-safe; Resolve may read and hash files and changes wait for the disk, so
// none of this runs on a transport's event thread. Find, given SetLooks, hashes nothing.
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
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/content_store.h"
#include "adapters/generation_cache.h"
#include "adapters/local_looks.h"
#include "adapters/merged_adapters.h"
#include "adapters/peft_loader.h"
#include "adapters/registry.h"
#include "adapters/remote_adapters.h"

namespace lorica {

inline constexpr int kCatalogNamesMax = 1'000'000;

// Of registered and deleted names and aliases together.
struct CatalogLimits {
  int names_max = kCatalogNamesMax;         // and so many folders are remembered
  int tenant_names_max = kCatalogNamesMax;  // ... of one tenant
};

struct CatalogEntry {
  std::string adapter_id;
  std::string location;
  bool registered = false;
  // Null while nobody has looked at the content. Of what was fetched it may be without a source.
  GenerationPtr generation;
  absl::Status error;    // of the last look
  std::string digest;    // of a registered name or what was fetched, also while nobody has looked
  std::string alias_of;  // empty: no alias
  std::optional<absl::Time> registered_at{};  // what the name stands for
  std::string commit{};                       // of a hub's repository, when it was registered
  bool fetching = false;                      // on its way to this machine,
  int64_t fetched_bytes = 0;                  // so much of it is here
  int64_t fetch_bytes_total = 0;              // 0: nobody knows yet
  bool on_disk = false;                       // fetched, and kept here
  bool deleted = false;                       // hidden, though its folder is there
};

// Copies of registered adapters that are gone, or not as large as they were.
struct LostCopies {
  int64_t count = 0;
  NamedGeneration first;  // of those, where there are any
};

// A merge as it is asked for: adapters by name, in order, with their weights.
struct MergeChoice {
  MergeRule rule;
  std::vector<std::pair<std::string, double>> parts;
};
// What a registered merge has for its location: "merge:dare_ties 0.5 total seed 9 a=0.7 b=0.3".
std::string MergeText(const MergeChoice& choice);

class AdapterCatalog {
 public:
  // `base_from` is the file, folder or repository that the base was read from, where it may have
  // another name than it gives itself.
  AdapterCatalog(std::shared_ptr<Source> root, const PeftLoader* loader, std::string base_name,
                 std::string base_from = "", CatalogLimits limits = {});

  // Both before any other call. Starts from the registry's names and keeps changes there
  // and content in `content`; both outlive the catalog.
  absl::Status Restore(Registry* registry, ContentStore* content);
  // What Restore missed, by sizes alone: whether a copy is what it was is seen when it is first
  // looked at.
  const LostCopies& lost_at_restore() const { return lost_; }
  // Which locations, of repositories without revision and folder, a tenant may use; what it may not
  // is unknown to it.
  using Scope = std::function<bool(const std::string& tenant, const std::string& location)>;
  void SetScope(Scope scope) { scope_ = std::move(scope); }

  // A tenant's own token for the hub, "" where it has none; asked for at each fetch and look, so
  // never for a transport's thread. The call's own comes before it.
  using TokenOfTenant = std::function<absl::StatusOr<std::string>(const std::string& tenant)>;
  void SetTokens(TokenOfTenant token_of) { token_of_ = std::move(token_of); }

  // Hears of each change of a name, null where it is gone, in their order; must neither block nor
  // call the catalog.
  using OnChange = std::function<void(const std::string& tenant, const std::string& name,
                                      const RegisteredName* now)>;
  void SetOnChange(OnChange on_change) { on_change_ = std::move(on_change); }

  // Hears of each copy that is thrown away since it is not what it was; must neither block nor call
  // the catalog.
  using OnDamage = std::function<void(const std::string& digest, const std::string& location)>;
  void SetOnDamage(OnDamage on_damage) { on_damage_ = std::move(on_damage); }
  int64_t damaged_copies() const { return damaged_.load(std::memory_order_relaxed); }

  // What is neither registered nor a folder may be fetched from there: "org/name", or
  // "org/name@revision". It outlives the catalog.
  void SetRemote(RemoteAdapters* remote) { remote_ = remote; }

  // Where Find leaves what has to be hashed, or is being hashed for another; null: Find does it
  // itself. It is stopped before the catalog goes.
  void SetLooks(LocalLooks* looks) { looks_ = looks; }

  // Makes merges. It outlives the catalog.
  void SetMerged(MergedAdapters* merged) { merged_ = merged; }

  // Like Resolve; an adapter that has to be fetched or hashed first is a ticket. `token`: the
  // caller's own for a hub, whose fetches are then seen by that tenant with that token alone;
  // without it the tenant's, if it has one.
  absl::StatusOr<FoundAdapter> Find(const std::string& tenant, const std::string& adapter_id,
                                    const std::string& token = "");
  // The merge of adapters that the tenant may use; a ticket while it is being made. Also the
  // errors of MergedAdapters.
  // `token`: as for Find, of each part.
  absl::StatusOr<FoundAdapter> FindMerge(const std::string& tenant, const MergeChoice& choice,
                                         const std::string& token = "");
  // Whether the id leads beyond this machine. Touches no network.
  bool MayFetch(const std::string& tenant, const std::string& adapter_id) const;

  // Where an id leads: "local", also where it leads nowhere, "hub", "s3" or "mirror". Looks for a
  // folder, touches no network.
  const char* SourceOf(const std::string& tenant, const std::string& adapter_id) const;

  // Unavailable: it is being fetched. NotFound: neither registered nor a folder.
  // FailedPrecondition: not servable, or the registered content is gone. InvalidArgument: grammar.
  // The base model's own name and
  // "" are not resolved here. "id@revision" asks for one generation: the revision is the
  // beginning (8 digits at least) of a digest; a registered name has its last
  // kGenerationsKeptMax ones, a folder what it holds now, else NotFound.
  absl::StatusOr<GenerationPtr> Resolve(const std::string& tenant, const std::string& adapter_id,
                                        const std::string& token = "");

  struct RegisterOptions {
    std::string location;  // empty = adapter_id
    bool replace = false;
    std::string expected_generation;  // or its first 8 digits and more; empty = none
    std::string token;                // as for Find
    GenerationPtr found;              // what was fetched for this call; null: it is looked for here
  };
  // What Register needs, where that has to be fetched first: a location, which may have a
  // registered name's own spelling. What may move a name is what the hub has now. Neither
  // generation nor ticket where nothing has to be fetched.
  absl::StatusOr<FoundAdapter> FindSource(const std::string& tenant, const std::string& location,
                                          const RegisterOptions& options);
  struct Registered {
    GenerationPtr generation;
    bool created = false;
    std::string replaced;  // the digest that the name stood for, where it has moved
  };
  // All of the weights are read first, so that a name never moves to what cannot be loaded, as
  // neither Rollback nor SetAlias let it; DataLoss: they hold NaN or infinity.
  // AlreadyExists: other content, an alias, or an id that differs only by case.
  // Aborted: stale expected_generation. Also the errors of Registry and ContentStore.
  absl::StatusOr<Registered> Register(const std::string& tenant, const std::string& adapter_id,
                                      const RegisterOptions& options);
  // Registers a merge that is there; options.location is not looked at. Unavailable: it is
  // being made. With Restore its files are kept, without it they are made when they are needed.
  absl::StatusOr<Registered> RegisterMerge(const std::string& tenant, const std::string& adapter_id,
                                           const MergeChoice& choice,
                                           const RegisterOptions& options);
  // Moves a registered name back to the generation before, or to the one that `to` begins.
  // NotFound: it has none such. FailedPrecondition: that content is gone. Aborted: as above.
  absl::StatusOr<GenerationPtr> Rollback(const std::string& tenant, const std::string& adapter_id,
                                         const std::string& to,
                                         const std::string& expected_generation);
  // The target may also be a hub's, once it has been fetched (else Unavailable). AlreadyExists: the
  // name is an adapter's, or an alias of another target (unless `replace` or a matching
  // `expected_generation`, as for Register). InvalidArgument: the target is an alias itself.
  // options.location is not looked at.
  absl::Status SetAlias(const std::string& tenant, const std::string& alias,
                        const std::string& target, const RegisterOptions& options);
  // The name is unknown from then on, also where a folder has that name, until it is
  // registered again. Of what was fetched, what that token brought is forgotten, and the next call
  // fetches it again; with the last who brought it the content leaves the disk, FailedPrecondition
  // while that is in use, and where a name still has aliases. InvalidArgument: the base model's
  // name. NotFound: it was unknown before. PermissionDenied: the server's own token brought it, for
  // all tenants, and `may_forget_shared` is not set.
  absl::Status Delete(const std::string& tenant, const std::string& adapter_id,
                      const std::string& token = "", bool may_forget_shared = true);
  // The digest of what Delete would forget; empty: nothing that was fetched.
  std::string FetchedDigest(const std::string& tenant, const std::string& adapter_id,
                            const std::string& token = "") const;

  // The name is what it was before it was registered: a folder, or unknown. Otherwise like Delete.
  absl::Status Unregister(const std::string& tenant, const std::string& adapter_id);

  // Looks at the content, like Resolve; what is wrong with it is the entry's error.
  absl::StatusOr<CatalogEntry> Get(const std::string& tenant, const std::string& adapter_id,
                                   const std::string& token = "");
  // What a registered name stands and stood for; NotFound when it is not registered.
  absl::StatusOr<RegisteredName> History(const std::string& tenant,
                                         const std::string& adapter_id) const;
  // Sorted by id, strictly after `after`, only ids with `prefix`. Does not hash. An alias whose
  // target is gone has an error. Deleted names are left out, or, with `show_deleted`, those whose
  // folder is gone. Of what was fetched that which the tenant's own token brought, or
  // without one the server's.
  absl::StatusOr<std::vector<CatalogEntry>> List(const std::string& tenant,
                                                 const std::string& prefix,
                                                 const std::string& after, int limit,
                                                 bool show_deleted = false);
  // nullopt: nothing is fetched.
  std::optional<RemoteStats> FetchStats() const;
  // How many there are of each: what must not grow with what is asked for.
  struct Held {
    int64_t names = 0;     // registered or hidden ones, and aliases
    int64_t folders = 0;   // and copies, whose content is remembered
    int64_t arriving = 0;  // copies that are being made or read for a change
    int64_t looks = 0;
    int64_t merges_under_way = 0;
    int64_t merges = 0;
  };
  Held held() const;
  // What Check needs, where that has to be fetched first: its head alone, of which nothing is kept.
  // Neither generation nor ticket where it does not. `token`: as for Find.
  absl::StatusOr<FoundAdapter> FindHead(const std::string& tenant,
                                        const std::string& location_or_id,
                                        const std::string& token = "");
  // `head`: what FindHead brought. Changes nothing.
  absl::StatusOr<AdapterPlan> Check(const std::string& tenant, const std::string& location_or_id,
                                    const std::string& token = "",
                                    const GenerationPtr& head = nullptr);

 private:
  using NameKey = std::pair<std::string, std::string>;  // tenant, adapter id
  struct Place {
    std::string location;
    std::string digest;  // empty: whatever the folder holds
    std::string alias_of;
    bool registered = false;
    std::optional<absl::Time> registered_at{};
    std::string commit{};
    friend bool operator==(const Place&, const Place&) = default;
  };

  // A name, or what it is an alias of, and what that is registered as, if it is: as of one moment.
  struct Followed {
    std::string name;
    std::string alias_of;
    std::optional<RegisteredName> named;
  };
  Followed Follow(const std::string& tenant, const std::string& name) const;
  // Where to look for an id (without or with revision). NotFound: nowhere.
  absl::StatusOr<Place> PlaceOf(const std::string& tenant, const std::string& adapter_id) const;
  static bool IsMerge(const std::string& location);
  // A merge: all that it was made of.
  bool MayUse(const std::string& tenant, const std::string& location) const;
  absl::StatusOr<std::string> MergeLocation(const std::string& tenant,
                                            const MergeChoice& choice) const;
  absl::StatusOr<GenerationPtr> Look(const Place& place);
  // What Look would say without hashing; nullopt: it would have to.
  std::optional<absl::StatusOr<GenerationPtr>> TryLook(const Place& place);
  absl::StatusOr<GenerationPtr> LookKept(const std::string& digest);
  absl::StatusOr<GenerationPtr> CopyAnew(const Place& place);
  void DropCopy(const Place& place);
  void LookForLostCopies();
  absl::StatusOr<GenerationPtr> LookAtSource(const Place& place);
  absl::StatusOr<AdapterPlan> PlanOf(const GenerationPtr& generation) const;
  absl::StatusOr<GenerationPtr> Last(const Place& place) const;

  void HoldMerge(const std::string& location, const GenerationPtr& generation);
  absl::StatusOr<GenerationPtr> HeldMerge(const std::string& digest) const;

  using LookFunction = absl::FunctionRef<absl::StatusOr<GenerationPtr>()>;
  absl::Status CheckNewName(const std::string& adapter_id) const;
  absl::Status KeepServable(const Generation& generation);
  void CountArriving(const std::string& digest, int by);
  absl::StatusOr<GenerationPtr> LookAgain(const Place& place, const Generation& from);
  absl::StatusOr<Registered> RegisterAs(const std::string& tenant, const std::string& adapter_id,
                                        const std::string& location, LookFunction look,
                                        const RegisterOptions& options);
  std::optional<RegisteredName> Named(const NameKey& key) const;
  absl::Status CheckCase(const NameKey& key) const;
  absl::Status CheckNoAliases(const NameKey& key) const;
  // What Rollback leads to now.
  absl::StatusOr<NamedGeneration> EarlierOf(const NameKey& key, const std::string& to,
                                            const std::string& expected) const;
  // What SetAlias would point at now.
  absl::StatusOr<GenerationPtr> LookAtTarget(const std::string& tenant, const std::string& target,
                                             const RegisterOptions& options);
  absl::Status CheckFree(const NameKey& key, const std::string& target,
                         const RegisterOptions& options);
  // What it stands for now; empty: nothing that is here.
  std::string DigestOfAlias(const std::string& tenant, const std::string& alias,
                            const std::string& token);
  absl::Status CheckExpected(const std::string& id, const std::string& digest,
                             const std::string& expected) const;
  absl::Status CheckMove(const NameKey& key, const Generation& wanted,
                         const RegisterOptions& options);
  // To new content, or to the same content from elsewhere.
  absl::Status PutMoved(RegisteredName name, const Generation& wanted, const std::string& location)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  // Both: on disk, then for all to see, then content nobody names any more goes.
  absl::Status Put(const RegisteredName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  absl::Status CheckRoom(const NameKey& key) const;
  absl::Status Erase(const NameKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  void Publish(const NameKey& key, const RegisteredName* name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  void CountContent(const RegisteredName& name, int by)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  void DropContent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  absl::StatusOr<CatalogEntry> ListEntry(const std::string& tenant, const std::string& id) const;
  CatalogEntry EntryOf(const std::string& id, const Place& place,
                       absl::StatusOr<GenerationPtr> looked) const;

  // What an id means at the remote source; nullopt: nothing.
  std::optional<RemoteName> RemoteNameOf(const std::string& tenant, const std::string& id) const;
  // The same of a location, which no registered name hides.
  std::optional<RemoteName> RemoteSourceOf(const std::string& tenant,
                                           const std::string& location) const;
  std::optional<RemoteName> RemoteAt(const std::string& tenant, RemoteName name) const;
  // Looks at the place of an id, as often as the name moves meanwhile; nullopt: `look` said so.
  using Looked = std::optional<absl::StatusOr<GenerationPtr>>;
  Looked ResolveBy(const std::string& tenant, const std::string& adapter_id,
                   absl::FunctionRef<Looked(const Place&)> look) const;
  // Like Find, and hashes on the caller's thread; `name`: RemoteNameOf.
  absl::StatusOr<FoundAdapter> FindNow(const std::string& tenant, const std::string& adapter_id,
                                       const std::string& token, std::optional<RemoteName> name);
  // `lost`: what is said where that is not possible.
  absl::StatusOr<FoundAdapter> FetchAgain(const std::string& tenant, const std::string& adapter_id,
                                          const std::string& token, const absl::Status& lost);
  // A folder's generation, or that of what was fetched under that name.
  absl::StatusOr<GenerationPtr> LookAt(const std::string& tenant, const std::string& location,
                                       const RegisterOptions& options);
  // Adds the token to use: the call's, the tenant's or none.
  absl::Status Authorise(const std::string& tenant, const std::string& token,
                         RemoteName* name) const;
  absl::StatusOr<CatalogEntry> GetHere(const std::string& tenant, const std::string& adapter_id);
  absl::StatusOr<CatalogEntry> GetRemote(const std::string& tenant, const std::string& adapter_id,
                                         RemoteName name, const std::string& token = "") const;
  // What Delete would forget, of which tenant's token; nullopt: nothing that was fetched.
  absl::StatusOr<std::optional<RemoteName>> RemoteToForget(const std::string& tenant,
                                                           const std::string& adapter_id,
                                                           const std::string& token) const;
  absl::Status ForgetRemote(const std::string& adapter_id, const RemoteName& name,
                            bool may_forget_shared);
  std::vector<std::string> RemoteIds(const std::string& tenant, const std::string& token) const;

  const std::shared_ptr<Source> root_;
  const PeftLoader* const loader_;
  const std::string base_name_;
  const std::string base_from_;
  const CatalogLimits limits_;
  Registry* registry_ = nullptr;
  ContentStore* content_ = nullptr;
  RemoteAdapters* remote_ = nullptr;
  LocalLooks* looks_ = nullptr;
  MergedAdapters* merged_ = nullptr;
  Scope scope_;
  TokenOfTenant token_of_;
  OnChange on_change_;
  OnDamage on_damage_;
  LostCopies lost_;
  std::atomic<int64_t> damaged_{0};
  GenerationCache cache_;
  std::unique_ptr<GenerationCache> kept_;  // of content_; null without

  absl::Mutex repair_mutex_;  // one copy is made anew at a time; taken after change_mutex_
  absl::Mutex change_mutex_;  // one change at a time; taken before mutex_
  absl::flat_hash_map<std::string, int> content_names_ ABSL_GUARDED_BY(change_mutex_);
  absl::flat_hash_set<std::string> unnamed_ ABSL_GUARDED_BY(change_mutex_);  // may be in use
  mutable absl::Mutex arriving_mutex_;  // held while a copy is removed; taken after change_mutex_
  // Content that is copied and read before its change has its turn: nobody drops it meanwhile.
  absl::flat_hash_map<std::string, int> arriving_ ABSL_GUARDED_BY(arriving_mutex_);
  mutable absl::Mutex mutex_;
  absl::btree_map<NameKey, RegisteredName> names_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> tenant_names_ ABSL_GUARDED_BY(mutex_);  // how many it has
  // What has aliases, and each of them.
  absl::btree_set<std::pair<NameKey, std::string>> aliases_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, GenerationPtr> merges_ ABSL_GUARDED_BY(mutex_);  // by digest
  absl::btree_map<NameKey, std::string> lower_ ABSL_GUARDED_BY(mutex_);  // lower case to id
};

}  // namespace lorica
