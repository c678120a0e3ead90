// Goal: streams that decode go on at their pace whatever prompts arrive, and prompts go on
// too. Method: seeded lives of an engine over a device whose steps take a time made up of
// what every step costs, each prompt token and each adapter, with noise; the engine knows the
// clock alone. Seen from outside: the plans, the cost of each, the gaps between tokens.
//
//   pace_sim_test                every seed
//   pace_sim_test --seed=N       one life of each test
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "server/engine/step_pace.h"
#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

constexpr int kSeeds = 8;
constexpr double kStretch = 2.5;
constexpr int kPrompt = 512;
constexpr int kOutput = 100;
constexpr int kChunk = 1024;

uint64_t g_seed = 0;  // 0 = all

struct StampedSink : TokenSink {
  explicit StampedSink(const absl::Time* clock) : clock(clock) {}
  const absl::Time* const clock;
  std::vector<absl::Time> times;
  bool ended = false;
  void OnTokens(const TokenEvent&) override { times.push_back(*clock); }
  void OnFinish(const FinishEvent&) override { ended = true; }
};

class Life {
 public:
  Life(uint64_t seed, double stretch) : random_(seed) {
    EngineWorld::Options options;
    options.depth = static_cast<int>(seed % 2);
    options.arena_blocks = 4000;
    options.engine.rows_max = 1280;
    options.engine.chunk_tokens = kChunk;
    options.engine.running_max = 256;
    options.engine.stretch = stretch;
    options.engine.prefix_cache = false;  // prompts are alike, and are to take their time
    world_ = std::make_unique<EngineWorld>(options);
    base_ms_ = Draw(4.0, 10.0);
    token_ms_ = Draw(0.01, 0.05);
    adapter_ms_ = Draw(0.0, 0.5);
    world_->executor.clock = &world_->now;
    world_->executor.cost = [this](const StepBatch& batch) {
      const double noise = Draw(0.97, 1.03);
      cost_ms_.push_back(noise * CostMs(batch, true));
      decode_cost_ms_.push_back(noise * CostMs(batch, false));
      return absl::Milliseconds(cost_ms_.back());
    };
  }

  double Draw(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }
  std::shared_ptr<StampedSink> Submit(int prompt, int output, bool adapter) {
    EngineRequest request = EngineWorld::Request(prompt, output);
    if (adapter) {
      const auto name = absl::StrCat("adapter", static_cast<int>(Draw(0, 64)));
      request.mix = {{fakes::MakeFakeGeneration(name, 2), 1.0f}};
    }
    request.params.seed = random_();
    auto sink = std::make_shared<StampedSink>(&world_->now);
    request.sink = sink;
    const absl::StatusOr<RequestId> id = world_->engine->Submit(std::move(request), world_->now);
    LORICA_CHECK(id.ok(), id.status().ToString());
    prompt_left_[*id] = prompt;
    sinks_.push_back(sink);
    return sink;
  }
  StepPlan Step() {
    world_->held.RunAll();
    const StepReport report = world_->Step();
    for (const Span& span : report.plan.spans) {
      int& left = prompt_left_[span.request];
      left = std::max(0, left - span.token_count);
    }
    return report.plan;
  }
  bool PromptsLeft() const {
    return std::any_of(prompt_left_.begin(), prompt_left_.end(),
                       [](const auto& entry) { return entry.second > 0; });
  }
  // Of all streams, in increasing order; milliseconds.
  std::vector<double> Gaps() const {
    std::vector<double> gaps;
    for (const auto& sink : sinks_) {
      for (size_t i = 1; i < sink->times.size(); ++i) {
        gaps.push_back(absl::ToDoubleMilliseconds(sink->times[i] - sink->times[i - 1]));
      }
    }
    std::sort(gaps.begin(), gaps.end());
    return gaps;
  }
  // Steps, once it has learnt, that took more than `times` what they take without prompts.
  double ShareAbove(double times) const {
    constexpr size_t kLearning = 100;
    double above = 0.0;
    for (size_t i = kLearning; i < cost_ms_.size(); ++i) {
      above += cost_ms_[i] > times * decode_cost_ms_[i] ? 1.0 : 0.0;
    }
    return above / static_cast<double>(cost_ms_.size() - kLearning);
  }
  // About `streams` at a time decode while 512-token prompts arrive at random.
  void RunArrivals(int steps, double streams) {
    const double step_ms = base_ms_ + 10.0;  // about
    const double chance = streams / kOutput * step_ms / base_ms_ / 2.0;
    for (int i = 0; i < steps; ++i) {
      while (Draw(0.0, 1.0) < chance) Submit(kPrompt, kOutput, true);
      Step();
    }
  }
  bool idle() const { return world_->engine->idle(); }
  const std::vector<std::shared_ptr<StampedSink>>& sinks() const { return sinks_; }

 private:
  double CostMs(const StepBatch& batch, bool with_prompts) const {
    double ms = base_ms_;
    std::set<const MountedAdapter*> adapters;
    for (const LoraTerm& term : batch.terms) adapters.insert(term.adapter);
    ms += 0.05 * adapter_ms_ * static_cast<double>(adapters.size());
    for (const AttendSpan& span : batch.spans) {
      ms += span.row_count == 1 ? 0.02 : 0.0;
      if (with_prompts && span.row_count > 1) ms += token_ms_ * span.row_count;
    }
    return ms;
  }

  std::mt19937_64 random_;
  double base_ms_ = 0.0;
  double token_ms_ = 0.0;
  double adapter_ms_ = 0.0;
  std::unique_ptr<EngineWorld> world_;
  std::map<RequestId, int> prompt_left_;
  std::vector<std::shared_ptr<StampedSink>> sinks_;
  std::vector<double> cost_ms_;         // of each step
  std::vector<double> decode_cost_ms_;  // of the same without its prompts
};

template <typename Test>
void ForEachSeed(Test test) {
  for (uint64_t seed = g_seed ? g_seed : 1; seed <= (g_seed ? g_seed : kSeeds); ++seed) {
    SCOPED_TRACE(absl::StrCat("--seed=", seed));
    test(seed);
    if (testing::Test::HasFailure()) return;
  }
}

double At(const std::vector<double>& sorted, double share) {
  return sorted.at(static_cast<size_t>(share * static_cast<double>(sorted.size() - 1)));
}

TEST(PaceSim, GapsStayWithinThreeMediansWhilePromptsArrive) {
  double worst = 0.0;
  double worst_without = 0.0;
  ForEachSeed([&](uint64_t seed) {
    Life paced(seed, kStretch);
    paced.RunArrivals(1200, 25.0);
    const std::vector<double> gaps = paced.Gaps();
    ASSERT_GT(gaps.size(), 10'000u);
    EXPECT_LE(At(gaps, 0.99), 3.0 * At(gaps, 0.5));
    worst = std::max(worst, At(gaps, 0.99) / At(gaps, 0.5));
    EXPECT_LE(paced.ShareAbove(1.15 * kStretch), 0.01);
    Life whole(seed, 0.0);
    whole.RunArrivals(1200, 25.0);
    worst_without = std::max(worst_without, At(whole.Gaps(), 0.99) / At(whole.Gaps(), 0.5));
  });
  std::printf("99th gap by the median at worst: %.2f; with whole chunks %.2f\n", worst,
              worst_without);
}

TEST(PaceSim, PromptsAreNeverLeftForMoreThanTwoSteps) {
  ForEachSeed([&](uint64_t seed) {
    Life life(seed, 1.1);  // hardly any room for prompts
    int without = 0;
    for (int i = 0; i < 1000; ++i) {
      if (i % 40 == 0) life.Submit(kPrompt, kOutput, false);
      const bool left = life.PromptsLeft();
      const StepPlan plan = life.Step();
      without = left && plan.rows == plan.decode_rows ? without + 1 : 0;
      ASSERT_LE(without, 2) << "step " << i;
    }
    while (!life.idle()) life.Step();
    for (const auto& sink : life.sinks()) EXPECT_EQ(sink->times.size(), kOutput);
  });
}

TEST(PaceSim, WhereNothingDecodesPromptsGoInWholeChunks) {
  ForEachSeed([&](uint64_t seed) {
    Life life(seed, kStretch);
    life.RunArrivals(300, 25.0);  // it has learnt what prompts cost
    while (!life.idle()) life.Step();
    for (int i = 0; i < 8; ++i) life.Submit(2048, 1, false);
    for (int i = 0; i < 8 * 2048 / kChunk; ++i) EXPECT_EQ(life.Step().rows, kChunk) << i;
    while (!life.idle()) life.Step();
  });
}

// The device becomes three times as slow at prompts, or as fast: the allowance follows.
TEST(PaceSim, AnUnknownDeviceIsLearntInAFewPrompts) {
  StepPace pace(kStretch);
  EXPECT_GT(pace.TokensBeside(), 1'000'000);
  const auto run = [&](double token_ms, int steps) {
    for (int i = 0; i < steps; ++i) {
      const int tokens = std::min(pace.TokensBeside(), kChunk);
      pace.Planned(8, tokens);
      pace.Measured(tokens, absl::Milliseconds(8.0 + token_ms * tokens));
    }
  };
  pace.Measured(0, absl::Milliseconds(8.0));
  EXPECT_EQ(pace.TokensBeside(), kPaceTokensMin);
  run(0.024, 8);
  EXPECT_NEAR(pace.TokensBeside(), 12.0 / 0.024, 5.0);
  run(0.072, 8);
  EXPECT_NEAR(pace.TokensBeside(), 12.0 / 0.072, 5.0);
  run(0.024, 100);
  EXPECT_NEAR(pace.TokensBeside(), 12.0 / 0.024, 25.0);
}

TEST(PaceSim, TheAllowanceHasAFloorAndAStepInBetweenGoesWithoutPrompts) {
  StepPace pace(kStretch);
  pace.Measured(0, absl::Milliseconds(1.0));
  for (int i = 0; i < kPaceProbeSteps; ++i) {
    EXPECT_EQ(pace.TokensBeside(), kPaceTokensMin) << i;
    pace.Planned(1, kPaceTokensMin);
    pace.Measured(kPaceTokensMin, absl::Milliseconds(500.0));
  }
  EXPECT_EQ(pace.TokensBeside(), 0);
  pace.Planned(1, 0);
  EXPECT_EQ(pace.TokensBeside(), kPaceTokensMin);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]).rfind("--seed=", 0) == 0) {
      lorica::g_seed = std::strtoull(argv[i] + 7, nullptr, 10);
    } else {
      std::fprintf(stderr, "unknown argument %s; known: --seed=N\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
