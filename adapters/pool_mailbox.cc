#include "adapters/pool_mailbox.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace lorica {

void PoolMailbox::Send(PoolCommand command) {
  {
    absl::MutexLock lock(&mutex_);
    if (unanswered_ < commands_max_) {
      ++unanswered_;
      commands_.push_back(std::move(command));
      command.done = nullptr;
    }
  }
  if (command.done) {
    command.done(absl::UnavailableError(
        absl::StrCat(commands_max_, " adapter commands are waiting; try again later")));
    return;
  }
  Wake();
}

void PoolMailbox::RunLoad(
    int64_t entry, const std::function<absl::StatusOr<std::shared_ptr<const LoraImage>>()>& load) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    ++running_;
  }
  absl::StatusOr<std::shared_ptr<const LoraImage>> image = load();
  {
    absl::MutexLock lock(&mutex_);
    loads_.push_back({entry, std::move(image)});
  }
  Wake();
  absl::MutexLock lock(&mutex_);
  --running_;
}

void PoolMailbox::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  mutex_.Await(absl::Condition(this, &PoolMailbox::NoneRunning));
}

void PoolMailbox::SetWakeCallback(std::function<void()> wake) {
  absl::MutexLock lock(&wake_mutex_);
  wake_ = std::move(wake);
}

void PoolMailbox::Wake() {
  absl::MutexLock lock(&wake_mutex_);
  if (wake_) wake_();
}

void PoolMailbox::Take(std::vector<FinishedLoad>* loads, std::vector<PoolCommand>* commands) {
  absl::MutexLock lock(&mutex_);
  *loads = std::exchange(loads_, {});
  *commands = std::exchange(commands_, {});
}

void PoolMailbox::Answered(int count) {
  absl::MutexLock lock(&mutex_);
  unanswered_ -= count;
}

void PoolMailbox::Publish(std::vector<PoolEntryInfo> changed, const std::vector<std::string>& gone,
                          const PoolStats& stats) {
  absl::MutexLock lock(&mutex_);
  for (const std::string& digest : gone) entries_.erase(digest);
  for (PoolEntryInfo& info : changed) {
    PoolEntryInfo& place = entries_[info.digest];
    place = std::move(info);
  }
  stats_ = stats;
}

PoolEntryInfo PoolMailbox::Lookup(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  auto found = entries_.find(digest);
  if (found != entries_.end()) return found->second;
  PoolEntryInfo info;
  info.digest = digest;
  return info;
}

std::vector<PoolEntryInfo> PoolMailbox::InUse() const {
  std::vector<PoolEntryInfo> in_use;
  absl::MutexLock lock(&mutex_);
  for (const auto& [digest, info] : entries_) {
    if (info.tier == AdapterTier::kDevice || info.loading) in_use.push_back(info);
  }
  return in_use;
}

PoolStats PoolMailbox::stats() const {
  absl::MutexLock lock(&mutex_);
  PoolStats stats = stats_;
  stats.known = static_cast<int32_t>(entries_.size());
  return stats;
}

}  // namespace lorica
