// The engine-thread side of AdapterPool: entries, tiers and the fetch state machine.
#pragma once

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "adapters/adapter_pool.h"
#include "adapters/failure_memory.h"
#include "adapters/host_tier.h"
#include "adapters/pool_entry.h"
#include "adapters/pool_mailbox.h"

namespace lorica {

struct AdapterPool::Impl {
  using Done = std::function<void(absl::Status)>;

  Impl(PoolOptions options, ImageLoader* loader, LoaderExecutor* executor, Backend* backend,
       const KvCache& cache, BlockArena* arena);
  ~Impl();

  // OK: mounted, and Lease may follow.
  absl::Status TryAcquire(const GenerationPtr& generation, absl::Time now);
  absl::Status FitsArena(const Generation& generation) const;
  PoolEntry& Lease(const GenerationPtr& generation, absl::Time now);
  AdapterWait WaitOf(const GenerationPtr& generation) const;
  int32_t PinnedBlocksBesides(absl::Span<const GenerationPtr> generations) const;
  void Release(int64_t entry);
  void Poll(absl::Time now);
  void CheckInvariants() const;

  // --- fetching: host or source -> device --------------------------------------
  // OK: mounted. Unavailable: under way. Else why it cannot be.
  absl::Status Fetch(PoolEntry& entry, absl::Time now);
  void TakePlaceOfUnasked();
  void StartFetch(PoolEntry& entry, absl::Time now);
  void StartLoad(PoolEntry& entry, absl::Time now);
  void OnLoaded(FinishedLoad load, absl::Time now);
  void KeepImage(PoolEntry& entry, ImagePtr image);
  absl::Status CheckImage(const PoolEntry& entry, const FinishedLoad& load) const;
  absl::Status Place(PoolEntry& entry);
  absl::Status FinishCopy(PoolEntry& entry, absl::Time now);
  void ReleasePlace(PoolEntry& entry);
  void EndFetch(PoolEntry& entry);
  void Fail(PoolEntry& entry, const absl::Status& status, absl::Time now);
  void OnDeviceEvicted(int64_t entry);
  void OnHostEvicted(int64_t entry);
  bool InsertIntoHost(PoolEntry& entry, const ImagePtr& image, bool in_use);

  // --- commands ----------------------------------------------------------------
  void Apply(PoolCommand command);
  void ApplyPin(PoolCommand command);
  void ApplyEvict(PoolCommand command);
  void FailWaiters(PoolEntry& entry, const absl::Status& status);
  absl::Status PinFits(const PoolEntry& entry, AdapterTier tier);
  void SetPin(PoolEntry& entry, AdapterTier tier);
  void TakeBackPin(PoolEntry& entry, const PoolEntry::Waiter& waiter);
  int64_t& PinnedBytes(AdapterTier tier);
  // OK: evicted. FailedPrecondition: pinned or busy.
  absl::Status EvictNow(PoolEntry& entry, AdapterTier down_to);
  void DriveWaiters(PoolEntry& entry, absl::Time now);
  void DriveEvictions(PoolEntry& entry);
  bool Reached(const PoolEntry& entry, const PoolEntry::Waiter& waiter) const;
  absl::Status Towards(PoolEntry& entry, AdapterTier tier, absl::Time now);
  void Answer(Done done, absl::Status status);
  void AnswerAll(const absl::Status& status);

  // --- books ---------------------------------------------------------------------
  PoolEntry& EntryFor(const GenerationPtr& generation);
  PoolEntry* Find(const std::string& digest) const;
  int64_t BytesOf(const PoolEntry& entry) const;
  void MarkDirty(const PoolEntry& entry) { dirty.insert(entry.generation->digest); }
  void Publish(absl::Time now);
  void AbandonUnasked();
  bool DropIfEmpty(const std::string& digest);
  void Remember(const PoolEntry& entry);
  PoolEntryInfo InfoOf(const PoolEntry& entry) const;
  bool InfoOfPast(const std::string& digest, PoolEntryInfo* info) const;
  PoolStats Stats() const;

  const PoolOptions options;
  ImageLoader* const loader;
  LoaderExecutor* const executor;
  Backend* const backend;
  const KvCache cache;
  BlockArena* const arena;
  const std::shared_ptr<PoolMailbox> mailbox;

  HostTier host;
  FailureMemory failures;
  int64_t next_entry = 1;
  absl::flat_hash_map<int64_t, std::unique_ptr<PoolEntry>> entries;
  absl::flat_hash_map<std::string, PoolEntry*> by_digest;
  // Of generations without an entry, and in which order these went.
  absl::flat_hash_map<std::string, PoolPast> past;
  std::deque<std::string> past_order;
  std::vector<std::string> forgotten;  // of these, since the last Publish
  std::set<int64_t> fetching;          // fetch != kNone
  std::set<int64_t> driven;            // someone waits for a command
  std::set<int64_t> pinned_on_device;
  int64_t pinned_bytes[2] = {};  // of host and device
  absl::flat_hash_set<std::string> dirty;
  std::vector<std::pair<Done, absl::Status>> answers;

  int64_t polls = 0;
  int32_t places_held = 0;  // of loads_max
  int64_t place_bytes = 0;
  int32_t copies = 0;
  absl::Status device;
  int32_t loading = 0;
  TierStats device_counts;  // hits ... removals
  int64_t host_hits = 0;
  int64_t host_misses = 0;
  int64_t loads_finished = 0;
  absl::Duration load_time;
  int64_t loads_failed = 0;
};

}  // namespace lorica
