// AdapterPool's turn once a step: commands of other threads, waiters, published state.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_pool_impl.h"
#include "kernels/check.h"

namespace lorica {
namespace {

// Where Impl::pinned_bytes has those of a tier, host or device.
int PinSlot(AdapterTier tier) { return tier == AdapterTier::kDevice ? 1 : 0; }

}  // namespace

void AdapterPool::Impl::Poll(absl::Time now) {
  ++polls;
  std::vector<FinishedLoad> loads;
  std::vector<PoolCommand> commands;
  mailbox->Take(&loads, &commands);
  for (FinishedLoad& load : loads) OnLoaded(std::move(load), now);
  for (PoolCommand& command : commands) Apply(std::move(command));
  for (int64_t id : std::vector<int64_t>(fetching.begin(), fetching.end())) {
    PoolEntry& entry = *entries.at(id);
    if (entry.fetch == FetchState::kCopying) FinishCopy(entry, now).IgnoreError();
  }
  AbandonUnasked();
  for (int64_t id : std::vector<int64_t>(driven.begin(), driven.end())) {
    DriveWaiters(*entries.at(id), now);
    DriveEvictions(*entries.at(id));
    if (!entries.at(id)->waited_for()) driven.erase(id);
  }
  Publish(now);
  mailbox->Answered(static_cast<int>(answers.size()));
  for (auto& [done, status] : std::exchange(answers, {})) {
    if (done) done(status);
  }
}

void AdapterPool::Impl::AbandonUnasked() {
  for (int64_t id : std::vector<int64_t>(fetching.begin(), fetching.end())) {
    PoolEntry& entry = *entries.at(id);
    const bool asked = entry.asked_poll + kAskedPolls >= polls || !entry.waiters.empty();
    if (entry.fetch == FetchState::kRoom && !asked) EndFetch(entry);
  }
}

void AdapterPool::Impl::Answer(Done done, absl::Status status) {
  answers.emplace_back(std::move(done), std::move(status));
}

void AdapterPool::Impl::Apply(PoolCommand command) {
  switch (command.kind) {
    case PoolCommand::Kind::kPin:
      return ApplyPin(std::move(command));
    case PoolCommand::Kind::kEvict:
      return ApplyEvict(std::move(command));
    case PoolCommand::Kind::kUnpin:
      if (PoolEntry* entry = Find(command.digest)) SetPin(*entry, AdapterTier::kSource);
      return Answer(std::move(command.done), absl::OkStatus());
    case PoolCommand::Kind::kLoad:
      break;
  }
  if (command.tier == AdapterTier::kSource) {
    return Answer(std::move(command.done), absl::OkStatus());
  }
  PoolEntry& entry = EntryFor(command.generation);
  entry.waiters.push_back({.tier = command.tier, .done = std::move(command.done)});
  driven.insert(entry.id);
}

void AdapterPool::Impl::ApplyPin(PoolCommand command) {
  if (command.tier == AdapterTier::kSource) {
    return Answer(std::move(command.done),
                  absl::InvalidArgumentError("an adapter is pinned in host or device memory"));
  }
  PoolEntry& entry = EntryFor(command.generation);
  if (absl::Status fits = PinFits(entry, command.tier); !fits.ok()) {
    return Answer(std::move(command.done), std::move(fits));
  }
  const AdapterTier before = entry.pinned;
  SetPin(entry, command.tier);
  entry.waiters.push_back({command.tier, true, before, std::move(command.done)});
  driven.insert(entry.id);
}

int64_t& AdapterPool::Impl::PinnedBytes(AdapterTier tier) { return pinned_bytes[PinSlot(tier)]; }

absl::Status AdapterPool::Impl::PinFits(const PoolEntry& entry, AdapterTier tier) {
  const int64_t pinned = PinnedBytes(tier) - (entry.pinned == tier ? BytesOf(entry) : 0);
  const bool on_device = tier == AdapterTier::kDevice;
  const int64_t limit =
      on_device ? cache.block_bytes * arena->block_count() : options.host_bytes_max;
  if (pinned + BytesOf(entry) <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the adapter takes ", BytesOf(entry), " bytes, pinned ones leave ", limit - pinned, " of ",
      limit, " in ", on_device ? "device" : "host", " memory; unpin some"));
}

void AdapterPool::Impl::SetPin(PoolEntry& entry, AdapterTier tier) {
  if (entry.pinned != AdapterTier::kSource) PinnedBytes(entry.pinned) -= BytesOf(entry);
  if (tier != AdapterTier::kSource) PinnedBytes(tier) += BytesOf(entry);
  entry.pinned = tier;
  if (tier == AdapterTier::kDevice) {
    pinned_on_device.insert(entry.id);
  } else {
    pinned_on_device.erase(entry.id);
  }
  if (host.Contains(entry.id)) host.SetPinned(entry.id, tier == AdapterTier::kHost);
  if (entry.unit != 0) arena->SetPinned(entry.unit, tier == AdapterTier::kDevice);
  MarkDirty(entry);
}

void AdapterPool::Impl::ApplyEvict(PoolCommand command) {
  PoolEntry* entry = Find(command.digest);
  if (entry == nullptr) return Answer(std::move(command.done), absl::OkStatus());
  if (command.wait && entry->busy()) {
    entry->evictions.push_back({command.tier, std::move(command.done)});
    driven.insert(entry->id);
    return;
  }
  Answer(std::move(command.done), EvictNow(*entry, command.tier));
}

absl::Status AdapterPool::Impl::EvictNow(PoolEntry& entry, AdapterTier down_to) {
  if (down_to == AdapterTier::kDevice) return absl::OkStatus();
  if (entry.pinned > down_to) {
    return absl::FailedPreconditionError("the adapter is pinned; unpin it first");
  }
  if (entry.busy()) {
    return absl::FailedPreconditionError(
        entry.leases > 0 ? absl::StrCat(entry.leases, " requests are using the adapter")
                         : "the adapter is being loaded");
  }
  if (entry.unit != 0) {
    entry.mounted.reset();
    arena->Free(std::exchange(entry.unit, 0));
    ++device_counts.removals;
  }
  if (down_to == AdapterTier::kSource && host.Contains(entry.id)) host.Remove(entry.id);
  MarkDirty(entry);
  return absl::OkStatus();
}

void AdapterPool::Impl::DriveEvictions(PoolEntry& entry) {
  if (entry.busy()) return;
  for (PoolEntry::Eviction& eviction : std::exchange(entry.evictions, {})) {
    Answer(std::move(eviction.done), EvictNow(entry, eviction.down_to));
  }
}

bool AdapterPool::Impl::Reached(const PoolEntry& entry, const PoolEntry::Waiter& waiter) const {
  if (waiter.tier == AdapterTier::kHost && host.Contains(entry.id)) return true;
  return entry.mounted != nullptr && !(waiter.pin && waiter.tier == AdapterTier::kHost);
}

absl::Status AdapterPool::Impl::Towards(PoolEntry& entry, AdapterTier tier, absl::Time now) {
  if (absl::Status known = failures.Find(entry.generation->digest, now); !known.ok()) return known;
  if (tier == AdapterTier::kDevice) {
    absl::Status fetched = FitsArena(*entry.generation);
    if (fetched.ok()) fetched = Fetch(entry, now);
    const bool waits =
        absl::IsUnavailable(fetched) && WaitOf(entry.generation) != AdapterWait::kNone;
    return waits ? absl::OkStatus() : fetched;
  }
  if (entry.fetch == FetchState::kNone) StartFetch(entry, now);
  const bool in_hand = entry.image != nullptr && !host.Contains(entry.id);
  if (in_hand && !InsertIntoHost(entry, entry.image, true)) {
    return absl::ResourceExhaustedError("the host tier has no room for the adapter");
  }
  return absl::OkStatus();
}

// Of a pin that failed; what has changed since stays as it is.
void AdapterPool::Impl::TakeBackPin(PoolEntry& entry, const PoolEntry::Waiter& waiter) {
  if (waiter.pin && entry.pinned == waiter.tier) SetPin(entry, waiter.pinned_before);
}

void AdapterPool::Impl::DriveWaiters(PoolEntry& entry, absl::Time now) {
  for (PoolEntry::Waiter& waiter : std::exchange(entry.waiters, {})) {
    absl::Status status;
    if (!Reached(entry, waiter)) status = Towards(entry, waiter.tier, now);
    if (status.ok() && !Reached(entry, waiter)) {
      entry.waiters.push_back(std::move(waiter));
      continue;
    }
    if (!status.ok()) TakeBackPin(entry, waiter);
    Answer(std::move(waiter.done), std::move(status));
  }
}

void AdapterPool::Impl::FailWaiters(PoolEntry& entry, const absl::Status& status) {
  for (PoolEntry::Waiter& waiter : std::exchange(entry.waiters, {})) {
    TakeBackPin(entry, waiter);
    Answer(std::move(waiter.done), status);
  }
}

void AdapterPool::Impl::AnswerAll(const absl::Status& status) {
  std::vector<FinishedLoad> loads;
  std::vector<PoolCommand> commands;
  mailbox->Take(&loads, &commands);
  for (PoolCommand& command : commands) Answer(std::move(command.done), status);
  for (int64_t id : driven) {
    PoolEntry& entry = *entries.at(id);
    for (PoolEntry::Waiter& waiter : entry.waiters) Answer(std::move(waiter.done), status);
    for (PoolEntry::Eviction& one : entry.evictions) Answer(std::move(one.done), status);
  }
  for (auto& [done, result] : std::exchange(answers, {})) {
    if (done) done(result);
  }
}

// --- books -----------------------------------------------------------------------------

PoolEntry* AdapterPool::Impl::Find(const std::string& digest) const {
  auto found = by_digest.find(digest);
  return found == by_digest.end() ? nullptr : found->second;
}

PoolEntry& AdapterPool::Impl::EntryFor(const GenerationPtr& generation) {
  if (PoolEntry* entry = Find(generation->digest)) return *entry;
  auto entry = std::make_unique<PoolEntry>();
  if (const auto before = past.find(generation->digest); before != past.end()) {
    static_cast<PoolPast&>(*entry) = before->second;
  }
  entry->id = next_entry++;
  entry->generation = generation;
  PoolEntry& made = *entry;
  by_digest.emplace(generation->digest, entry.get());
  entries.emplace(made.id, std::move(entry));
  MarkDirty(made);
  return made;
}

int64_t AdapterPool::Impl::BytesOf(const PoolEntry& entry) const {
  return cache.block_bytes * entry.generation->block_count;
}

bool AdapterPool::Impl::DropIfEmpty(const std::string& digest) {
  PoolEntry* entry = Find(digest);
  if (entry == nullptr) return true;
  const bool held = entry->busy() || entry->unit != 0 || entry->waited_for() ||
                    entry->pinned != AdapterTier::kSource || host.Contains(entry->id);
  if (held) return false;
  Remember(*entry);
  by_digest.erase(digest);
  entries.erase(int64_t{entry->id});
  return true;
}

// Those that went first give way.
void AdapterPool::Impl::Remember(const PoolEntry& entry) {
  if (entry.load_count == 0) return;
  const std::string& digest = entry.generation->digest;
  if (past.insert_or_assign(digest, entry).second) past_order.push_back(digest);
  if (std::ssize(past) <= kPoolRememberedMax) return;
  forgotten.push_back(past_order.front());
  past.erase(past_order.front());
  past_order.pop_front();
}

void AdapterPool::Impl::Publish(absl::Time now) {
  for (std::string& digest : failures.Forget(now)) dirty.insert(std::move(digest));
  std::vector<PoolEntryInfo> changed;
  std::vector<std::string> gone;
  for (const std::string& digest : dirty) {
    PoolEntryInfo info;
    info.digest = digest;
    const bool dropped = DropIfEmpty(digest);
    if (!dropped) info = InfoOf(*Find(digest));
    const bool known = !dropped || InfoOfPast(digest, &info);
    info.last_error = failures.LastError(digest);
    if (!known && info.last_error.ok()) {
      gone.push_back(digest);
    } else {
      changed.push_back(std::move(info));
    }
  }
  dirty.clear();
  for (std::string& digest : forgotten) {
    if (Find(digest) == nullptr && failures.LastError(digest).ok())
      gone.push_back(std::move(digest));
  }
  forgotten.clear();
  mailbox->Publish(std::move(changed), gone, Stats());
}

PoolEntryInfo AdapterPool::Impl::InfoOf(const PoolEntry& entry) const {
  PoolEntryInfo info;
  info.digest = entry.generation->digest;
  if (host.Contains(entry.id)) info.tier = AdapterTier::kHost;
  if (entry.mounted != nullptr) info.tier = AdapterTier::kDevice;
  info.pinned = entry.pinned;
  info.loading = entry.fetch != FetchState::kNone;
  info.device_bytes = entry.unit != 0 ? BytesOf(entry) : 0;
  info.hit_count = entry.hit_count;
  info.load_count = entry.load_count;
  info.lease_count = entry.leases;
  info.last_used = entry.last_used;
  info.last_load = entry.last_load;
  return info;
}

bool AdapterPool::Impl::InfoOfPast(const std::string& digest, PoolEntryInfo* info) const {
  const auto before = past.find(digest);
  if (before == past.end()) return false;
  info->hit_count = before->second.hit_count;
  info->load_count = before->second.load_count;
  info->last_used = before->second.last_used;
  info->last_load = before->second.last_load;
  return true;
}

PoolStats AdapterPool::Impl::Stats() const {
  PoolStats stats;
  stats.device = device_counts;
  stats.device.bytes = cache.block_bytes * arena->blocks_of(UnitKind::kAdapter);
  stats.device.byte_limit = cache.block_bytes * arena->block_count();
  stats.device.generations = static_cast<int32_t>(device_counts.insertions -
                                                  device_counts.evictions - device_counts.removals);
  stats.host.pinned_bytes = pinned_bytes[PinSlot(AdapterTier::kHost)];
  stats.device.pinned_bytes = pinned_bytes[PinSlot(AdapterTier::kDevice)];
  stats.host.bytes = host.bytes();
  stats.host.byte_limit = host.bytes_max();
  stats.host.generations = host.size();
  stats.host.hits = host_hits;
  stats.host.misses = host_misses;
  stats.host.evictions = host.evictions();
  stats.host.insertions = host.insertions();
  stats.host.removals = host.removals();
  stats.loads_started = host_misses;
  stats.loads_finished = loads_finished;
  stats.loads_failed = loads_failed;
  stats.load_time = load_time;
  stats.loading = loading;
  stats.transient_images = places_held;
  stats.transient_bytes = place_bytes;
  return stats;
}

void AdapterPool::Impl::CheckInvariants() const {
  host.CheckInvariants();
  LORICA_CHECK(past.size() == past_order.size() && past.size() <= size_t{kPoolRememberedMax});
  int32_t mounted = 0;
  int32_t copying = 0;
  int32_t places = 0;
  int32_t blocks = 0;
  int64_t pinned[2] = {};
  size_t fetches = 0;
  for (const auto& [id, entry] : entries) {
    if (entry->pinned != AdapterTier::kSource) {
      pinned[PinSlot(entry->pinned)] += BytesOf(*entry);
    }
    const std::string& digest = entry->generation->digest;
    LORICA_CHECK(Find(digest) == entry.get(), "entry", id, digest);
    const bool in_copy = entry->fetch == FetchState::kCopying;
    LORICA_CHECK((entry->unit != 0) == (entry->mounted != nullptr || in_copy), "entry", id);
    LORICA_CHECK((entry->fetch != FetchState::kNone) == fetching.contains(id), "entry", id);
    LORICA_CHECK((entry->pinned == AdapterTier::kDevice) == pinned_on_device.contains(id));
    LORICA_CHECK(entry->waited_for() <= driven.contains(id), "entry", id);
    mounted += entry->mounted != nullptr;
    copying += in_copy;
    places += entry->holds_place;
    fetches += entry->fetch != FetchState::kNone;
    if (entry->unit == 0) continue;
    blocks += entry->generation->block_count;
    LORICA_CHECK(arena->lease_count(entry->unit) == entry->leases + in_copy, "entry", id, "leases",
                 entry->leases, "unit", arena->lease_count(entry->unit));
  }
  const PoolStats stats = Stats();
  LORICA_CHECK(mounted == stats.device.generations, mounted, stats.device.generations);
  LORICA_CHECK(blocks == arena->blocks_of(UnitKind::kAdapter), "adapter blocks", blocks);
  LORICA_CHECK(pinned[0] == pinned_bytes[0] && pinned[1] == pinned_bytes[1], "pinned bytes");
  LORICA_CHECK(copying == copies && places == places_held, copying, copies, places, places_held);
  LORICA_CHECK(places_held <= options.loads_max, places_held, "of", options.loads_max);
  LORICA_CHECK(fetches == fetching.size(), fetches, fetching.size());
  LORICA_CHECK(failures.size() <= std::max(options.failures_max, 0), failures.size());
  LORICA_CHECK(stats.loads_started == loads_finished + loads_failed + loading, stats.loads_started,
               loads_finished, loads_failed, loading);
}

}  // namespace lorica
