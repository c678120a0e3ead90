#include "server/engine/fair_shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr FairShares::Need kSlot = {.slot = true};

class FairSharesTest : public ::testing::Test {
 protected:
  struct Held {
    RequestState* request = nullptr;
    double blocks = 0.0;
  };

  RequestState& Enter(const std::string& tenant, double weight = 1.0, int prompt = 10) {
    auto request = std::make_unique<RequestState>();
    request->id = ++last_id_;
    request->request.tenant = tenant;
    request->request.tenant_weight = weight;
    request->request.prompt.resize(prompt);
    queue_.Enter(*request);
    requests_.push_back(std::move(request));
    return *requests_.back();
  }
  // It runs, and `count - 1` more of the tenant.
  void Run(const std::string& tenant, int count, double weight = 1.0, int blocks = 1) {
    for (int i = 0; i < count; ++i) Start(Enter(tenant, weight), blocks);
  }
  void Start(RequestState& request, int blocks = 1) {
    queue_.Run(request);
    running_[request.id] = {&request, static_cast<double>(blocks)};
  }
  void Stop(RequestState& request) {
    queue_.Wait(request);
    running_.erase(request.id);
  }
  void Serve(RequestState& request, int tokens) {
    for (int i = 0; i < tokens; ++i) queue_.ChargeToken(request);
  }
  FairShares Shares(int slots, int free_blocks = 0) const {
    FairShares shares(queue_.weights(), slots, free_blocks);
    for (const auto& [id, held] : running_) {
      shares.Add(*held.request, held.blocks);
    }
    return shares;
  }
  std::vector<RequestId> Giving(const FairShares& shares, const RequestState& waiting,
                                const FairShares::Need& need) {
    std::vector<RequestId> ids;
    for (const RequestState* one : shares.ForShare(waiting, need)) ids.push_back(one->id);
    return ids;
  }
  int Running(const RequestState& like) const {
    int count = 0;
    for (const auto& [id, held] : running_) count += held.request->lane == like.lane;
    return count;
  }

  RequestId last_id_ = 0;
  FairQueue queue_;
  std::map<RequestId, Held> running_;
  std::vector<std::unique_ptr<RequestState>> requests_;
};

TEST_F(FairSharesTest, TheYoungestOfWhoHoldsTheMostGivesWay) {
  Run("a", 5);  // 1 to 5
  Run("b", 3);  // 6 to 8
  RequestState& c = Enter("c");
  EXPECT_THAT(Giving(Shares(8), c, kSlot), ElementsAre(5));
}

TEST_F(FairSharesTest, WhoIsInTheMiddleOfItsPromptGivesWayOnlyIfAllAre) {
  Run("a", 4);
  RequestState& b = Enter("b");
  requests_[3]->scheduled = 100;
  EXPECT_THAT(Giving(Shares(4), b, kSlot), ElementsAre(3));
  requests_[3]->prefix.resize(6);  // with the root: 80 of 100 are there for others
  EXPECT_THAT(Giving(Shares(4), b, kSlot), ElementsAre(4));
  for (int i = 1; i < 4; ++i) requests_[i]->scheduled = 120;
  EXPECT_THAT(Giving(Shares(4), b, kSlot), ElementsAre(4)) << "the oldest never does";
}

TEST_F(FairSharesTest, WhoIsAloneGivesNothing) {
  Run("a", 8);
  EXPECT_THAT(Giving(Shares(8), Enter("a"), kSlot), IsEmpty());
}

TEST_F(FairSharesTest, WithOneRequestEachNobodyGivesWay) {
  for (int i = 0; i < 8; ++i) Run(absl::StrCat("t", i), 1);
  EXPECT_THAT(Giving(Shares(8), Enter("late"), kSlot), IsEmpty());
  Run("t0", 1);  // 9 is late's
  EXPECT_THAT(Giving(Shares(9), *requests_[8], kSlot), ElementsAre(10));
}

TEST_F(FairSharesTest, AWeightHoweverSmallIsWorthAFirstSlotAndNoSecond) {
  Run("large", 63, 1000.0);
  RequestState& first = Enter("small");
  RequestState& second = Enter("small");
  Run("large", 1, 1000.0);
  Serve(*requests_[0], 1'000'000);
  EXPECT_THAT(Giving(Shares(64), first, kSlot), ElementsAre(last_id_));
  Stop(*requests_.back());
  Start(first);
  EXPECT_THAT(Giving(Shares(64), second, kSlot), IsEmpty());
  EXPECT_THAT(Giving(Shares(64), *requests_.back(), kSlot), IsEmpty());
}

TEST_F(FairSharesTest, UpToItsShareRoundedUpAndNoFurther) {
  Run("a", 9, 3.0);  // 7.2 of 12
  Run("b", 3, 2.0);  // 4.8
  RequestState& b4 = Enter("b", 2.0);
  RequestState& b5 = Enter("b", 2.0);
  Serve(*requests_[0], 1000);
  EXPECT_THAT(Giving(Shares(12), b4, kSlot), ElementsAre(9));
  Stop(*requests_[8]);
  Start(b4);
  EXPECT_THAT(Giving(Shares(12), b5, kSlot), IsEmpty()) << "a is at its share";
  EXPECT_THAT(Giving(Shares(12), *requests_[8], kSlot), IsEmpty()) << "b is at its share";
}

TEST_F(FairSharesTest, ALaterSlotCostsNoMoreThanTheOtherWasServedAhead) {
  Run("a", 6);
  Run("b", 1);
  RequestState& b2 = Enter("b");
  RequestState& youngest = *requests_[5];
  youngest.output.resize(30);  // 40 tokens with its prompt
  Serve(youngest, 19);         // 38
  EXPECT_THAT(Giving(Shares(7), b2, kSlot), IsEmpty());
  Serve(youngest, 1);
  EXPECT_THAT(Giving(Shares(7), b2, kSlot), ElementsAre(6));
  EXPECT_THAT(Giving(Shares(7), Enter("c"), kSlot), ElementsAre(6));
}

TEST_F(FairSharesTest, BlocksComeFromAsManyAsItTakesOrFromNobody) {
  Run("a", 6, 1.0, 10);
  Run("b", 1, 1.0, 30);
  RequestState& c = Enter("c");
  // 30 is a's share of 90.
  EXPECT_THAT(Giving(Shares(64), c, {.blocks = 25, .takes = 25}), ElementsAre(6, 5, 4));
  EXPECT_THAT(Giving(Shares(64), c, {.blocks = 31, .takes = 31}), IsEmpty());
  EXPECT_THAT(Giving(Shares(7), c, {.slot = true, .blocks = 5, .takes = 5}), ElementsAre(6));
}

TEST_F(FairSharesTest, WhoHasBlocksGetsMoreUpToItsShareOfThem) {
  Run("a", 6, 1.0, 10);
  Run("b", 1, 1.0, 20);
  RequestState& more = Enter("b");
  Serve(*requests_[0], 1000);
  EXPECT_THAT(Giving(Shares(64), more, {.blocks = 20, .takes = 20}), ElementsAre(6, 5));
  EXPECT_THAT(Giving(Shares(64), more, {.blocks = 21, .takes = 21}), IsEmpty());
  EXPECT_THAT(Giving(Shares(64, 2), more, {.blocks = 19, .takes = 21}), ElementsAre(6, 5));
}

TEST_F(FairSharesTest, AnOlderRequestTakesFromItsOwnOrFromWhoIsAbove) {
  RequestState& old = Enter("a");
  Run("a", 3);  // 2 to 4
  Run("b", 4);  // 5 to 8
  EXPECT_EQ(Shares(7).ForSenior(old, /*slot=*/true)->id, 4u) << "b is not above 3.5, rounded up";
  Run("b", 1);
  EXPECT_EQ(Shares(8).ForSenior(old, /*slot=*/true)->id, 9u);
  EXPECT_EQ(Shares(8).ForSenior(Enter("a"), /*slot=*/true), nullptr) << "it is younger than all";
}

TEST_F(FairSharesTest, AnOlderRequestOfWhoRunsNothingTakesFromAnybodyYounger) {
  RequestState& old = Enter("a");
  Run("b", 1);
  Run("c", 1);
  EXPECT_EQ(Shares(2).ForSenior(old, /*slot=*/true)->id, 3u);
}

TEST_F(FairSharesTest, WhoGrowsTakesFromTheYoungestUnlessAnotherIsAboveItsShare) {
  Run("a", 6, 1.0, 10);
  Run("b", 1, 1.0, 4);
  RequestState& oldest = *requests_[0];
  EXPECT_EQ(Shares(64).ForGrowth(oldest)->id, 6u);
  EXPECT_EQ(Shares(64).ForGrowth(*requests_[5]), nullptr) << "it is the one that should give way";
  EXPECT_EQ(Shares(64).ForGrowth(*requests_[6]), nullptr) << "the others are older";
  Run("b", 1, 1.0, 60);
  EXPECT_EQ(Shares(64).ForGrowth(oldest)->id, 8u) << "b is above its share now";
  EXPECT_EQ(Shares(64, 100).ForGrowth(oldest)->id, 8u) << "nobody is above: the youngest";
}

TEST_F(FairSharesTest, OfOneTenantTheYoungestGivesWayToWhoGrows) {
  Run("a", 3, 1.0, 10);
  EXPECT_EQ(Shares(64).ForGrowth(*requests_[0])->id, 3u);
  EXPECT_EQ(Shares(64).ForGrowth(*requests_[2]), nullptr);
}

// With the same tenants the exchanges end, after at most as many as there are tenants and slots,
// whoever is next and whatever the weights; none takes from who is within its share.
TEST_F(FairSharesTest, ExchangesEndAndTakeFromWhoIsAboveAlone) {
  int exchanges_most = 0;
  for (int seed = 1; seed <= 300; ++seed) {
    std::mt19937 random(seed);
    const auto draw = [&](int low, int high) {
      return low + static_cast<int>(random() % (high - low + 1));
    };
    queue_ = FairQueue();
    running_.clear();
    requests_.clear();
    const int slots = draw(1, 40);
    const int tenants = draw(2, 12);
    std::vector<double> weights(tenants);
    for (double& weight : weights) weight = draw(0, 3) == 0 ? draw(1, 1000) : 0.5 * draw(1, 8);
    double sum = 0.0;
    std::vector<RequestState*> all;
    for (int i = 0; i < tenants * slots; ++i) {
      all.push_back(&Enter(absl::StrCat("t", i % tenants), weights[i % tenants]));
      // A later slot may be had at once.
      all.back()->lane->counter = 0.0;
    }
    for (const double weight : weights) sum += weight;
    EXPECT_DOUBLE_EQ(queue_.weights(), sum);
    // Anybody has filled the batch.
    const int greedy = draw(1, tenants);
    while (std::ssize(running_) < slots) {
      RequestState& next = *all[draw(0, static_cast<int>(all.size()) - 1)];
      const bool may = next.id % tenants < static_cast<uint64_t>(greedy);
      if (may && !running_.contains(next.id)) Start(next);
    }
    int exchanges = 0;
    int vain = 0;
    while (vain < 50 * tenants) {
      RequestState& waiting = *all[draw(0, static_cast<int>(all.size()) - 1)];
      if (running_.contains(waiting.id)) continue;
      for (const auto& [id, held] : running_) held.request->lane->counter = 1e9;
      waiting.lane->counter = 0.0;
      const std::vector<RequestState*> giving = Shares(slots).ForShare(waiting, kSlot);
      vain = giving.empty() ? vain + 1 : 0;
      if (giving.empty()) continue;
      ASSERT_EQ(giving.size(), 1u);
      RequestState& gives = *giving[0];
      const auto share = [&](const RequestState& one) {
        return slots * one.request.tenant_weight / sum;
      };
      const bool first = Running(waiting) == 0;
      ASSERT_TRUE(first || Running(gives) > share(gives)) << "seed " << seed;
      ASSERT_GT(Running(gives), 1) << "seed " << seed;
      Stop(gives);
      Start(waiting);
      ASSERT_LT(Running(waiting), std::max(1.0, share(waiting)) + 1) << "seed " << seed;
      ASSERT_LE(++exchanges, tenants + slots) << "seed " << seed;
    }
    exchanges_most = std::max(exchanges_most, exchanges);
    // Nobody is left without a slot where there is one for each.
    for (RequestState* const one : all) {
      if (Running(*one) > 0 || slots < tenants) continue;
      ADD_FAILURE() << "seed " << seed << ": " << one->request.tenant << " has no slot";
      break;
    }
  }
  EXPECT_GT(exchanges_most, 20);
}

}  // namespace
}  // namespace lorica
