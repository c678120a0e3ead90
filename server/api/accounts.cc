#include "server/api/accounts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/quoted.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

// A stream ends when it likes: a guess.
constexpr absl::Duration kStreamWait = absl::Seconds(1);

absl::Status OverQuota(const Tenant& tenant, absl::string_view what, absl::Duration wait) {
  const int64_t seconds = absl::ToInt64Seconds(absl::Ceil(wait, absl::Seconds(1)));
  return TooMuch(absl::StrCat("tenant ", Quoted(tenant.name), " has used up its ", what,
                              "; try again in ", std::max<int64_t>(1, seconds), " s"),
                 wait);
}

}  // namespace

void Usage::Add(const Usage& other) {
  requests += other.requests;
  prompt_tokens += other.prompt_tokens;
  completion_tokens += other.completion_tokens;
  cached_tokens += other.cached_tokens;
}

std::string BillKey(std::vector<std::string> generations) {
  std::sort(generations.begin(), generations.end());
  generations.erase(std::unique(generations.begin(), generations.end()), generations.end());
  return absl::StrJoin(generations, "+");
}

absl::Status CheckAtOnce(const Tenant& tenant, int64_t answers) {
  const auto refuse = [&](int64_t limit, absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("these are ", answers, " answers at once, and tenant ", Quoted(tenant.name),
                     " never has more than ", limit, what, ": ask for fewer"));
  };
  if (tenant.streams > 0 && answers > tenant.streams) {
    return refuse(tenant.streams, " streams at a time");
  }
  if (tenant.requests_per_minute > 0 && answers > tenant.requests_per_minute) {
    return refuse(tenant.requests_per_minute, " requests a minute");
  }
  return absl::OkStatus();
}

// --- Charge ------------------------------------------------------------------------------

Charge::~Charge() {
  End();
  Bill({});
}

void Charge::Tokens(int64_t count) {
  absl::MutexLock lock(&mutex_);
  if (billed_) return;
  tokens_ += count;
  accounts_->Tokens(*tenant_, count);
}

void Charge::End() {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(ended_, true)) return;
  }
  accounts_->End(*tenant_);
}

void Charge::Bill(const Usage& usage) {
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(billed_, true)) return;
    accounts_->Tokens(*tenant_, usage.prompt_tokens + usage.completion_tokens - tokens_);
  }
  if (usage.requests == 0) return;
  accounts_->Add({tenant_->name, generation_, usage});
}

// --- Accounts ----------------------------------------------------------------------------

void Accounts::Bucket::Fill(int64_t per_minute, absl::Time now) {
  const auto limit = static_cast<double>(per_minute);
  if (filled == absl::InfinitePast()) {
    level = limit;
  } else if (now > filled) {
    level += limit * absl::FDivDuration(now - filled, absl::Minutes(1));
  }
  level = std::min(level, limit);
  filled = std::max(filled, now);
}

absl::Duration Accounts::Bucket::Wait(int64_t per_minute, double wanted) const {
  return (wanted - level) / static_cast<double>(per_minute) * absl::Minutes(1);
}

absl::StatusOr<std::shared_ptr<Charge>> Accounts::Enter(const TenantPtr& tenant) {
  const absl::Time now = clock_();
  const Tenant& limits = *tenant;
  absl::MutexLock lock(&mutex_);
  Account& account = accounts_[limits.name];
  if (limits.streams > 0 && account.streams >= limits.streams) {
    return OverQuota(limits, absl::StrCat(limits.streams, " streams at a time"), kStreamWait);
  }
  if (limits.tokens_per_minute > 0) {
    account.tokens.Fill(limits.tokens_per_minute, now);
    if (account.tokens.level <= 0.0) {
      return OverQuota(limits, absl::StrCat(limits.tokens_per_minute, " tokens a minute"),
                       account.tokens.Wait(limits.tokens_per_minute, 1.0));
    }
  }
  if (limits.requests_per_minute > 0) {
    account.requests.Fill(limits.requests_per_minute, now);
    if (account.requests.level < 1.0) {
      return OverQuota(limits, absl::StrCat(limits.requests_per_minute, " requests a minute"),
                       account.requests.Wait(limits.requests_per_minute, 1.0));
    }
    account.requests.level -= 1.0;
  }
  ++account.streams;
  return std::shared_ptr<Charge>(new Charge(shared_from_this(), tenant));
}

void Accounts::Tokens(const Tenant& tenant, int64_t count) {
  if (tenant.tokens_per_minute == 0) return;
  absl::MutexLock lock(&mutex_);
  accounts_[tenant.name].tokens.level -= static_cast<double>(count);
}

void Accounts::End(const Tenant& tenant) {
  absl::MutexLock lock(&mutex_);
  --accounts_[tenant.name].streams;
}

void Accounts::Add(const UsageRow& row) {
  if (row.tenant.empty()) return;
  absl::MutexLock lock(&mutex_);
  auto key = std::make_pair(row.tenant, row.generation);
  if (std::ssize(bill_) >= kUsageRowsMax && bill_.count(key) == 0) key.second = kUsageOther;
  bill_[key].Add(row.usage);
  const bool room = std::ssize(totals_) < kTenantTotalsMax || totals_.contains(row.tenant);
  totals_[room ? row.tenant : kUsageOther].Add(row.usage);
}

std::vector<UsageRow> Accounts::Bill(const std::string& tenant) const {
  absl::MutexLock lock(&mutex_);
  std::vector<UsageRow> rows;
  for (const auto& [key, usage] : bill_) {
    if (tenant.empty() || key.first == tenant) rows.push_back({key.first, key.second, usage});
  }
  return rows;
}

std::vector<UsageRow> Accounts::Totals() const {
  absl::MutexLock lock(&mutex_);
  std::vector<UsageRow> rows;
  for (const auto& [tenant, usage] : totals_) rows.push_back({tenant, "", usage});
  return rows;
}

Accounts::Held Accounts::held() const {
  absl::MutexLock lock(&mutex_);
  Held held{std::ssize(accounts_), 0, std::ssize(bill_)};
  for (const auto& [tenant, account] : accounts_) held.streams += account.streams;
  return held;
}

}  // namespace lorica
