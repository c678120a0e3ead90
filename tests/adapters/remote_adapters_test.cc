#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/adapters/remote_adapters_fixture.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(RemoteAdaptersTest, BringsWhatALocalFolderWouldBe) {
  const Result got = Get("org/a");
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ((*got)->digest, LocalDigest(SmallestAdapter()));
  EXPECT_THAT((*got)->location, testing::StartsWith("org/a@"));
  EXPECT_TRUE(loader_.LoadImage(**got).ok());
  EXPECT_EQ(*Get("org/a"), *got);
  EXPECT_EQ(Downloads(), 1);
  EXPECT_THAT(adapters_->List(), ElementsAre("org/a"));
}

TEST_F(RemoteAdaptersTest, OneFetchForAThousand) {
  hub_.AddFault(
      {.target_part = "/blobs/", .before = [] { absl::SleepFor(absl::Milliseconds(50)); }});
  Start();
  std::vector<Result> results(1000, GenerationPtr());
  absl::Mutex mutex;
  int ended = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 10; ++t) {
    threads.emplace_back([&, t] {
      for (int i = t * 100; i < (t + 1) * 100; ++i) {
        const auto found = adapters_->Find({"org/a"});
        ASSERT_TRUE(found.ok()) << found.status();
        const auto end = [&, i](const Result& result) {
          absl::MutexLock lock(&mutex);
          results[i] = result;
          ++ended;
        };
        found->ticket == nullptr ? end(found->generation) : found->ticket->WhenDone(end);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  absl::MutexLock lock(&mutex);
  mutex.Await(absl::Condition(
      +[](int* ended) { return *ended == 1000; }, &ended));
  for (const Result& result : results) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, *results[0]);
  }
  EXPECT_EQ(adapters_->fetches_started(), 1);
  EXPECT_EQ(Downloads(), 1);
  EXPECT_EQ(hub_.CountOf("/resolve/", "HEAD"), 2);
}

TEST_F(RemoteAdaptersTest, OneFailureForAllAndThenItIsTriedAgain) {
  hub_.AddFault({.times = -1, .status = 404, .headers = {{"X-Error-Code", "RepoNotFound"}}});
  Start();
  std::vector<std::shared_ptr<FetchTicket>> tickets;
  const absl::Status first = Get("org/a").status();
  EXPECT_TRUE(absl::IsNotFound(first)) << first;
  const int asked = hub_.CountOf("");
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Get("org/a").status(), first);
  EXPECT_EQ(hub_.CountOf(""), asked);
  hub_.ClearFaults();
  now_ += absl::Milliseconds(7499);  // three quarters of the time, the shortest it may live
  EXPECT_EQ(Get("org/a").status(), first);
  now_ += absl::Milliseconds(5002);  // past the longest
  const absl::Status later = Get("org/a").status();
  EXPECT_TRUE(later.ok()) << later;
}

TEST_F(RemoteAdaptersTest, SaysHowFarAFetchIs) {
  Start();
  absl::Notification asked;
  absl::Notification go_on;
  const auto wait = [&] {
    asked.Notify();
    go_on.WaitForNotification();
  };
  hub_.AddFault({.target_part = kWeights, .method = "GET", .before = wait});
  const RemoteName name{"org/a"};
  const auto found = adapters_->Find(name);
  ASSERT_TRUE(found.ok() && found->ticket != nullptr);
  asked.WaitForNotification();
  const KnownRemote under_way = adapters_->Known(name);
  EXPECT_TRUE(under_way.fetching);
  EXPECT_EQ(under_way.fetched_bytes, std::ssize(files_.at(kConfig)));
  EXPECT_EQ(under_way.fetch_bytes_total, BytesOf(files_));
  EXPECT_THAT(adapters_->List(), ElementsAre("org/a"));
  go_on.Notify();
  const Result got = Get(name);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(found->ticket->bytes(), BytesOf(files_));
  EXPECT_FALSE(adapters_->Known(name).fetching);
  EXPECT_EQ(adapters_->Known(name).fetch_bytes_total, 0);
}

TEST_F(RemoteAdaptersTest, WhatComesTwiceCountsOnce) {
  hub_.AddFault({.target_part = "/blobs/", .times = 1, .corrupt_at = 10});
  Start();
  const auto found = adapters_->Find({"org/a"});
  ASSERT_TRUE(found.ok() && found->ticket != nullptr);
  ASSERT_TRUE(Get("org/a").ok());
  EXPECT_EQ(found->ticket->bytes(), BytesOf(files_));
}

TEST_F(RemoteAdaptersTest, ARevisionStaysAtItsCommitForNow) {
  const std::string digest = (*Get("org/a"))->digest;
  const FakeHub::Files newer = FilesOf(SmallestAdapter(2));
  const std::string commit = hub_.Commit("org/a", newer);
  hub_.Commit("org/a", newer, "v2");
  EXPECT_EQ((*Get("org/a"))->digest, digest);
  EXPECT_EQ((*Get("org/a", commit))->digest, LocalDigest(SmallestAdapter(2)));
  Start();
  EXPECT_EQ((*Get("org/a"))->digest, digest);
  EXPECT_TRUE(absl::IsNotFound(Get("org/a", "v3").status()));
}

TEST_F(RemoteAdaptersTest, ABranchIsLookedAtAgainBehindTheCalls) {
  const Result first = Get("org/a");
  const std::string commit = commit_;
  const Result pinned = Get("org/a", commit);
  hub_.Commit("org/a", FilesOf(SmallestAdapter(2)));
  const std::string newer = LocalDigest(SmallestAdapter(2));
  now_ += options_.refresh - absl::Milliseconds(1);
  EXPECT_EQ(*Get("org/a"), *first);
  EXPECT_EQ(adapters_->fetches_started(), 2);
  // The call that notices is served with what is here. While the hub fails nothing changes.
  hub_.AddFault({.times = -1, .status = 404});
  now_ += absl::Milliseconds(1);
  const int asked = hub_.CountOf("");
  EXPECT_EQ(*Get("org/a"), *first);
  while (hub_.CountOf("") == asked) absl::SleepFor(absl::Milliseconds(1));
  hub_.ClearFaults();
  EXPECT_EQ(*Get("org/a"), *first);
  now_ += options_.refresh;
  while ((*Get("org/a"))->digest != newer) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ((*Get("org/a", commit))->digest, (*first)->digest);
  EXPECT_EQ(Downloads(), 2);
}

TEST_F(RemoteAdaptersTest, ABranchThatHasNotMovedStaysWhatItsUsersHold) {
  const Result first = Get("org/a");
  now_ += options_.refresh;
  EXPECT_EQ(*Get("org/a"), *first);
  while (adapters_->stats().refreshes < 1) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(*Get("org/a"), *first);
  EXPECT_EQ(adapters_->fetches_started(), 2) << "the first one and the look";
}

RemoteName WantedNow(const std::string& repo) {
  RemoteName name{repo};
  name.now = true;
  return name;
}

// Who watches the server hears of it, once for each look.
TEST_F(RemoteAdaptersTest, WhatGrowsOldSinceTheHubFailsIsTold) {
  absl::Mutex mutex;
  std::vector<std::string> told;
  options_.on_stale = [&](const std::string& id, const absl::Status& why) {
    absl::MutexLock lock(&mutex);
    told.push_back(absl::StrCat(id, " ", absl::StatusCodeToString(why.code())));
  };
  const auto await = [&](size_t count) {
    const auto enough = [&] { return told.size() >= count; };
    absl::MutexLock lock(&mutex);
    EXPECT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(10)));
  };
  hub_.Commit("org/a", files_, "v2");
  ASSERT_TRUE(Get("org/a").ok());
  const Result held = Get("org/a", "v2");
  hub_.AddFault({.times = -1, .status = 404});
  now_ += options_.refresh;
  ASSERT_TRUE(Get("org/a", "v2").ok());
  await(1);
  EXPECT_TRUE(Get(WantedNow("org/a")).ok()) << "what is here, where the hub has nothing";
  await(2);
  EXPECT_FALSE(Get("org/none").ok()) << "nothing of it is here";
  hub_.ClearFaults();
  now_ += options_.refresh;
  ASSERT_TRUE(Get("org/a", "v2").ok());
  while (adapters_->stats().refreshes < 2) absl::SleepFor(absl::Milliseconds(1));
  absl::MutexLock lock(&mutex);
  EXPECT_THAT(told, testing::ElementsAre("org/a@v2 NOT_FOUND", "org/a NOT_FOUND"));
}

// A look that took longer than a later one knows less.
TEST_F(RemoteAdaptersTest, ALookThatTookLongTakesNothingBack) {
  const Result first = Get("org/a");
  hub_.Commit("org/a", FilesOf(SmallestAdapter(2)));
  absl::Notification looking, go_on;
  HoldNextLook(looking, go_on);
  now_ += options_.refresh;
  EXPECT_EQ(*Get("org/a"), *first);
  looking.WaitForNotification();
  now_ += absl::Seconds(1);
  hub_.Commit("org/a", FilesOf(SmallestAdapter(3)));
  const std::string newest = LocalDigest(SmallestAdapter(3));
  Result moved = Get(WantedNow("org/a"));
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ((*moved)->digest, newest);
  go_on.Notify();
  while (adapters_->stats().refreshes < 1) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ((*Get("org/a"))->digest, newest);
  moved = absl::UnknownError("let go");
  Start();
  EXPECT_EQ((*Get("org/a"))->digest, newest) << "nor on the disk";
}

TEST_F(RemoteAdaptersTest, WhatIsForgottenDoesNotComeBackByALookThatWasUnderWay) {
  Result first = Get("org/a");
  hub_.Commit("org/a", FilesOf(SmallestAdapter(2)));
  absl::Notification looking, go_on;
  HoldNextLook(looking, go_on);
  now_ += options_.refresh;
  ASSERT_TRUE(Get("org/a").ok());
  looking.WaitForNotification();
  first = absl::UnknownError("let go");
  const absl::Status forgotten = adapters_->Forget({"org/a"});
  ASSERT_TRUE(forgotten.ok()) << forgotten;
  go_on.Notify();
  while (adapters_->stats().refreshes < 1) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_THAT(adapters_->List(), IsEmpty());
  EXPECT_EQ(disk_->stats().generations, 0);
  EXPECT_EQ((*Get("org/a"))->digest, LocalDigest(SmallestAdapter(2)));
}

// Whoever moves a name may meet a call's fetch, which takes what is on the disk.
TEST_F(RemoteAdaptersTest, WhoWantsWhatIsThereNowIsNotGivenWhatAnEarlierCallFound) {
  ASSERT_TRUE(Get("org/a").ok());
  Start();
  hub_.Commit("org/a", FilesOf(SmallestAdapter(2)));
  absl::Notification go_on;
  here_->Run([&go_on] { go_on.WaitForNotification(); });
  const auto early = adapters_->Find({"org/a"});
  const auto now = adapters_->Find(WantedNow("org/a"));
  ASSERT_TRUE(early.ok() && now.ok());
  ASSERT_TRUE(early->ticket != nullptr && now->ticket != nullptr);
  absl::Notification ended;
  Result newest = GenerationPtr();
  now->ticket->WhenDone([&](const Result& result) {
    newest = result;
    ended.Notify();
  });
  go_on.Notify();
  ended.WaitForNotification();
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ((*newest)->digest, LocalDigest(SmallestAdapter(2)));
  Result found = GenerationPtr();
  early->ticket->WhenDone([&found](const Result& result) { found = result; });
  EXPECT_EQ((*found)->digest, LocalDigest(SmallestAdapter())) << "which is here and at once";
  EXPECT_EQ(Downloads(), 2);
}

TEST_F(RemoteAdaptersTest, AfterARestartTheFirstLookIsNotFarOff) {
  ASSERT_TRUE(Get("org/a").ok());
  hub_.Commit("org/a", FilesOf(SmallestAdapter(2)));
  Start();
  const Result held = Get("org/a");
  EXPECT_EQ((*held)->digest, LocalDigest(SmallestAdapter()));
  const std::string newer = LocalDigest(SmallestAdapter(2));
  while ((*Get("org/a"))->digest != newer) absl::SleepFor(absl::Milliseconds(1));
}

TEST_F(RemoteAdaptersTest, ACommitThatIsHereIsNotFetchedAgain) {
  const std::string commit = hub_.Commit("org/a", files_);
  hub_.Commit("org/b", files_);
  ASSERT_TRUE(Get("org/a").ok());
  ASSERT_TRUE(Get("org/a", commit).ok());
  EXPECT_EQ(Downloads(), 1);
  EXPECT_EQ(hub_.CountOf(commit, "HEAD"), 1);  // the look at the weights, the first time
  ASSERT_TRUE(Get("org/b").ok());              // what another repository says is fetched
  EXPECT_EQ(Downloads(), 2);
  EXPECT_EQ(disk_->stats().generations, 1);
}

TEST_F(RemoteAdaptersTest, WithoutAHubWhatIsHereIsServed) {
  const std::string digest = (*Get("org/a"))->digest;
  hub_.AddFault({.times = -1, .status = 503});
  Start();
  EXPECT_EQ((*Get("org/a"))->digest, digest);
  const absl::Status cold = Get("org/cold").status();
  EXPECT_TRUE(absl::IsUnavailable(cold)) << cold;
}

TEST_F(RemoteAdaptersTest, OfflineNothingIsAsked) {
  ASSERT_TRUE(Get("org/a").ok());
  const int asked = hub_.CountOf("");
  options_.offline = true;
  Start();
  const absl::Status cold = Get("org/cold").status();
  EXPECT_TRUE(absl::IsNotFound(cold));
  EXPECT_THAT(std::string(cold.message()), HasSubstr("offline"));
  EXPECT_EQ(hub_.CountOf(""), asked);
}

TEST_F(RemoteAdaptersTest, OnlyWhatIsAllowedMayBeNamed) {
  const auto allows = [this](std::vector<std::string> patterns, const std::string& repo) {
    Stop();
    options_.allow = std::move(patterns);
    Start();
    return adapters_->Allows(repo);
  };
  EXPECT_FALSE(allows({}, "org/a"));
  EXPECT_FALSE(allows({""}, "org/a"));
  EXPECT_TRUE(allows({"*"}, "org/a"));
  EXPECT_TRUE(allows({"x", "org/a"}, "org/a"));
  EXPECT_FALSE(allows({"org/a"}, "org/ab"));
  EXPECT_FALSE(allows({"org/*"}, "organisation/a"));
  EXPECT_FALSE(allows({"*"}, "a--b"));
  EXPECT_FALSE(allows({"*"}, "../a"));
  EXPECT_FALSE(allows({"*"}, "https://files.example/a"));
  options_.allow = {"other/*"};
  Start();
  EXPECT_TRUE(absl::IsNotFound(Get("org/a").status()));
  EXPECT_THAT(hub_.requests(), IsEmpty());
}

TEST_F(RemoteAdaptersTest, WhatOneKindAllowsOpensNoOther) {
  options_.allow = {};
  Start();
  adapters_->AddSource("s3://", source_.get(), {"s3://bucket/*"});
  adapters_->AddSource("https://", source_.get(), {"*", "https://files.example/*"});
  EXPECT_FALSE(adapters_->Allows("org/a"));
  EXPECT_TRUE(adapters_->Allows("s3://bucket/a"));
  EXPECT_FALSE(adapters_->Allows("s3://bucket2/a"));
  EXPECT_FALSE(adapters_->Allows("s3://bucket/../a"));
  EXPECT_TRUE(adapters_->Allows("https://files.example/a"));
  EXPECT_FALSE(adapters_->Allows("http://127.0.0.1/a")) << "no source of that kind";
}

TEST_F(RemoteAdaptersTest, SaysWhyARepositoryIsNotServed) {
  const auto refusal = [this](const FakeHub::Files& files) {
    static int repos = 0;
    const std::string repo = absl::StrCat("org/refused-", repos++);
    hub_.Commit(repo, files);
    const absl::Status status = Get(repo).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal({{kWeights, "x"}}), HasSubstr("has no adapter_config.json"));
  EXPECT_THAT(refusal({{kConfig, "{}"}}), HasSubstr("has no adapter_model.safetensors"));
  EXPECT_THAT(refusal({{kConfig, "{}"}, {"adapter_model.bin", "pickle"}}),
              HasSubstr("convert adapter_model.bin"));
  EXPECT_EQ(hub_.CountOf("adapter_model.bin", "GET"), 0);
  EXPECT_EQ(Downloads(), 0);
  FakeHub::Files wrong = files_;
  wrong[kConfig] = R"({"peft_type": "IA3"})";
  EXPECT_THAT(refusal(wrong), HasSubstr("IA3"));
  wrong[kConfig] = std::string(kAdapterConfigBytesMax + 1, ' ');
  EXPECT_THAT(refusal(wrong), HasSubstr("at most"));
  EXPECT_EQ(Downloads(), 0);
  wrong = files_;
  wrong[kWeights] = "<!DOCTYPE html>";
  EXPECT_THAT(refusal(wrong), HasSubstr("not a safetensors file"));
  EXPECT_EQ(disk_->stats().byte_limit, disk_bytes_);
}

TEST_F(RemoteAdaptersTest, SizesAreRefusedBeforeTheDownload) {
  const int64_t weights_bytes = std::ssize(files_[kWeights]);
  options_.adapter_bytes_max = weights_bytes - 1;
  EXPECT_TRUE(absl::IsFailedPrecondition(Get("org/a").status()));
  options_.adapter_bytes_max = weights_bytes;
  disk_bytes_ = BytesOf(files_) - 1;
  Start();
  EXPECT_TRUE(absl::IsFailedPrecondition(Get("org/a").status()));
  EXPECT_EQ(hub_.CountOf("", "GET"), 0);
  disk_bytes_ = BytesOf(files_);
  Start();
  EXPECT_TRUE(Get("org/a").ok());
}

TEST_F(RemoteAdaptersTest, WhatIsInUseIsNotEvicted) {
  hub_.Commit("org/b", FilesOf(SmallestAdapter(2)));
  disk_bytes_ = BytesOf(files_);
  Result a = Get("org/a");
  ASSERT_TRUE(a.ok());
  EXPECT_TRUE(absl::IsUnavailable(Get("org/b").status()));
  EXPECT_TRUE(loader_.LoadImage(**a).ok());
  a = absl::UnknownError("let go");
  while (adapters_->Known({"org/a"}).generation != nullptr) {  // by the fetching thread, too
    absl::SleepFor(absl::Milliseconds(1));
  }
  now_ += absl::Minutes(1);
  const absl::Status room = Get("org/b").status();
  EXPECT_TRUE(room.ok()) << room;
  EXPECT_EQ(disk_->stats().evictions, 1);
  while (adapters_->Known({"org/b"}).generation != nullptr) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(Get("org/a").ok());
  EXPECT_EQ(Downloads(), 3);
}

TEST_F(RemoteAdaptersTest, DamagedContentIsFetchedAgain) {
  const std::string digest = (*Get("org/a"))->digest;
  const fs::path weights = fs::path(folder_.path()) / "disk" / "content" / digest / kWeights;
  std::string changed = files_[kWeights];
  changed.back() ^= 1;
  int downloads = 1;
  for (const std::string& text : {changed, files_[kWeights].substr(0, 100), std::string()}) {
    Stop();
    std::ofstream(weights, std::ios::binary) << text;
    const Result again = Get("org/a");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ((*again)->digest, digest);
    EXPECT_TRUE(loader_.LoadImage(**again).ok());
    EXPECT_EQ(Downloads(), ++downloads);
  }
}

TEST_F(RemoteAdaptersTest, ContentIsFoundByItsOwnNameWhileItIsWhole) {
  const std::string digest = (*Get("org/a"))->digest;
  const Result held = adapters_->OnDisk(digest, "org/a");
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_EQ((*held)->digest, digest);
  EXPECT_TRUE(loader_.LoadImage(**held).ok());
  EXPECT_TRUE(absl::IsNotFound(adapters_->OnDisk(std::string(64, 'a'), "org/a").status()));
  fs::resize_file(folder_.path() + "/disk/content/" + digest + "/" + kWeights, 9);
  EXPECT_TRUE(absl::IsNotFound(adapters_->OnDisk(digest, "org/a").status()));
  EXPECT_EQ(disk_->stats().generations, 0);
}

TEST_F(RemoteAdaptersTest, WhatItsHeadShowsToBeUnservableCostsNoWeights) {
  MadeAdapter large;
  large.config["r"] = "16";
  large.AddPair(0, LoraModule::kDown, 16);
  const FakeHub::Files files = FilesOf(large);
  const int64_t bytes = std::ssize(files.at(kWeights));
  const int32_t blocks = 1 + static_cast<int32_t>(bytes / kBlockBytes);
  const auto downloaded = [&](int64_t plan_first_bytes, int32_t blocks_max) {
    static int repos = 0;
    const std::string repo = absl::StrCat("org/large-", repos++);
    hub_.Commit(repo, files);
    PeftLoader loader(model_.targets(), &backend_, kBlockBytes, blocks_max);
    options_.plan_first_bytes = plan_first_bytes;
    StartWith(loader);
    const Result got = Get(repo);
    EXPECT_EQ(got.ok(), blocks_max == blocks) << got.status();
    if (!got.ok()) {
      EXPECT_TRUE(absl::IsFailedPrecondition(got.status()));
      EXPECT_THAT(std::string(got.status().message()), HasSubstr("serve it with a larger"));
    }
    const int64_t came = adapters_->stats().downloaded_bytes;
    Stop();
    return came;
  };
  EXPECT_EQ(downloaded(bytes - 1, blocks - 1), 0);
  EXPECT_EQ(downloaded(bytes, blocks - 1), BytesOf(files)) << "too small to be worth a look";
  EXPECT_EQ(downloaded(bytes - 1, blocks), BytesOf(files));
}

TEST_F(RemoteAdaptersTest, AlwaysWrongContentIsLostAndLeavesNothing) {
  hub_.AddFault({.target_part = "/blobs/", .times = -1, .corrupt_at = 200});
  EXPECT_TRUE(absl::IsDataLoss(Get("org/a").status()));
  EXPECT_EQ(disk_->stats().generations, 0);
  EXPECT_TRUE(fs::is_empty(folder_.path() + "/disk/tmp"));
  EXPECT_EQ(Downloads(), 2);
}

TEST_F(RemoteAdaptersTest, AccessThatEndsDoesNotTakeBackWhatIsHere) {
  ASSERT_TRUE(Get("org/a").ok());
  hub_.Delete("org/a");
  Start();
  EXPECT_TRUE(Get("org/a").ok());
}

TEST_F(RemoteAdaptersTest, AnOperatorsCacheIsReadAndNotWritten) {
  const std::string commit(40, 'c');
  for (const auto& [name, text] : files_) {
    folder_.Write("hf/models--org--cached/blobs/" + name, text);
    const fs::path link =
        fs::path(folder_.path()) / "hf/models--org--cached/snapshots" / commit / name;
    fs::create_directories(link.parent_path());
    fs::create_symlink("../../blobs/" + name, link);
  }
  folder_.Write("hf/models--org--cached/refs/main", commit);
  with_cache_ = true;
  const Result got = Get("org/cached");
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ((*got)->digest, LocalDigest(SmallestAdapter()));
  EXPECT_TRUE(loader_.LoadImage(**got).ok());
  EXPECT_THAT(hub_.requests(), IsEmpty());
  EXPECT_EQ(disk_->stats().generations, 0);
  ASSERT_TRUE(Get("org/a").ok());
  EXPECT_FALSE(fs::exists(folder_.path() + "/hf/models--org--a"));
}

}  // namespace
}  // namespace lorica
