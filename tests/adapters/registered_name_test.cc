#include "adapters/registered_name.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lorica {
namespace {

RegisteredName Moved(int times) {
  RegisteredName name;
  for (int i = 1; i <= times; ++i) name.MoveTo(absl::StrCat("d", i), "folder", absl::Now());
  return name;
}

TEST(RegisteredName, ARollbackUndoesTheLastMove) {
  RegisteredName name = Moved(2);
  name.MoveBackTo(name.now().previous);
  EXPECT_EQ(name.now().digest, "d1");
  EXPECT_EQ(name.now().previous, 0);
  name.MoveTo("d3", "folder", absl::Now());
  EXPECT_EQ(name.current, 3);
  name.MoveBackTo(name.now().previous);
  EXPECT_EQ(name.now().digest, "d1") << "not d2, which was left before";
}

TEST(RegisteredName, AMoveForwardInHistoryIsUndoneToo) {
  RegisteredName name = Moved(3);
  name.MoveBackTo(1);
  EXPECT_EQ(name.now().previous, 0) << "gone back to: d3 was left for good";
  name.MoveBackTo(3);
  EXPECT_EQ(name.now().previous, 1);
  name.MoveBackTo(name.now().previous);
  EXPECT_EQ(name.now().digest, "d1");
}

TEST(RegisteredName, ContentThatComesBackIsThereOnce) {
  RegisteredName name = Moved(3);
  name.MoveTo("d2", "elsewhere", absl::Now());
  ASSERT_EQ(name.generations.size(), 3u);
  EXPECT_EQ(name.now().number, 4);
  EXPECT_EQ(name.now().previous, 3);
  EXPECT_EQ(name.Numbered(3)->previous, 1) << "past what came back";
}

TEST(RegisteredName, KeepsTheLastOnesAndTheWayBack) {
  RegisteredName name = Moved(kGenerationsKeptMax);
  EXPECT_EQ(name.generations.front().number, 1);
  name.MoveTo("one more", "folder", absl::Now());
  EXPECT_EQ(std::ssize(name.generations), kGenerationsKeptMax);
  EXPECT_EQ(name.generations.front().number, 2);
  EXPECT_EQ(name.generations.front().previous, 0);
  name.MoveBackTo(2);
  name.MoveTo("another", "folder", absl::Now());
  EXPECT_EQ(std::ssize(name.generations), kGenerationsKeptMax);
  EXPECT_EQ(name.now().previous, 2) << "what was left stays, however old it is";
  EXPECT_NE(name.Numbered(2), nullptr);
}

TEST(RegisteredName, AWayBackEndsWhateverHappens) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    RegisteredName name = Moved(1);
    for (int move = 0; move < 60; ++move) {
      const auto pick = name.generations[random() % name.generations.size()];
      if (random() % 2 == 0) {
        const std::string digest = absl::StrCat("d", random() % 12);
        if (digest != name.now().digest) name.MoveTo(digest, "folder", absl::Now());
      } else {
        name.MoveBackTo(pick.number);
      }
      ASSERT_LE(std::ssize(name.generations), kGenerationsKeptMax);
      int steps = 0;
      for (int64_t number = name.current; number != 0; ++steps) {
        ASSERT_LT(steps, kGenerationsKeptMax) << seed;
        ASSERT_NE(name.Numbered(number), nullptr) << seed;
        number = name.Numbered(number)->previous;
      }
    }
  }
}

TEST(RegisteredName, ACircleOfADamagedFileIsNoTrap) {
  RegisteredName name = Moved(3);
  name.generations[0].previous = 2;
  name.MoveBackTo(2);
  name.MoveBackTo(3);
  EXPECT_EQ(name.now().previous, 2);
}

}  // namespace
}  // namespace lorica
