#include "adapters/adapter_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_pool_impl.h"
#include "kernels/check.h"

namespace lorica {

// --- AdapterLease ------------------------------------------------------------------

AdapterLease::AdapterLease(AdapterLease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      entry_(other.entry_),
      mounted_(std::exchange(other.mounted_, nullptr)) {}

AdapterLease& AdapterLease::operator=(AdapterLease&& other) noexcept {
  if (this == &other) return *this;
  Release();
  pool_ = std::exchange(other.pool_, nullptr);
  entry_ = other.entry_;
  mounted_ = std::exchange(other.mounted_, nullptr);
  return *this;
}

AdapterLease::~AdapterLease() { Release(); }

void AdapterLease::Release() {
  if (pool_ == nullptr) return;
  mounted_ = nullptr;
  std::exchange(pool_, nullptr)->impl_->Release(entry_);
}

// --- AdapterPool -------------------------------------------------------------------

AdapterPool::AdapterPool(PoolOptions options, ImageLoader* loader, LoaderExecutor* executor,
                         Backend* backend, const KvCache& cache, BlockArena* arena)
    : impl_(std::make_unique<Impl>(options, loader, executor, backend, cache, arena)) {}

AdapterPool::~AdapterPool() = default;

absl::StatusOr<AdapterLease> AdapterPool::TryAcquire(const GenerationPtr& generation,
                                                     absl::Time now) {
  absl::Status status = impl_->TryAcquire(generation, now);
  if (!status.ok()) return status;
  AdapterLease lease;
  PoolEntry& entry = impl_->Lease(generation, now);
  lease.pool_ = this;
  lease.entry_ = entry.id;
  lease.mounted_ = entry.mounted.get();
  return lease;
}

void AdapterPool::Prepare(const GenerationPtr& generation, absl::Time now) {
  impl_->TryAcquire(generation, now).IgnoreError();
}

AdapterWait AdapterPool::WaitOf(const GenerationPtr& generation) const {
  return impl_->WaitOf(generation);
}

int32_t AdapterPool::PinnedBlocksBesides(absl::Span<const GenerationPtr> generations) const {
  return impl_->PinnedBlocksBesides(generations);
}

int32_t AdapterPool::copies_in_flight() const { return impl_->copies; }

void AdapterPool::Poll(absl::Time now) { impl_->Poll(now); }

const absl::Status& AdapterPool::device() const { return impl_->device; }

void AdapterPool::SetWakeCallback(std::function<void()> wake) {
  impl_->mailbox->SetWakeCallback(std::move(wake));
}

void AdapterPool::Load(const GenerationPtr& generation, AdapterTier tier,
                       std::function<void(absl::Status)> done) {
  impl_->mailbox->Send({.kind = PoolCommand::Kind::kLoad,
                        .generation = generation,
                        .digest = generation->digest,
                        .tier = tier,
                        .done = std::move(done)});
}

void AdapterPool::Evict(const std::string& digest, AdapterTier down_to, bool wait,
                        std::function<void(absl::Status)> done) {
  impl_->mailbox->Send({.kind = PoolCommand::Kind::kEvict,
                        .digest = digest,
                        .tier = down_to,
                        .wait = wait,
                        .done = std::move(done)});
}

void AdapterPool::Pin(const GenerationPtr& generation, AdapterTier tier,
                      std::function<void(absl::Status)> done) {
  impl_->mailbox->Send({.kind = PoolCommand::Kind::kPin,
                        .generation = generation,
                        .digest = generation->digest,
                        .tier = tier,
                        .done = std::move(done)});
}

void AdapterPool::Unpin(const std::string& digest, std::function<void(absl::Status)> done) {
  impl_->mailbox->Send(
      {.kind = PoolCommand::Kind::kUnpin, .digest = digest, .done = std::move(done)});
}

std::vector<PoolEntryInfo> AdapterPool::InUse() const { return impl_->mailbox->InUse(); }

PoolEntryInfo AdapterPool::Lookup(const std::string& digest) const {
  return impl_->mailbox->Lookup(digest);
}

PoolStats AdapterPool::stats() const { return impl_->mailbox->stats(); }

void AdapterPool::CheckInvariants() const { impl_->CheckInvariants(); }

// --- leases and the device tier ------------------------------------------------------

AdapterPool::Impl::Impl(PoolOptions options, ImageLoader* loader, LoaderExecutor* executor,
                        Backend* backend, const KvCache& cache, BlockArena* arena)
    : options(options),
      loader(loader),
      executor(executor),
      backend(backend),
      cache(cache),
      arena(arena),
      mailbox(std::make_shared<PoolMailbox>(options.commands_max)),
      host(options.host_bytes_max, [this](int64_t entry) { OnHostEvicted(entry); }),
      failures(options.failures_max, options.failure_ttl, options.failure_seed) {
  mailbox->Publish({}, {}, Stats());
}

AdapterPool::Impl::~Impl() {
  mailbox->SetWakeCallback(nullptr);
  mailbox->Close();
  AnswerAll(absl::UnavailableError("the server is shutting down"));
  for (const auto& [id, entry] : entries) {
    LORICA_CHECK(entry->leases == 0, "a lease outlives the pool", entry->generation->digest);
    entry->mounted.reset();
    if (entry->unit != 0) arena->Free(entry->unit);
  }
}

absl::Status AdapterPool::Impl::FitsArena(const Generation& generation) const {
  if (generation.block_count <= arena->block_count()) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the adapter takes ", generation.block_count,
                                                   " blocks, the arena has ", arena->block_count(),
                                                   "; serve it with a larger arena"));
}

absl::Status AdapterPool::Impl::TryAcquire(const GenerationPtr& generation, absl::Time now) {
  if (absl::Status known = failures.Find(generation->digest, now); !known.ok()) return known;
  if (absl::Status fits = FitsArena(*generation); !fits.ok()) return fits;
  PoolEntry& entry = EntryFor(generation);
  entry.asked_poll = polls;
  if (entry.mounted != nullptr) return absl::OkStatus();
  const bool must_load = entry.fetch == FetchState::kNone && !host.Contains(entry.id);
  if (must_load && places_held >= options.loads_max) TakePlaceOfUnasked();
  return Fetch(entry, now);
}

// An image that waits for room may wait for the very request that now wants to load.
// Requests ask oldest first: what has not been asked for in this turn gives way.
void AdapterPool::Impl::TakePlaceOfUnasked() {
  PoolEntry* unasked = nullptr;
  for (int64_t id : fetching) {
    PoolEntry& entry = *entries.at(id);
    if (!entry.holds_place || entry.fetch != FetchState::kRoom) continue;
    if (entry.asked_poll < polls) unasked = &entry;
  }
  if (unasked != nullptr) EndFetch(*unasked);
}

PoolEntry& AdapterPool::Impl::Lease(const GenerationPtr& generation, absl::Time now) {
  PoolEntry& entry = *by_digest.at(generation->digest);
  arena->Lease(entry.unit);
  ++entry.leases;
  ++entry.hit_count;
  entry.last_used = now;
  if (!std::exchange(entry.first_lease_is_miss, false)) ++device_counts.hits;
  MarkDirty(entry);
  return entry;
}

void AdapterPool::Impl::Release(int64_t id) {
  PoolEntry& entry = *entries.at(id);
  LORICA_CHECK(entry.leases > 0, "entry", id);
  --entry.leases;
  arena->Unlease(entry.unit, arena->NextTick());
  MarkDirty(entry);
}

AdapterWait AdapterPool::Impl::WaitOf(const GenerationPtr& generation) const {
  const PoolEntry* entry = Find(generation->digest);
  if (entry == nullptr) return AdapterWait::kNone;
  switch (entry->fetch) {
    case FetchState::kLoading:
    case FetchState::kCopying:
      return AdapterWait::kLoading;
    case FetchState::kRoom:
      return AdapterWait::kRoom;
    case FetchState::kNone:
      break;
  }
  const bool failed = !failures.LastError(generation->digest).ok();
  return failed ? AdapterWait::kNone : AdapterWait::kPlace;
}

int32_t AdapterPool::Impl::PinnedBlocksBesides(absl::Span<const GenerationPtr> generations) const {
  int32_t blocks = 0;
  for (int64_t id : pinned_on_device) {
    const PoolEntry& entry = *entries.at(id);
    const bool listed =
        std::any_of(generations.begin(), generations.end(),
                    [&](const GenerationPtr& g) { return g->digest == entry.generation->digest; });
    if (!listed && entry.unit != 0) blocks += entry.generation->block_count;
  }
  return blocks;
}

void AdapterPool::Impl::OnDeviceEvicted(int64_t id) {
  PoolEntry& entry = *entries.at(id);
  entry.mounted.reset();
  entry.unit = 0;
  ++device_counts.evictions;
  MarkDirty(entry);
}

// --- fetching ------------------------------------------------------------------------

absl::Status AdapterPool::Impl::Fetch(PoolEntry& entry, absl::Time now) {
  if (entry.fetch == FetchState::kNone) StartFetch(entry, now);
  if (entry.fetch == FetchState::kNone) {
    return absl::UnavailableError(
        absl::StrCat("the adapter waits: ", options.loads_max, " loads are in flight"));
  }
  if (!std::exchange(entry.for_device, true)) {
    ++device_counts.misses;
    entry.first_lease_is_miss = true;
  }
  if (entry.fetch == FetchState::kRoom) {
    if (absl::Status placed = Place(entry); !placed.ok()) return placed;
  }
  if (entry.fetch == FetchState::kCopying) {
    if (absl::Status copied = FinishCopy(entry, now); !copied.ok()) return copied;
  }
  if (entry.mounted != nullptr) return absl::OkStatus();
  return absl::UnavailableError("the adapter is loading");
}

void AdapterPool::Impl::StartFetch(PoolEntry& entry, absl::Time now) {
  if (ImagePtr image = host.Find(entry.id)) {
    ++host_hits;
    host.Touch(entry.id);
    host.SetInUse(entry.id, true);
    entry.image = std::move(image);
    entry.fetch = FetchState::kRoom;
  } else if (places_held < options.loads_max) {
    StartLoad(entry, now);
  } else {
    return;
  }
  fetching.insert(entry.id);
  MarkDirty(entry);
}

void AdapterPool::Impl::StartLoad(PoolEntry& entry, absl::Time now) {
  ++host_misses;
  ++loading;
  entry.fetch = FetchState::kLoading;
  entry.fetch_began = now;
  entry.holds_place = true;
  ++places_held;
  place_bytes += BytesOf(entry);
  executor->Run([box = mailbox, loader = loader, id = entry.id, generation = entry.generation] {
    box->RunLoad(id, [&] { return loader->LoadImage(*generation); });
  });
}

void AdapterPool::Impl::OnLoaded(FinishedLoad load, absl::Time now) {
  PoolEntry& entry = *entries.at(load.entry);
  --loading;
  entry.last_load = now - entry.fetch_began;
  if (absl::Status status = CheckImage(entry, load); !status.ok()) {
    ++loads_failed;
    Fail(entry, status, now);
    return;
  }
  ++loads_finished;
  load_time += entry.last_load;
  ++entry.load_count;
  KeepImage(entry, *std::move(load.image));
}

absl::Status AdapterPool::Impl::CheckImage(const PoolEntry& entry, const FinishedLoad& load) const {
  if (!load.image.ok()) return load.image.status();
  const LoraImage& image = **load.image;
  if (image.block_count == entry.generation->block_count &&
      image.block_bytes == cache.block_bytes) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      "the loader made ", image.block_count, " blocks of ", image.block_bytes,
      " bytes, planned were ", entry.generation->block_count, " of ", cache.block_bytes));
}

void AdapterPool::Impl::KeepImage(PoolEntry& entry, ImagePtr image) {
  const bool kept = InsertIntoHost(entry, image, entry.for_device);
  if (!entry.for_device) {
    EndFetch(entry);
    if (!kept) FailWaiters(entry, absl::ResourceExhaustedError("the host tier has no room for it"));
    return;
  }
  entry.image = std::move(image);
  entry.fetch = FetchState::kRoom;
  entry.asked_poll = polls;
  MarkDirty(entry);
  const absl::Status placed = Place(entry);  // a request is told why it cannot be when it asks
  if (entry.fetch == FetchState::kNone) FailWaiters(entry, placed);
}

bool AdapterPool::Impl::InsertIntoHost(PoolEntry& entry, const ImagePtr& image, bool in_use) {
  if (!host.Insert(entry.id, image, in_use, entry.pinned == AdapterTier::kHost)) return false;
  ReleasePlace(entry);
  if (entry.unit != 0) arena->SetHasHostCopy(entry.unit, true);
  return true;
}

void AdapterPool::Impl::OnHostEvicted(int64_t id) {
  PoolEntry& entry = *entries.at(id);
  if (entry.unit != 0) arena->SetHasHostCopy(entry.unit, false);
  MarkDirty(entry);
}

absl::Status AdapterPool::Impl::Place(PoolEntry& entry) {
  const int32_t count = entry.generation->block_count;
  absl::StatusOr<UnitId> unit = arena->Allocate(
      UnitKind::kAdapter, count, [this, id = entry.id](UnitId) { OnDeviceEvicted(id); });
  if (!unit.ok()) {
    const int32_t usable = arena->block_count() - PinnedBlocksBesides({entry.generation});
    if (count <= usable) return absl::UnavailableError("the adapter waits for room on the device");
    EndFetch(entry);
    return absl::FailedPreconditionError(absl::StrCat(
        "the adapter takes ", count, " blocks, pinned adapters leave ", usable, "; unpin some"));
  }
  entry.unit = *unit;
  const absl::Span<const BlockId> blocks = arena->blocks(entry.unit);
  std::vector<BlockCopy> block_copies(count);
  for (int32_t i = 0; i < count; ++i) block_copies[i] = {entry.image->block(i), blocks[i]};
  entry.ticket = backend->StartCopy(cache, block_copies);
  entry.fetch = FetchState::kCopying;
  ++copies;
  return absl::OkStatus();
}

absl::Status AdapterPool::Impl::FinishCopy(PoolEntry& entry, absl::Time now) {
  if (!entry.ticket->Done()) return absl::OkStatus();
  absl::Status status = entry.ticket->status();
  if (status.ok()) {
    auto mounted = backend->Mount(*entry.image, cache, arena->blocks(entry.unit));
    status = mounted.status();
    if (status.ok()) entry.mounted = *std::move(mounted);
  } else {
    device = status;
  }
  --copies;
  if (!status.ok()) {
    arena->Free(std::exchange(entry.unit, 0));
    Fail(entry, status, now);
    return status;
  }
  ++device_counts.insertions;
  arena->SetHasHostCopy(entry.unit, host.Contains(entry.id));
  arena->SetPinned(entry.unit, entry.pinned == AdapterTier::kDevice);
  arena->Unlease(entry.unit, arena->NextTick());
  EndFetch(entry);
  return absl::OkStatus();
}

void AdapterPool::Impl::ReleasePlace(PoolEntry& entry) {
  if (!std::exchange(entry.holds_place, false)) return;
  --places_held;
  place_bytes -= BytesOf(entry);
}

void AdapterPool::Impl::EndFetch(PoolEntry& entry) {
  ReleasePlace(entry);
  if (host.Contains(entry.id)) host.SetInUse(entry.id, false);
  entry.image.reset();
  entry.ticket.reset();
  entry.fetch = FetchState::kNone;
  entry.for_device = false;
  fetching.erase(entry.id);
  MarkDirty(entry);
}

void AdapterPool::Impl::Fail(PoolEntry& entry, const absl::Status& status, absl::Time now) {
  device.Update(backend->Health());
  failures.Remember(entry.generation->digest, status, now);
  EndFetch(entry);
  FailWaiters(entry, status);
}

}  // namespace lorica
