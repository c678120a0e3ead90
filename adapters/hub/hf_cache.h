// An operator's Hugging Face cache, read and never written
// (https://huggingface.co/docs/huggingface_hub, "Manage your cache").
//
//   models--ORG--NAME/refs/REVISION            the commit that it meant
//   models--ORG--NAME/snapshots/COMMIT/FILE    a link to ../../blobs/HASH
//
// A link may lead to what lies beneath its own repository's folder, and nowhere else.
// Immutable and thread-safe; calls read the disk.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/hub/beneath.h"
#include "adapters/hub/source.h"

namespace lorica {

class HfCache {
 public:
  // NotFound: there is no such folder.
  static absl::StatusOr<std::unique_ptr<HfCache>> Open(const std::string& folder);

  // The commit that a revision means there, if its snapshot has a file of that name.
  std::optional<std::string> Find(const std::string& repo, const std::string& revision,
                                  const std::string& file) const;
  // Files of a commit that was found; the location does not matter.
  absl::StatusOr<std::shared_ptr<Source>> Snapshot(const std::string& repo,
                                                   const std::string& commit) const;

 private:
  explicit HfCache(UniqueFd root) : root_(std::move(root)) {}
  const UniqueFd root_;
};

}  // namespace lorica
