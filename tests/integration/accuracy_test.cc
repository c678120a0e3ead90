// Goal: what is served is as good as what was trained. The 200 public examples of every
// task go through the chat template, all tasks mixed in one batch; the share of exact
// answers must equal the training run's within two points. Takes minutes: label `long`.
#include <gtest/gtest.h>

#include "tests/fakes/test_paths.h"
#include "tests/integration/task_scores.h"

namespace lorica {
namespace {

constexpr double kTolerance = 0.02;

TEST(Accuracy, EveryTaskIsAnsweredAsWellAsTrained) {
  const std::string fixtures = FixtureAdaptersPath();
  ServerProcess::Options options;
  options.model = SmolLmPath();
  options.adapters_dir = fixtures.empty() ? DemoAdaptersPath() : fixtures;
  auto server = ServerProcess::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto scores = ScoreTasks(**server, options.adapters_dir);
  EXPECT_GE(scores.size(), 5u);
  for (const TaskScore& score : scores) {
    EXPECT_EQ(score.total, 200) << score.adapter;
    std::cout << score.adapter << ": " << score.share() << " (trained: " << score.trained << ")\n";
    EXPECT_NEAR(score.share(), score.trained, kTolerance + 1e-9) << score.adapter;
  }
}

}  // namespace
}  // namespace lorica
