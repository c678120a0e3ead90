// Bodies are held up to the bound, all together and a tenant's, and not a byte beyond.
#include "server/api/body_room.h"

#include <optional>

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(BodyRoom, HoldsToTheLastByteAndGivesItBack) {
  BodyRoom room(1000);
  std::optional<BodyRoom::Body> first(std::in_place, &room, "a");
  BodyRoom::Body second(&room, "b");
  EXPECT_TRUE(second.Take(kSmallBodyBytes));
  EXPECT_TRUE(first->Take(kSmallBodyBytes + 999));
  EXPECT_TRUE(second.Take(1));
  EXPECT_EQ(room.held_bytes(), 1000);
  EXPECT_FALSE(second.Take(1));
  EXPECT_EQ(room.held_bytes(), 1000);
  first.reset();
  EXPECT_EQ(room.held_bytes(), 1);
}

TEST(BodyRoom, SmallBodiesAlwaysComeIn) {
  BodyRoom room(0);
  BodyRoom::Body body(&room, "");
  EXPECT_TRUE(body.Take(kSmallBodyBytes));
  EXPECT_FALSE(body.Take(1));
  EXPECT_EQ(room.held_bytes(), 0);
}

TEST(BodyRoom, OneTenantFillsItsPartAloneAndOthersStillComeIn) {
  BodyRoom room(1000, /*tenant_parts=*/2);
  BodyRoom::Body greedy(&room, "greedy");
  BodyRoom::Body again(&room, "greedy");
  EXPECT_TRUE(greedy.Take(kSmallBodyBytes + 300));
  EXPECT_TRUE(again.Take(kSmallBodyBytes + 200));
  EXPECT_FALSE(again.Take(1));
  BodyRoom::Body other(&room, "other");
  EXPECT_TRUE(other.Take(kSmallBodyBytes + 500));
  BodyRoom::Body third(&room, "third");
  EXPECT_FALSE(third.Take(kSmallBodyBytes + 1)) << "all together";
}

}  // namespace
}  // namespace lorica
