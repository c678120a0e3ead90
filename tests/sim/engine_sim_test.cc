// Goal: engine, pool and arena stay right, bounded and live whatever happens in whatever
// order. Method: many seeded lives of tests/sim/simulation.h.
//
//   engine_sim_test                        every seed of the default run
//   engine_sim_test --seed=N --steps=N     one life again
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/sim/simulation.h"

namespace lorica {
namespace {

constexpr int kSeeds = 250;
constexpr int kStepsEach = 600;

uint64_t g_seed = 0;  // 0 = all
int g_steps = kStepsEach;

SimulationTotals RunSeed(uint64_t seed) {
  // A failed check aborts: the last line printed names the seed.
  std::printf("seed %llu steps %d\n", static_cast<unsigned long long>(seed), g_steps);
  std::fflush(stdout);
  Simulation simulation(seed);
  simulation.Run(g_steps);
  return simulation.totals();
}

TEST(EngineSim, AnswersAreRightAndBooksBalanceInEverySeededLife) {
  const uint64_t first = g_seed != 0 ? g_seed : 1;
  const uint64_t last = g_seed != 0 ? g_seed : kSeeds;
  SimulationTotals all;
  for (uint64_t seed = first; seed <= last; ++seed) {
    const SimulationTotals one = RunSeed(seed);
    all.steps += one.steps;
    all.requests += one.requests;
    all.complete += one.complete;
    all.preemptions += one.preemptions;
    all.share_preemptions += one.share_preemptions;
    all.evictions += one.evictions;
    all.failed_loads += one.failed_loads;
    all.cached_tokens += one.cached_tokens;
    all.prefix_evictions += one.prefix_evictions;
    all.late_masks += one.late_masks;
  }
  std::printf(
      "%lld steps, %lld requests, %lld compared to the end, %lld preemptions, "
      "%lld of them for another tenant, "
      "%lld evictions, %lld failed loads, %lld cached tokens, %lld prefix blocks evicted, "
      "%lld late masks\n",
      static_cast<long long>(all.steps), static_cast<long long>(all.requests),
      static_cast<long long>(all.complete), static_cast<long long>(all.preemptions),
      static_cast<long long>(all.share_preemptions), static_cast<long long>(all.evictions),
      static_cast<long long>(all.failed_loads), static_cast<long long>(all.cached_tokens),
      static_cast<long long>(all.prefix_evictions), static_cast<long long>(all.late_masks));
  if (g_seed != 0) return;
  EXPECT_GE(all.steps, 100'000);
  EXPECT_GT(all.complete, 10'000);
  EXPECT_GT(all.preemptions, 1'000);
  EXPECT_GT(all.share_preemptions, 100);
  EXPECT_GT(all.evictions, 1'000);
  EXPECT_GT(all.failed_loads, 100);
  EXPECT_GT(all.cached_tokens, 10'000);
  EXPECT_GT(all.prefix_evictions, 1'000);
  EXPECT_GT(all.late_masks, 1'000);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--seed=", 0) == 0) {
      lorica::g_seed = std::strtoull(argv[i] + 7, nullptr, 10);
    } else if (argument.rfind("--steps=", 0) == 0) {
      lorica::g_steps = std::atoi(argv[i] + 8);
    } else {
      std::fprintf(stderr, "unknown argument %s; known: --seed=N --steps=N\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
