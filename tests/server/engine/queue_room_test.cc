#include "server/engine/queue_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

std::string Said(const absl::Status& status) {
  EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
  return std::string(status.message());
}

TEST(QueueRoom, IsBoundedInRequestsTokensAndBytes) {
  QueueRoom room({2, 20, 200}, 1);
  EXPECT_TRUE(room.Enter("a", {1, 10, 100}).ok());
  EXPECT_THAT(Said(room.Enter("a", {1, 11, 100})), HasSubstr("the queue is full: its limit is 20"));
  EXPECT_THAT(Said(room.Enter("a", {1, 10, 101})), HasSubstr("its limit is 200 bytes"));
  EXPECT_TRUE(room.Enter("b", {1, 10, 100}).ok());
  EXPECT_THAT(Said(room.Enter("c", {1, 0, 0})), HasSubstr("its limit is 2 requests"));
  room.Leave("a", {1, 10, 100});
  EXPECT_TRUE(room.Enter("c", {1, 10, 100}).ok());
}

TEST(QueueRoom, IsLookedAtWithoutTakingAny) {
  QueueRoom room({2, 20, 200}, 2);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(room.Check("a", {1, 1, 1}).ok());
  EXPECT_EQ(room.tenants(), 0);
  EXPECT_TRUE(room.Enter("a", {1, 1, 1}).ok());
  EXPECT_THAT(Said(room.Check("a", {1, 1, 1})), HasSubstr("this tenant's part of the queue"));
  EXPECT_TRUE(room.Check("b", {1, 19, 199}).ok());
  EXPECT_THAT(Said(room.Check("b", {1, 20, 199})), HasSubstr("its limit is 20 tokens"));
  room.Leave("a", {1, 1, 1});
  EXPECT_TRUE(room.Check("a", {1, 20, 200}).ok());
}

TEST(QueueRoom, OneTenantFillsItsPartAloneAndOthersStillComeIn) {
  QueueRoom room({4, 40, 400}, 2);
  EXPECT_TRUE(room.Enter("greedy", {1, 10, 100}).ok());
  EXPECT_THAT(Said(room.Enter("greedy", {1, 11, 0})),
              HasSubstr("this tenant's part of the queue is full: its limit is 20 tokens"));
  EXPECT_THAT(Said(room.Enter("greedy", {1, 0, 101})), HasSubstr("its limit is 200 bytes"));
  EXPECT_TRUE(room.Enter("greedy", {1, 10, 100}).ok());
  EXPECT_THAT(Said(room.Enter("greedy", {1, 0, 0})), HasSubstr("its limit is 2 requests"));
  EXPECT_TRUE(room.Enter("other", {1, 0, 0}).ok());
  EXPECT_TRUE(room.Enter("third", {1, 0, 0}).ok());
  EXPECT_THAT(Said(room.Enter("fourth", {1, 0, 0})), HasSubstr("the queue is full"));
  room.Leave("greedy", {1, 10, 100});
  EXPECT_TRUE(room.Enter("greedy", {1, 10, 100}).ok());
}

// Or it could never be served at all.
TEST(QueueRoom, TheFirstRequestOfATenantMayTakeMoreThanItsPart) {
  QueueRoom room({4, 40, 400}, 4);
  EXPECT_TRUE(room.Enter("a", {1, 40, 400}).ok());
  room.Leave("a", {1, 40, 400});
  EXPECT_TRUE(room.Enter("a", {1, 10, 0}).ok());
}

TEST(QueueRoom, AgreesWithSumsOverARandomLife) {
  const QueueShare kLimit{20, 300, 900};
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    QueueRoom room(kLimit, 2);
    std::vector<std::pair<std::string, QueueShare>> waiting;
    for (int i = 0; i < 2000; ++i) {
      if (!waiting.empty() && random() % 2 == 0) {
        std::swap(waiting[random() % waiting.size()], waiting.back());
        room.Leave(waiting.back().first, waiting.back().second);
        waiting.pop_back();
        continue;
      }
      const std::string tenant = absl::StrCat(random() % 3);
      const QueueShare share{1, static_cast<int64_t>(random() % 40),
                             static_cast<int64_t>(random() % 100)};
      QueueShare all = share, own = share;
      for (const auto& [whose, one] : waiting) {
        for (QueueShare* sum : {&all, &own}) {
          if (sum == &own && whose != tenant) continue;
          sum->requests += one.requests;
          sum->tokens += one.tokens;
          sum->bytes += one.bytes;
        }
      }
      const auto fits = [&kLimit](const QueueShare& sum, int parts) {
        return sum.requests <= kLimit.requests / parts && sum.tokens <= kLimit.tokens / parts &&
               sum.bytes <= kLimit.bytes / parts;
      };
      const bool wanted = fits(all, 1) && (own.requests == 1 || fits(own, 2));
      ASSERT_EQ(room.Enter(tenant, share).ok(), wanted) << "seed " << seed << ", step " << i;
      if (wanted) waiting.emplace_back(tenant, share);
    }
  }
}

}  // namespace
}  // namespace lorica
