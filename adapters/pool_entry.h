// One generation inside the adapter pool: where it is, on its way to where, and who
// waits. Belongs to the engine's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "adapters/adapter_pool.h"
#include "adapters/host_tier.h"

namespace lorica {

// kNone -> kLoading -> kRoom -> kCopying -> kNone; a host copy starts at kRoom, and a
// load for the host tier alone ends after kLoading.
enum class FetchState : uint8_t { kNone, kLoading, kRoom, kCopying };

inline constexpr int kPoolRememberedMax = 16'384;  // generations that have left all tiers

// What is told of a generation, also after it has left all tiers.
struct PoolPast {
  int64_t hit_count = 0;
  int64_t load_count = 0;
  absl::Time last_used = absl::InfinitePast();
  absl::Duration last_load = absl::ZeroDuration();
};

struct PoolEntry : PoolPast {
  struct Waiter {
    AdapterTier tier = AdapterTier::kHost;
    bool pin = false;
    AdapterTier pinned_before = AdapterTier::kSource;  // what a pin goes back to that fails
    std::function<void(absl::Status)> done;
  };
  struct Eviction {
    AdapterTier down_to = AdapterTier::kSource;
    std::function<void(absl::Status)> done;
  };

  int64_t id = 0;
  GenerationPtr generation;
  AdapterTier pinned = AdapterTier::kSource;

  FetchState fetch = FetchState::kNone;
  bool for_device = false;   // the fetch goes on to the device
  bool holds_place = false;  // one of the loads_max
  ImagePtr image;            // kRoom and kCopying
  std::unique_ptr<CopyTicket> ticket;
  absl::Time fetch_began;
  int64_t asked_poll = 0;

  UnitId unit = 0;  // from kCopying on
  std::unique_ptr<MountedAdapter> mounted;
  int32_t leases = 0;
  bool first_lease_is_miss = false;  // it completes a miss and is no hit

  std::vector<Waiter> waiters;
  std::vector<Eviction> evictions;

  bool busy() const { return leases > 0 || fetch != FetchState::kNone; }
  bool waited_for() const { return !waiters.empty() || !evictions.empty(); }
};

}  // namespace lorica
