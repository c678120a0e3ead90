// One seeded life of engine, pool and arena over a fake device, loader and clock.
//
// Everything random comes from the seed: sizes of arena, tiers, queues and steps, and
// then what happens: submits, of prompts that begin alike, cancels, finishes, pauses, deadlines,
// loads that are slow, fail or find changed content, pins, evictions, copies that take a while,
// masks that are late or fail, in half of the lives steps whose results come one step late. After
// every step the books are
// checked; every answer is compared with what the request would have got alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "tests/fakes/fake_device.h"

namespace lorica {

struct SimulationTotals {
  int64_t steps = 0;
  int64_t requests = 0;
  int64_t complete = 0;  // answers compared to their end
  int64_t preemptions = 0;
  int64_t share_preemptions = 0;  // of them, for another tenant
  int64_t evictions = 0;
  int64_t failed_loads = 0;
  int64_t cached_tokens = 0;  // of prompts
  int64_t prefix_evictions = 0;
  int64_t late_masks = 0;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed);
  ~Simulation();

  // `steps` of random life, then everything ends. Aborts where something is wrong.
  void Run(int steps);
  SimulationTotals totals() const;

 private:
  struct Config;
  class Loader;
  class SlowExecutor;
  struct Tracked;
  class Sink;

  int Draw(int low, int high);  // both ends included
  bool Chance(double probability);
  bool HasTenants() const { return seed_ % 2 == 1; }
  GenerationPtr DrawGeneration();
  EngineRequest DrawRequest();

  void Act();
  void Submit();
  void PokeRequest();
  void PokeAdapter();
  void ChangeContent();
  void StepOnce();
  void CheckBooks();
  void CheckProgress(const StepReport& report);
  bool WaitsForLoad(const Tracked& tracked) const;
  void CheckFinished(Tracked& tracked);
  void CheckScores(const Tracked& tracked) const;
  void CheckError(const Tracked& tracked) const;
  void Drain();

  const uint64_t seed_;
  std::mt19937_64 random_;
  std::unique_ptr<Config> config_;
  absl::Time now_;
  std::vector<int> versions_;    // of the content of each adapter name
  std::vector<int32_t> blocks_;  // of each adapter name

  std::unique_ptr<fakes::FakeMemory> memory_;
  std::unique_ptr<fakes::FakeBackend> backend_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<SlowExecutor> loads_;
  std::unique_ptr<BlockArena> arena_;
  std::unique_ptr<AdapterPool> pool_;
  std::unique_ptr<fakes::FakeExecutor> executor_;
  std::unique_ptr<Engine> engine_;

  std::map<RequestId, std::unique_ptr<Tracked>> live_;
  RequestId oldest_ = 0;
  int stalled_steps_ = 0;
  int commands_sent_ = 0;
  int commands_answered_ = 0;
  SimulationTotals totals_;
};

}  // namespace lorica
