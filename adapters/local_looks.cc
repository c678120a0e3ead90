#include "adapters/local_looks.h"

#include "absl/status/status.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr absl::Duration kBusyDelay = absl::Seconds(1);

absl::Status Stopping() { return absl::CancelledError("the server is shutting down"); }

void Tell(const std::shared_ptr<FetchTicket>& ticket, const absl::StatusOr<FoundAdapter>& found) {
  if (!found.ok()) return ticket->End(found.status());
  if (found->ticket == nullptr) return ticket->End(found->generation);
  found->ticket->WhenDone(
      [ticket](const absl::StatusOr<GenerationPtr>& fetched) { ticket->End(fetched); });
}

}  // namespace

LocalLooks::LocalLooks(const LookLimits& limits, LoaderExecutor* executor)
    : limits_(limits), turns_(executor, limits.tenant_running_max) {}

LocalLooks::~LocalLooks() { Stop(); }

bool LocalLooks::IsFull(const std::string& tenant) const {
  if (std::ssize(open_) >= limits_.names_max) return true;
  int of_tenant = 0;
  for (auto one = open_.lower_bound(Key(tenant, "")); one != open_.end(); ++one) {
    if (one->first.first != tenant) break;
    ++of_tenant;
  }
  return of_tenant >= limits_.tenant_names_max;
}

absl::StatusOr<FoundAdapter> LocalLooks::Find(const std::string& tenant, const std::string& name,
                                              Look look) {
  const Key key(tenant, name);
  absl::MutexLock lock(&mutex_);
  if (stopping_) return Stopping();
  auto open = open_.find(key);
  if (open == open_.end()) {
    if (IsFull(tenant)) {
      return UnavailableFor("too many adapters are being looked at for the first time", kBusyDelay);
    }
    open = open_.emplace(key, Turn()).first;
    Start(key, std::move(look));
  }
  std::shared_ptr<FetchTicket>& next = open->second.next;
  if (next == nullptr) next = std::make_shared<FetchTicket>();
  return FoundAdapter{nullptr, next, true};
}

void LocalLooks::Start(const Key& key, Look look) {
  ++running_;
  turns_.Run(key.second, {key.first}, [this, key, look = std::move(look)] { Run(key, look); });
}

std::shared_ptr<FetchTicket> LocalLooks::Begin(const Key& key) {
  absl::MutexLock lock(&mutex_);
  const auto open = open_.find(key);
  if (open == open_.end()) return nullptr;
  open->second.begun = std::move(open->second.next);
  return open->second.begun;
}

bool LocalLooks::Finish(const Key& key, const Look& look) {
  absl::MutexLock lock(&mutex_);
  const auto open = open_.find(key);
  if (open == open_.end()) return false;
  open->second.begun = nullptr;
  if (open->second.next == nullptr) {
    open_.erase(open);
  } else {
    Start(key, look);
  }
  return true;
}

void LocalLooks::Run(const Key& key, const Look& look) {
  if (const std::shared_ptr<FetchTicket> ticket = Begin(key)) {
    const absl::StatusOr<FoundAdapter> found = look();
    if (Finish(key, look)) Tell(ticket, found);
  }
  absl::MutexLock lock(&mutex_);
  --running_;  // from here on Stop may return
}

void LocalLooks::Stop() {
  absl::btree_map<Key, Turn> open;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    open.swap(open_);
  }
  for (const auto& [key, turn] : open) {
    if (turn.begun != nullptr) turn.begun->End(Stopping());
    if (turn.next != nullptr) turn.next->End(Stopping());
  }
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](int* running) { return *running == 0; }, &running_));
}

int64_t LocalLooks::open() const {
  absl::MutexLock lock(&mutex_);
  return std::ssize(open_);
}

}  // namespace lorica
