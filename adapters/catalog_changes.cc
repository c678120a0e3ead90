// The half of AdapterCatalog that changes names.
#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter_catalog.h"
#include "adapters/catalog_text.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

absl::Status Full(absl::string_view holder, int names_max) {
  return absl::ResourceExhaustedError(
      absl::StrCat(holder, " holds ", names_max,
                   " names already, as many as it may: delete some that no folder has"));
}

std::string IsAlias(const RegisteredName& name, absl::string_view advice) {
  return absl::StrCat(Quoted(name.name), " is an alias of ", Quoted(name.target), ": ", advice);
}

absl::Status IsAliasItself(const std::string& target) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(target), " is an alias itself: name what it stands for"));
}

absl::Status IsNoSource(const RegisteredName& name) {
  const std::string stands_for =
      name.kind == NameKind::kAlias
          ? absl::StrCat("an alias of ", Quoted(name.target))
          : absl::StrCat("a name that was registered from ", Quoted(name.now().location));
  return absl::NotFoundError(
      absl::StrCat(Quoted(name.name), " is ", stands_for,
                   " and no folder: for one more name of the same set an alias, for other content "
                   "give what is to be read as the source"));
}

}  // namespace

// --- the books ---------------------------------------------------------------------------

absl::Status AdapterCatalog::Restore(Registry* registry, ContentStore* content) {
  absl::StatusOr<std::vector<RegisteredName>> names = registry->Load();
  if (!names.ok()) return names.status();
  registry_ = registry;
  content_ = content;
  kept_ = std::make_unique<GenerationCache>(content->source(), loader_, kCatalogNamesMax);
  absl::MutexLock changes(&change_mutex_);
  for (const RegisteredName& name : *names) Publish({name.tenant, name.name}, &name);
  absl::flat_hash_set<std::string> wanted;
  for (const auto& [digest, count] : content_names_) wanted.insert(digest);
  content_->RemoveAllBut(wanted);
  LookForLostCopies();
  return absl::OkStatus();
}

void AdapterCatalog::LookForLostCopies() {
  absl::flat_hash_set<std::string> lost;
  absl::MutexLock lock(&mutex_);
  for (const auto& [key, name] : names_) {
    for (const NamedGeneration& one : name.generations) {
      const int64_t now = content_->BytesOf(one.digest);
      const bool as_it_was = one.bytes == 0 ? now > 0 : now == one.bytes;
      if (as_it_was || !lost.insert(one.digest).second) continue;
      if (++lost_.count == 1) lost_.first = one;
    }
  }
}

void AdapterCatalog::CountContent(const RegisteredName& name, int by) {
  for (const NamedGeneration& one : name.generations) {
    int& count = content_names_[one.digest];
    count += by;
    if (count > 0) {
      unnamed_.erase(one.digest);
    } else {
      content_names_.erase(one.digest);
      unnamed_.insert(one.digest);
    }
  }
}

void AdapterCatalog::Publish(const NameKey& key, const RegisteredName* name) {
  if (name != nullptr) CountContent(*name, 1);
  absl::MutexLock lock(&mutex_);
  const NameKey lower(key.first, absl::AsciiStrToLower(key.second));
  const auto old = names_.find(key);
  if (old != names_.end()) {
    CountContent(old->second, -1);
    aliases_.erase({{key.first, old->second.target}, key.second});
    names_.erase(old);
    lower_.erase(lower);
    if (--tenant_names_[key.first] == 0) tenant_names_.erase(key.first);
  }
  if (name == nullptr) return;
  names_.emplace(key, *name);
  ++tenant_names_[key.first];
  if (name->kind == NameKind::kAlias) aliases_.insert({{key.first, name->target}, key.second});
  if (name->kind != NameKind::kHidden) lower_[lower] = key.second;
}

// What a request may still load stays for now; the next start removes it at the latest.
void AdapterCatalog::DropContent() {
  if (content_ == nullptr) {
    absl::MutexLock lock(&mutex_);
    absl::erase_if(merges_, [this](const auto& merge) {
      change_mutex_.AssertHeld();
      return !content_names_.contains(merge.first);
    });
    return;
  }
  absl::erase_if(unnamed_, [this](const std::string& digest) {
    const absl::StatusOr<GenerationPtr> last = kept_->Last(digest);
    const bool in_use = last.ok() && *last != nullptr && last->use_count() > 2;
    if (in_use) return false;
    absl::MutexLock lock(&arriving_mutex_);
    if (arriving_.contains(digest)) return false;
    content_->Remove(digest);
    kept_->Forget(digest);
    return true;
  });
}

// A name that is there already may move.
absl::Status AdapterCatalog::CheckRoom(const NameKey& key) const {
  absl::MutexLock lock(&mutex_);
  if (names_.contains(key)) return absl::OkStatus();
  if (std::ssize(names_) >= limits_.names_max) return Full("the catalog", limits_.names_max);
  const auto own = tenant_names_.find(key.first);
  const bool has_room = own == tenant_names_.end() || own->second < limits_.tenant_names_max;
  return has_room ? absl::OkStatus()
                  : Full(absl::StrCat("tenant ", Quoted(key.first)), limits_.tenant_names_max);
}

absl::Status AdapterCatalog::Put(const RegisteredName& name) {
  const NameKey key(name.tenant, name.name);
  if (absl::Status s = CheckRoom(key); !s.ok()) return s;
  if (registry_ != nullptr) {
    absl::Status status = registry_->Put(name);
    // The next start may find it done, and wants its content then.
    if (registry_->is_broken()) CountContent(name, 1);
    if (!status.ok()) return status;
  }
  Publish(key, &name);
  if (on_change_ != nullptr) on_change_(key.first, key.second, &name);
  DropContent();
  return absl::OkStatus();
}

absl::Status AdapterCatalog::Erase(const NameKey& key) {
  if (registry_ != nullptr) {
    if (absl::Status s = registry_->Erase(key.first, key.second); !s.ok()) return s;
  }
  Publish(key, nullptr);
  if (on_change_ != nullptr) on_change_(key.first, key.second, nullptr);
  DropContent();
  return absl::OkStatus();
}

// --- checks ------------------------------------------------------------------------------

// Ids that differ only by case are one on some file systems.
absl::Status AdapterCatalog::CheckCase(const NameKey& key) const {
  const std::string lower = absl::AsciiStrToLower(key.second);
  absl::StatusOr<std::vector<std::string>> folders = root_->List(kCatalogNamesMax);
  if (!folders.ok()) return folders.status();
  std::string other;
  {
    absl::MutexLock lock(&mutex_);
    const auto named = lower_.find({key.first, lower});
    if (named != lower_.end() && named->second != key.second) other = named->second;
  }
  for (const std::string& folder : *folders) {
    const bool clash = folder != key.second && absl::AsciiStrToLower(folder) == lower;
    if (!clash || !MayUse(key.first, folder)) continue;
    const auto named = Named({key.first, folder});
    if (!named.has_value() || named->kind != NameKind::kHidden) other = folder;
  }
  if (other.empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("adapter id ", Quoted(key.second), " differs from ",
                                               Quoted(other),
                                               " only by case: choose another name"));
}

absl::Status AdapterCatalog::CheckExpected(const std::string& id, const std::string& digest,
                                           const std::string& expected) const {
  const bool long_enough = expected.size() >= kRevisionDigitsMin;
  if (expected.empty() || (long_enough && absl::StartsWith(digest, expected))) {
    return absl::OkStatus();
  }
  return absl::AbortedError(
      absl::StrCat("adapter ", Quoted(id), " is at generation ", digest.empty() ? "(none)" : digest,
                   ", not at the expected ", Quoted(expected), ": look again"));
}

// May the name move from what it is now to `wanted`?
absl::Status AdapterCatalog::CheckMove(const NameKey& key, const Generation& wanted,
                                       const RegisterOptions& options) {
  const auto named = Named(key);
  if (named.has_value() && named->kind == NameKind::kAlias) {
    return absl::AlreadyExistsError(IsAlias(*named, "delete the alias first"));
  }
  std::string digest;
  if (named.has_value() && named->kind == NameKind::kAdapter) {
    digest = named->now().digest;
  } else if (!named.has_value() && MayUse(key.first, key.second)) {
    const absl::StatusOr<GenerationPtr> folder = cache_.Look(key.second);
    if (folder.ok()) digest = (*folder)->digest;
  }
  if (!options.expected_generation.empty()) {
    return CheckExpected(key.second, digest, options.expected_generation);
  }
  if (options.replace || digest.empty() || digest == wanted.digest) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("adapter ", Quoted(key.second), " exists with other content (generation ",
                   ShortDigest(digest), "): set replace to move the name"));
}

// --- changes -----------------------------------------------------------------------------

absl::StatusOr<AdapterCatalog::Registered> AdapterCatalog::Register(
    const std::string& tenant, const std::string& adapter_id, const RegisterOptions& options) {
  if (absl::Status s = CheckNewName(adapter_id); !s.ok()) return s;
  const std::string location = options.location.empty() ? adapter_id : options.location;
  const bool may_fetch = RemoteSourceOf(tenant, location).has_value();
  if (IsObjectLocation(location) && !may_fetch) return UnknownPlace(location);
  const bool elsewhere = IsRepoFolder(SplitId(location).name) && !may_fetch;
  if (elsewhere || !MayUse(tenant, location)) return UnknownAdapter(location);
  if (absl::Status s = CheckPlainId(location); !s.ok() && !may_fetch) return s;
  auto registered = RegisterAs(
      tenant, adapter_id, location, [&] { return LookAt(tenant, location, options); }, options);
  if (!absl::IsNotFound(registered.status())) return registered;
  const auto named = Named({tenant, location});
  const bool is_name = named.has_value() && named->kind != NameKind::kHidden;
  return is_name ? IsNoSource(*named) : registered;
}

absl::Status AdapterCatalog::CheckNewName(const std::string& adapter_id) const {
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  if (adapter_id != base_name_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("adapter id ", Quoted(adapter_id), " is the base model's own name"));
}

// Reads the copy rather than what it was made from, which a merge makes anew each time.
absl::Status AdapterCatalog::KeepServable(const Generation& generation) {
  if (content_ == nullptr) return loader_->CheckWeights(generation);
  if (absl::Status s = content_->Keep(generation); !s.ok()) return s;
  const absl::StatusOr<GenerationPtr> kept = LookKept(generation.digest);
  return loader_->CheckWeights(kept.ok() ? **kept : generation);
}

void AdapterCatalog::CountArriving(const std::string& digest, int by) {
  absl::MutexLock lock(&arriving_mutex_);
  if ((arriving_[digest] += by) == 0) arriving_.erase(digest);
}

// A copy from before that cannot be looked at is made anew.
absl::StatusOr<GenerationPtr> AdapterCatalog::LookAgain(const Place& place,
                                                        const Generation& from) {
  absl::StatusOr<GenerationPtr> looked = Look(place);
  if (looked.ok() || content_ == nullptr) return looked;
  DropCopy(place);
  if (absl::Status s = content_->Keep(from); !s.ok()) return s;
  return Look(place);
}

// `look` says what the name is to stand for, each time as it is then.
absl::StatusOr<AdapterCatalog::Registered> AdapterCatalog::RegisterAs(
    const std::string& tenant, const std::string& adapter_id, const std::string& location,
    LookFunction look, const RegisterOptions& options) {
  // Hashes and copies before the lock, so that a large adapter holds up nobody.
  absl::StatusOr<GenerationPtr> generation = look();
  if (!generation.ok()) return AboutAdapter(location, generation.status());
  const std::string checked = (*generation)->digest;
  CountArriving(checked, 1);
  const absl::Status servable = KeepServable(**generation);

  absl::MutexLock changes(&change_mutex_);
  CountArriving(checked, -1);
  if (!servable.ok()) {
    if (!content_names_.contains(checked)) unnamed_.insert(checked);
    DropContent();
    return AboutAdapter(location, servable);
  }
  const NameKey key(tenant, adapter_id);
  generation = look();
  if (!generation.ok()) return AboutAdapter(location, generation.status());
  // Refused after all, its copy would be nobody's.
  if (!content_names_.contains((*generation)->digest)) unnamed_.insert((*generation)->digest);
  absl::Status status = CheckCase(key);
  if (status.ok()) status = CheckMove(key, **generation, options);
  if (status.ok() && (*generation)->digest != checked) status = KeepServable(**generation);
  RegisteredName name = Named(key).value_or(RegisteredName{.tenant = tenant, .name = adapter_id});
  const bool created = name.generations.empty();
  const std::string before = created ? "" : name.now().digest;
  if (status.ok()) HoldMerge(location, *generation);
  if (status.ok()) status = PutMoved(std::move(name), **generation, location);
  if (!status.ok()) {
    DropContent();
    return status;
  }
  generation = LookAgain({location, (*generation)->digest, "", true}, **generation);
  if (!generation.ok()) return AboutAdapter(adapter_id, generation.status());
  const bool moved = before != (*generation)->digest;
  return Registered{*std::move(generation), created, moved ? before : ""};
}

absl::Status AdapterCatalog::PutMoved(RegisteredName name, const Generation& wanted,
                                      const std::string& location) {
  const std::string commit = CommitIn(wanted.location, location);
  if (name.generations.empty() || name.now().digest != wanted.digest) {
    const int64_t bytes = content_ == nullptr ? 0 : content_->BytesOf(wanted.digest);
    name.MoveTo(wanted.digest, location, absl::Now(), commit, bytes);
  } else if (name.now().location != location || name.now().commit != commit) {
    name.Relocate(location, commit);
  } else {
    return absl::OkStatus();
  }
  return Put(name);
}

absl::StatusOr<NamedGeneration> AdapterCatalog::EarlierOf(const NameKey& key, const std::string& to,
                                                          const std::string& expected) const {
  const std::string& adapter_id = key.second;
  const std::optional<RegisteredName> name = Named(key);
  if (name.has_value() && name->kind == NameKind::kAlias) {
    return absl::FailedPreconditionError(
        IsAlias(*name, absl::StrCat("roll back ", Quoted(name->target), " instead")));
  }
  if (!name.has_value() || name->kind != NameKind::kAdapter ||
      !MayUse(key.first, name->now().location)) {
    return absl::NotFoundError(absl::StrCat("adapter ", Quoted(adapter_id),
                                            " is not registered, so it has no earlier generation"));
  }
  absl::Status status = CheckExpected(adapter_id, name->now().digest, expected);
  if (!status.ok()) return status;
  const NamedGeneration* target = to.empty() ? name->Numbered(name->now().previous) : nullptr;
  for (const NamedGeneration& one : name->generations) {
    if (to.size() >= kRevisionDigitsMin && absl::StartsWith(one.digest, to)) target = &one;
  }
  if (target != nullptr) return *target;
  return absl::NotFoundError(
      absl::StrCat("adapter ", Quoted(adapter_id), " has no ",
                   to.empty() ? "earlier generation" : absl::StrCat("generation ", Quoted(to)),
                   " among its last ", kGenerationsKeptMax));
}

absl::StatusOr<GenerationPtr> AdapterCatalog::Rollback(const std::string& tenant,
                                                       const std::string& adapter_id,
                                                       const std::string& to,
                                                       const std::string& expected_generation) {
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  const NameKey key(tenant, adapter_id);
  const auto look = [&](const NamedGeneration& target) -> absl::StatusOr<GenerationPtr> {
    auto generation = Look({target.location, target.digest, "", true});
    const absl::Status servable =
        generation.ok() ? loader_->CheckWeights(**generation) : generation.status();
    return servable.ok() ? generation : AboutAdapter(adapter_id, servable);
  };
  // Reads the weights before the lock, as Register does.
  auto target = EarlierOf(key, to, expected_generation);
  if (!target.ok()) return target.status();
  const std::string checked = target->digest;
  absl::StatusOr<GenerationPtr> generation = look(*target);

  absl::MutexLock changes(&change_mutex_);
  target = EarlierOf(key, to, expected_generation);
  if (!target.ok()) return target.status();
  if (target->digest != checked) generation = look(*target);
  if (!generation.ok()) return generation;
  std::optional<RegisteredName> name = Named(key);
  name->MoveBackTo(target->number);
  if (absl::Status s = Put(*name); !s.ok()) return s;
  return generation;
}

absl::Status AdapterCatalog::CheckFree(const NameKey& key, const std::string& target,
                                       const RegisterOptions& options) {
  const auto named = Named(key);
  const bool is_alias = named.has_value() && named->kind == NameKind::kAlias;
  const bool is_adapter =
      named.has_value() ? named->kind == NameKind::kAdapter : HasAdapterFolder(*root_, key.second);
  if (is_adapter) {
    return absl::AlreadyExistsError(
        absl::StrCat(Quoted(key.second), " is an adapter already: choose another name"));
  }
  if (!options.expected_generation.empty()) {
    return CheckExpected(key.second,
                         is_alias ? DigestOfAlias(key.first, key.second, options.token) : "",
                         options.expected_generation);
  }
  if (!is_alias || options.replace || named->target == target) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(Quoted(key.second), " is an alias of ",
                                               Quoted(named->target),
                                               ": set replace to point it elsewhere"));
}

std::string AdapterCatalog::DigestOfAlias(const std::string& tenant, const std::string& alias,
                                          const std::string& token) {
  const absl::StatusOr<CatalogEntry> entry = Get(tenant, alias, token);
  if (!entry.ok()) return "";
  return entry->generation == nullptr ? entry->digest : entry->generation->digest;
}

absl::StatusOr<GenerationPtr> AdapterCatalog::LookAtTarget(const std::string& tenant,
                                                           const std::string& target,
                                                           const RegisterOptions& options) {
  const absl::StatusOr<Place> place = PlaceOf(tenant, target);
  if (!place.ok()) return place.status();
  if (!place->alias_of.empty()) return IsAliasItself(target);
  const bool is_remote = MayFetch(tenant, target);
  if (is_remote && options.found != nullptr) return options.found;
  absl::StatusOr<GenerationPtr> looked =
      is_remote ? Resolve(tenant, target, options.token) : Look(*place);
  if (!looked.ok()) return AboutAdapter(target, looked.status());
  return looked;
}

absl::Status AdapterCatalog::SetAlias(const std::string& tenant, const std::string& alias,
                                      const std::string& target, const RegisterOptions& options) {
  for (const std::string& id : {alias, target}) {
    if (absl::Status s = CheckPlainId(id); !s.ok()) return s;
  }
  if (alias == base_name_) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter id ", Quoted(alias), " is the base model's own name"));
  }
  if (target == alias) {
    return absl::InvalidArgumentError(
        absl::StrCat("an alias stands for another name, not for itself: ", Quoted(alias)));
  }
  // Reads the weights before the lock, as Register does.
  absl::StatusOr<GenerationPtr> looked = LookAtTarget(tenant, target, options);
  const std::string checked = looked.ok() ? (*looked)->digest : "";
  absl::Status servable = looked.ok() ? loader_->CheckWeights(**looked) : looked.status();

  absl::MutexLock changes(&change_mutex_);
  looked = LookAtTarget(tenant, target, options);
  if (!looked.ok()) return looked.status();
  if ((*looked)->digest != checked) servable = loader_->CheckWeights(**looked);
  if (!servable.ok()) return AboutAdapter(target, servable);
  const NameKey key(tenant, alias);
  if (absl::Status s = CheckCase(key); !s.ok()) return s;
  if (absl::Status s = CheckFree(key, target, options); !s.ok()) return s;
  return Put({.tenant = tenant, .name = alias, .kind = NameKind::kAlias, .target = target});
}

absl::Status AdapterCatalog::CheckNoAliases(const NameKey& key) const {
  std::vector<std::string> aliases;
  absl::MutexLock lock(&mutex_);
  for (auto alias = aliases_.lower_bound({key, ""}); alias != aliases_.end(); ++alias) {
    if (alias->first != key || std::ssize(aliases) > kQuotedNamesMax) break;
    aliases.push_back(alias->second);
  }
  if (aliases.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "adapter ", Quoted(key.second), " has aliases: delete ", QuotedList(aliases),
      aliases.size() == 1 ? " first, or point it elsewhere" : " first, or point them elsewhere"));
}

absl::Status AdapterCatalog::Unregister(const std::string& tenant, const std::string& adapter_id) {
  absl::MutexLock changes(&change_mutex_);
  const NameKey key(tenant, adapter_id);
  const auto named = Named(key);
  if (!named.has_value() || named->kind != NameKind::kAdapter) return UnknownAdapter(adapter_id);
  if (absl::Status s = CheckNoAliases(key); !s.ok()) return s;
  return Erase(key);
}

absl::Status AdapterCatalog::Delete(const std::string& tenant, const std::string& adapter_id,
                                    const std::string& token, bool may_forget_shared) {
  const auto remote = RemoteToForget(tenant, adapter_id, token);
  if (!remote.ok()) return remote.status();
  if (remote->has_value()) return ForgetRemote(adapter_id, **remote, may_forget_shared);
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  absl::MutexLock changes(&change_mutex_);
  const NameKey key(tenant, adapter_id);
  const bool has_folder = MayUse(tenant, adapter_id) && HasAdapterFolder(*root_, adapter_id);
  const auto named = Named(key);
  if (adapter_id == base_name_ && !named.has_value()) return CheckNewName(adapter_id);
  if (named.has_value() && named->kind == NameKind::kHidden) return DeletedAdapter(adapter_id);
  if (absl::Status s = CheckNoAliases(key); !s.ok()) return s;
  if (!named.has_value() && !has_folder) return UnknownAdapter(adapter_id);
  if (!has_folder) return Erase(key);
  return Put({.tenant = tenant, .name = adapter_id, .kind = NameKind::kHidden});
}

}  // namespace lorica
