#include "adapters/adapter_catalog.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr size_t kRevisionDigitsMin = 8;

// An id without and with its revision: "a/b" and "" of "a/b", "a" and "1f…" of "a@1f…".
struct IdParts {
  std::string name;
  std::string revision;
};

IdParts SplitId(const std::string& id) {
  const size_t at = id.find('@');
  if (at == std::string::npos) return {id, ""};
  return {id.substr(0, at), id.substr(at + 1)};
}

absl::Status CheckPlainId(const std::string& id) {
  if (absl::Status s = CheckAdapterId(id); !s.ok()) return s;
  if (!absl::StrContains(id, '@')) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("adapter id ", Quoted(id), ": a name is given without a revision here"));
}

absl::Status Unknown(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("adapter ", Quoted(id),
                                          " is neither registered nor a folder beneath the "
                                          "adapters folder"));
}

absl::Status WithId(const std::string& id, const absl::Status& status) {
  if (absl::IsNotFound(status)) return Unknown(id);
  const absl::string_view kind = absl::IsFailedPrecondition(status) ? " cannot be served: " : ": ";
  return absl::Status(status.code(), absl::StrCat("adapter ", Quoted(id), kind, status.message()));
}

}  // namespace

AdapterCatalog::AdapterCatalog(std::shared_ptr<Source> root, const PeftLoader* loader,
                               std::string base_name)
    : root_(std::move(root)),
      loader_(loader),
      base_name_(std::move(base_name)),
      cache_(root_, loader_, kCatalogNamesMax) {}

std::optional<AdapterCatalog::Place> AdapterCatalog::PlaceOf(const NameKey& key) const {
  absl::MutexLock lock(&mutex_);
  const auto name = registered_.find(key);
  if (name != registered_.end()) return Place{name->second, true};
  if (hidden_.contains(key)) return std::nullopt;
  return Place{key.second, false};
}

absl::StatusOr<GenerationPtr> AdapterCatalog::Resolve(const std::string& tenant,
                                                      const std::string& adapter_id) {
  if (absl::Status s = CheckAdapterId(adapter_id); !s.ok()) return s;
  const IdParts id = SplitId(adapter_id);
  const std::optional<Place> place = PlaceOf({tenant, id.name});
  if (!place.has_value()) return Unknown(adapter_id);
  absl::StatusOr<GenerationPtr> generation = cache_.Look(place->location);
  if (!generation.ok()) return WithId(adapter_id, generation.status());
  if (id.revision.empty()) return generation;
  const bool matches = id.revision.size() >= kRevisionDigitsMin &&
                       absl::StartsWith((*generation)->digest, id.revision);
  if (matches) return generation;
  return absl::NotFoundError(absl::StrCat(
      "adapter ", Quoted(adapter_id), ": a folder's only revision is the digest of its content, ",
      "now ", (*generation)->digest.substr(0, 12)));
}

// Ids that differ only by case are one on some file systems.
absl::Status AdapterCatalog::CheckCase(const NameKey& key) const {
  const std::string lower = absl::AsciiStrToLower(key.second);
  const auto clash = [&](const std::string& other) {
    return other != key.second && absl::AsciiStrToLower(other) == lower;
  };
  absl::StatusOr<std::vector<std::string>> folders = root_->List(kCatalogNamesMax);
  if (!folders.ok()) return folders.status();
  absl::MutexLock lock(&mutex_);
  std::string other;
  const auto named = lower_.find({key.first, lower});
  if (named != lower_.end() && named->second != key.second) other = named->second;
  for (const std::string& folder : *folders) {
    if (clash(folder) && !hidden_.contains(NameKey(key.first, folder))) other = folder;
  }
  if (other.empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("adapter id ", Quoted(key.second), " differs from ",
                                               Quoted(other),
                                               " only by case: choose another name"));
}

// May the name move from what it is now to `wanted`?
absl::Status AdapterCatalog::CheckMove(const NameKey& key, const Generation& wanted,
                                       const RegisterOptions& options) {
  const std::optional<Place> place = PlaceOf(key);
  absl::StatusOr<GenerationPtr> current = GenerationPtr();
  if (place.has_value()) current = cache_.Look(place->location);
  const bool has_content = current.ok() && *current != nullptr;
  const std::string digest = has_content ? (*current)->digest : "";
  if (!options.expected_generation.empty()) {
    if (digest == options.expected_generation) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat(
        "adapter ", Quoted(key.second), " is at generation ", digest.empty() ? "(none)" : digest,
        ", not at the expected ", Quoted(options.expected_generation), ": look again"));
  }
  const bool exists = has_content || (place.has_value() && place->registered);
  if (options.replace || !exists || digest == wanted.digest) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      "adapter ", Quoted(key.second), " exists with other content (generation ",
      digest.empty() ? "unknown" : digest.substr(0, 12), "): set replace to move the name"));
}

absl::StatusOr<AdapterCatalog::Registered> AdapterCatalog::Register(
    const std::string& tenant, const std::string& adapter_id, const RegisterOptions& options) {
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  const std::string location = options.location.empty() ? adapter_id : options.location;
  if (absl::Status s = CheckPlainId(location); !s.ok()) return s;
  if (adapter_id == base_name_) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter id ", Quoted(adapter_id), " is the base model's own name"));
  }
  // Hashes before the lock, so that a large adapter holds up nobody.
  if (auto looked = cache_.Look(location); !looked.ok()) {
    return WithId(location, looked.status());
  }

  absl::MutexLock changes(&change_mutex_);
  const NameKey key(tenant, adapter_id);
  absl::StatusOr<GenerationPtr> generation = cache_.Look(location);
  if (!generation.ok()) return WithId(location, generation.status());
  if (absl::Status s = CheckCase(key); !s.ok()) return s;
  if (absl::Status s = CheckMove(key, **generation, options); !s.ok()) return s;
  absl::MutexLock lock(&mutex_);
  const bool created = !registered_.contains(key);
  if (created && std::ssize(registered_) >= kCatalogNamesMax) return Full();
  registered_[key] = location;
  lower_[NameKey(tenant, absl::AsciiStrToLower(adapter_id))] = adapter_id;
  hidden_.erase(key);
  return Registered{*std::move(generation), created};
}

absl::Status AdapterCatalog::Full() {
  return absl::ResourceExhaustedError(
      absl::StrCat("the catalog holds ", kCatalogNamesMax, " names already"));
}

absl::Status AdapterCatalog::Delete(const std::string& tenant, const std::string& adapter_id) {
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  absl::MutexLock changes(&change_mutex_);
  const NameKey key(tenant, adapter_id);
  const bool has_folder =
      !absl::IsNotFound(root_->Open(adapter_id, "adapter_config.json").status());
  absl::MutexLock lock(&mutex_);
  const bool was_registered = registered_.contains(key);
  if (!was_registered && (!has_folder || hidden_.contains(key))) return Unknown(adapter_id);
  if (has_folder && std::ssize(hidden_) >= kCatalogNamesMax) return Full();
  registered_.erase(key);
  if (was_registered) lower_.erase(NameKey(tenant, absl::AsciiStrToLower(adapter_id)));
  if (has_folder) hidden_.insert(key);
  return absl::OkStatus();
}

absl::StatusOr<CatalogEntry> AdapterCatalog::Get(const std::string& tenant,
                                                 const std::string& adapter_id) {
  if (absl::Status s = CheckPlainId(adapter_id); !s.ok()) return s;
  const std::optional<Place> place = PlaceOf({tenant, adapter_id});
  if (!place.has_value()) return Unknown(adapter_id);
  absl::StatusOr<GenerationPtr> generation = cache_.Look(place->location);
  if (absl::IsNotFound(generation.status()) && !place->registered) return Unknown(adapter_id);
  return EntryOf(adapter_id, *place, std::move(generation));
}

CatalogEntry AdapterCatalog::EntryOf(const std::string& id, const Place& place,
                                     absl::StatusOr<GenerationPtr> looked) {
  CatalogEntry entry{id, place.location, place.registered};
  if (looked.ok()) {
    entry.generation = *std::move(looked);
  } else {
    entry.error = looked.status();
  }
  return entry;
}

absl::StatusOr<std::vector<CatalogEntry>> AdapterCatalog::List(const std::string& tenant,
                                                               const std::string& prefix,
                                                               const std::string& after,
                                                               int limit) {
  absl::StatusOr<std::vector<std::string>> folders = root_->List(kCatalogNamesMax);
  if (!folders.ok()) return folders.status();
  absl::btree_map<std::string, Place> found;
  {
    absl::MutexLock lock(&mutex_);
    for (const std::string& folder : *folders) {
      const bool shown = folder != base_name_ && CheckAdapterId(folder).ok() &&
                         !hidden_.contains(NameKey(tenant, folder));
      if (shown) found[folder] = {folder, false};
    }
    for (auto name = registered_.lower_bound(NameKey(tenant, ""));
         name != registered_.end() && name->first.first == tenant; ++name) {
      found[name->first.second] = {name->second, true};
    }
  }
  std::vector<CatalogEntry> entries;
  for (auto it = found.lower_bound(std::max(after, prefix)); it != found.end(); ++it) {
    if (std::ssize(entries) >= limit || !absl::StartsWith(it->first, prefix)) break;
    if (it->first == after) continue;
    entries.push_back(EntryOf(it->first, it->second, cache_.Last(it->second.location)));
  }
  return entries;
}

absl::StatusOr<AdapterPlan> AdapterCatalog::Check(const std::string& tenant,
                                                  const std::string& location_or_id) {
  if (absl::Status s = CheckPlainId(location_or_id); !s.ok()) return s;
  const std::optional<Place> place = PlaceOf({tenant, location_or_id});
  absl::StatusOr<AdapterPlan> plan =
      loader_->Plan(*root_, place.has_value() ? place->location : location_or_id);
  if (absl::IsNotFound(plan.status())) return Unknown(location_or_id);
  return plan;
}

}  // namespace lorica
