// Names that survive: which name stands for which content, on disk, in SQLite.
//
// A row is a tenant's name: an adapter with its last generations, an alias, or the mark
// that a folder's own name was deleted. Put and Erase return once the change is on disk
// (rollback journal, synchronous=EXTRA); what they refused or did not answer is either
// whole or not there at the next start. Content lies elsewhere (content_store.h) and is
// kept before its row is written and dropped after the row is gone, so a row's content
// is there.
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

namespace lorica {

inline constexpr int kRegistrySchema = 1;
inline constexpr int kGenerationsKeptMax = 8;  // of a name, the current one included
inline constexpr absl::Duration kRegistryBusyWait = absl::Seconds(5);

// One generation that a name stood for.
struct NamedGeneration {
  int64_t number = 0;    // grows with each move of the name to new content
  std::string digest;    // 64 hex digits
  std::string location;  // in the adapters' source, when it was registered
  absl::Time registered_at;
};

enum class NameKind : uint8_t { kAdapter = 0, kAlias = 1, kHidden = 2 };

struct RegisteredName {
  std::string tenant;
  std::string name;
  NameKind kind = NameKind::kAdapter;
  std::string target;                        // of an alias: a name of the same tenant
  int64_t current = 0;                       // of an adapter: its generation's number
  std::vector<NamedGeneration> generations;  // of an adapter, by number; at most
                                             // kGenerationsKeptMax
  // REQUIRES: kind is kAdapter.
  const NamedGeneration& now() const;
};

class Registry {
 public:
  // Opens or makes the database. FailedPrecondition: not ours, from a newer version,
  // damaged, or in a place that cannot be written; the text says what to do.
  static absl::StatusOr<std::unique_ptr<Registry>> Open(const std::string& path);
  ~Registry();

  // All rows, by (tenant, name).
  absl::StatusOr<std::vector<RegisteredName>> Load();
  // Writes the whole row. ResourceExhausted: the disk is full, nothing changed.
  // Unavailable: the disk failed, or the file was moved away; the row is as it was or as
  // asked, which the next start tells. After that every change is refused so.
  absl::Status Put(const RegisteredName& name);
  absl::Status Erase(const std::string& tenant, const std::string& name);

 private:
  struct Impl;
  explicit Registry(std::unique_ptr<Impl> impl);
  // On the registry thread; waits.
  absl::Status Run(std::function<absl::Status()> work);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorica
