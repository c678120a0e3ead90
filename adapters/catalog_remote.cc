// The part of AdapterCatalog that looks beyond this machine.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter_catalog.h"
#include "adapters/catalog_text.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

// The repository and revision that an id would be.
RemoteName NameIn(const std::string& id) {
  const IdParts parts = SplitId(id);
  RemoteName name{parts.name};
  if (!parts.revision.empty()) name.revision = parts.revision;
  return name;
}

}  // namespace

std::optional<RemoteName> AdapterCatalog::RemoteNameOf(const std::string& tenant,
                                                       const std::string& id) const {
  if (remote_ == nullptr) return std::nullopt;
  if (IsObjectLocation(id)) {  // no id is: those who register adapters name it
    if (!MayUse(tenant, id) || !remote_->Allows(id)) return std::nullopt;
    return RemoteName{id};
  }
  RemoteName name = NameIn(id);
  if (IsRepoFolder(name.repo)) return RemoteAt(tenant, std::move(name));  // nor is this
  if (!CheckAdapterId(id).ok()) return std::nullopt;
  Followed followed = Follow(tenant, name.repo);
  if (followed.named.has_value()) return std::nullopt;
  name.repo = std::move(followed.name);
  return RemoteAt(tenant, std::move(name));
}

std::optional<RemoteName> AdapterCatalog::RemoteAt(const std::string& tenant,
                                                   RemoteName name) const {
  if (!MayUse(tenant, name.repo) || !remote_->Allows(name.repo) ||
      HasAdapterFolder(*root_, name.repo)) {
    return std::nullopt;
  }
  return name;
}

std::optional<RemoteName> AdapterCatalog::RemoteSourceOf(const std::string& tenant,
                                                         const std::string& location) const {
  RemoteName name = NameIn(location);
  const auto named = Named({tenant, name.repo});
  const bool is_hidden = named.has_value() && named->kind != NameKind::kAlias;
  if (remote_ == nullptr || !is_hidden || !CheckAdapterId(location).ok()) {
    return RemoteNameOf(tenant, location);
  }
  return RemoteAt(tenant, std::move(name));
}

bool AdapterCatalog::MayFetch(const std::string& tenant, const std::string& adapter_id) const {
  return RemoteNameOf(tenant, adapter_id).has_value();
}

const char* AdapterCatalog::SourceOf(const std::string& tenant,
                                     const std::string& adapter_id) const {
  auto name = RemoteNameOf(tenant, adapter_id);
  if (!name) {
    const absl::StatusOr<Place> place = PlaceOf(tenant, adapter_id);
    if (place.ok() && place->registered) name = RemoteSourceOf(tenant, place->location);
  }
  if (!name) return "local";
  if (!IsObjectLocation(name->repo)) return "hub";
  return absl::StartsWith(name->repo, "s3://") ? "s3" : "mirror";
}

absl::Status AdapterCatalog::Authorise(const std::string& tenant, const std::string& token,
                                       RemoteName* name) const {
  name->tenant = tenant;
  name->token = token;
  if (!token.empty() || token_of_ == nullptr || IsObjectLocation(name->repo)) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> own = token_of_(tenant);
  if (own.ok()) name->token = *std::move(own);
  return own.status();
}

absl::StatusOr<FoundAdapter> AdapterCatalog::Find(const std::string& tenant,
                                                  const std::string& adapter_id,
                                                  const std::string& token) {
  auto name = RemoteNameOf(tenant, adapter_id);
  if (looks_ == nullptr || name || IsObjectLocation(adapter_id)) {
    return FindNow(tenant, adapter_id, token, std::move(name));
  }
  const Looked known =
      ResolveBy(tenant, adapter_id, [this](const Place& place) { return TryLook(place); });
  if (!known) {
    return looks_->Find(tenant, absl::StrCat(adapter_id, "\n", token), [=, this] {
      return FindNow(tenant, adapter_id, token, RemoteNameOf(tenant, adapter_id));
    });
  }
  if (absl::IsNotFound(known->status()) && MayFetch(tenant, adapter_id)) {
    return FindNow(tenant, adapter_id, token, RemoteNameOf(tenant, adapter_id));
  }
  if (!known->ok()) return known->status();
  return FoundAdapter{**known, nullptr};
}

absl::StatusOr<FoundAdapter> AdapterCatalog::FindNow(const std::string& tenant,
                                                     const std::string& adapter_id,
                                                     const std::string& token,
                                                     std::optional<RemoteName> name) {
  if (name) {
    if (absl::Status s = Authorise(tenant, token, &*name); !s.ok()) return s;
    return remote_->Find(*name);
  }
  if (IsObjectLocation(adapter_id)) return UnknownPlace(adapter_id);
  absl::StatusOr<GenerationPtr> generation =
      *ResolveBy(tenant, adapter_id, [this](const Place& place) -> Looked { return Look(place); });
  // An alias has moved meanwhile.
  if (absl::IsNotFound(generation.status()) && MayFetch(tenant, adapter_id)) {
    return FindNow(tenant, adapter_id, token, RemoteNameOf(tenant, adapter_id));
  }
  if (absl::IsDataLoss(generation.status())) {
    return FetchAgain(tenant, adapter_id, token, generation.status());
  }
  if (!generation.ok()) return generation.status();
  return FoundAdapter{*std::move(generation), nullptr};
}

// Of a registered name whose copy is lost: what it was registered with, if its source still has
// just that. Whoever asks next finds that on the disk and makes the copy anew.
absl::StatusOr<FoundAdapter> AdapterCatalog::FetchAgain(const std::string& tenant,
                                                        const std::string& adapter_id,
                                                        const std::string& token,
                                                        const absl::Status& lost) {
  const absl::StatusOr<Place> place = PlaceOf(tenant, adapter_id);
  if (remote_ == nullptr || !place.ok() || IsMerge(place->location)) return lost;
  auto name = RemoteSourceOf(tenant, place->location);
  if (!name) return lost;
  if (!place->commit.empty()) name->revision = place->commit;
  if (absl::Status s = Authorise(tenant, token, &*name); !s.ok()) return s;
  absl::StatusOr<FoundAdapter> found = remote_->Find(*name);
  if (!found.ok()) return found;
  const auto as_registered =
      [digest = place->digest,
       adapter_id](const absl::StatusOr<GenerationPtr>& came) -> absl::StatusOr<GenerationPtr> {
    if (!came.ok() || (*came)->digest == digest) return came;
    return AboutAdapter(adapter_id, OtherContent((*came)->location, (*came)->digest, digest));
  };
  if (found->ticket == nullptr) {
    const absl::StatusOr<GenerationPtr> here = as_registered(found->generation);
    return here.ok() ? found : here.status();
  }
  auto ticket = std::make_shared<FetchTicket>();
  found->ticket->WhenDone([ticket, as_registered](const absl::StatusOr<GenerationPtr>& came) {
    ticket->End(as_registered(came));
  });
  return FoundAdapter{nullptr, std::move(ticket)};
}

absl::StatusOr<GenerationPtr> AdapterCatalog::Resolve(const std::string& tenant,
                                                      const std::string& adapter_id,
                                                      const std::string& token) {
  absl::StatusOr<FoundAdapter> found =
      FindNow(tenant, adapter_id, token, RemoteNameOf(tenant, adapter_id));
  if (!found.ok()) return found.status();
  if (found->ticket == nullptr) return std::move(found->generation);
  return BeingFetched(adapter_id);
}

absl::StatusOr<FoundAdapter> AdapterCatalog::FindSource(const std::string& tenant,
                                                        const std::string& location,
                                                        const RegisterOptions& options) {
  auto name = RemoteSourceOf(tenant, location);
  if (!name) return FoundAdapter();
  if (absl::Status s = Authorise(tenant, options.token, &*name); !s.ok()) return s;
  name->now = options.replace || !options.expected_generation.empty();
  return remote_->Find(*name);
}

absl::StatusOr<FoundAdapter> AdapterCatalog::FindHead(const std::string& tenant,
                                                      const std::string& location_or_id,
                                                      const std::string& token) {
  auto name = RemoteNameOf(tenant, location_or_id);
  if (!name) return FoundAdapter();
  if (absl::Status s = Authorise(tenant, token, &*name); !s.ok()) return s;
  return remote_->FindHead(*name);
}

absl::StatusOr<GenerationPtr> AdapterCatalog::LookAt(const std::string& tenant,
                                                     const std::string& location,
                                                     const RegisterOptions& options) {
  if (options.found != nullptr) return options.found;
  if (IsObjectLocation(location)) return Resolve(tenant, location);
  if (HasAdapterFolder(*root_, location)) return cache_.Look(location);
  absl::StatusOr<FoundAdapter> found = FindSource(tenant, location, options);
  if (!found.ok()) return found.status();
  if (found->ticket != nullptr) return BeingFetched(location);
  if (found->generation == nullptr) return cache_.Look(location);
  return std::move(found->generation);
}

absl::StatusOr<CatalogEntry> AdapterCatalog::GetRemote(const std::string& tenant,
                                                       const std::string& adapter_id,
                                                       RemoteName name,
                                                       const std::string& token) const {
  if (absl::Status s = Authorise(tenant, token, &name); !s.ok()) return s;
  const KnownRemote known = remote_->Known(name);
  const auto named = Named({tenant, SplitId(adapter_id).name});
  const std::string alias_of = named.has_value() ? named->target : "";
  if (known.digest.empty() && known.error.ok() && !known.fetching && alias_of.empty()) {
    return UnknownAdapter(adapter_id);
  }
  CatalogEntry entry{.adapter_id = adapter_id,
                     .location = known.location,
                     .generation = known.generation == nullptr ? known.facts : known.generation,
                     .error = known.generation == nullptr ? known.error : absl::OkStatus(),
                     .digest = known.digest,
                     .alias_of = alias_of,
                     .fetching = known.fetching,
                     .fetched_bytes = known.fetched_bytes,
                     .fetch_bytes_total = known.fetch_bytes_total,
                     .on_disk = known.on_disk};
  if (entry.location.empty()) entry.location = absl::StrCat(name.repo, "@", name.revision);
  return entry;
}

absl::StatusOr<std::optional<RemoteName>> AdapterCatalog::RemoteToForget(
    const std::string& tenant, const std::string& adapter_id, const std::string& token) const {
  if (Named({tenant, SplitId(adapter_id).name}).has_value()) return std::nullopt;
  auto name = RemoteNameOf(tenant, adapter_id);
  if (!name) return std::nullopt;
  if (absl::Status s = Authorise(tenant, token, &*name); !s.ok()) return s;
  return name;
}

std::string AdapterCatalog::FetchedDigest(const std::string& tenant, const std::string& adapter_id,
                                          const std::string& token) const {
  const auto name = RemoteToForget(tenant, adapter_id, token);
  return name.ok() && name->has_value() ? remote_->Known(**name).digest : "";
}

absl::Status AdapterCatalog::ForgetRemote(const std::string& adapter_id, const RemoteName& name,
                                          bool may_forget_shared) {
  if (remote_->Known(name).digest.empty()) return UnknownAdapter(adapter_id);
  if (name.token.empty() && !may_forget_shared) {
    return absl::PermissionDeniedError(
        absl::StrCat("adapter ", Quoted(adapter_id),
                     " was fetched with the server's own token, for all tenants that may name it: ",
                     "let an operator delete it"));
  }
  return remote_->Forget(name);
}

std::optional<RemoteStats> AdapterCatalog::FetchStats() const {
  if (remote_ == nullptr) return std::nullopt;
  return remote_->stats();
}

std::vector<std::string> AdapterCatalog::RemoteIds(const std::string& tenant,
                                                   const std::string& token) const {
  std::vector<std::string> ids;
  if (remote_ == nullptr) return ids;
  for (std::string& id : remote_->List(tenant, token)) {
    if (MayFetch(tenant, id)) ids.push_back(std::move(id));
  }
  return ids;
}

}  // namespace lorica
