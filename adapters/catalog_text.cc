#include "adapters/catalog_text.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "adapters/adapter.h"
#include "adapters/adapter_fault.h"
#include "adapters/hub/hub_reply.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {

IdParts SplitId(const std::string& id) {
  const size_t at = id.find('@');
  if (at == std::string::npos) return {id, ""};
  return {id.substr(0, at), id.substr(at + 1)};
}

std::string ScopeOf(const std::string& location) {
  const std::string name = SplitId(location).name;
  return IsObjectLocation(name) ? name : SplitRepoPlace(name).repo;
}

std::string CommitIn(const std::string& fetched, const std::string& location) {
  const IdParts there = SplitId(fetched);
  const bool pinned = !IsObjectLocation(location) && there.name == SplitId(location).name &&
                      ParseCommit(there.revision).ok();
  return pinned ? there.revision : "";
}

absl::Status CheckPlainId(const std::string& id) {
  if (absl::Status s = CheckAdapterId(id); !s.ok()) return s;
  if (!absl::StrContains(id, '@')) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("adapter id ", Quoted(id), ": a name is given without a revision here"));
}

absl::Status UnknownAdapter(const std::string& id) {
  const bool like_a_hubs = absl::StrContains(id, '/');
  return absl::NotFoundError(absl::StrCat(
      "adapter ", Quoted(id), " is neither registered nor a folder beneath the adapters folder",
      like_a_hubs ? "; a hub's are fetched where --hub-allow names them" : ""));
}

absl::Status UnknownPlace(const std::string& location) {
  return absl::NotFoundError(
      absl::StrCat(Quoted(location), " is none that this server may fetch from: its operator ",
                   "allows such places with ",
                   absl::StartsWith(location, "s3://") ? "--s3-allow" : "--mirror-allow"));
}

absl::Status DeletedAdapter(const std::string& id) {
  return absl::NotFoundError(absl::StrCat(
      "adapter ", Quoted(id),
      " was deleted and is hidden, though a folder may have that name: register it to bring it "
      "back"));
}

absl::Status UnnamableFolder(const std::string& folder) {
  return absl::FailedPreconditionError(
      absl::StrCat("no id names the folder ", Quoted(folder), ": what stands behind an \"@\" is a ",
                   "revision of the adapter before it; rename the folder to serve it"));
}

absl::Status AboutAdapter(const std::string& id, const absl::Status& status) {
  const std::string named = absl::StrCat("adapter ", Quoted(id));
  if (absl::IsNotFound(status)) {
    return absl::StartsWith(status.message(), named) ? status : UnknownAdapter(id);
  }
  if (IsAdapterFault(status) && absl::StartsWith(status.message(), named)) return status;
  const absl::string_view kind = absl::IsFailedPrecondition(status) ? " cannot be served: " : ": ";
  return AdapterFault(absl::Status(status.code(), absl::StrCat(named, kind, status.message())));
}

absl::Status OtherContent(const std::string& location, const std::string& digest_now,
                          const std::string& registered) {
  return absl::FailedPreconditionError(absl::StrCat(
      "it was registered as ", ShortDigest(registered), ", and ", Quoted(location), " holds ",
      ShortDigest(digest_now), " now: register it again to take that, or put the files back"));
}

bool IsOtherBase(const std::string& named, const std::string& base) {
  const auto plain = [](absl::string_view text) {
    absl::ConsumeSuffix(&text, "/");
    std::string letters;
    for (const char c : text.substr(text.rfind('/') + 1)) {
      if (absl::ascii_isalnum(c)) letters += absl::ascii_tolower(c);
    }
    return letters;
  };
  const std::string one = plain(named);
  const std::string other = plain(base);
  return !one.empty() && !other.empty() && !absl::StrContains(one, other) &&
         !absl::StrContains(other, one);
}

bool HasAdapterFolder(Source& root, const std::string& location) {
  return !absl::IsNotFound(root.Open(location, "adapter_config.json").status());
}

std::string ShortDigest(const std::string& digest) { return digest.substr(0, 12); }

absl::Status BeingFetched(const std::string& id) {
  return UnavailableFor(absl::StrCat("adapter ", Quoted(id), " is being fetched"),
                        absl::Seconds(1));
}

}  // namespace lorica
