#include "kernels/cpu/thread_pool.h"

#include <chrono>
#include <numeric>

#include "gtest/gtest.h"
#include "kernels/cpu/philox.h"

namespace lorica {
namespace {

TEST(ThreadPool, EveryTaskRunsOnceWhateverTheThreads) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int round = 0; round < 2000; ++round) {
      const int count = round % 37;
      std::vector<std::atomic<int>> runs(count);
      pool.Run(count, [&](int64_t index, int worker) {
        EXPECT_LT(worker, threads);
        ++runs[index];
      });
      for (const auto& n : runs) ASSERT_EQ(n, 1);
    }
  }
}

TEST(ThreadPool, BlockedWorkersWakeUp) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> sum{0};
    pool.Run(100, [&](int64_t index, int) { sum += static_cast<int>(index); });
    EXPECT_EQ(sum, 4950);
  }
}

TEST(ThreadPool, IdleWorkersStopUsingTheCpu) {
  ThreadPool pool(4);
  pool.Run(8, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 100);
}

TEST(ThreadPool, ALongTaskDoesNotSpinTheCaller) {
  ThreadPool pool(2);
  std::atomic<bool> worker_has_one{false};
  const std::clock_t before = std::clock();
  pool.Run(2, [&](int64_t, int worker) {
    if (worker == 0) {
      while (!worker_has_one) std::this_thread::yield();
      return;
    }
    worker_has_one = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  });
  EXPECT_LT(std::clock() - before, CLOCKS_PER_SEC / 20);
}

TEST(Philox, EqualsThePublishedVectors) {
  EXPECT_EQ(Philox4x32(0, 0),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

}  // namespace
}  // namespace lorica
