#include "client/commands/ordered_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/commands/work_queue.h"

namespace lorica {
namespace {

constexpr int64_t kManyBytes = 1 << 20;

TEST(OrderedWindow, WritesInTheOrderOfTickets) {
  std::vector<std::string> written;
  OrderedWindow window(8, kManyBytes, [&](const std::string& s) { written.push_back(s); });
  for (int i = 0; i < 3; ++i) EXPECT_EQ(window.Open(1), i);
  window.Close(2, 1, "c");
  window.Close(1, 1, "b");
  EXPECT_TRUE(written.empty());
  window.Close(0, 1, "a");
  EXPECT_EQ(written, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(window.open_requests(), 0);
}

TEST(OrderedWindow, WaitsForRoomInRequests) {
  OrderedWindow window(2, kManyBytes, [](const std::string&) {});
  window.Open(1);
  window.Open(1);
  std::atomic<bool> opened = false;
  std::thread third([&] {
    window.Open(1);
    opened = true;
  });
  // A result out of order makes no room: it has to be held.
  window.Close(1, 1, "");
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_FALSE(opened);
  window.Close(0, 1, "");
  third.join();
  EXPECT_EQ(window.open_requests(), 1);
}

TEST(OrderedWindow, WaitsForRoomInBytesButLetsOneGiantThrough) {
  OrderedWindow window(100, 10, [](const std::string&) {});
  EXPECT_EQ(window.Open(1000), 0);
  window.Close(0, 1000, "");
  window.Open(10);
  std::atomic<bool> opened = false;
  std::thread next([&] {
    window.Open(1);
    opened = true;
  });
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_FALSE(opened);
  window.Close(1, 10, "");
  next.join();
}

TEST(OrderedWindow, KeepsOrderAndBoundUnderRandomDelays) {
  constexpr int kRequests = 2000;
  constexpr int kOpenMax = 16;
  std::vector<int> written;
  OrderedWindow window(kOpenMax, kManyBytes,
                       [&](const std::string& s) { written.push_back(std::stoi(s)); });
  WorkQueue<int64_t> queue;
  std::vector<std::thread> workers;
  for (int i = 0; i < 4; ++i) {
    workers.emplace_back([&, i] {
      std::minstd_rand random(i + 1);
      while (auto ticket = queue.Pop()) {
        if (random() % 16 == 0) absl::SleepFor(absl::Microseconds(random() % 200));
        window.Close(*ticket, 1, std::to_string(*ticket));
      }
    });
  }
  for (int i = 0; i < kRequests; ++i) {
    queue.Push(window.Open(1));
    EXPECT_LE(window.open_requests(), kOpenMax);
  }
  queue.End();
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(written.size(), kRequests);
  EXPECT_TRUE(std::is_sorted(written.begin(), written.end()));
}

}  // namespace
}  // namespace lorica
