#include "server/grammar/grammar_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/grammar/byte_vocabulary.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

absl::Status AsItIs(const absl::Status& status) { return status; }
void NobodyWakes() {}

class GrammarStoreTest : public testing::Test {
 protected:
  void Start(GrammarLimits limits = {}) {
    auto store = GrammarStore::Make(ByteVocabulary(), TrialProgram(), limits, /*mask_threads=*/2);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  std::shared_ptr<TokenConstraint> Constrain(const std::string& regex) {
    auto constraint = store_->Constrain("", {FormatKind::kRegex, regex}, NobodyWakes, AsItIs);
    EXPECT_TRUE(constraint.ok()) << constraint.status();
    return *constraint;
  }
  absl::StatusOr<std::shared_ptr<TokenConstraint>> Endless(const std::string& tenant, int i) {
    return store_->Constrain(tenant, EndlessFormat(i), NobodyWakes, AsItIs);
  }
  // `count` of them, all different.
  std::vector<std::shared_ptr<TokenConstraint>> ManyEndless(const std::string& tenant, int count) {
    std::vector<std::shared_ptr<TokenConstraint>> made;
    for (int i = 0; i < count; ++i) made.push_back(*Endless(tenant, i));
    return made;
  }
  // The next mask, however long it takes.
  absl::StatusOr<std::vector<int32_t>> Mask(TokenConstraint& constraint) {
    std::vector<int32_t> mask(9);
    const absl::StatusOr<bool> taken = constraint.TakeMask(absl::Seconds(60), absl::MakeSpan(mask));
    if (!taken.ok()) return taken.status();
    EXPECT_TRUE(*taken);
    return mask;
  }

  std::unique_ptr<GrammarStore> store_;
};

TEST_F(GrammarStoreTest, AConstraintFollowsItsTokensToTheEnd) {
  Start();
  const auto constraint = Constrain("a[0-9]b");
  for (const char token : std::string("a7b")) {
    const auto mask = Mask(*constraint);
    ASSERT_TRUE(mask.ok()) << mask.status();
    EXPECT_TRUE(Allows(*mask, token));
    EXPECT_FALSE(Allows(*mask, kEndToken));
    constraint->Accept(token);
  }
  const auto mask = Mask(*constraint);
  ASSERT_TRUE(mask.ok());
  EXPECT_TRUE(Allows(*mask, kEndToken));
  EXPECT_EQ(store_->stats().masks, 4);
}

TEST_F(GrammarStoreTest, EachAnswerWalksItsOwnWayThroughASharedGrammar) {
  Start();
  const auto one = Constrain("[ab]c");
  const auto other = Constrain("[ab]c");
  ASSERT_TRUE(Mask(*one).ok());
  one->Accept('a');
  EXPECT_TRUE(Allows(*Mask(*one), 'c'));
  EXPECT_FALSE(Allows(*Mask(*other), 'c'));
  EXPECT_EQ(store_->stats().compiled, 1);
  EXPECT_EQ(store_->stats().misses, 1);
  EXPECT_EQ(store_->stats().hits, 1);
}

TEST_F(GrammarStoreTest, WakesWhoAskedInVain) {
  Start();
  absl::Mutex mutex;
  int woken = 0;
  const auto wake = [&] {
    absl::MutexLock lock(&mutex);
    ++woken;
  };
  // Asks once more after each wake, and never in between.
  const auto wait_for = [&](TokenConstraint& constraint) -> absl::Status {
    while (true) {
      mutex.Lock();
      const int before = woken;
      mutex.Unlock();
      const absl::StatusOr<bool> ready = constraint.Ready();
      if (!ready.ok() || *ready) return ready.status();
      const auto more = [&]() { return woken > before; };
      absl::MutexLock lock(&mutex);
      EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&more), absl::Seconds(30)));
    }
  };
  auto constraint = *store_->Constrain("", {FormatKind::kRegex, "ab"}, wake, AsItIs);
  EXPECT_TRUE(wait_for(*constraint).ok());
  constraint->Accept('a');
  EXPECT_TRUE(wait_for(*constraint).ok());
  auto broken = *store_->Constrain("", {FormatKind::kRegex, "("}, wake, AsItIs);
  EXPECT_TRUE(absl::IsInvalidArgument(wait_for(*broken)));
}

TEST_F(GrammarStoreTest, FaultsAreExplainedCountedAndRemembered) {
  Start({.trial = {.cpu = absl::Milliseconds(200)}});
  const auto explain = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("the format ", status.message()));
  };
  const auto fault = [&](const ResponseFormat& format) {
    auto constraint = store_->Constrain("", format, NobodyWakes, explain);
    return Mask(**constraint).status();
  };
  for (int i = 0; i < 2; ++i) {
    const absl::Status broken = fault({FormatKind::kRegex, "("});
    EXPECT_TRUE(absl::IsInvalidArgument(broken)) << broken;
    EXPECT_THAT(std::string(broken.message()), testing::StartsWith("the format "));
    const absl::Status slow = fault(EndlessFormat());
    EXPECT_TRUE(absl::IsInvalidArgument(slow)) << slow;
    EXPECT_THAT(std::string(slow.message()), HasSubstr("takes more than 200ms to compile and try"));
  }
  EXPECT_EQ(store_->stats().refused, 1);
  EXPECT_EQ(store_->stats().exceeded, 1);
  EXPECT_EQ(store_->stats().hits, 2);
}

TEST_F(GrammarStoreTest, EntriesAreBoundedAndTheLeastRecentlyUsedGives) {
  Start({.entries = 2});
  ASSERT_TRUE(Mask(*Constrain("a")).ok());
  ASSERT_TRUE(Mask(*Constrain("b")).ok());
  EXPECT_EQ(store_->stats().entries, 2);
  EXPECT_EQ(store_->stats().evictions, 0);
  ASSERT_TRUE(Mask(*Constrain("a")).ok());
  ASSERT_TRUE(Mask(*Constrain("c")).ok());  // in the place of b
  EXPECT_EQ(store_->stats().entries, 2);
  EXPECT_EQ(store_->stats().evictions, 1);
  ASSERT_TRUE(Mask(*Constrain("a")).ok());
  EXPECT_EQ(store_->stats().misses, 3);
  ASSERT_TRUE(Mask(*Constrain("b")).ok());
  EXPECT_EQ(store_->stats().misses, 4);
}

TEST_F(GrammarStoreTest, BytesAreBounded) {
  Start();
  ASSERT_TRUE(Mask(*Constrain("ab")).ok());
  ASSERT_TRUE(Mask(*Constrain("cd")).ok());
  const int64_t both = store_->stats().bytes;
  Start({.bytes = both});
  ASSERT_TRUE(Mask(*Constrain("ab")).ok());
  ASSERT_TRUE(Mask(*Constrain("cd")).ok());
  EXPECT_EQ(store_->stats().entries, 2);
  EXPECT_EQ(store_->stats().bytes, both);
  Start({.bytes = both - 1});
  ASSERT_TRUE(Mask(*Constrain("ab")).ok());
  const auto second = Constrain("cd");
  ASSERT_TRUE(Mask(*second).ok());
  EXPECT_EQ(store_->stats().entries, 1);
  EXPECT_LT(store_->stats().bytes, both);
  second->Accept('c');  // what is forgotten is still walked by those who have it
  EXPECT_TRUE(Allows(*Mask(*second), 'd'));
}

TEST_F(GrammarStoreTest, FormatsThatWaitToBeCompiledAreBounded) {
  Start({.compiles_waiting = 2, .trial = {.cpu = absl::Seconds(1)}});
  const auto slow = [&](int i) { return Endless("", i); };
  const auto first = slow(1);
  const auto second = slow(2);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(absl::IsUnavailable(slow(3).status())) << slow(3).status();
  EXPECT_EQ(*(*first)->Ready(), false);
  EXPECT_FALSE(Mask(**first).ok());
  EXPECT_FALSE(Mask(**second).ok());
  EXPECT_TRUE(slow(4).ok());
}

TEST_F(GrammarStoreTest, FormatsOfOneTenantThatWaitAreBounded) {
  Start({.compiles_waiting = 4, .tenant_compiles_waiting = 2, .trial = {.cpu = absl::Seconds(1)}});
  const auto slow = [&](const std::string& tenant, int i) { return Endless(tenant, i); };
  const auto first = slow("greedy", 1);
  const auto second = slow("greedy", 2);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(absl::IsUnavailable(slow("greedy", 3).status()));
  const auto again = slow("greedy", 2);  // nothing more to compile
  EXPECT_TRUE(again.ok()) << again.status();
  const auto other = slow("modest", 4);
  EXPECT_TRUE(other.ok()) << other.status();
  EXPECT_FALSE(Mask(**first).ok());
  EXPECT_FALSE(Mask(**second).ok());
  EXPECT_TRUE(slow("greedy", 5).ok());
}

TEST_F(GrammarStoreTest, WhatNobodyWaitsForAnyMoreIsNotCompiled) {
  GrammarLimits limits;
  limits.trial.cpu = absl::Seconds(4);
  Start(limits);
  auto gone = ManyEndless("", 20);
  EXPECT_EQ(store_->stats().waiting, 20);
  gone.clear();
  const auto stays = Constrain("ab");
  ASSERT_TRUE(Mask(*stays).ok());
  EXPECT_LE(store_->stats().waiting, kCompileThreads);
  EXPECT_EQ(store_->stats().exceeded, 0);
}

TEST_F(GrammarStoreTest, AnAnswerWhoseMasksTakeTooLongEnds) {
  Start({.mask_cpu = absl::ZeroDuration()});
  const absl::Status slow = Mask(*Constrain("a+")).status();
  EXPECT_TRUE(absl::IsInvalidArgument(slow)) << slow;
  EXPECT_THAT(std::string(slow.message()), HasSubstr("for one token"));
  EXPECT_EQ(store_->stats().slow_masks, 1);
  EXPECT_TRUE(absl::IsInvalidArgument(Mask(*Constrain("a+")).status()));
  EXPECT_EQ(store_->stats().masks, 1);
}

TEST(MaskThreadsFor, AreHalfOfTheCoresUpToTheirBound) {
  EXPECT_EQ(MaskThreadsFor(0), 1) << "nobody knows how many there are";
  EXPECT_EQ(MaskThreadsFor(1), 1);
  EXPECT_EQ(MaskThreadsFor(6), 3);
  EXPECT_EQ(MaskThreadsFor(2 * kMaskThreadsMax), kMaskThreadsMax);
  EXPECT_EQ(MaskThreadsFor(2 * kMaskThreadsMax + 2), kMaskThreadsMax);
}

TEST_F(GrammarStoreTest, APatienceThatEndsIsNoFault) {
  Start();
  auto constraint = *store_->Constrain("", EndlessFormat(), NobodyWakes, AsItIs);
  std::vector<int32_t> mask(9);
  EXPECT_EQ(*constraint->TakeMask(absl::ZeroDuration(), absl::MakeSpan(mask)), false);
}

TEST_F(GrammarStoreTest, AConstraintMayOutliveItsStore) {
  Start();
  const auto constraint = Constrain("ab");
  ASSERT_TRUE(Mask(*constraint).ok());
  store_.reset();
  constraint->Accept('a');
  EXPECT_TRUE(absl::IsUnavailable(Mask(*constraint).status()));
}

// One thread stays with what takes a moment, and whoever asks for little does not wait for all of
// somebody else's.
TEST_F(GrammarStoreTest, WhatTakesLongHoldsUpNobodyElse) {
  GrammarLimits limits;
  limits.trial.cpu = absl::Seconds(4);
  Start(limits);
  const auto greedy = ManyEndless("greedy", 6);
  const auto modest = *store_->Constrain("modest", {FormatKind::kRegex, "ab"}, NobodyWakes, AsItIs);
  const auto mask = Mask(*modest);
  ASSERT_TRUE(mask.ok()) << mask.status();
  EXPECT_TRUE(Allows(*mask, 'a'));
  EXPECT_EQ(store_->stats().exceeded, 0);
  EXPECT_EQ(store_->stats().waiting, 6);
}

}  // namespace
}  // namespace lorica
