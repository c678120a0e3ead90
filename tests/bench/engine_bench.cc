// Host work of a decode step: everything the engine's thread does but wait for the device,
// whose place is taken by one that answers at once. Prints the median and the slowest
// hundredth of some thousand steps, microseconds each.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/engine/engine.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"

namespace lorica::bench {
namespace {

constexpr int kPrompt = 128;
constexpr int kSteps = 2000;
constexpr int kWarmSteps = 50;
constexpr int32_t kBlocks = 1 << 16;

// Whatever is launched is done; each sample gets token 5.
class InstantExecutor : public Executor {
 public:
  int depth() const override { return 1; }
  void Launch(std::unique_ptr<StepBatch> batch) override {
    flights_.push_back(batch->samples.size());
  }
  void Sample() override {}
  absl::StatusOr<std::vector<SampleResult>> Collect() override {
    std::vector<SampleResult> results(flights_.front());
    flights_.erase(flights_.begin());
    for (SampleResult& result : results) result.token = 5;
    return results;
  }

 private:
  std::vector<size_t> flights_;
};

struct CountingSink : TokenSink {
  int64_t tokens = 0;
  void OnTokens(const TokenEvent& event) override { tokens += std::ssize(event.tokens); }
  void OnFinish(const FinishEvent&) override {}
};

void Measure(int rows, int adapters) {
  fakes::FakeMemory memory(kBlocks);
  fakes::FakeBackend backend(&memory);
  fakes::FakeImageLoader loader;
  fakes::HeldExecutor held;
  BlockArena arena(kBlocks);
  InstantExecutor executor;
  KvCache cache;
  cache.block_bytes = fakes::kFakeBlockBytes;
  AdapterPool pool({.host_bytes_max = 0}, &loader, &held, &backend, cache, &arena);
  EngineOptions options;
  options.running_max = rows;
  options.context_tokens = 1 << 20;
  options.vocabulary = 1000;
  Engine engine(options, &executor, &pool, &arena);
  const auto sink = std::make_shared<CountingSink>();
  std::vector<GenerationPtr> generations;
  for (int i = 0; i < adapters; ++i) {
    auto generation = std::make_shared<Generation>();
    generation->digest = absl::StrCat(std::string(60, 'd'), 1000 + i);
    generation->block_count = 1;
    generations.push_back(generation);
  }
  for (int i = 0; i < rows; ++i) {
    EngineRequest request;
    request.prompt.assign(kPrompt, 3);
    request.max_tokens = 2 * kSteps;
    request.sink = sink;
    if (adapters > 0) request.mix = {{generations[i % adapters], 1.0f}};
    LORICA_CHECK(engine.Submit(std::move(request), absl::Now()).ok());
  }
  while (engine.stats().running < rows || sink->tokens < rows) {
    held.RunAll();
    backend.Tick();
    engine.Step(absl::Now());
  }
  std::vector<double> times;
  for (int step = 0; step < kSteps; ++step) {
    const auto began = std::chrono::steady_clock::now();
    engine.Step(absl::Now());
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
    if (step >= kWarmSteps) times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  std::printf("| %3d rows, %3d adapters | %7.1f us | %7.1f us |\n", rows, adapters,
              times[times.size() / 2], times[times.size() * 99 / 100]);
}

}  // namespace
}  // namespace lorica::bench

int main() {
  std::printf("| step | median | 99th |\n| --- | --- | --- |\n");
  for (const int rows : {1, 32, 128, 256}) {
    lorica::bench::Measure(rows, 0);
    lorica::bench::Measure(rows, std::min(rows, 32));
  }
  return 0;
}
