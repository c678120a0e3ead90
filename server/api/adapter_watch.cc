#include "server/api/adapter_watch.h"

#include <chrono>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "server/api/adapter_info.h"
#include "server/api/status_map.h"

namespace lorica {
namespace {

std::string Fingerprint(v1::Adapter adapter) {
  adapter.clear_last_used_seconds_ago();
  adapter.clear_hit_count();
  return adapter.SerializeAsString();
}

}  // namespace

AdapterWatch::AdapterWatch(const Tenant& tenant, AdapterCatalog* catalog, AdapterPool* pool,
                           CallPools pools, absl::Duration interval)
    : tenant_(tenant.name),
      with_use_(tenant.role == TenantRole::kOperator),
      catalog_(catalog),
      pool_(pool),
      pools_(pools),
      interval_(interval) {}

void AdapterWatch::Start() {
  self_ = shared_from_this();
  Look();
}

void AdapterWatch::Refuse(const absl::Status& status) {
  self_ = shared_from_this();
  absl::MutexLock lock(&mutex_);
  FinishOnce(status);
}

void AdapterWatch::Look() {
  const bool taken = pools_.work->TryRun([self = shared_from_this()] {
    const absl::Status status = self->Compare();
    if (!status.ok()) self->End(status);
    self->Next();
  });
  if (!taken) Next();  // busy: look again an interval later
}

absl::Status AdapterWatch::Compare() {
  const auto entries = catalog_->List(tenant_, "", "", kWatchedAdaptersMax + 1);
  if (!entries.ok()) return entries.status();
  if (static_cast<int>(entries->size()) > kWatchedAdaptersMax) {
    return absl::FailedPreconditionError(absl::StrCat("there are more than ", kWatchedAdaptersMax,
                                                      " adapters to watch; list them instead"));
  }
  v1::WatchAdaptersResponse message;
  const auto put_off = [&] {
    outbox_.push_back(std::move(message));
    message.Clear();
  };
  std::set<std::string> gone;
  for (const auto& [id, unused] : seen_) gone.insert(id);
  const absl::Time now = SteadyNow();
  for (const CatalogEntry& entry : *entries) {
    gone.erase(entry.adapter_id);
    v1::Adapter adapter = DescribeEntry(entry, *pool_, now, with_use_);
    std::string fingerprint = Fingerprint(adapter);
    std::string& seen = seen_[entry.adapter_id];
    if (seen == fingerprint) continue;
    seen = std::move(fingerprint);
    *message.add_adapters() = std::move(adapter);
    if (message.adapters_size() >= kWatchMessageAdapters) put_off();
  }
  for (const std::string& id : gone) {
    seen_.erase(id);
    message.add_removed_ids(id);
  }
  const bool anything = message.adapters_size() > 0 || message.removed_ids_size() > 0;
  if (anything || (first_look_ && outbox_.empty())) put_off();
  first_look_ = false;
  return absl::OkStatus();
}

void AdapterWatch::Next() {
  absl::MutexLock lock(&mutex_);
  if (finished_) return;
  if (!end_.ok()) {
    FinishOnce(end_);
  } else if (!outbox_.empty()) {
    writing_ = std::move(outbox_.front());
    outbox_.pop_front();
    StartWrite(&writing_);
  } else {
    waiting_ = true;
    alarm_.Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(interval_),
               [weak = weak_from_this()](bool) {
                 const auto self = weak.lock();
                 if (self == nullptr) return;
                 {
                   absl::MutexLock lock(&self->mutex_);
                   if (!std::exchange(self->waiting_, false)) return;
                 }
                 self->Look();
               });
  }
}

void AdapterWatch::End(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (end_.ok()) end_ = status;
  if (!std::exchange(waiting_, false)) return;  // the look or write under way ends it
  alarm_.Cancel();
  FinishOnce(end_);
}

void AdapterWatch::FinishOnce(const absl::Status& status) {
  if (!std::exchange(finished_, true)) Finish(ToGrpcStatus(status));
}

void AdapterWatch::OnWriteDone(bool ok) {
  if (!ok) End(absl::CancelledError("the client does not read any more"));
  Next();
}

void AdapterWatch::OnCancel() { End(absl::CancelledError("the client cancelled the call")); }

void AdapterWatch::OnDone() { std::exchange(self_, nullptr).reset(); }

}  // namespace lorica
