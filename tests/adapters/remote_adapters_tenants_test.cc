// Who brings what, and who waits for whom.
#include <gmock/gmock.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/adapters/remote_adapters_fixture.h"

namespace lorica {
namespace {

using ::testing::IsEmpty;

TEST_F(RemoteAdaptersTest, AnothersTokenOpensNothingForMe) {
  hub_.SetAccess("org/a", HubAccess::kPrivate, "hf_mine");
  ASSERT_TRUE(Get({"org/a", "main", "hf_mine"}).ok());
  EXPECT_TRUE(Get({"org/a", "main", "hf_mine"}).ok());
  EXPECT_FALSE(Get({"org/a", "main", "hf_yours"}).ok());
  EXPECT_TRUE(absl::IsNotFound(Get("org/a").status()));
  EXPECT_THAT(adapters_->List(), IsEmpty());
  EXPECT_EQ(Downloads(), 1);
}

TEST_F(RemoteAdaptersTest, TenantsDoNotShareWhatATokenOpened) {
  hub_.SetAccess("org/a", HubAccess::kPrivate, "hf_shared");
  const auto mine = Get({"org/a", "main", "hf_shared", "me"});
  ASSERT_TRUE(mine.ok()) << mine.status();
  EXPECT_EQ(Downloads(), 1);
  hub_.SetAccess("org/a", HubAccess::kPrivate, "hf_new");  // the old one is revoked
  EXPECT_TRUE(Get({"org/a", "main", "hf_shared", "me"}).ok());
  EXPECT_FALSE(Get({"org/a", "main", "hf_shared", "you"}).ok()) << "who has not been let in";
}

TEST_F(RemoteAdaptersTest, TokensThatAreNoneAreNotSent) {
  for (const std::string token : {"with blank", "with\r\nHeader: x", "\x01"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Get({"org/a", "main", token}).status()));
  }
  EXPECT_TRUE(hub_.requests().empty());
}

TEST_F(RemoteAdaptersTest, ASlowFetchHoldsUpNoOther) {
  hub_.Commit("org/slow", files_);
  hub_.AddFault({.target_part = "/org/slow/", .times = -1, .stall_head = true});
  Start();
  const auto slow = adapters_->Find({"org/slow"});
  ASSERT_TRUE(slow.ok());
  const absl::Time begun = absl::Now();
  EXPECT_TRUE(Get("org/a").ok());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
  EXPECT_TRUE(adapters_->Known({"org/slow"}).fetching);
  Result ended = GenerationPtr();
  slow->ticket->WhenDone([&ended](const Result& result) { ended = result; });
  const absl::Time stopped = absl::Now();
  adapters_->Stop();
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(3));
  EXPECT_TRUE(absl::IsCancelled(ended.status())) << ended.status();
  EXPECT_TRUE(absl::IsUnavailable(adapters_->Find({"org/other"}).status()));
}

RemoteName Of(const std::string& tenant, const std::string& repo) {
  return {repo, kDefaultRevision, "", tenant};
}

TEST_F(RemoteAdaptersTest, StalledFetchesOfOneTenantHoldUpNoOther) {
  ASSERT_TRUE(Get(Of("b", "org/a")).ok());
  hub_.Commit("org/cold", files_);
  hub_.AddFault({.target_part = "/org/stalls-", .times = -1, .stall_head = true});
  Start();  // org/a is on disk alone
  for (int i = 0; i < 3 * kDownloads; ++i) {
    ASSERT_TRUE(adapters_->Find(Of("a", absl::StrCat("org/stalls-", i))).ok());
  }
  while (hub_.CountOf("/org/stalls-") < options_.tenant_downloads_max) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const absl::Time begun = absl::Now();
  EXPECT_TRUE(Get(Of("a", "org/a")).ok()) << "its own, which is here";
  EXPECT_TRUE(Get(Of("b", "org/a")).ok());
  EXPECT_TRUE(Get(Of("b", "org/cold")).ok());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
  EXPECT_EQ(hub_.CountOf("/org/stalls-"), options_.tenant_downloads_max);
}

TEST_F(RemoteAdaptersTest, WhatAnotherTenantWantsDoesNotWaitForMyTurn) {
  hub_.Commit("org/cold", files_);
  hub_.AddFault({.target_part = "/org/stalls-", .times = -1, .stall_head = true});
  Start();
  for (int i = 0; i < options_.tenant_downloads_max; ++i) {
    ASSERT_TRUE(adapters_->Find(Of("a", absl::StrCat("org/stalls-", i))).ok());
  }
  const auto mine = adapters_->Find(Of("a", "org/cold"));
  ASSERT_TRUE(mine.ok());
  EXPECT_TRUE(Get(Of("b", "org/cold")).ok());
  Result ended = GenerationPtr();
  mine->ticket->WhenDone([&ended](const Result& result) { ended = result; });
  EXPECT_TRUE(ended.ok() && *ended != nullptr) << "one fetch for both";
}

TEST_F(RemoteAdaptersTest, LooksAtBranchesThatHangHoldUpNoFetch) {
  std::vector<GenerationPtr> held;
  for (int i = 0; i < kDownloads; ++i) {
    const std::string repo = absl::StrCat("org/branch-", i);
    hub_.Commit(repo, FilesOf(SmallestAdapter(i)));
    held.push_back(*Get(Of("a", repo)));
  }
  options_.refreshes_max = kDownloads - 1;
  Start();
  held.clear();
  for (int i = 0; i < kDownloads; ++i) {
    held.push_back(*Get(Of("a", absl::StrCat("org/branch-", i))));
  }
  hub_.AddFault({.target_part = "/org/branch-", .times = -1, .stall_head = true});
  const int64_t started = adapters_->fetches_started();
  for (int i = 0; i < kDownloads; ++i) {
    EXPECT_TRUE(Get(Of("a", absl::StrCat("org/branch-", i))).ok());
  }
  EXPECT_EQ(adapters_->fetches_started() - started, options_.refreshes_max);
  const absl::Time begun = absl::Now();
  EXPECT_TRUE(Get(Of("a", "org/a")).ok());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
}

TEST_F(RemoteAdaptersTest, BoundsTheFetchesOfATenant) {
  options_.tenant_fetches_max = 3;
  hub_.AddFault({.target_part = "/org/slow", .times = -1, .stall_head = true});
  Start();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(adapters_->Find(Of("a", absl::StrCat("org/slow-", i))).ok());
  }
  EXPECT_TRUE(absl::IsUnavailable(adapters_->Find(Of("a", "org/slow-3")).status()));
  EXPECT_TRUE(adapters_->Find(Of("a", "org/slow-0")).ok());
  EXPECT_TRUE(adapters_->Find(Of("b", "org/slow-3")).ok());
}

TEST_F(RemoteAdaptersTest, BoundsTheFetchesUnderWay) {
  options_.fetches_max = 3;
  hub_.AddFault({.target_part = "/org/slow", .times = -1, .stall_head = true});
  Start();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(adapters_->Find({absl::StrCat("org/slow-", i)}).ok());
  EXPECT_TRUE(adapters_->Find({"org/slow-0"}).ok());
  EXPECT_TRUE(absl::IsUnavailable(adapters_->Find({"org/slow-3"}).status()));
}

TEST_F(RemoteAdaptersTest, BoundsWhatIsRemembered) {
  options_.known_max = 2;
  options_.failures_max = 2;
  std::vector<GenerationPtr> held;
  const auto remembered = [this] {
    int count = 0;
    for (int i = 0; i < 4; ++i) {
      count += adapters_->Known({absl::StrCat("org/r", i)}).generation != nullptr;
    }
    return count;
  };
  for (int i = 0; i < 4; ++i) {
    const std::string repo = absl::StrCat("org/r", i);
    hub_.Commit(repo, FilesOf(SmallestAdapter(i)));
    held.push_back(*Get(repo));
    EXPECT_EQ(remembered(), std::min(i + 1, 2));
    EXPECT_EQ(adapters_->List().size(), i + 1u) << "what is on disk is listed all the same";
  }
  const int64_t fetches = adapters_->fetches_started();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Get(absl::StrCat("org/unknown-", i)).ok());
  EXPECT_FALSE(Get("org/unknown-2").ok());
  EXPECT_EQ(adapters_->fetches_started() - fetches, 3);
  EXPECT_FALSE(Get("org/unknown-0").ok());  // was forgotten for the third
  EXPECT_EQ(adapters_->fetches_started() - fetches, 4);
}

}  // namespace
}  // namespace lorica
