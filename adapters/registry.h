// Names that survive: which name stands for which content, on disk, in SQLite.
//
// A row is a tenant's name: an adapter with its last generations, an alias, or the mark
// that a folder's own name was deleted. Put and Erase return once the change is on disk
// (rollback journal, synchronous=EXTRA); what they refused or did not answer is either
// whole or not there at the next start. Content lies elsewhere (content_store.h) and is
// kept before its row is written and dropped after the row is gone, so a row's content
// is there. The copies cannot be named again without the rows, so a registry is never made
// where there are copies already.
//
// One registry thread uses the database; the methods may be called from any thread and
// wait for it, so never on the engine's or a transport's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/registered_name.h"

namespace lorica {

inline constexpr int kRegistrySchema = 4;  // older ones are brought up to it
// For another program's lock, from when a change is asked for. For as long again after one has
// waited in vain the next ones only try.
inline constexpr absl::Duration kRegistryBusyWait = absl::Seconds(3);

// Content that is there before the registry is opened, and where it lies.
struct CopiesBeside {
  std::string folder;
  bool any = false;
};

class Registry {
 public:
  // Opens or makes the database. FailedPrecondition: missing or empty though there are copies,
  // not ours, from a newer version, damaged, or in a place that cannot be written; the text says
  // what to do.
  static absl::StatusOr<std::unique_ptr<Registry>> Open(const std::string& path,
                                                        const CopiesBeside& copies = {});
  ~Registry();

  // ResourceExhausted: the disk was full when it was opened, so changes are refused until there is
  // room. Only a registry that has its tables is opened then.
  absl::Status at_open() const;
  // All rows, by (tenant, name).
  absl::StatusOr<std::vector<RegisteredName>> Load();
  // Writes the whole row. ResourceExhausted: the disk is full, nothing changed.
  // Unavailable: another program holds the database, nothing changed; or it is broken.
  absl::Status Put(const RegisteredName& name);
  absl::Status Erase(const std::string& tenant, const std::string& name);
  // A change met a disk that failed, or the file was moved away: the row is as it was or as
  // asked, which the next start tells. Every later change is refused.
  bool is_broken() const;

 private:
  struct Impl;
  explicit Registry(std::unique_ptr<Impl> impl);
  // On the registry thread; waits.
  absl::Status Run(std::function<absl::Status()> work);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorica
