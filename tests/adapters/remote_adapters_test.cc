#include "adapters/remote_adapters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/hub/hub_source.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Result = absl::StatusOr<GenerationPtr>;

constexpr int64_t kBlockBytes = 128 << 10;
constexpr int kDownloads = 4;
constexpr char kConfig[] = "adapter_config.json";
constexpr char kWeights[] = "adapter_model.safetensors";

FakeHub::Files FilesOf(const MadeAdapter& adapter) {
  return {{kConfig, adapter.ConfigText()}, {kWeights, adapter.WeightsText()}};
}

int64_t BytesOf(const FakeHub::Files& files) {
  int64_t bytes = 0;
  for (const auto& [name, text] : files) bytes += std::ssize(text);
  return bytes;
}

class RemoteAdaptersTest : public ::testing::Test {
 protected:
  RemoteAdaptersTest() {
    hub_options_.endpoint = hub_.endpoint();
    hub_options_.redirect_hosts = {hub_.cdn_place()};
    hub_options_.retry.pause_min = hub_options_.retry.pause_max = absl::Milliseconds(1);
    hub_options_.http.stopped = &stopped_;
    options_.allow = {"org/*"};
    options_.clock = [this] { return now_; };
    commit_ = hub_.Commit("org/a", files_);
  }
  ~RemoteAdaptersTest() override { Stop(); }

  // As a server starts and ends.
  void Start() {
    Stop();
    stopped_ = false;
    disk_ = *DiskTier::Open(folder_.path() + "/disk", disk_bytes_);
    source_ = *MakeHubSource(hub_options_);
    if (with_cache_) cache_ = *HfCache::Open(folder_.path() + "/hf");
    here_ = MakeLoaderThreads(1);
    downloads_ = MakeLoaderThreads(kDownloads);
    refreshes_ = MakeLoaderThreads(1);
    adapters_ = std::make_unique<RemoteAdapters>(
        options_, source_.get(), cache_.get(), disk_.get(), &loader_,
        RemoteThreads{here_.get(), downloads_.get(), refreshes_.get()}, &stopped_);
  }
  void Stop() {
    adapters_ = nullptr;
    for (auto* threads : {&here_, &downloads_, &refreshes_}) threads->reset();
    disk_ = nullptr;
  }
  Result Get(const RemoteName& name) {
    if (adapters_ == nullptr) Start();
    auto found = adapters_->Find(name);
    if (!found.ok()) return found.status();
    if (found->ticket == nullptr) return found->generation;
    Result result = GenerationPtr();
    absl::Notification done;
    found->ticket->WhenDone([&](const Result& got) {
      result = got;
      done.Notify();
    });
    done.WaitForNotification();
    return result;
  }
  Result Get(const std::string& repo, const std::string& revision = kDefaultRevision) {
    return Get(RemoteName{repo, revision});
  }
  std::string LocalDigest(const MadeAdapter& adapter) {
    adapter.WriteTo(folder_, "local/x");
    std::shared_ptr<Source> source = *MakeLocalSource(folder_.path() + "/local");
    return (*loader_.Identify(source, "x"))->digest;
  }
  int Downloads() const { return hub_.CountOf("/blobs/", "GET"); }

  TemporaryFolder folder_;
  FakeHub hub_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, kBlockBytes};
  FakeHub::Files files_ = FilesOf(SmallestAdapter());
  std::string commit_;
  HubOptions hub_options_;
  RemoteOptions options_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::atomic<bool> stopped_ = false;
  int64_t disk_bytes_ = 100 << 20;
  bool with_cache_ = false;
  std::unique_ptr<DiskTier> disk_;
  std::unique_ptr<RemoteSource> source_;
  std::unique_ptr<HfCache> cache_;
  std::unique_ptr<LoaderExecutor> here_;
  std::unique_ptr<LoaderExecutor> downloads_;
  std::unique_ptr<LoaderExecutor> refreshes_;
  std::unique_ptr<RemoteAdapters> adapters_;
};

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
  Stop();
  const fs::path weights = fs::path(folder_.path()) / "disk" / "content" / digest / kWeights;
  std::string text = files_[kWeights];
  text.back() ^= 1;
  std::ofstream(weights, std::ios::binary) << text;
  const Result again = Get("org/a");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->digest, digest);
  EXPECT_TRUE(loader_.LoadImage(**again).ok());
  EXPECT_EQ(Downloads(), 2);
}

TEST_F(RemoteAdaptersTest, AlwaysWrongContentIsLostAndLeavesNothing) {
  hub_.AddFault({.target_part = "/blobs/", .times = -1, .corrupt_at = 200});
  EXPECT_TRUE(absl::IsDataLoss(Get("org/a").status()));
  EXPECT_EQ(disk_->stats().generations, 0);
  EXPECT_TRUE(fs::is_empty(folder_.path() + "/disk/tmp"));
  EXPECT_EQ(Downloads(), 2);
}

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
