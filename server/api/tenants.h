// Tenants: who calls, shown by which key, and what it may do.
//
// A face (gRPC, HTTP) only copies what a caller shows into Credentials; the Gateway asks
// this table whose they are. Without a table nobody needs a key and everybody is the
// tenant "default". Keys are kept as SHA-256 alone: they are long and random, so a slow
// hash would add nothing. Tenant is immutable and shared; a reload makes new ones and
// calls that run keep theirs. Tenants is thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

// The tenant of every call where there are no keys.
inline constexpr char kDefaultTenant[] = "default";
inline constexpr int kTenantsMax = 10'000;
inline constexpr int kTenantKeysMax = 16;         // of one tenant
inline constexpr int kTenantPatternsMax = 1'000;  // ... in `adapters`
inline constexpr int kTenantNameBytesMax = 64;
inline constexpr int kApiKeyBytesMax = 256;
inline constexpr int64_t kTenantsFileBytesMax = 16 << 20;
inline constexpr double kTenantWeightMax = 1'000.0;
inline constexpr int64_t kTenantLimitMax = int64_t{1} << 40;

// What a caller shows, as it came. Never logged.
struct Credentials {
  std::vector<std::string> authorization;   // every `authorization` header: "Bearer KEY"
  std::vector<std::string> tenant_headers;  // every `x-tenant-id`
};

// Each may all that the ones before it may.
enum class TenantRole : uint8_t {
  kUser,     // generate, and look at its adapters
  kManager,  // register, move and delete its own names; load
  // Pin and evict; delete what was fetched for all; see everybody's usage; act for the tenant in
  // x-tenant-id.
  kOperator,
};

struct Tenant {
  std::string name = kDefaultTenant;
  TenantRole role = TenantRole::kOperator;
  // Where its adapters may come from: folders, or all that begin so when "*" ends it.
  std::vector<std::string> adapters = {"*"};
  double weight = 1.0;              // share of the engine under contention
  int64_t requests_per_minute = 0;  // 0 = as many as it likes, here and below
  int64_t tokens_per_minute = 0;    // of prompts and answers, as they are billed
  int64_t streams = 0;              // at a time
  // Its own token for the hub, read anew for each fetch; empty: the server's. What it brings is
  // seen by this tenant alone.
  std::string hub_token_file;

  bool MayUse(absl::string_view location) const;
};

using TenantPtr = std::shared_ptr<const Tenant>;

class Tenants {
 public:
  // Nobody needs a key.
  Tenants() = default;

  // Replaces the whole table by what the file says, or nothing at all: then the error
  // (InvalidArgument, NotFound) says what is wrong with it.
  //   {"tenants": [{"name": "acme", "keys": ["<SHA-256 of the key, hex>",
  //                  {"sha256": "...", "expires": "2027-01-31T00:00:00Z"}],
  //                 "role": "manager", "adapters": ["acme/*", "shared"], "weight": 2,
  //                 "requests_per_minute": 600, "tokens_per_minute": 100000, "streams": 8,
  //                 "hub_token_file": "/etc/lorica/acme.token"}]}
  absl::Status LoadFile(const std::string& path);
  absl::Status Load(const std::string& json);

  bool needs_keys() const;
  // Unauthenticated: no key, or none that counts `now`. InvalidArgument: an operator acts
  // for a tenant that is not there. Takes as long for a wrong key as for a right one.
  absl::StatusOr<TenantPtr> Authenticate(const Credentials& credentials, absl::Time now) const;
  // Null: no such tenant.
  TenantPtr Find(const std::string& name) const;
  // What its hub_token_file holds now; "" without one. FailedPrecondition: it cannot be read.
  absl::StatusOr<std::string> HubTokenOf(const std::string& name) const;
  std::vector<std::string> HubTokenFiles() const;

 private:
  struct Table;
  std::shared_ptr<const Table> table() const;

  mutable absl::Mutex mutex_;
  std::shared_ptr<const Table> table_ ABSL_GUARDED_BY(mutex_);  // null: nobody needs a key
};

// OK, or PermissionDenied with what is missing.
absl::Status CheckRole(const Tenant& tenant, TenantRole needed);

}  // namespace lorica
