#include "adapters/adapter_catalog.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/catalog_text.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

// A name that moves while it is being resolved is read again; more often than this it
// hardly moves.
constexpr int kResolveTries = 8;

const NamedGeneration* FindGeneration(const RegisteredName& name, const std::string& revision) {
  if (revision.empty() || absl::StartsWith(name.now().digest, revision)) return &name.now();
  for (const NamedGeneration& one : name.generations) {
    if (absl::StartsWith(one.digest, revision)) return &one;
  }
  return nullptr;
}

absl::Status NoSuchRevision(const std::string& id, const std::string& now) {
  return absl::NotFoundError(
      absl::StrCat("adapter ", Quoted(id),
                   ": a revision is the beginning of a generation's digest, 8 digits or more; now ",
                   "it is ", ShortDigest(now)));
}

}  // namespace

AdapterCatalog::AdapterCatalog(std::shared_ptr<Source> root, const PeftLoader* loader,
                               std::string base_name, std::string base_from, CatalogLimits limits)
    : root_(std::move(root)),
      loader_(loader),
      base_name_(std::move(base_name)),
      base_from_(std::move(base_from)),
      limits_(limits),
      cache_(root_, loader_, limits.names_max) {}

// --- places ------------------------------------------------------------------------------

std::optional<RegisteredName> AdapterCatalog::Named(const NameKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto found = names_.find(key);
  if (found == names_.end()) return std::nullopt;
  return found->second;
}

AdapterCatalog::Followed AdapterCatalog::Follow(const std::string& tenant,
                                                const std::string& name) const {
  Followed followed{name, "", std::nullopt};
  absl::MutexLock lock(&mutex_);
  auto found = names_.find({tenant, name});
  if (found != names_.end() && found->second.kind == NameKind::kAlias) {
    followed.name = followed.alias_of = found->second.target;
    found = names_.find({tenant, followed.name});
  }
  if (found != names_.end()) followed.named = found->second;
  return followed;
}

absl::StatusOr<AdapterCatalog::Place> AdapterCatalog::PlaceOf(const std::string& tenant,
                                                              const std::string& adapter_id) const {
  const IdParts id = SplitId(adapter_id);
  const auto [name, alias_of, named] = Follow(tenant, id.name);
  Place place{name, "", alias_of, false};
  if (named.has_value() && named->kind == NameKind::kHidden) return DeletedAdapter(name);
  if (named.has_value() && named->kind == NameKind::kAdapter) {
    const bool long_enough = id.revision.empty() || id.revision.size() >= kRevisionDigitsMin;
    const NamedGeneration* one = long_enough ? FindGeneration(*named, id.revision) : nullptr;
    if (one == nullptr) return NoSuchRevision(adapter_id, named->now().digest);
    place = {one->location, one->digest, alias_of, true, one->registered_at, one->commit};
  }
  if (!MayUse(tenant, place.location)) return UnknownAdapter(adapter_id);
  return place;
}

// NotFound: there is no copy, or it is damaged.
absl::StatusOr<GenerationPtr> AdapterCatalog::LookKept(const std::string& digest) {
  if (!content_->Has(digest)) return absl::NotFoundError("no copy");
  absl::StatusOr<GenerationPtr> kept = kept_->Look(digest);
  if (absl::IsFailedPrecondition(kept.status())) {
    const absl::StatusOr<bool> whole = content_->IsWhole(digest);
    if (!whole.ok()) return whole.status();
    if (*whole) return kept;
  } else if (!kept.ok() || (*kept)->digest == digest) {
    return kept;
  }
  return absl::NotFoundError("a damaged copy");
}

absl::StatusOr<GenerationPtr> AdapterCatalog::LookAtSource(const Place& place) {
  if (IsMerge(place.location)) return HeldMerge(place.digest);
  if (remote_ != nullptr) {
    absl::StatusOr<GenerationPtr> fetched = remote_->OnDisk(place.digest, place.location);
    if (fetched.ok()) return fetched;
  }
  absl::StatusOr<GenerationPtr> now = cache_.Look(place.location);
  if (!now.ok() || (*now)->digest == place.digest) return now;
  return OtherContent(place.location, (*now)->digest, place.digest);
}

// REQUIRES: it was found to be damaged, or is not there.
void AdapterCatalog::DropCopy(const Place& place) {
  if (content_->Has(place.digest)) {
    damaged_.fetch_add(1, std::memory_order_relaxed);
    if (on_damage_ != nullptr) on_damage_(place.digest, place.location);
  }
  content_->Remove(place.digest);
  kept_->Forget(place.digest);
}

// One at a time, so that nobody removes what another has just made.
absl::StatusOr<GenerationPtr> AdapterCatalog::CopyAnew(const Place& place) {
  absl::MutexLock lock(&repair_mutex_);
  absl::StatusOr<GenerationPtr> kept = LookKept(place.digest);
  if (!absl::IsNotFound(kept.status())) return kept;
  DropCopy(place);
  absl::StatusOr<GenerationPtr> source = LookAtSource(place);
  if (source.ok()) {
    const absl::Status copied = content_->Keep(**source);
    return copied.ok() ? LookKept(place.digest) : copied;
  }
  if (absl::IsUnavailable(source.status())) return source;
  return absl::DataLossError(absl::StrCat(
      "the server's own copy of it is gone or damaged, and there is no other (",
      absl::IsNotFound(source.status()) ? absl::StrCat(Quoted(place.location), " is no folder here")
                                        : source.status().message(),
      "): register it again"));
}

absl::StatusOr<GenerationPtr> AdapterCatalog::Look(const Place& place) {
  if (place.digest.empty()) return cache_.Look(place.location);
  if (content_ == nullptr) return LookAtSource(place);
  absl::StatusOr<GenerationPtr> kept = LookKept(place.digest);
  return absl::IsNotFound(kept.status()) ? CopyAnew(place) : kept;
}

// Whatever is to be repaired, or is none any more, takes reading.
std::optional<absl::StatusOr<GenerationPtr>> AdapterCatalog::TryLook(const Place& place) {
  if (place.digest.empty()) return cache_.TryLook(place.location);
  if (content_ != nullptr) {
    if (!content_->Has(place.digest)) return std::nullopt;
    auto kept = kept_->TryLook(place.digest);
    const bool is_whole = kept && kept->ok() && (**kept)->digest == place.digest;
    return is_whole ? kept : std::nullopt;
  }
  if (remote_ != nullptr) return std::nullopt;
  if (IsMerge(place.location)) return HeldMerge(place.digest);
  auto now = cache_.TryLook(place.location);
  if (!now || !now->ok() || (**now)->digest == place.digest) return now;
  return OtherContent(place.location, (**now)->digest, place.digest);
}

absl::StatusOr<GenerationPtr> AdapterCatalog::Last(const Place& place) const {
  if (place.digest.empty()) return cache_.Last(place.location);
  if (kept_ != nullptr && content_->Has(place.digest)) return kept_->Last(place.digest);
  if (IsMerge(place.location)) return HeldMerge(place.digest);
  absl::StatusOr<GenerationPtr> last = cache_.Last(place.location);
  const bool other = last.ok() && *last != nullptr && (*last)->digest != place.digest;
  return other ? GenerationPtr() : last;
}

// --- reading -----------------------------------------------------------------------------

AdapterCatalog::Looked AdapterCatalog::ResolveBy(
    const std::string& tenant, const std::string& adapter_id,
    absl::FunctionRef<Looked(const Place&)> look) const {
  if (absl::Status s = CheckAdapterId(adapter_id); !s.ok()) return s;
  absl::StatusOr<Place> place = PlaceOf(tenant, adapter_id);
  for (int tries = 1; place.ok(); ++tries) {
    Looked looked = look(*place);
    if (!looked) return std::nullopt;
    absl::StatusOr<GenerationPtr>& generation = *looked;
    if (!generation.ok()) {
      absl::StatusOr<Place> now = PlaceOf(tenant, adapter_id);
      const bool moved = now.ok() != place.ok() || !(*now == *place);
      if (!moved || tries == kResolveTries) {
        // Who follows an alias to nothing should look for what it stands for.
        const bool leads_nowhere =
            absl::IsNotFound(generation.status()) && !place->alias_of.empty();
        return AboutAdapter(leads_nowhere ? place->alias_of : adapter_id, generation.status());
      }
      place = std::move(now);
      continue;
    }
    const std::string revision = SplitId(adapter_id).revision;
    const bool matches = revision.empty() || (revision.size() >= kRevisionDigitsMin &&
                                              absl::StartsWith((*generation)->digest, revision));
    if (matches) return looked;
    return NoSuchRevision(adapter_id, (*generation)->digest);
  }
  return place.status();
}

absl::StatusOr<CatalogEntry> AdapterCatalog::Get(const std::string& tenant,
                                                 const std::string& adapter_id,
                                                 const std::string& token) {
  if (auto name = RemoteNameOf(tenant, adapter_id)) {
    return GetRemote(tenant, adapter_id, *std::move(name), token);
  }
  if (IsObjectLocation(adapter_id)) return UnknownPlace(adapter_id);
  absl::StatusOr<CatalogEntry> here = GetHere(tenant, adapter_id);
  // An alias has moved meanwhile.
  const bool moved = absl::IsNotFound(here.status()) && MayFetch(tenant, adapter_id);
  return moved ? Get(tenant, adapter_id, token) : here;
}

absl::StatusOr<CatalogEntry> AdapterCatalog::GetHere(const std::string& tenant,
                                                     const std::string& adapter_id) {
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  const absl::StatusOr<Place> place = PlaceOf(tenant, adapter_id);
  if (!place.ok()) return place.status();
  absl::StatusOr<GenerationPtr> generation = Look(*place);
  if (absl::IsNotFound(generation.status()) && !place->registered) {
    return UnknownAdapter(place->alias_of.empty() ? adapter_id : place->alias_of);
  }
  return EntryOf(adapter_id, *place, std::move(generation));
}

CatalogEntry AdapterCatalog::EntryOf(const std::string& id, const Place& place,
                                     absl::StatusOr<GenerationPtr> looked) const {
  CatalogEntry entry{.adapter_id = id,
                     .location = place.location,
                     .registered = place.registered,
                     .digest = place.digest,
                     .alias_of = place.alias_of,
                     .registered_at = place.registered_at,
                     .commit = place.commit};
  const bool was_fetched = !place.commit.empty() || IsObjectLocation(place.location);
  entry.on_disk = was_fetched && content_ != nullptr && content_->Has(place.digest);
  if (looked.ok()) {
    entry.generation = *std::move(looked);
  } else {
    entry.error = looked.status();
  }
  return entry;
}

absl::StatusOr<RegisteredName> AdapterCatalog::History(const std::string& tenant,
                                                       const std::string& adapter_id) const {
  std::optional<RegisteredName> name = Follow(tenant, adapter_id).named;
  if (!name.has_value() || name->kind != NameKind::kAdapter) {
    return absl::NotFoundError(absl::StrCat("adapter ", Quoted(adapter_id), " is not registered"));
  }
  return *std::move(name);
}

absl::StatusOr<std::vector<CatalogEntry>> AdapterCatalog::List(const std::string& tenant,
                                                               const std::string& prefix,
                                                               const std::string& after, int limit,
                                                               bool show_deleted) {
  absl::StatusOr<std::vector<std::string>> folders = root_->List(kCatalogNamesMax);
  if (!folders.ok()) return folders.status();
  std::vector<std::string> ids;
  for (std::string& folder : *folders) {
    if (folder != base_name_ && CheckAdapterId(folder).ok()) ids.push_back(std::move(folder));
  }
  {
    absl::MutexLock lock(&mutex_);
    for (auto name = names_.lower_bound(NameKey(tenant, ""));
         name != names_.end() && name->first.first == tenant; ++name) {
      ids.push_back(name->first.second);
    }
  }
  // With a token that cannot be read nothing that was fetched can be named, either.
  absl::StatusOr<std::string> token = token_of_ == nullptr ? std::string() : token_of_(tenant);
  const std::vector<std::string> remote_ids =
      token.ok() ? RemoteIds(tenant, *token) : std::vector<std::string>();
  ids.insert(ids.end(), remote_ids.begin(), remote_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::vector<CatalogEntry> entries;
  for (auto id = std::lower_bound(ids.begin(), ids.end(), std::max(after, prefix)); id != ids.end();
       ++id) {
    if (std::ssize(entries) >= limit || !absl::StartsWith(*id, prefix)) break;
    if (*id == after) continue;
    const bool is_remote = std::binary_search(remote_ids.begin(), remote_ids.end(), *id);
    auto name = is_remote ? RemoteNameOf(tenant, *id) : std::nullopt;
    auto entry = name ? GetRemote(tenant, *id, *std::move(name), *token) : ListEntry(tenant, *id);
    if (entry.ok() && (show_deleted || !entry->deleted)) entries.push_back(*std::move(entry));
  }
  return entries;
}

absl::StatusOr<CatalogEntry> AdapterCatalog::ListEntry(const std::string& tenant,
                                                       const std::string& id) const {
  if (!SplitId(id).revision.empty()) {  // no name has one
    if (!MayUse(tenant, id) || !HasAdapterFolder(*root_, id)) return UnknownAdapter(id);
    return EntryOf(id, {.location = id}, UnnamableFolder(id));
  }
  const absl::StatusOr<Place> place = PlaceOf(tenant, id);
  const auto named = Named({tenant, id});
  if (named.has_value() && named->kind == NameKind::kHidden) {
    if (!MayUse(tenant, id) || !HasAdapterFolder(*root_, id)) return UnknownAdapter(id);
    return CatalogEntry{.adapter_id = id, .location = id, .deleted = true};
  }
  if (!named.has_value() || named->kind != NameKind::kAlias) {
    if (!place.ok()) return place.status();
    return EntryOf(id, *place, Last(*place));
  }
  if (auto name = RemoteNameOf(tenant, id)) return GetRemote(tenant, id, *std::move(name));
  const bool here =
      place.ok() && (place->registered || root_->Open(place->location, "adapter_config.json").ok());
  if (here) return EntryOf(id, *place, Last(*place));
  return EntryOf(id, {named->target, "", named->target, false},
                 absl::NotFoundError(
                     absl::StrCat(Quoted(named->target), ", which it is an alias of, is gone")));
}

// A head is no generation yet, so it has no digest.
absl::StatusOr<AdapterPlan> AdapterCatalog::PlanOf(const GenerationPtr& generation) const {
  const bool is_head = generation->digest.empty();
  const absl::Status weights = is_head ? absl::OkStatus() : loader_->CheckWeights(*generation);
  if (!weights.ok()) return weights;
  absl::StatusOr<AdapterPlan> plan = loader_->Plan(*generation->source, generation->location);
  if (plan.ok() && IsOtherBase(plan->config.base_model, base_name_) &&
      (base_from_.empty() || IsOtherBase(plan->config.base_model, base_from_))) {
    plan->warnings.push_back(absl::StrCat("it was trained on ", Quoted(plan->config.base_model),
                                          ", and this server calls its base ", Quoted(base_name_),
                                          ": the shapes fit, but see that it is the same model"));
  }
  if (plan.ok() && is_head) {
    plan->warnings.push_back(
        "only the head of the weights was looked at: whether they hold NaN or infinity shows when "
        "it is fetched");
  }
  return plan;
}

absl::StatusOr<AdapterPlan> AdapterCatalog::Check(const std::string& tenant,
                                                  const std::string& location_or_id,
                                                  const std::string& token,
                                                  const GenerationPtr& head) {
  if (head != nullptr) return PlanOf(head);
  if (MayFetch(tenant, location_or_id)) {
    const absl::StatusOr<FoundAdapter> found = FindHead(tenant, location_or_id, token);
    if (!found.ok()) return found.status();
    if (found->ticket != nullptr) return BeingFetched(location_or_id);
    return PlanOf(found->generation);
  }
  if (absl::Status s = CheckPlainId(location_or_id); !s.ok()) return s;
  const absl::StatusOr<Place> place = PlaceOf(tenant, location_or_id);
  // The folder of a deleted name can be looked at.
  if (!place.ok() && !MayUse(tenant, location_or_id)) return place.status();
  absl::StatusOr<GenerationPtr> generation =
      place.ok() ? Look(*place) : cache_.Look(location_or_id);
  if (absl::IsNotFound(generation.status())) return UnknownAdapter(location_or_id);
  if (!generation.ok()) return generation.status();
  if (location_or_id == base_name_ && !(place.ok() && place->registered)) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(base_name_), " always means the base model, so nobody can ask for a ",
                     "folder of that name: register it under another one"));
  }
  return PlanOf(*generation);
}

AdapterCatalog::Held AdapterCatalog::held() const {
  Held held;
  held.folders = cache_.folders() + (kept_ == nullptr ? 0 : kept_->folders());
  held.looks = looks_ == nullptr ? 0 : looks_->open();
  held.merges_under_way = merged_ == nullptr ? 0 : merged_->under_way();
  held.merges = merged_ == nullptr ? 0 : merged_->known();
  {
    absl::MutexLock lock(&arriving_mutex_);
    held.arriving = std::ssize(arriving_);
  }
  absl::MutexLock lock(&mutex_);
  held.names = std::ssize(names_);
  held.merges += std::ssize(merges_);
  return held;
}

}  // namespace lorica
