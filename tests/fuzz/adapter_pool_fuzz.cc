// The pool as a state machine: any order of requests, loads, failures, copies and evictions.
//
// A byte chooses what happens next, further ones with whom. After each step the pool's and the
// arena's books balance; what is leased holds the content that it was leased for; in the end
// every command has been answered once, and nothing is leased, loading or lost.
#include <array>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/adapter_pool.h"
#include "kernels/check.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fuzz/fuzz.h"

namespace lorica {
namespace {

constexpr int kAdapters = 6;
constexpr int kOpsMax = 400;

class Life {
 public:
  explicit Life(FuzzScript script)
      : script_(script),
        arena_blocks_(4 + script_.Below(12)),
        memory_(arena_blocks_),
        backend_(&memory_),
        arena_(arena_blocks_) {
    PoolOptions options;
    options.host_bytes_max = fakes::kFakeBlockBytes * script_.Below(16);
    options.loads_max = 1 + script_.Below(4);
    options.failures_max = 1 + script_.Below(3);
    options.commands_max = 1 + script_.Below(8);
    KvCache cache;
    cache.block_bytes = fakes::kFakeBlockBytes;
    pool_ = std::make_unique<AdapterPool>(options, &loader_, &held_, &backend_, cache, &arena_);
    for (int i = 0; i < kAdapters; ++i) {
      generations_.push_back(fakes::MakeFakeGeneration(absl::StrCat("g", i), 1 + i));
    }
  }

  void Run() {
    for (int i = 0; i < kOpsMax && !script_.empty(); ++i) {
      Act();
      Check();
    }
    End();
  }

 private:
  const GenerationPtr& Which() { return generations_[script_.Below(kAdapters)]; }
  AdapterTier Tier() { return static_cast<AdapterTier>(script_.Below(3)); }
  // Counts each answer, and that it comes once.
  std::function<void(absl::Status)> Answer() {
    const int number = sent_++;
    return [this, number](const absl::Status&) { LORICA_CHECK(answers_[number]++ == 0, number); };
  }

  void Act() {
    switch (script_.Below(14)) {
      case 0:
      case 1:
      case 2:
        return Acquire(Which());
      case 3:
        if (!leases_.empty()) leases_.erase(leases_.begin() + script_.Below(leases_.size()));
        return;
      case 4:
      case 5:
        return Turn();
      case 6:
        if (held_.held() > 0) held_.RunOne(script_.Below(held_.held()));
        return;
      case 7:
        loader_.next_error = absl::UnavailableError("not now");
        return;
      case 8:
        backend_.next_copy_status = absl::InternalError("the copy failed");
        return;
      case 9:
        backend_.copy_ticks = script_.Below(4);
        return;
      case 10: {
        const AdapterTier tier = Tier();
        return pool_->Load(Which(), tier, Answer());
      }
      case 11: {
        const AdapterTier tier = script_.Below(2) ? AdapterTier::kHost : AdapterTier::kDevice;
        return pool_->Pin(Which(), tier, Answer());
      }
      case 12:
        return pool_->Unpin(Which()->digest, Answer());
      default: {
        const AdapterTier tier = script_.Below(2) ? AdapterTier::kHost : AdapterTier::kSource;
        const bool wait = script_.Below(2) == 1;
        return pool_->Evict(Which()->digest, tier, wait, Answer());
      }
    }
  }

  void Acquire(const GenerationPtr& generation) {
    auto lease = pool_->TryAcquire(generation, now_);
    if (lease.ok()) leases_.emplace_back(generation, *std::move(lease));
  }

  void Turn() {
    backend_.Tick();
    now_ += absl::Milliseconds(500 * script_.Below(8));
    pool_->Poll(now_);
  }

  void Check() {
    pool_->CheckInvariants();
    arena_.CheckInvariants();
    for (const auto& [generation, lease] : leases_) {
      const auto& mounted = static_cast<const fakes::FakeMounted&>(*lease.mounted());
      const uint64_t is = memory_.HashMounted(mounted);
      const uint64_t should = fakes::HashAdapter(generation->digest, generation->block_count);
      LORICA_CHECK(is == should, "leased content was overwritten", generation->digest);
    }
  }

  void End() {
    leases_.clear();
    backend_.copy_ticks = 0;
    Settle(2 * kAskedPolls);  // what nobody asks for any more loses its place
    for (const GenerationPtr& generation : generations_) {
      pool_->Unpin(generation->digest, Answer());
      Settle(2);
    }
    for (const GenerationPtr& generation : generations_) {
      pool_->Evict(generation->digest, AdapterTier::kSource, /*wait=*/true, Answer());
      Settle(4);
    }
    const PoolStats stats = pool_->stats();
    LORICA_CHECK(stats.loading == 0 && stats.transient_images == 0, stats.loading);
    LORICA_CHECK(stats.device.generations == 0 && stats.device.bytes == 0, stats.device.bytes);
    LORICA_CHECK(stats.host.generations == 0 && stats.host.bytes == 0, stats.host.bytes);
    LORICA_CHECK(arena_.free_blocks() == arena_blocks_, arena_.free_blocks());
    for (int number = 0; number < sent_; ++number) {
      LORICA_CHECK(answers_[number] == 1, "no answer", number);
    }
  }

  void Settle(int polls) {
    for (int i = 0; i < polls; ++i) {
      held_.RunAll();
      backend_.Tick();
      now_ += absl::Seconds(1);
      pool_->Poll(now_);
    }
    Check();
  }

  FuzzScript script_;
  const int32_t arena_blocks_;
  absl::Time now_ = absl::UnixEpoch();
  fakes::FakeMemory memory_;
  fakes::FakeBackend backend_;
  fakes::FakeImageLoader loader_;
  fakes::HeldExecutor held_;
  BlockArena arena_;
  std::unique_ptr<AdapterPool> pool_;
  std::vector<GenerationPtr> generations_;
  std::vector<std::pair<GenerationPtr, AdapterLease>> leases_;
  std::map<int, int> answers_;  // of each command, how many
  int sent_ = 0;
};

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lorica::Life(lorica::FuzzScript(data, size)).Run();
  return 0;
}
