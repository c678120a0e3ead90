#include "adapters/adapter_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/pool_entry.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"

namespace lorica {
namespace {

using fakes::FakeBackend;
using fakes::FakeImageLoader;
using fakes::FakeMemory;
using fakes::HeldExecutor;
using fakes::kFakeBlockBytes;
using fakes::MakeFakeGeneration;
using ::testing::HasSubstr;

// A pool over fakes: loads wait in `held`, time is `now`.
struct World {
  explicit World(int32_t arena_blocks, PoolOptions options = {})
      : memory(arena_blocks), backend(&memory), arena(arena_blocks) {
    cache.block_bytes = kFakeBlockBytes;
    pool = std::make_unique<AdapterPool>(options, &loader, &held, &backend, cache, &arena);
  }
  ~World() { pool.reset(); }

  void Turn() {
    held.RunAll();
    backend.Tick();
    now += absl::Milliseconds(1);
    pool->Poll(now);
    pool->CheckInvariants();
    arena.CheckInvariants();
  }
  absl::StatusOr<AdapterLease> Ask(const GenerationPtr& generation) {
    auto lease = pool->TryAcquire(generation, now);
    pool->CheckInvariants();
    return lease;
  }
  // Asks until the answer is not Unavailable.
  absl::StatusOr<AdapterLease> Get(const GenerationPtr& generation) {
    absl::StatusOr<AdapterLease> lease = Ask(generation);
    for (int i = 0; i < 20 && absl::IsUnavailable(lease.status()); ++i) {
      Turn();
      lease = Ask(generation);
    }
    return lease;
  }
  PoolStats stats() {
    Turn();
    return pool->stats();
  }

  absl::Time now = absl::UnixEpoch();
  FakeMemory memory;
  FakeBackend backend;
  FakeImageLoader loader;
  HeldExecutor held;
  BlockArena arena;
  KvCache cache;
  std::unique_ptr<AdapterPool> pool;
};

PoolOptions HostBlocks(int blocks) {
  PoolOptions options;
  options.host_bytes_max = kFakeBlockBytes * blocks;
  return options;
}

auto Into(std::optional<absl::Status>& place) {
  return [&place](absl::Status status) {
    EXPECT_FALSE(place.has_value()) << "answered twice";
    place = std::move(status);
  };
}

TEST(AdapterPool, TryAcquireNeverWaitsAndLeasesWhenTheCopyIsDone) {
  World world(8, HostBlocks(8));
  world.backend.copy_ticks = 2;
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  EXPECT_TRUE(absl::IsUnavailable(world.Ask(a).status()));
  EXPECT_EQ(world.pool->WaitOf(a), AdapterWait::kLoading);
  EXPECT_EQ(world.held.held(), 1);
  world.Turn();
  EXPECT_TRUE(absl::IsUnavailable(world.Ask(a).status()));  // the copy starts
  EXPECT_EQ(world.pool->copies_in_flight(), 1);
  world.Turn();
  EXPECT_TRUE(absl::IsUnavailable(world.Ask(a).status()));
  world.Turn();
  auto lease = world.Ask(a);
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(world.memory.HashMounted(static_cast<const fakes::FakeMounted&>(*lease->mounted())),
            fakes::HashAdapter("a", 3));
}

TEST(AdapterPool, PrepareStartsTheCopyOfAHostCopyAtOnceAndLeasesNothing) {
  World world(8, HostBlocks(8));
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  std::optional<absl::Status> loaded;
  world.pool->Load(a, AdapterTier::kHost, Into(loaded));
  for (int i = 0; i < 2; ++i) world.Turn();
  ASSERT_TRUE(loaded.has_value() && loaded->ok());
  world.backend.copy_ticks = 1;
  world.pool->Prepare(a, world.now);
  EXPECT_EQ(world.pool->copies_in_flight(), 1);
  world.pool->Prepare(a, world.now);
  EXPECT_EQ(world.pool->copies_in_flight(), 1);
  world.backend.Tick();
  EXPECT_TRUE(world.Ask(a).ok());  // without a poll in between
  EXPECT_EQ(world.stats().device.misses, 1);
  EXPECT_EQ(world.pool->Lookup("a").lease_count, 0);
}

TEST(AdapterPool, ALoadThatEndsGoesOnToTheDeviceInTheSamePoll) {
  World world(8, HostBlocks(8));
  world.backend.copy_ticks = 1;
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  EXPECT_FALSE(world.Ask(a).ok());
  world.Turn();
  EXPECT_EQ(world.pool->copies_in_flight(), 1);
  world.backend.Tick();
  EXPECT_TRUE(world.Ask(a).ok());
}

TEST(AdapterPool, LoadsOnceForAllWhoWait) {
  World world(8, HostBlocks(8));
  const GenerationPtr a = MakeFakeGeneration("a", 2);
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(world.Ask(a).ok());
  EXPECT_TRUE(world.Get(a).ok());
  EXPECT_EQ(world.loader.load_count, 1);
}

TEST(AdapterPool, CountsHitsAndMissesOfBothTiers) {
  World world(4, HostBlocks(8));
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  const GenerationPtr b = MakeFakeGeneration("b", 3);
  ASSERT_TRUE(world.Get(a).ok());  // device miss, host miss
  ASSERT_TRUE(world.Get(a).ok());  // device hit
  ASSERT_TRUE(world.Get(b).ok());  // miss, miss, evicts a from the device
  ASSERT_TRUE(world.Get(a).ok());  // device miss, host hit
  const PoolStats stats = world.stats();
  EXPECT_EQ(stats.device.hits, 1);
  EXPECT_EQ(stats.device.misses, 3);
  EXPECT_EQ(stats.host.hits, 1);
  EXPECT_EQ(stats.host.misses, 2);
  EXPECT_EQ(stats.device.insertions, 3);
  EXPECT_EQ(stats.device.evictions, 2);
  EXPECT_EQ(stats.device.generations, 1);
  EXPECT_EQ(stats.host.generations, 2);
  EXPECT_EQ(stats.loads_started, 2);
  EXPECT_EQ(stats.loads_finished, 2);
  EXPECT_EQ(world.loader.load_count, 2);
}

TEST(AdapterPool, NeverEvictsALeasedGenerationAndPlacesTheNextWhenTheLeaseEnds) {
  World world(4, HostBlocks(8));
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  const GenerationPtr b = MakeFakeGeneration("b", 3);
  auto lease = world.Get(a);
  ASSERT_TRUE(lease.ok());
  EXPECT_TRUE(absl::IsUnavailable(world.Get(b).status()));
  EXPECT_EQ(world.pool->WaitOf(b), AdapterWait::kRoom);
  lease->Release();
  EXPECT_TRUE(world.Get(b).ok());
}

TEST(AdapterPool, EvictsTheLeastRecentlyUsed) {
  World world(6, HostBlocks(0));
  const GenerationPtr a = MakeFakeGeneration("a", 2);
  const GenerationPtr b = MakeFakeGeneration("b", 2);
  const GenerationPtr c = MakeFakeGeneration("c", 2);
  for (const auto& g : {a, b, c, a}) ASSERT_TRUE(world.Get(g).ok());
  ASSERT_TRUE(world.Get(MakeFakeGeneration("d", 2)).ok());
  world.Turn();
  EXPECT_EQ(world.pool->Lookup("a").tier, AdapterTier::kDevice);
  EXPECT_EQ(world.pool->Lookup("b").tier, AdapterTier::kSource);
  EXPECT_EQ(world.pool->Lookup("c").tier, AdapterTier::kDevice);
}

TEST(AdapterPool, TheHostTierTakesExactlyItsBytes) {
  World world(8, HostBlocks(4));
  ASSERT_TRUE(world.Get(MakeFakeGeneration("a", 2)).ok());
  ASSERT_TRUE(world.Get(MakeFakeGeneration("b", 2)).ok());
  EXPECT_EQ(world.stats().host.bytes, 4 * kFakeBlockBytes);
  ASSERT_TRUE(world.Get(MakeFakeGeneration("c", 1)).ok());
  const PoolStats stats = world.stats();
  EXPECT_EQ(stats.host.evictions, 1);
  EXPECT_EQ(stats.host.bytes, 3 * kFakeBlockBytes);
}

TEST(AdapterPool, AnImageLargerThanTheHostTierIsHeldOnlyForItsCopy) {
  World world(8, HostBlocks(2));
  const GenerationPtr big = MakeFakeGeneration("big", 5);
  world.backend.copy_ticks = 2;
  EXPECT_FALSE(world.Ask(big).ok());
  EXPECT_EQ(world.stats().transient_bytes, 5 * kFakeBlockBytes);
  ASSERT_TRUE(world.Get(big).ok());
  const PoolStats stats = world.stats();
  EXPECT_EQ(stats.transient_bytes, 0);
  EXPECT_EQ(stats.host.bytes, 0);
  EXPECT_EQ(stats.device.bytes, 5 * kFakeBlockBytes);
}

TEST(AdapterPool, NoMoreThanLoadsMaxAreInFlight) {
  PoolOptions options = HostBlocks(20);
  options.loads_max = 2;
  World world(20, options);
  std::vector<GenerationPtr> all;
  for (int i = 0; i < 3; ++i) all.push_back(MakeFakeGeneration(absl::StrCat("g", i), 1));
  for (const auto& g : all) EXPECT_FALSE(world.Ask(g).ok());
  EXPECT_EQ(world.held.held(), 2);
  EXPECT_EQ(world.pool->WaitOf(all[1]), AdapterWait::kLoading);
  EXPECT_EQ(world.pool->WaitOf(all[2]), AdapterWait::kPlace);
  for (const auto& g : all) EXPECT_TRUE(world.Get(g).ok());
}

TEST(AdapterPool, AFailedLoadAnswersEveryoneAlikeUntilItIsForgotten) {
  PoolOptions options = HostBlocks(8);
  options.failure_ttl = absl::Milliseconds(100);
  World world(8, options);
  const GenerationPtr bad = MakeFakeGeneration("bad", 1);
  world.loader.errors["bad"] = absl::DataLossError("weights changed");
  EXPECT_EQ(world.Get(bad).status(), absl::DataLossError("weights changed"));
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(world.Ask(bad).status().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(world.loader.load_count, 1);
  EXPECT_EQ(world.pool->Lookup("bad").last_error.code(), absl::StatusCode::kDataLoss);
  world.now += absl::Milliseconds(126);  // beyond the longest jitter
  world.Turn();
  EXPECT_TRUE(world.pool->Lookup("bad").last_error.ok());
  world.loader.errors.clear();
  EXPECT_TRUE(world.Get(bad).ok());
}

TEST(AdapterPool, AnUnavailableSourceIsAnErrorAndNotAWait) {
  World world(8, HostBlocks(8));
  const GenerationPtr a = MakeFakeGeneration("a", 1);
  world.loader.errors["a"] = absl::UnavailableError("source is down");
  EXPECT_FALSE(world.Ask(a).ok());
  world.Turn();
  EXPECT_EQ(world.Ask(a).status(), absl::UnavailableError("source is down"));
  EXPECT_EQ(world.pool->WaitOf(a), AdapterWait::kNone);
}

TEST(AdapterPool, RemembersAtMostFailuresMax) {
  PoolOptions options = HostBlocks(8);
  options.failures_max = 3;
  World world(8, options);
  for (int i = 0; i < 4; ++i) {
    const std::string digest = absl::StrCat("bad", i);
    world.loader.errors[digest] = absl::NotFoundError("gone");
    EXPECT_FALSE(world.Get(MakeFakeGeneration(digest, 1)).ok());
  }
  world.Turn();
  int remembered = 0;
  for (int i = 0; i < 4; ++i) {
    remembered += !world.pool->Lookup(absl::StrCat("bad", i)).last_error.ok();
  }
  EXPECT_EQ(remembered, 3);
}

TEST(AdapterPool, AFailedCopyFreesItsBlocksAndIsRemembered) {
  World world(8, HostBlocks(8));
  world.backend.next_copy_status = absl::InternalError("copy failed");
  EXPECT_EQ(world.Get(MakeFakeGeneration("a", 2)).status(), absl::InternalError("copy failed"));
  EXPECT_EQ(world.arena.free_blocks(), 8);
}

TEST(AdapterPool, RefusesWhatCanNeverFit) {
  World world(4, HostBlocks(8));
  EXPECT_TRUE(world.Get(MakeFakeGeneration("fits", 4)).ok());
  EXPECT_EQ(world.Ask(MakeFakeGeneration("large", 5)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(AdapterPool, PinnedAdaptersStayAndWhatTheyCrowdOutIsRefused) {
  World world(4, HostBlocks(8));
  const GenerationPtr a = MakeFakeGeneration("a", 3);
  std::optional<absl::Status> pinned;
  world.pool->Pin(a, AdapterTier::kDevice, Into(pinned));
  for (int i = 0; i < 3; ++i) world.Turn();
  ASSERT_TRUE(pinned.has_value() && pinned->ok());
  EXPECT_EQ(world.pool->Lookup("a").pinned, AdapterTier::kDevice);
  EXPECT_EQ(world.pool->PinnedBlocksBesides({}), 3);
  EXPECT_EQ(world.pool->stats().device.pinned_bytes * 4, 3 * world.pool->stats().device.byte_limit);
  EXPECT_EQ(world.Get(MakeFakeGeneration("b", 2)).status().code(),
            absl::StatusCode::kFailedPrecondition);
  std::optional<absl::Status> second;
  world.pool->Pin(MakeFakeGeneration("b", 2), AdapterTier::kDevice, Into(second));
  world.Turn();
  EXPECT_EQ(second->code(), absl::StatusCode::kResourceExhausted);
  std::optional<absl::Status> evicted;
  world.pool->Evict("a", AdapterTier::kHost, false, Into(evicted));
  world.Turn();
  EXPECT_EQ(evicted->code(), absl::StatusCode::kFailedPrecondition);
  std::optional<absl::Status> unpinned;
  world.pool->Unpin("a", Into(unpinned));
  world.Turn();
  EXPECT_TRUE(unpinned->ok());
  EXPECT_TRUE(world.Get(MakeFakeGeneration("c", 4)).ok());
}

TEST(AdapterPool, AHostPinKeepsTheImageWhenTheTierIsFull) {
  World world(8, HostBlocks(2));
  std::optional<absl::Status> pinned;
  world.pool->Pin(MakeFakeGeneration("a", 2), AdapterTier::kHost, Into(pinned));
  for (int i = 0; i < 3; ++i) world.Turn();
  ASSERT_TRUE(pinned.has_value() && pinned->ok());
  EXPECT_TRUE(world.Get(MakeFakeGeneration("b", 2)).ok());
  world.Turn();
  EXPECT_EQ(world.pool->Lookup("a").tier, AdapterTier::kHost);
}

TEST(AdapterPool, APinThatCannotLoadIsTakenBack) {
  World world(8, HostBlocks(8));
  world.loader.errors["a"] = absl::DataLossError("broken");
  std::optional<absl::Status> pinned;
  world.pool->Pin(MakeFakeGeneration("a", 2), AdapterTier::kDevice, Into(pinned));
  for (int i = 0; i < 3; ++i) world.Turn();
  EXPECT_EQ(pinned->code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(world.pool->Lookup("a").pinned, AdapterTier::kSource);
}

TEST(AdapterPool, APinThatFailsLeavesTheOneBefore) {
  World world(8, HostBlocks(2));
  const GenerationPtr a = MakeFakeGeneration("a", 2);
  std::optional<absl::Status> on_device;
  world.pool->Pin(a, AdapterTier::kDevice, Into(on_device));
  for (int i = 0; i < 3; ++i) world.Turn();
  ASSERT_TRUE(on_device.has_value() && on_device->ok());
  ASSERT_TRUE(world.Get(MakeFakeGeneration("b", 2)).ok());  // takes its room in host memory
  world.loader.errors["a"] = absl::DataLossError("broken");
  std::optional<absl::Status> on_host;
  world.pool->Pin(a, AdapterTier::kHost, Into(on_host));
  for (int i = 0; i < 3; ++i) world.Turn();
  ASSERT_TRUE(on_host.has_value());
  EXPECT_EQ(on_host->code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(world.pool->Lookup("a").pinned, AdapterTier::kDevice);
  EXPECT_EQ(world.pool->PinnedBlocksBesides({}), 2);
}

TEST(AdapterPool, WhatHasLeftAllTiersIsStillToldOf) {
  World world(2);
  ASSERT_TRUE(world.Get(MakeFakeGeneration("a", 2)).ok());
  ASSERT_TRUE(world.Get(MakeFakeGeneration("a", 2)).ok());
  world.Turn();
  const PoolEntryInfo before = world.pool->Lookup("a");
  EXPECT_GT(before.hit_count, 0);
  ASSERT_TRUE(world.Get(MakeFakeGeneration("b", 2)).ok());
  world.Turn();
  const PoolEntryInfo gone = world.pool->Lookup("a");
  EXPECT_EQ(gone.tier, AdapterTier::kSource);
  EXPECT_EQ(gone.hit_count, before.hit_count);
  EXPECT_EQ(gone.load_count, 1);
  EXPECT_EQ(gone.last_used, before.last_used);
  EXPECT_EQ(gone.last_load, before.last_load);
  ASSERT_TRUE(world.Get(MakeFakeGeneration("a", 2)).ok());
  world.Turn();
  EXPECT_EQ(world.pool->Lookup("a").load_count, 2);
  EXPECT_EQ(world.pool->Lookup("a").hit_count, before.hit_count + 1);
}

TEST(AdapterPool, BoundsWhatItTellsOfThePast) {
  World world(1);
  const auto pass = [&](int from, int to) {
    for (int i = from; i < to; ++i) {
      ASSERT_TRUE(world.Get(MakeFakeGeneration(absl::StrCat("g", i), 1)).ok());
    }
    world.Turn();
  };
  pass(0, kPoolRememberedMax + 1);  // the last one is there still
  EXPECT_EQ(world.pool->Lookup("g0").load_count, 1);
  pass(kPoolRememberedMax + 1, kPoolRememberedMax + 2);
  EXPECT_EQ(world.pool->Lookup("g0").load_count, 0);
  EXPECT_EQ(world.pool->Lookup("g1").load_count, 1);
}

TEST(AdapterPool, EvictRefusesWhileLeasedOrWaitsForTheLease) {
  World world(8, HostBlocks(8));
  auto lease = world.Get(MakeFakeGeneration("a", 2));
  ASSERT_TRUE(lease.ok());
  std::optional<absl::Status> now;
  std::optional<absl::Status> later;
  world.pool->Evict("a", AdapterTier::kSource, false, Into(now));
  world.pool->Evict("a", AdapterTier::kSource, true, Into(later));
  world.Turn();
  EXPECT_EQ(now->code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(later.has_value());
  lease->Release();
  world.Turn();
  ASSERT_TRUE(later.has_value() && later->ok());
  EXPECT_EQ(world.pool->Lookup("a").tier, AdapterTier::kSource);
  const PoolStats stats = world.stats();
  EXPECT_EQ(stats.device.removals, 1);
  EXPECT_EQ(stats.host.removals, 1);
  EXPECT_EQ(world.arena.free_blocks(), 8);
}

TEST(AdapterPool, LoadReachesTheTierThatWasAskedFor) {
  World world(8, HostBlocks(8));
  std::optional<absl::Status> host;
  std::optional<absl::Status> device;
  world.pool->Load(MakeFakeGeneration("a", 2), AdapterTier::kHost, Into(host));
  world.pool->Load(MakeFakeGeneration("b", 2), AdapterTier::kDevice, Into(device));
  for (int i = 0; i < 4; ++i) world.Turn();
  EXPECT_TRUE(host->ok());
  EXPECT_TRUE(device->ok());
  EXPECT_EQ(world.pool->Lookup("a").tier, AdapterTier::kHost);
  EXPECT_EQ(world.pool->Lookup("b").tier, AdapterTier::kDevice);
}

TEST(AdapterPool, WhatNobodyAsksForAnyMoreLosesItsPlace) {
  PoolOptions options = HostBlocks(0);
  options.loads_max = 1;
  World world(4, options);
  auto lease = world.Get(MakeFakeGeneration("a", 4));
  EXPECT_TRUE(absl::IsUnavailable(world.Ask(MakeFakeGeneration("b", 2)).status()));
  world.Turn();
  EXPECT_EQ(world.stats().transient_images, 1);
  for (int i = 0; i <= kAskedPolls; ++i) world.Turn();
  EXPECT_EQ(world.stats().transient_images, 0);
}

TEST(AdapterPool, CommandsBeyondTheirLimitAreUnavailableAtOnce) {
  PoolOptions options = HostBlocks(8);
  options.commands_max = 1;
  World world(8, options);
  std::optional<absl::Status> first;
  std::optional<absl::Status> second;
  world.pool->Unpin("a", Into(first));
  world.pool->Unpin("a", Into(second));
  EXPECT_FALSE(first.has_value());
  EXPECT_EQ(second->code(), absl::StatusCode::kUnavailable);
  world.Turn();
  EXPECT_TRUE(first->ok());
  std::optional<absl::Status> third;
  world.pool->Unpin("a", Into(third));
  world.Turn();
  EXPECT_TRUE(third->ok());
}

TEST(AdapterPool, CommandsLeftAtTheEndAreAnswered) {
  std::optional<absl::Status> loaded;
  std::optional<absl::Status> fresh;
  {
    World world(8, HostBlocks(8));
    world.pool->Load(MakeFakeGeneration("a", 2), AdapterTier::kDevice, Into(loaded));
    world.pool->Poll(world.now);
    world.pool->Unpin("a", Into(fresh));
  }
  EXPECT_EQ(loaded->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(fresh->code(), absl::StatusCode::kUnavailable);
}

TEST(AdapterPool, AFinishedLoadWakesTheEngine) {
  World world(8, HostBlocks(8));
  int wakes = 0;
  world.pool->SetWakeCallback([&wakes] { ++wakes; });
  EXPECT_FALSE(world.Ask(MakeFakeGeneration("a", 2)).ok());
  EXPECT_EQ(wakes, 0);
  world.held.RunAll();
  EXPECT_EQ(wakes, 1);
}

TEST(AdapterPool, AThousandAdaptersPassThroughTheRoomOfAFew) {
  World world(8, HostBlocks(12));
  for (int i = 0; i < 1000; ++i) {
    auto lease = world.Get(MakeFakeGeneration(absl::StrCat("g", i % 997), 1 + i % 3));
    ASSERT_TRUE(lease.ok()) << i << ": " << lease.status();
    const PoolStats stats = world.stats();
    ASSERT_LE(stats.host.bytes, stats.host.byte_limit);
    ASSERT_LE(stats.device.bytes, stats.device.byte_limit);
  }
  EXPECT_EQ(world.loader.load_count, 1000);
}

TEST(LoaderThreads, RunAtTheLowestPriorityAndFinishTheirWork) {
  std::atomic<int> ran = 0;
  std::atomic<int> priority = -100;
  {
    const std::unique_ptr<LoaderExecutor> threads = MakeLoaderThreads(2);
    for (int i = 0; i < 50; ++i) {
      threads->Run([&] {
        priority = getpriority(PRIO_PROCESS, 0);
        ++ran;
      });
    }
  }
  EXPECT_EQ(ran, 50);
  EXPECT_EQ(priority, 19);
  EXPECT_LT(getpriority(PRIO_PROCESS, 0), 19);
}

TEST(AdapterPool, ServesCommandsOfManyThreadsWhileTheEngineAcquires) {
  FakeMemory memory(16);
  FakeBackend backend(&memory);
  BlockArena arena(16);
  KvCache cache;
  cache.block_bytes = kFakeBlockBytes;
  class Loader : public ImageLoader {
    absl::StatusOr<std::shared_ptr<const LoraImage>> LoadImage(const Generation& g) override {
      return fakes::MakeFakeImage(g);
    }
  } loader;
  const std::unique_ptr<LoaderExecutor> threads = MakeLoaderThreads(2);
  std::atomic<int> answered = 0;
  std::atomic<int> running = 3;
  {
    AdapterPool pool(HostBlocks(8), &loader, threads.get(), &backend, cache, &arena);
    std::vector<std::thread> callers;
    for (int t = 0; t < 3; ++t) {
      callers.emplace_back([&, t] {
        const auto count = [&answered](absl::Status) { ++answered; };
        for (int i = 0; i < 200; ++i) {
          const GenerationPtr g = MakeFakeGeneration(absl::StrCat("g", (i + t) % 7), 2);
          pool.Load(g, i % 2 ? AdapterTier::kHost : AdapterTier::kDevice, count);
          pool.Evict(g->digest, AdapterTier::kSource, i % 3 == 0, count);
          pool.Lookup(g->digest);
          pool.stats();
        }
        --running;
      });
    }
    absl::Time now = absl::UnixEpoch();
    for (int i = 0; running > 0 || i < 200; ++i) {
      now += absl::Milliseconds(1);
      pool.Poll(now);
      pool.TryAcquire(MakeFakeGeneration(absl::StrCat("g", i % 7), 2), now).IgnoreError();
      pool.CheckInvariants();
    }
    for (std::thread& caller : callers) caller.join();
  }
  EXPECT_EQ(answered, 3 * 200 * 2);
}

}  // namespace
}  // namespace lorica
