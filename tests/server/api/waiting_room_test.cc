#include "server/api/waiting_room.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/api/field_error.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class NoControl : public RequestControl {
 public:
  void Cancel(RequestId) override {}
  void Finish(RequestId, StopReason) override {}
  void Pause(RequestId) override {}
  void Resume(RequestId) override {}
};

class WaitingRoomTest : public ::testing::Test {
 protected:
  struct Visitor {
    std::shared_ptr<RunningAnswer> answer;
    std::vector<std::string> went_on_with;  // digests

    absl::Status End() {
      AnswerChunk chunk;
      std::optional<AnswerEnd> end;
      answer->Take(&chunk, &end);
      return end ? end->status : absl::UnknownError("it has not ended");
    }
  };
  static std::shared_ptr<FetchTicket> Ticket() { return std::make_shared<FetchTicket>(); }
  static GenerationPtr Named(const std::string& digest) {
    auto generation = std::make_shared<Generation>();
    generation->digest = digest;
    return generation;
  }
  absl::Status Enter(Visitor& visitor, std::vector<FoundAdapter> adapters, int64_t tokens = 1,
                     absl::Time deadline = absl::InfiniteFuture()) {
    visitor.answer = std::make_shared<RunningAnswer>(AnswerOptions{}, &control_);
    WaitingCall call{tenant_, std::move(adapters), visitor.answer, tokens, deadline};
    call.go_on = [this, &visitor](const std::vector<GenerationPtr>& generations) {
      for (const auto& generation : generations) visitor.went_on_with.push_back(generation->digest);
      return go_on_;
    };
    return room_.Enter(std::move(call));
  }

  std::string tenant_;  // of who enters
  NoControl control_;
  absl::Status go_on_;
  std::vector<absl::StatusCode> refused_;
  WaitingRoom room_{{.requests_max = 3, .tokens_max = 10},
                    [this](const absl::Status& status) { refused_.push_back(status.code()); }};
};

TEST_F(WaitingRoomTest, GoesOnWithAllAdaptersInTheirOrder) {
  Visitor visitor;
  const auto first = Ticket();
  const auto last = Ticket();
  ASSERT_TRUE(Enter(visitor, {{nullptr, first}, {Named("here"), nullptr}, {nullptr, last}}).ok());
  last->End(Named("last"));
  EXPECT_THAT(visitor.went_on_with, IsEmpty());
  EXPECT_EQ(room_.size(), 1);
  first->End(Named("first"));
  EXPECT_THAT(visitor.went_on_with, ElementsAre("first", "here", "last"));
  EXPECT_EQ(room_.size(), 0);
  EXPECT_THAT(refused_, IsEmpty());
}

TEST_F(WaitingRoomTest, ATicketThatHasEndedLetsThrough) {
  Visitor visitor;
  const auto ticket = Ticket();
  ticket->End(Named("a"));
  ASSERT_TRUE(Enter(visitor, {{nullptr, ticket}}).ok());
  EXPECT_THAT(visitor.went_on_with, ElementsAre("a"));
}

TEST_F(WaitingRoomTest, AFailureEndsItAtOnceAndOnce) {
  Visitor visitor;
  const auto one = Ticket();
  const auto other = Ticket();
  ASSERT_TRUE(Enter(visitor, {{nullptr, one}, {nullptr, other}}).ok());
  one->End(absl::NotFoundError("gone"));
  EXPECT_TRUE(absl::IsNotFound(visitor.End()));
  other->End(absl::DataLossError("late"));
  EXPECT_THAT(visitor.went_on_with, IsEmpty());
  EXPECT_THAT(refused_, ElementsAre(absl::StatusCode::kNotFound));
}

TEST_F(WaitingRoomTest, WhatCannotGoOnIsRefused) {
  Visitor visitor;
  const auto ticket = Ticket();
  ASSERT_TRUE(Enter(visitor, {{nullptr, ticket}}).ok());
  go_on_ = TryLater("the queue is full");
  ticket->End(Named("a"));
  EXPECT_TRUE(absl::IsUnavailable(visitor.End()));
  EXPECT_THAT(refused_, ElementsAre(absl::StatusCode::kUnavailable));
}

TEST_F(WaitingRoomTest, BoundsCallsAndTokens) {
  const auto ticket = Ticket();
  Visitor visitors[3];
  for (Visitor& visitor : visitors) ASSERT_TRUE(Enter(visitor, {{nullptr, ticket}}, 3).ok());
  Visitor fourth;
  EXPECT_TRUE(absl::IsUnavailable(Enter(fourth, {{nullptr, ticket}}, 1)));
  visitors[0].answer->Cancel();
  room_.Tick(absl::UnixEpoch());
  EXPECT_TRUE(absl::IsUnavailable(Enter(fourth, {{nullptr, ticket}}, 5)));
  EXPECT_TRUE(Enter(fourth, {{nullptr, ticket}}, 4).ok());
}

TEST_F(WaitingRoomTest, OneTenantFillsItsPartAlone) {
  WaitingRoom room({.requests_max = 4, .tokens_max = 20, .tenant_parts = 2},
                   [](const absl::Status&) {});
  const auto ticket = Ticket();
  const auto enter = [&](const std::string& tenant, int64_t tokens) {
    auto answer = std::make_shared<RunningAnswer>(AnswerOptions{}, &control_);
    return room.Enter({tenant, {{nullptr, ticket}}, std::move(answer), tokens}).ok();
  };
  EXPECT_TRUE(enter("red", 4));
  EXPECT_FALSE(enter("red", 7));
  EXPECT_TRUE(enter("red", 6));
  EXPECT_FALSE(enter("red", 0));
  EXPECT_TRUE(enter("blue", 10));
  EXPECT_TRUE(enter("green", 0));
  EXPECT_FALSE(enter("white", 0)) << "full";
}

TEST_F(WaitingRoomTest, DeadlinesAndCancelsEndTheWaitAlone) {
  const auto ticket = Ticket();
  Visitor late;
  Visitor gone;
  Visitor patient;
  const absl::Time deadline = absl::UnixEpoch() + absl::Seconds(5);
  ASSERT_TRUE(Enter(late, {{nullptr, ticket}}, 1, deadline).ok());
  ASSERT_TRUE(Enter(gone, {{nullptr, ticket}}).ok());
  ASSERT_TRUE(Enter(patient, {{nullptr, ticket}}).ok());
  room_.Tick(deadline - absl::Milliseconds(1));
  EXPECT_EQ(room_.size(), 3);
  gone.answer->Cancel();
  EXPECT_TRUE(absl::IsCancelled(gone.End()));
  room_.Tick(deadline);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.End()));
  EXPECT_EQ(room_.size(), 1);
  EXPECT_THAT(refused_, ElementsAre(absl::StatusCode::kDeadlineExceeded));
  ticket->End(Named("a"));
  EXPECT_THAT(patient.went_on_with, ElementsAre("a"));
  EXPECT_THAT(gone.went_on_with, IsEmpty());
  EXPECT_THAT(late.went_on_with, IsEmpty());
}

TEST_F(WaitingRoomTest, ClosingEndsAllAndLetsNobodyIn) {
  const auto ticket = Ticket();
  Visitor visitor;
  ASSERT_TRUE(Enter(visitor, {{nullptr, ticket}}).ok());
  room_.Close(absl::UnavailableError("shutting down"));
  EXPECT_TRUE(absl::IsUnavailable(visitor.End()));
  EXPECT_TRUE(absl::IsUnavailable(Enter(visitor, {{nullptr, ticket}})));
  ticket->End(Named("a"));
  EXPECT_THAT(visitor.went_on_with, IsEmpty());
}

}  // namespace
}  // namespace lorica
