// How much may wait: altogether, and of one tenant.
//
// Where there are several tenants, one alone fills no more than its part, so that whoever floods
// is refused while others still come in. A tenant of whom nothing waits is within its part
// whatever it brings. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"

namespace lorica {

struct QueueShare {
  int64_t requests = 0;
  int64_t tokens = 0;
  int64_t bytes = 0;
};

class QueueRoom {
 public:
  // One tenant's part is `limit` divided by `tenant_parts`.
  QueueRoom(const QueueShare& limit, int tenant_parts)
      : limit_(limit),
        part_{limit.requests / tenant_parts, limit.tokens / tenant_parts,
              limit.bytes / tenant_parts} {}

  // Unavailable: full, with the limit in the text.
  absl::Status Check(const std::string& tenant, const QueueShare& share) const;
  // The same, and `share` is taken.
  absl::Status Enter(const std::string& tenant, const QueueShare& share);
  // REQUIRES: it has entered.
  void Leave(const std::string& tenant, const QueueShare& share);
  int tenants() const { return static_cast<int>(taken_by_.size()); }

 private:
  const QueueShare limit_;
  const QueueShare part_;
  QueueShare taken_;
  absl::flat_hash_map<std::string, QueueShare> taken_by_;  // tenants of whom something waits
};

}  // namespace lorica
