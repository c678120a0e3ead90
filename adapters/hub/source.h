// Where files come from: a local root folder today, hubs and mirrors later.
//
// A Source turns a location (a name beneath its root, never a client's path) into
// named files that can be read safely: opened beneath the root without following
// links out of it, read through one descriptor, never mapped. Thread-safe; Fetch
// may block and runs on loader or work-pool threads only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorica {

// What identifies a file's content without reading it: kept with a digest so that
// an unchanged file is not hashed again.
struct FileStamp {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size_bytes = 0;
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// One open regular file. Reads check length; a file that shrinks is DataLoss.
class SourceFile {
 public:
  virtual ~SourceFile() = default;
  virtual int64_t size_bytes() const = 0;
  virtual FileStamp stamp() const = 0;
  virtual absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const = 0;
  // Another name for the same file, where the file system lets it; false where it does not.
  virtual bool LinkTo(const std::string& /*path*/) const { return false; }
};

class Source {
 public:
  virtual ~Source() = default;
  // NotFound: no such location or file. FailedPrecondition: not a regular file, or
  // outside the root. `file` is a plain name.
  virtual absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string& location,
                                                           const std::string& file) = 0;
  // Whether such a folder is there, with or without files; a source that has none says no.
  virtual bool HasFolder(const std::string& /*location*/) const { return false; }
  // Whether nobody ever writes into its files, so that they may have other names.
  virtual bool IsImmutable() const { return false; }
  // Locations that look like adapters, sorted. Bounded by `limit`.
  virtual absl::StatusOr<std::vector<std::string>> List(int limit) = 0;
};

// Folders beneath `root`: location "a" or "a/b" is root/a or root/a/b. Opened with
// openat2(RESOLVE_BENEATH); symbolic links that stay beneath the root are followed.
// NotFound when root does not exist.
absl::StatusOr<std::unique_ptr<Source>> MakeLocalSource(const std::string& root);

}  // namespace lorica
