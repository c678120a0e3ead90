// What tenants use: their quotas at the door, and their bill.
//
// A call that is let in holds a Charge until it has ended. Requests and tokens are
// counted in buckets that hold one minute's worth and fill evenly. The tokens of a prompt are taken
// when the engine takes the call, those of the answer as they come, so a bucket may go below zero
// and then lets nobody in until it is above. In the end an answer has taken what is billed: what
// was cancelled before it was computed, or made beyond the answer's end, is given back.
// The bill is by tenant and generation (BillKey) and adds up exactly: each prompt token once, when
// a step was launched for it or for what comes behind it (then its KV was there already, and it
// counts as cached too), and the tokens that the answer says it has. What was cancelled before its
// turn is not on the bill. Preemption changes nothing.
// In memory; server/usage_file.h keeps it. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/api/tenants.h"

namespace lorica {

inline constexpr int kUsageRowsMax = 100'000;
inline constexpr int kTenantTotalsMax = 64;  // tenants that charts tell apart
// Stands for the generation of what no row is left for.
inline constexpr char kUsageOther[] = "other";

struct Usage {
  int64_t requests = 0;  // that were answered, wholly or in part
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt's: their KV was there already

  void Add(const Usage& other);
};

struct UsageRow {
  std::string tenant;
  std::string generation;  // a BillKey
  Usage usage;
};

// Which row an answer of these adapters is on: the digest of the one; of a mix the digests,
// sorted, each once, with "+" between them, whatever its order and weights; none: the base model's,
// which is "".
std::string BillKey(std::vector<std::string> generations);

class Accounts;

// One answer's place in its tenant's quotas. Any thread.
class Charge {
 public:
  ~Charge();
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

  void SetGeneration(std::string generation) { generation_ = std::move(generation); }
  // Against tokens_per_minute. Of no effect after the bill.
  void Tokens(int64_t count);
  // The stream is over: it counts no more against `streams`. Idempotent.
  void End();
  // The bill, once; later ones are ignored. What was taken against tokens_per_minute becomes what
  // is on it. Without requests there is none, and all is given back; so it is without this call.
  void Bill(const Usage& usage);

 private:
  friend class Accounts;
  Charge(std::shared_ptr<Accounts> accounts, TenantPtr tenant)
      : accounts_(std::move(accounts)), tenant_(std::move(tenant)) {}

  const std::shared_ptr<Accounts> accounts_;
  const TenantPtr tenant_;
  std::string generation_;  // before the answer starts
  absl::Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool billed_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // taken
};

// InvalidArgument: so many answers of one call are more than the quotas ever let in together, so
// trying again would not help.
absl::Status CheckAtOnce(const Tenant& tenant, int64_t answers);

// Shared by what it let in.
class Accounts : public std::enable_shared_from_this<Accounts> {
 public:
  explicit Accounts(std::function<absl::Time()> clock) : clock_(std::move(clock)) {}

  // ResourceExhausted, with the time after which it makes sense to try again: beyond
  // requests_per_minute, tokens_per_minute or streams. The tenant without a name, the
  // server itself, has neither limits nor a bill.
  absl::StatusOr<std::shared_ptr<Charge>> Enter(const TenantPtr& tenant);
  // To the bill: what an earlier process counted.
  void Add(const UsageRow& row);
  // By tenant and generation. Empty: of all tenants.
  std::vector<UsageRow> Bill(const std::string& tenant) const;
  // One row a tenant, its generations added up. The first kTenantTotalsMax that used anything
  // have one each for good, all others share kUsageOther: numbers never fall.
  std::vector<UsageRow> Totals() const;
  // How many there are of each.
  struct Held {
    int64_t tenants = 0;
    int64_t streams = 0;
    int64_t bill_rows = 0;
  };
  Held held() const;

 private:
  friend class Charge;
  struct Bucket {
    double level = 0.0;
    absl::Time filled = absl::InfinitePast();

    void Fill(int64_t per_minute, absl::Time now);
    // Until the level is `wanted`.
    absl::Duration Wait(int64_t per_minute, double wanted) const;
  };
  struct Account {
    Bucket requests;
    Bucket tokens;
    int64_t streams = 0;
  };

  void Tokens(const Tenant& tenant, int64_t count);
  void End(const Tenant& tenant);

  const std::function<absl::Time()> clock_;
  mutable absl::Mutex mutex_;
  // At most one a tenant that the tenants' file ever had in this process's life.
  absl::flat_hash_map<std::string, Account> accounts_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, std::string>, Usage> bill_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Usage> totals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
