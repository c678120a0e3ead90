#include "adapters/merged_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/fake_loader.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

class MergedAdaptersTest : public ::testing::Test {
 protected:
  MergedAdaptersTest() {
    limits_.clock = [this] { return now_; };
    for (uint32_t seed = 1; seed <= 3; ++seed) {
      const std::string name = absl::StrCat("part-", seed);
      SmallestAdapter(seed).WriteTo(folder_, name);
      parts_.push_back(*loader_.Identify(source_, name));
    }
    merged_ = std::make_unique<MergedAdapters>(limits_, &loader_, &executor_);
  }

  ~MergedAdaptersTest() override { executor_.RunAll(); }  // or Stop would wait for it

  std::vector<MergedAdapters::Part> Parts(double weight = 0.5) const {
    return {{{parts_[0], nullptr}, weight}, {{parts_[1], nullptr}, 0.5}};
  }
  // What the ticket ended with; Unknown while it has not.
  static absl::StatusOr<GenerationPtr> EndOf(const FoundAdapter& found) {
    absl::StatusOr<GenerationPtr> end = absl::UnknownError("not yet");
    if (found.ticket == nullptr) return found.generation;
    auto told = std::make_shared<absl::StatusOr<GenerationPtr>>(end);
    found.ticket->WhenDone([told](const absl::StatusOr<GenerationPtr>& r) { *told = r; });
    return *told;
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, 1 << 20};
  std::shared_ptr<Source> source_ = *MakeLocalSource(folder_.path());
  fakes::HeldExecutor executor_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  MergeLimits limits_{.running_max = 2, .known_max = 2};
  std::vector<GenerationPtr> parts_;
  std::unique_ptr<MergedAdapters> merged_;
};

TEST_F(MergedAdaptersTest, MakesAMergeOnceForAllWhoAsk) {
  const auto one = merged_->Find({}, Parts());
  const auto two = merged_->Find({}, Parts());
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->ticket, two->ticket);
  EXPECT_EQ(executor_.held(), 1);
  executor_.RunAll();
  const auto made = EndOf(*one);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ((*made)->rank_max, 4);
  EXPECT_TRUE(loader_.LoadImage(**made).ok());
  // Found while it is used, made anew when it is not, to the same content.
  EXPECT_EQ(merged_->Find({}, Parts())->generation, *made);
  EXPECT_EQ(merged_->made(), 1);
}

TEST_F(MergedAdaptersTest, WhatNobodyUsesIsMadeAnewToTheSameContent) {
  std::string digest;
  for (int i = 0; i < 2; ++i) {
    const auto found = merged_->Find({}, Parts());
    ASSERT_TRUE(found.ok() && found->ticket != nullptr) << i;
    executor_.RunAll();
    const auto made = EndOf(*found);
    ASSERT_TRUE(made.ok()) << made.status();
    if (i == 0) digest = (*made)->digest;
    EXPECT_EQ((*made)->digest, digest);
  }
  EXPECT_EQ(merged_->made(), 2);
}

TEST_F(MergedAdaptersTest, BoundsWhatIsBeingMade) {
  EXPECT_TRUE(merged_->Find({}, Parts(0.1)).ok());
  EXPECT_TRUE(merged_->Find({}, Parts(0.2)).ok());
  EXPECT_TRUE(absl::IsUnavailable(merged_->Find({}, Parts(0.3)).status()));
  EXPECT_TRUE(merged_->Find({}, Parts(0.2)).ok());  // nothing new
  executor_.RunAll();
  EXPECT_TRUE(merged_->Find({}, Parts(0.3)).ok());
}

TEST_F(MergedAdaptersTest, BoundsWhatIsRemembered) {
  std::vector<GenerationPtr> used;
  const auto make = [&](double weight) {
    const auto found = merged_->Find({}, Parts(weight));
    ASSERT_TRUE(found.ok() && found->ticket != nullptr) << weight << " is remembered already";
    executor_.RunAll();
    const auto made = EndOf(*found);
    ASSERT_TRUE(made.ok()) << made.status();
    used.push_back(*made);
  };
  const auto found = [&](double weight) {
    return merged_->Find({}, Parts(weight))->generation != nullptr;
  };
  make(0.1);
  make(0.2);
  EXPECT_EQ(merged_->known(), limits_.known_max);
  EXPECT_TRUE(found(0.1) && found(0.2));
  make(0.3);  // used like the others, so it takes the place of one of them
  EXPECT_EQ(merged_->known(), limits_.known_max);
  EXPECT_TRUE(found(0.3));
  EXPECT_EQ(found(0.1) + found(0.2), 1);
}

TEST_F(MergedAdaptersTest, WhatNobodyUsesGivesWayFirst) {
  const auto make = [&](double weight) {
    const auto found = merged_->Find({}, Parts(weight));
    executor_.RunAll();
    return *EndOf(*found);
  };
  for (const double used_weight : {0.1, 0.2}) {  // whatever their order in the table
    const GenerationPtr used = make(used_weight);
    make(0.3);
    const GenerationPtr newer = make(0.4);
    EXPECT_EQ(merged_->known(), limits_.known_max);
    EXPECT_EQ(merged_->Find({}, Parts(used_weight))->generation, used);
    EXPECT_EQ(merged_->Find({}, Parts(0.4))->generation, newer);
  }
}

TEST_F(MergedAdaptersTest, RemembersAFailureForAWhile) {
  const MergeRule ties{.method = MergeMethod::kTies, .density = 0.5};
  SmallestAdapter(9).WriteTo(folder_, "part-1");  // no longer what was identified
  const auto found = merged_->Find(ties, Parts());
  ASSERT_TRUE(found.ok());
  executor_.RunAll();
  EXPECT_TRUE(absl::IsDataLoss(EndOf(*found).status()));
  EXPECT_TRUE(absl::IsDataLoss(merged_->Find(ties, Parts()).status()));
  EXPECT_EQ(executor_.held(), 0);
  now_ += limits_.failure_ttl * 2;
  EXPECT_TRUE(merged_->Find(ties, Parts()).ok());
  EXPECT_EQ(executor_.held(), 1);
}

TEST_F(MergedAdaptersTest, RefusesAWrongRecipeAtOnce) {
  EXPECT_TRUE(
      absl::IsInvalidArgument(merged_->Find({.method = MergeMethod::kTies}, Parts()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(merged_->Find({}, {Parts()[0]}).status()));
  EXPECT_EQ(executor_.held(), 0);
}

TEST_F(MergedAdaptersTest, WaitsForPartsThatAreBeingFetched) {
  const auto fetch = std::make_shared<FetchTicket>();
  const auto other = std::make_shared<FetchTicket>();
  const auto found = merged_->Find({}, {{{nullptr, fetch}, 0.5}, {{nullptr, other}, 0.5}});
  ASSERT_TRUE(found.ok() && found->ticket != nullptr);
  fetch->End(parts_[0]);
  EXPECT_EQ(executor_.held(), 0);
  other->End(parts_[1]);
  EXPECT_EQ(executor_.held(), 1);
  executor_.RunAll();
  const auto made = EndOf(*found);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(merged_->Find({}, Parts())->generation, *made);
}

TEST_F(MergedAdaptersTest, AFetchThatFailsEndsTheMerge) {
  const auto fetch = std::make_shared<FetchTicket>();
  const auto found = merged_->Find({}, {{{parts_[0], nullptr}, 0.5}, {{nullptr, fetch}, 0.5}});
  fetch->End(absl::NotFoundError("no such repository"));
  EXPECT_TRUE(absl::IsNotFound(EndOf(*found).status()));
  EXPECT_EQ(executor_.held(), 0);
}

}  // namespace
}  // namespace lorica
