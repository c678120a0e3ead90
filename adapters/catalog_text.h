// Ids and errors as the catalog's files share them, and how much of a digest names a generation.
// Pure functions, but for the one that looks for a folder: share them freely.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "adapters/hub/source.h"

namespace lorica {

inline constexpr size_t kRevisionDigitsMin = 8;

// An id without and with its revision: "a/b" and "" of "a/b", "a" and "1f…" of "a@1f…".
struct IdParts {
  std::string name;
  std::string revision;
};
IdParts SplitId(const std::string& id);

// What of a location decides who may use it: a repository with all its revisions and folders.
std::string ScopeOf(const std::string& location);

// Grammar of a name that is given without a revision.
absl::Status CheckPlainId(const std::string& id);

absl::Status UnknownAdapter(const std::string& id);
// A bucket or a web server beyond what is allowed.
absl::Status UnknownPlace(const std::string& location);
absl::Status DeletedAdapter(const std::string& id);
// A folder whose name holds an "@": as an id it would be another's revision.
absl::Status UnnamableFolder(const std::string& folder);
absl::Status BeingFetched(const std::string& id);
// The commit that `fetched`, as it was brought from a hub for `location`, is of; "": of none.
std::string CommitIn(const std::string& fetched, const std::string& location);
// What a name was registered with is not what the place it came from holds now.
absl::Status OtherContent(const std::string& location, const std::string& digest_now,
                          const std::string& registered);
// The sentence of another part, about this adapter; one that names it already as it is.
absl::Status AboutAdapter(const std::string& id, const absl::Status& status);

// Whether a base that an adapter names, "org/Name" or a path, is clearly another than `base`:
// neither's letters and digits hold the other's. False where either has none.
bool IsOtherBase(const std::string& named, const std::string& base);

// Whether an adapter's folder lies there; also where it cannot be opened.
bool HasAdapterFolder(Source& root, const std::string& location);

// "1f2e3d4c5b6a" of a digest.
std::string ShortDigest(const std::string& digest);

}  // namespace lorica
