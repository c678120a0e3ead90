// A tenant's name and its history: what it stands for, stood for, and goes back to.
//
// Generations are numbered as they came. Each remembers which one the name stood for before,
// so that a rollback undoes a move instead of counting down: what was left by a rollback is
// not come back to by the next one. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace lorica {

inline constexpr int kGenerationsKeptMax = 8;  // of a name, the current one included

// One generation that a name stood for.
struct NamedGeneration {
  int64_t number = 0;    // grows with each move of the name to new content
  std::string digest;    // 64 hex digits
  std::string location;  // in the adapters' source, when it was registered
  std::string commit;    // of a hub's repository, what that meant then; empty: no hub's
  absl::Time registered_at;
  int64_t previous = 0;  // what the name stood for before; 0 = nothing that is kept
  int64_t bytes = 0;     // of its copy's files; 0 = not known
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
  // Null: none such.
  const NamedGeneration* Numbered(int64_t number) const;

  // An adapter from now on, which stands for that content. The oldest generation goes when
  // there are too many, but never the one that was left: a rollback leads there.
  void MoveTo(const std::string& digest, const std::string& location, absl::Time at,
              const std::string& commit = "", int64_t bytes = 0);
  // The same content, from now on known to come from elsewhere. REQUIRES: kind is kAdapter.
  void Relocate(const std::string& location, const std::string& commit = "");
  // To one of its generations. One that the name came by is gone back to; any other is a move
  // forward, which a rollback undoes. REQUIRES: kind is kAdapter, and it has that number.
  void MoveBackTo(int64_t number);

 private:
  NamedGeneration* At(int64_t number);
  bool CameBy(int64_t number) const;
  void Forget(int64_t number);
};

}  // namespace lorica
