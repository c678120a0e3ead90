// Adapter weights across device, host and source, each tier bounded in bytes.
//
// A lease keeps a generation on the device until it is destroyed; only unleased,
// unpinned generations are evicted, least recently used first. Loads are
// single-flight per generation and run on loader threads of low priority; a failure
// is remembered for a short, jittered time in a bounded table.
//
// Threads. TryAcquire, Prepare, Poll and the destruction of leases belong to the engine's
// thread: they own the arena and never wait. Load, Evict, Pin, Unpin, Lookup and
// stats may be called from any thread: the first four are applied by the next Poll,
// the last two show the state as of the last one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "adapters/adapter.h"
#include "adapters/image_loader.h"
#include "kernels/backend.h"
#include "kernels/block_arena.h"

namespace lorica {

enum class AdapterTier : uint8_t { kSource, kHost, kDevice };

// Runs work on loader threads; the simulator runs it when it likes.
class LoaderExecutor {
 public:
  virtual ~LoaderExecutor() = default;
  virtual void Run(std::function<void()> work) = 0;
};

// `threads` threads at the lowest scheduling priority, joined on destruction.
std::unique_ptr<LoaderExecutor> MakeLoaderThreads(int threads);

struct PoolOptions {
  int64_t host_bytes_max = 0;                      // 0 = no host copies are kept
  int loads_max = 8;                               // loads in flight
  int failures_max = 1024;                         // remembered failures
  absl::Duration failure_ttl = absl::Seconds(10);  // each lives 0.75 to 1.25 times this
  uint64_t failure_seed = 1;                       // of that jitter
  int commands_max = 4096;                         // Load, Evict, Pin, Unpin not yet answered
};

// Why TryAcquire said Unavailable.
enum class AdapterWait : uint8_t {
  kNone,     // it is not waiting: the Unavailable is the load's own error
  kLoading,  // on its way
  kPlace,    // not on its way: other loads take the loads_max places
  kRoom,     // in host memory, and what is leased or pinned leaves no room on the device
};

inline constexpr int kAskedPolls = 64;

class AdapterPool;

// Move-only; ends its lease when destroyed. On the engine's thread only.
class AdapterLease {
 public:
  AdapterLease() = default;
  AdapterLease(AdapterLease&& other) noexcept;
  AdapterLease& operator=(AdapterLease&& other) noexcept;
  ~AdapterLease();
  explicit operator bool() const { return pool_ != nullptr; }
  const MountedAdapter* mounted() const { return mounted_; }
  void Release();

 private:
  friend class AdapterPool;
  AdapterPool* pool_ = nullptr;
  int64_t entry_ = 0;
  const MountedAdapter* mounted_ = nullptr;
};

// One generation as an operator sees it.
struct PoolEntryInfo {
  std::string digest;
  AdapterTier tier = AdapterTier::kSource;
  AdapterTier pinned = AdapterTier::kSource;  // kSource = not pinned
  bool loading = false;
  absl::Status last_error;
  int64_t device_bytes = 0;
  int64_t hit_count = 0;
  int64_t load_count = 0;
  int32_t lease_count = 0;
  absl::Time last_used = absl::InfinitePast();
  absl::Duration last_load = absl::ZeroDuration();
};

struct TierStats {
  int64_t bytes = 0;
  int64_t byte_limit = 0;
  int32_t generations = 0;
  int64_t hits = 0;    // acquisitions or loads that found it here
  int64_t misses = 0;  // ... that did not: hits + misses = look-ups of this tier
  int64_t evictions = 0;
  int64_t insertions = 0;    // insertions - evictions - removals = generations
  int64_t removals = 0;      // taken out by request
  int64_t pinned_bytes = 0;  // of pins, also of those on their way; nothing else gets them
};

struct PoolStats {
  TierStats device;
  TierStats host;
  int64_t loads_started = 0;
  int64_t loads_finished = 0;
  int64_t loads_failed = 0;
  absl::Duration load_time;  // of all that finished, until in host memory
  int32_t loading = 0;
  int32_t known = 0;  // contents that something is remembered of, in memory or not
  // Images being loaded or held for their copy without a place in the host tier: at
  // most loads_max.
  int32_t transient_images = 0;
  int64_t transient_bytes = 0;
};

class AdapterPool {
 public:
  // All pointers outlive the pool. `cache` says where blocks lie.
  AdapterPool(PoolOptions options, ImageLoader* loader, LoaderExecutor* executor, Backend* backend,
              const KvCache& cache, BlockArena* arena);
  ~AdapterPool();

  // OK: on the device now. Unavailable: loading or waiting for room (WaitOf says
  // which), ask again on a later step; what nobody has asked for in the last
  // kAskedPolls polls loses its place. ResourceExhausted: more blocks than the arena
  // has. FailedPrecondition: pinned adapters leave too few blocks. Any other code: the
  // load's error. Never waits, never reads a file.
  absl::StatusOr<AdapterLease> TryAcquire(const GenerationPtr& generation, absl::Time now);
  // Starts what TryAcquire would start, and takes no lease: a request for it will come to its
  // turn soon. Engine's thread.
  void Prepare(const GenerationPtr& generation, absl::Time now);
  // After an Unavailable, on the engine's thread.
  AdapterWait WaitOf(const GenerationPtr& generation) const;
  // Blocks that eviction never gives because they are pinned on the device, not
  // counting those of the generations listed. Engine's thread.
  int32_t PinnedBlocksBesides(absl::Span<const GenerationPtr> generations) const;
  // Copies to the device that the next Poll should look at. Engine's thread.
  int32_t copies_in_flight() const;
  // Takes finished loads and copies, applies requests of other threads. Once a step.
  void Poll(absl::Time now);
  // Not OK once an adapter's load or copy has found the device lost, which otherwise a step would
  // tell. Engine's thread.
  const absl::Status& device() const;
  // Called (on any thread) when Poll has something to do, so that an idle engine wakes.
  void SetWakeCallback(std::function<void()> wake);

  // `done` is called once, from Poll: OK when the tier is reached. With commands_max
  // commands unanswered these four call it at once with Unavailable; what is unanswered
  // when the pool is destroyed is answered so there.
  void Load(const GenerationPtr& generation, AdapterTier tier,
            std::function<void(absl::Status)> done);
  // FailedPrecondition while leased or loading (unless `wait`: then as soon as it is
  // not), or pinned above `down_to`.
  void Evict(const std::string& digest, AdapterTier down_to, bool wait,
             std::function<void(absl::Status)> done);
  // Keeps the generation in `tier` (kHost or kDevice) from when it is there; replaces an
  // earlier pin. ResourceExhausted: pinned ones leave no room for it.
  void Pin(const GenerationPtr& generation, AdapterTier tier,
           std::function<void(absl::Status)> done);
  void Unpin(const std::string& digest, std::function<void(absl::Status)> done);

  PoolEntryInfo Lookup(const std::string& digest) const;
  // All that are on the device or on their way, in no order.
  std::vector<PoolEntryInfo> InUse() const;
  PoolStats stats() const;
  // Tiers, arena units, leases and byte counts agree; aborts otherwise.
  void CheckInvariants() const;

 private:
  friend class AdapterLease;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorica
