#include "server/engine/fair_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;

class FairQueueTest : public ::testing::Test {
 protected:
  RequestState& Enter(const std::string& tenant, int prompt = 10, double weight = 1.0) {
    auto request = std::make_unique<RequestState>();
    request->id = ++last_id_;
    request->request.tenant = tenant;
    request->request.tenant_weight = weight;
    request->request.prompt.resize(prompt);
    queue_.Enter(*request);
    requests_.push_back(std::move(request));
    return *requests_.back();
  }
  void Admit(RequestState& request) {
    queue_.ChargePrompt(request);
    queue_.Run(request);
  }
  std::vector<RequestId> Order() {
    std::vector<RequestId> ids;
    queue_.Visit([&](RequestState& request) {
      ids.push_back(request.id);
      return FairVisit::kGoOn;
    });
    return ids;
  }

  RequestId last_id_ = 0;
  FairQueue queue_;
  std::vector<std::unique_ptr<RequestState>> requests_;
};

TEST_F(FairQueueTest, OneTenantIsServedInOrderOfArrival) {
  for (int i = 0; i < 4; ++i) Enter("a");
  EXPECT_THAT(Order(), ElementsAre(1, 2, 3, 4));
  Admit(*requests_[0]);
  EXPECT_THAT(Order(), ElementsAre(2, 3, 4));
  queue_.Wait(*requests_[0]);
  EXPECT_THAT(Order(), ElementsAre(1, 2, 3, 4)) << "preempted, it is the oldest again";
}

TEST_F(FairQueueTest, TheLeastServedGoesFirst) {
  RequestState& a = Enter("a", 100);
  Enter("a");
  Enter("b");
  Enter("b");
  Admit(a);
  EXPECT_THAT(Order(), ElementsAre(3, 4, 2));
  queue_.Visit([&](RequestState& request) {
    EXPECT_EQ(request.id, 3u);
    return FairVisit::kEnd;
  });
}

TEST_F(FairQueueTest, OfATenantThatIsLeftNoneIsVisitedThisTime) {
  for (const char* tenant : {"a", "a", "b", "b", "a", "c"}) Enter(tenant);
  std::vector<RequestId> visited;
  queue_.Visit([&](RequestState& request) {
    visited.push_back(request.id);
    return request.id == 3 ? FairVisit::kGoOn : FairVisit::kLeaveTenant;
  });
  EXPECT_THAT(visited, ElementsAre(1, 3, 4, 6));
  EXPECT_THAT(Order(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST_F(FairQueueTest, WhatIsAdmittedCountsAtOnce) {
  for (const char* tenant : {"a", "a", "a", "b", "b", "b"}) Enter(tenant, 10);
  std::vector<RequestId> admitted;
  queue_.Visit([&](RequestState& request) {
    admitted.push_back(request.id);
    Admit(request);
    return FairVisit::kGoOn;
  });
  EXPECT_THAT(admitted, ElementsAre(1, 4, 2, 5, 3, 6));
  EXPECT_EQ(queue_.waiting(), 0);
}

TEST_F(FairQueueTest, CountersAreWeighted) {
  RequestState& a = Enter("a", 30, 3.0);
  RequestState& b = Enter("b", 30);
  Admit(a);
  Admit(b);
  queue_.ChargeToken(a);
  queue_.ChargeToken(b);
  EXPECT_DOUBLE_EQ(queue_.counter("a"), (30 + kGeneratedTokenCost) / 3);
  EXPECT_DOUBLE_EQ(queue_.counter("b"), 30 + kGeneratedTokenCost);
}

TEST_F(FairQueueTest, IdlenessEarnsNoCredit) {
  Admit(Enter("a", 100));
  Enter("a", 1);  // waits
  Enter("b");     // comes back to a queue in which a waits
  EXPECT_EQ(queue_.counter("b"), queue_.counter("a"));
  Admit(*requests_[1]);
  Admit(*requests_[2]);
  Admit(Enter("a", 500));
  Enter("c");  // nobody waits: to the level of whoever left last
  EXPECT_EQ(queue_.counter("c"), queue_.counter("a"));
}

TEST_F(FairQueueTest, WhereNobodyWaitsAllStartLevel) {
  RequestState& early = Enter("a", 1);
  Admit(early);
  RequestState& b = Enter("b", 10);
  Admit(b);
  for (int i = 0; i < 1000; ++i) queue_.ChargeToken(early);
  Enter("c");
  EXPECT_EQ(queue_.counter("c"), queue_.counter("a")) << "what a has got meanwhile, nobody lacked";
  Enter("b");
  EXPECT_EQ(queue_.counter("b"), queue_.counter("a")) << "to the level of c, which waits";
}

TEST_F(FairQueueTest, KnowsWhoHasRequestsAndTheirWeights) {
  RequestState& a = Enter("a", 1, 2.0);
  RequestState& b = Enter("b", 1, 0.5);
  Admit(a);
  RequestState& a2 = Enter("a", 1, 3.0);  // from now on
  EXPECT_EQ(queue_.tenants(), 2);
  EXPECT_EQ(queue_.weights(), 3.5);
  queue_.Leave(a);
  EXPECT_EQ(queue_.weights(), 3.5);
  queue_.Leave(a2);
  EXPECT_EQ(queue_.tenants(), 1);
  EXPECT_EQ(queue_.weights(), 0.5);
  queue_.Leave(b);
  EXPECT_EQ(queue_.tenants(), 0);
  EXPECT_EQ(queue_.weights(), 0.0);
}

TEST_F(FairQueueTest, WhatWasTakenIsRememberedWhileATenantIsAway) {
  Enter("b");
  RequestState& greedy = Enter("a", 1000);
  Admit(greedy);
  queue_.Leave(greedy);
  Enter("a");
  EXPECT_EQ(queue_.counter("a"), 1000);
  EXPECT_THAT(Order(), ElementsAre(1, 3));
}

TEST_F(FairQueueTest, WhoRunsNothingMayPassWhoRunsSomethingWhoseNextFindsNoRoom) {
  RequestState& first = Enter("a", 1000);
  RequestState& next = Enter("a", 1000);
  RequestState& call = Enter("b", 2);
  call.request.max_tokens = 2;
  EXPECT_FALSE(FairQueue::MayPass(call, next)) << "a runs nothing either";
  queue_.Run(first);
  EXPECT_TRUE(FairQueue::MayPass(call, next));
  next.was_scheduled = true;
  EXPECT_FALSE(FairQueue::MayPass(call, next)) << "its prompt was charged before";
  next.was_scheduled = false;
  EXPECT_FALSE(FairQueue::MayPass(Enter("a", 1), next)) << "nobody passes his own";
  queue_.Run(call);
  EXPECT_FALSE(FairQueue::MayPass(Enter("b", 1), next)) << "one at a time";
}

TEST_F(FairQueueTest, WhoPassesIsServedAheadByTheLeadAtMost) {
  RequestState& first = Enter("a", 1000);
  RequestState& next = Enter("a", 1000);
  RequestState& call = Enter("b", 56);
  queue_.Run(first);
  const int tokens = static_cast<int>((kPassLeadMax - 56) / kGeneratedTokenCost);
  call.request.max_tokens = tokens;
  EXPECT_TRUE(FairQueue::MayPass(call, next));
  call.request.max_tokens = tokens + 1;
  EXPECT_FALSE(FairQueue::MayPass(call, next));
  queue_.ChargeToken(first);
  EXPECT_TRUE(FairQueue::MayPass(call, next)) << "the other was served meanwhile";
  queue_.ChargeToken(call);
  EXPECT_FALSE(FairQueue::MayPass(call, next)) << "and so was this one";
}

TEST_F(FairQueueTest, AShortPromptIsPassedByWhatCostsNoMoreThanItself) {
  RequestState& first = Enter("a", 100, 2.0);
  RequestState& next = Enter("a", 100, 2.0);
  queue_.Run(first);
  RequestState& call = Enter("b", 40);
  call.request.max_tokens = 5;
  EXPECT_TRUE(FairQueue::MayPass(call, next)) << "50, by a's weight of 2";
  call.request.prompt.resize(41);
  EXPECT_FALSE(FairQueue::MayPass(call, next));
}

TEST_F(FairQueueTest, RemembersABoundedNumberOfTenants) {
  for (int i = 0; i <= kIdleLanesMax + 10; ++i) {
    RequestState& request = Enter(absl::StrCat("t", i), 1 + i);
    Admit(request);
    queue_.Leave(request);
    ASSERT_EQ(queue_.lanes(), std::min(i + 1, kIdleLanesMax));
  }
  EXPECT_EQ(queue_.counter("t0"), 0.0) << "the smallest went";
  EXPECT_GT(queue_.counter(absl::StrCat("t", kIdleLanesMax)), 0.0);
}

}  // namespace
}  // namespace lorica
