#include "server/api/accounts.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using Charges = std::vector<std::shared_ptr<Charge>>;

class AccountsTest : public ::testing::Test {
 protected:
  static TenantPtr Make(Tenant tenant) {
    if (tenant.name == kDefaultTenant) tenant.name = "t";
    return std::make_shared<const Tenant>(std::move(tenant));
  }
  // How many of `tries` calls are let in; they stay open.
  int Enter(const TenantPtr& tenant, int tries) {
    int entered = 0;
    for (int i = 0; i < tries; ++i) {
      auto charge = accounts_->Enter(tenant);
      if (charge.ok()) {
        ++entered;
        open_.push_back(*std::move(charge));
      } else {
        EXPECT_TRUE(absl::IsResourceExhausted(charge.status())) << charge.status();
        last_ = charge.status();
      }
    }
    return entered;
  }
  // Waits as long as the last refusal says, and no longer.
  void WaitAsTold() {
    const auto delay = RetryDelayOf(last_);
    ASSERT_TRUE(delay.has_value());
    EXPECT_GT(*delay, absl::ZeroDuration());
    now_ += *delay;
  }

  absl::Time now_ = absl::FromUnixSeconds(1'000);
  std::shared_ptr<Accounts> accounts_ = std::make_shared<Accounts>([this] { return now_; });
  Charges open_;
  absl::Status last_;
};

TEST_F(AccountsTest, RequestsAMinute) {
  const TenantPtr tenant = Make({.requests_per_minute = 60});
  EXPECT_EQ(Enter(tenant, 61), 60);
  EXPECT_THAT(std::string(last_.message()), HasSubstr("60 requests a minute"));
  now_ += absl::Milliseconds(990);
  EXPECT_EQ(Enter(tenant, 1), 0);
  WaitAsTold();
  EXPECT_EQ(Enter(tenant, 2), 1);
  now_ += absl::Hours(5);
  EXPECT_EQ(Enter(tenant, 70), 60) << "a bucket holds a minute's worth";
}

TEST_F(AccountsTest, TokensAMinuteAreTakenAsTheyCome) {
  const TenantPtr tenant = Make({.tokens_per_minute = 600});
  EXPECT_EQ(Enter(tenant, 2), 2);
  open_[0]->Tokens(599);
  EXPECT_EQ(Enter(tenant, 1), 1) << "one is left";
  open_[1]->Tokens(601);  // beyond: what runs goes on
  EXPECT_EQ(Enter(tenant, 1), 0);
  now_ += absl::Seconds(59);
  EXPECT_EQ(Enter(tenant, 1), 0) << "600 below zero takes a minute";
  WaitAsTold();
  EXPECT_EQ(Enter(tenant, 1), 1);
}

// What is left, by what can still be taken until nobody is let in.
TEST_F(AccountsTest, InTheEndWhatIsBilledHasBeenTaken) {
  const TenantPtr tenant = Make({.tokens_per_minute = 1000});
  int64_t left = 1000;
  const auto expect_left = [&](const char* why) {
    auto probe = *accounts_->Enter(tenant);
    probe->Tokens(left - 1);
    EXPECT_EQ(Enter(tenant, 1), 1) << why;
    probe->Tokens(1);
    EXPECT_EQ(Enter(tenant, 1), 0) << why;
    open_.clear();
  };
  auto charge = *accounts_->Enter(tenant);
  charge->Tokens(500);
  charge->Tokens(30);
  charge->Bill({.requests = 1, .prompt_tokens = 200, .completion_tokens = 20, .cached_tokens = 90});
  charge->Tokens(7);
  charge->Bill({.requests = 1, .prompt_tokens = 1});
  left -= 220;
  expect_left("cancelled within its prompt, and later tokens are nobody's");
  charge = *accounts_->Enter(tenant);
  charge->Tokens(500);
  charge->Bill({});
  expect_left("cancelled in the queue");
  charge = *accounts_->Enter(tenant);
  charge->Tokens(500);
  charge = nullptr;
  expect_left("dropped");
  charge = *accounts_->Enter(tenant);
  charge->Bill({.requests = 1, .prompt_tokens = 40});
  charge->Tokens(40);
  left -= 40;
  expect_left("billed before it was told what it took");
  ASSERT_EQ(accounts_->Bill("t").size(), 1u);
  EXPECT_EQ(accounts_->Bill("t")[0].usage.requests, 2) << "what was not computed is on no bill";
  EXPECT_EQ(accounts_->Bill("t")[0].usage.prompt_tokens, 240);
}

TEST_F(AccountsTest, WhatIsGivenBackIsNoMoreThanAMinutesWorth) {
  const TenantPtr tenant = Make({.tokens_per_minute = 100});
  ASSERT_EQ(Enter(tenant, 1), 1);
  open_[0]->Tokens(100);
  now_ += absl::Minutes(1);
  open_.clear();
  auto charge = *accounts_->Enter(tenant);
  charge->Tokens(100);
  EXPECT_EQ(Enter(tenant, 1), 0);
}

TEST_F(AccountsTest, ARefusalSaysWhenToTryAgain) {
  const TenantPtr tenant = Make({.requests_per_minute = 2});
  EXPECT_EQ(Enter(tenant, 3), 2);
  EXPECT_THAT(std::string(last_.message()), HasSubstr("2 requests a minute; try again in 30 s"));
  now_ += absl::Milliseconds(29500);
  EXPECT_EQ(Enter(tenant, 1), 0);
  EXPECT_THAT(std::string(last_.message()), HasSubstr("try again in 1 s"));
  now_ += absl::Milliseconds(500);
  EXPECT_EQ(Enter(tenant, 1), 1);
}

TEST(CheckAtOnceTest, WhatQuotasNeverLetInTogetherIsTheCallersMistake) {
  EXPECT_TRUE(CheckAtOnce({.name = "t"}, 1000).ok());
  EXPECT_TRUE(CheckAtOnce({.name = "t", .requests_per_minute = 5, .streams = 3}, 3).ok());
  const absl::Status streams = CheckAtOnce({.name = "t", .streams = 3}, 4);
  EXPECT_TRUE(absl::IsInvalidArgument(streams)) << streams;
  EXPECT_THAT(std::string(streams.message()), HasSubstr("4 answers at once, and tenant 't' never "
                                                        "has more than 3 streams at a time"));
  EXPECT_TRUE(CheckAtOnce({.name = "t", .requests_per_minute = 5}, 5).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckAtOnce({.name = "t", .requests_per_minute = 5}, 6)));
}

TEST_F(AccountsTest, StreamsAtATime) {
  const TenantPtr tenant = Make({.streams = 3});
  EXPECT_EQ(Enter(tenant, 5), 3);
  EXPECT_THAT(std::string(last_.message()), HasSubstr("3 streams at a time"));
  open_[0]->End();
  open_[0]->End();  // counts once
  EXPECT_EQ(Enter(tenant, 2), 1);
  open_.clear();
  EXPECT_EQ(Enter(tenant, 5), 3) << "what is dropped has ended";
}

TEST_F(AccountsTest, TenantsDoNotShareQuotasAndZeroIsNone) {
  EXPECT_EQ(Enter(Make({.name = "a", .streams = 1}), 2), 1);
  EXPECT_EQ(Enter(Make({.name = "b", .streams = 1}), 2), 1);
  EXPECT_EQ(Enter(Make({.name = "c"}), 1000), 1000);
}

TEST_F(AccountsTest, ALowerLimitCountsAtOnce) {
  EXPECT_EQ(Enter(Make({.requests_per_minute = 1000, .streams = 10}), 5), 5);
  EXPECT_EQ(Enter(Make({.requests_per_minute = 2, .streams = 100}), 5), 2);
  EXPECT_EQ(Enter(Make({.streams = 7}), 5), 0);
}

TEST_F(AccountsTest, AClockThatGoesBackGivesNothing) {
  const TenantPtr tenant = Make({.requests_per_minute = 2});
  EXPECT_EQ(Enter(tenant, 3), 2);
  now_ -= absl::Hours(24);
  EXPECT_EQ(Enter(tenant, 3), 0);
  now_ += absl::Hours(24);
  EXPECT_EQ(Enter(tenant, 3), 0);
}

TEST(BillKey, IsThatOfTheMixWhateverItsOrder) {
  EXPECT_EQ(BillKey({}), "");
  EXPECT_EQ(BillKey({"b"}), "b");
  EXPECT_EQ(BillKey({"b", "a"}), "a+b");
  EXPECT_EQ(BillKey({"b", "a", "b"}), "a+b");
}

TEST_F(AccountsTest, EachAnswerIsBilledOnce) {
  const TenantPtr tenant = Make({});
  ASSERT_EQ(Enter(tenant, 2), 2);
  open_[0]->SetGeneration("g");
  open_[0]->Bill({.requests = 1, .prompt_tokens = 10, .completion_tokens = 5, .cached_tokens = 4});
  open_[0]->Bill({.requests = 1, .prompt_tokens = 10, .completion_tokens = 9});
  open_[1]->Bill({.requests = 1, .prompt_tokens = 1});
  const std::vector<UsageRow> rows = accounts_->Bill("t");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].generation, "");
  EXPECT_EQ(rows[0].usage.prompt_tokens, 1);
  EXPECT_EQ(rows[1].generation, "g");
  EXPECT_EQ(rows[1].usage.completion_tokens, 5);
  EXPECT_EQ(rows[1].usage.cached_tokens, 4);
  EXPECT_TRUE(accounts_->Bill("other").empty());
  EXPECT_EQ(accounts_->Bill("").size(), 2u);
}

TEST_F(AccountsTest, TheServersOwnCallsAreNobodys) {
  ASSERT_EQ(Enter(std::make_shared<const Tenant>(Tenant{.name = ""}), 1), 1);
  open_[0]->Bill({.requests = 1, .prompt_tokens = 10});
  EXPECT_TRUE(accounts_->Bill("").empty());
}

TEST_F(AccountsTest, RowsAreBoundedAndSumsStayExact) {
  const TenantPtr tenant = Make({});
  for (int i = 0; i < kUsageRowsMax + 2; ++i) {
    auto charge = *accounts_->Enter(tenant);
    charge->SetGeneration(absl::StrCat("g", i));
    charge->Bill({.requests = 1, .prompt_tokens = 3});
  }
  const std::vector<UsageRow> rows = accounts_->Bill("");
  EXPECT_EQ(std::ssize(rows), kUsageRowsMax + 1);
  int64_t prompt = 0;
  int64_t other = 0;
  for (const UsageRow& row : rows) {
    prompt += row.usage.prompt_tokens;
    if (row.generation == kUsageOther) other = row.usage.requests;
  }
  EXPECT_EQ(prompt, 3 * (kUsageRowsMax + 2));
  EXPECT_EQ(other, 2);
}

TEST_F(AccountsTest, TotalsHaveARowForEachOfTheFirstTenantsAndOneForTheRest) {
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < kTenantTotalsMax + 3; ++i) {
      accounts_->Add({absl::StrCat("t", i), "a", {.requests = 1, .completion_tokens = i}});
      accounts_->Add({absl::StrCat("t", i), "", {.requests = 1}});
    }
  }
  const std::vector<UsageRow> rows = accounts_->Totals();
  EXPECT_EQ(std::ssize(rows), kTenantTotalsMax + 1);
  for (const UsageRow& row : rows) {
    EXPECT_EQ(row.usage.requests, row.tenant == kUsageOther ? 12 : 4) << row.tenant;
    if (row.tenant != "t5") continue;
    EXPECT_EQ(row.usage.completion_tokens, 10);
  }
}

TEST_F(AccountsTest, ThreadsAddUp) {
  const TenantPtr tenant = Make({.streams = 4});
  std::vector<std::thread> threads;
  std::atomic<int> entered = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 2000; ++k) {
        auto charge = accounts_->Enter(tenant);
        if (!charge.ok()) continue;
        ++entered;
        (*charge)->Bill({.requests = 1});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(accounts_->Bill("t")[0].usage.requests, entered);
  EXPECT_EQ(Enter(tenant, 5), 4);
}

}  // namespace
}  // namespace lorica
