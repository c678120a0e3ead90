#include "server/grammar/work_threads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/synchronization/notification.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

class WorkThreadsTest : public testing::Test {
 protected:
  WorkThreads::Work Noting(const std::string& name) {
    return [this, name](int thread) {
      absl::MutexLock lock(&mutex_);
      done_.push_back(name);
      threads_.push_back(thread);
    };
  }
  std::vector<std::string> Done(size_t count) {
    const auto enough = [&] { return done_.size() >= count; };
    absl::MutexLock lock(&mutex_, absl::Condition(&enough));
    return done_;
  }

  absl::Mutex mutex_;
  std::vector<std::string> done_;
  std::vector<int> threads_;
};

TEST_F(WorkThreadsTest, OwnersTakeTurns) {
  WorkThreads one(1);
  absl::Notification go;
  one.Run("a", [&](int) { go.WaitForNotification(); });
  for (const char* name : {"a1", "a2", "a3", "b1", "c1", "b2"}) {
    one.Run(std::string(1, name[0]), Noting(name));
  }
  go.Notify();
  EXPECT_THAT(Done(6), ElementsAre("b1", "c1", "a1", "b2", "a2", "a3"));
}

TEST_F(WorkThreadsTest, LongWorksAreTheLastThreadsAlone) {
  WorkThreads two(2);
  for (const char* name : {"1", "2", "3"}) two.RunLong("", Noting(name));
  EXPECT_THAT(Done(3), ElementsAre("1", "2", "3"));
  EXPECT_THAT(threads_, ElementsAre(1, 1, 1));
  // While it is busy the other one does what is short.
  absl::Notification go;
  two.RunLong("", [&](int) { go.WaitForNotification(); });
  two.RunLong("", Noting("4"));
  two.Run("", Noting("5"));
  EXPECT_EQ(Done(4).back(), "5");
  go.Notify();
  EXPECT_THAT(Done(5), UnorderedElementsAre("1", "2", "3", "4", "5"));
}

TEST_F(WorkThreadsTest, WhatComesAfterItsEndIsDropped) {
  WorkThreads one(1);
  absl::Notification begun, go;
  one.Run("", [&](int) {
    begun.Notify();
    go.WaitForNotification();
  });
  begun.WaitForNotification();
  one.Run("", Noting("never"));
  std::thread stopper([&] { one.Stop(); });
  go.Notify();
  stopper.join();
  one.Run("", Noting("late"));
  EXPECT_THAT(done_, testing::Not(testing::Contains("late")));
}

}  // namespace
}  // namespace lorica
