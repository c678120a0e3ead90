#include "adapters/disk_tier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "tests/fakes/clock_shim.h"
#include "tests/fakes/disk_room.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kConfig[] = "{}";
const std::string kCommit(40, 'c');

std::string DigestOf(const std::string& weights) {
  Sha256 config;
  config.Update(kConfig);
  Sha256 hash;
  hash.Update(weights);
  return GenerationDigest(config.Finish(), hash.Finish());
}

RemoteOrigin OriginOf(const std::string& repo, const std::string& revision = "main",
                      const std::string& commit = kCommit) {
  return {"https://hub", repo, revision, "", commit};
}

class DiskTierTest : public ::testing::Test {
 protected:
  std::unique_ptr<DiskTier> Open(int64_t bytes_max = 1000,
                                 std::function<absl::Time()> clock = SteadyNow,
                                 int adapters_max = kDiskAdaptersMax) {
    auto tier = DiskTier::Open(folder_.path() + "/disk", bytes_max, std::move(clock), adapters_max);
    EXPECT_TRUE(tier.ok()) << tier.status();
    return *std::move(tier);
  }
  // Content that is the repository's name repeated, with two bytes of configuration.
  static std::string Weights(const std::string& repo, int64_t bytes) {
    std::string weights;
    while (std::ssize(weights) < bytes - 2) weights += repo;
    weights.resize(bytes - 2);
    return weights;
  }
  static absl::StatusOr<DiskLease> Put(DiskTier& tier, const RemoteOrigin& origin,
                                       int64_t bytes = 100, absl::Time found = absl::Now()) {
    auto staging = tier.Stage(bytes);
    if (!staging.ok()) return staging.status();
    const std::string weights = Weights(origin.repo, bytes);
    for (const auto& [name, text] :
         {std::pair<std::string, std::string>{"adapter_config.json", kConfig},
          {"adapter_model.safetensors", weights}}) {
      auto file = (*staging)->Create(name);
      if (!file.ok()) return file.status();
      if (absl::Status s = (*file)->Append(text); !s.ok()) return s;
    }
    return tier.Publish(*std::move(staging), DigestOf(weights), {origin, found});
  }
  static std::string Read(const DiskLease& lease) {
    auto file = lease.source()->Open(lease.digest(), "adapter_model.safetensors");
    if (!file.ok()) return std::string(file.status().message());
    std::string text((*file)->size_bytes(), '\0');
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size());
    EXPECT_TRUE((*file)->ReadAt(0, bytes).ok());
    return text;
  }
  std::vector<std::string> Names(const std::string& inner) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path() + "/disk/" + inner)) {
      names.push_back(entry.path().filename());
    }
    return names;
  }
  // The books agree with the disk.
  void CheckBooks(const DiskTier& tier) const {
    const TierStats stats = tier.stats();
    EXPECT_EQ(stats.insertions - stats.evictions - stats.removals, stats.generations);
    EXPECT_EQ(std::ssize(Names("content")), stats.generations);
    EXPECT_THAT(Names("tmp"), IsEmpty());
    int64_t bytes = 0;
    for (const std::string& digest : Names("content")) {
      const fs::path path = fs::path(folder_.path()) / "disk" / "content" / digest;
      bytes += fs::file_size(path / "adapter_config.json");
      bytes += fs::file_size(path / "adapter_model.safetensors");
    }
    EXPECT_EQ(bytes, stats.bytes);
    EXPECT_LE(stats.bytes, stats.byte_limit);
  }

  TemporaryFolder folder_;
};

TEST_F(DiskTierTest, KeepsWhatIsPublished) {
  const auto tier = Open();
  EXPECT_FALSE(tier->Find(OriginOf("a")).has_value());
  const auto lease = Put(*tier, OriginOf("a"));
  ASSERT_TRUE(lease.ok()) << lease.status();
  EXPECT_EQ(Read(*lease), Weights("a", 100));
  const auto found = tier->Find(OriginOf("a"));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->digest(), lease->digest());
  EXPECT_EQ(found->commit(), kCommit);
  EXPECT_TRUE(tier->Find(OriginOf("a", kCommit)).has_value());
  EXPECT_FALSE(tier->Find(OriginOf("a", "v1")).has_value());
  EXPECT_FALSE(tier->Find(OriginOf("b")).has_value());
  const TierStats stats = tier->stats();
  EXPECT_EQ(stats.hits, 2);
  EXPECT_EQ(stats.misses, 3);
  EXPECT_EQ(stats.bytes, 100);
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, IsThereAgainAfterARestart) {
  { ASSERT_TRUE(Put(*Open(), OriginOf("a")).ok()); }
  const auto tier = Open();
  const auto found = tier->Find(OriginOf("a"));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(Read(*found), Weights("a", 100));
  EXPECT_EQ(found->commit(), kCommit);
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, AnotherRevisionsRightsAreAnother) {
  const auto tier = Open();
  RemoteOrigin mine = OriginOf("a");
  mine.access = "tenant-1";
  ASSERT_TRUE(Put(*tier, mine).ok());
  EXPECT_TRUE(tier->Find(mine).has_value());
  RemoteOrigin yours = mine;
  yours.access = "tenant-2";
  EXPECT_FALSE(tier->Find(yours).has_value());
  EXPECT_FALSE(tier->Find(OriginOf("a")).has_value());
  RemoteOrigin elsewhere = mine;
  elsewhere.server = "https://mirror";
  EXPECT_FALSE(tier->Find(elsewhere).has_value());
}

TEST_F(DiskTierTest, ARevisionLeadsToWhatWasFoundLast) {
  {
    const auto tier = Open();
    ASSERT_TRUE(Put(*tier, OriginOf("a"), 100, absl::Now() - absl::Seconds(1)).ok());
    ASSERT_TRUE(Put(*tier, OriginOf("a", "main", std::string(40, 'd')), 90).ok());
  }
  const auto tier = Open();
  EXPECT_EQ(tier->Find(OriginOf("a"))->commit(), std::string(40, 'd'));
  EXPECT_EQ(Read(*tier->Find(OriginOf("a"))).size(), 88u);
  EXPECT_EQ(Read(*tier->Find(OriginOf("a", kCommit))).size(), 98u);
  CheckBooks(*tier);
}

// Also where a look that took long comes after one that began later.
TEST_F(DiskTierTest, WhatWasFoundEarlierTakesNothingBackHoweverLateItComes) {
  const absl::Time early = absl::Now() - absl::Seconds(9);
  const RemoteOrigin older = OriginOf("a", "main", std::string(40, 'd'));
  {
    const auto tier = Open();
    ASSERT_TRUE(Put(*tier, older, 90, early - absl::Seconds(1)).ok());
    ASSERT_TRUE(Put(*tier, OriginOf("a"), 100).ok());
    ASSERT_TRUE(tier->Adopt({older, early}).has_value());
    ASSERT_TRUE(Put(*tier, OriginOf("a", "main", std::string(40, 'e')), 80, early).ok());
    EXPECT_EQ(tier->Find(OriginOf("a"))->commit(), kCommit);
    CheckBooks(*tier);
  }
  const auto tier = Open();
  EXPECT_EQ(tier->Find(OriginOf("a"))->commit(), kCommit);
  EXPECT_TRUE(tier->Find(OriginOf("a", std::string(40, 'e'))).has_value()) << "by its own name";
}

// A clock that was set back since must not make yesterday's look the last one for a day.
TEST_F(DiskTierTest, WhatWasFoundTomorrowCountsAsFoundAtTheStart) {
  { ASSERT_TRUE(Put(*Open(), OriginOf("a"), 100, absl::Now() + absl::Hours(24)).ok()); }
  const auto tier = Open();
  ASSERT_TRUE(Put(*tier, OriginOf("a", "main", std::string(40, 'd')), 90).ok());
  EXPECT_EQ(tier->Find(OriginOf("a"))->commit(), std::string(40, 'd'));
}

TEST_F(DiskTierTest, EqualContentIsStoredOnce) {
  const auto tier = Open();
  ASSERT_TRUE(Put(*tier, OriginOf("a")).ok());
  ASSERT_TRUE(Put(*tier, OriginOf("a", "v1", std::string(40, 'd'))).ok());
  EXPECT_EQ(tier->stats().generations, 1);
  EXPECT_TRUE(tier->Find(OriginOf("a")).has_value());
  EXPECT_TRUE(tier->Find(OriginOf("a", "v1")).has_value());
  EXPECT_FALSE(tier->Adopt({OriginOf("a", "v2", std::string(40, 'e')), absl::Now()}).has_value());
  ASSERT_TRUE(tier->Adopt({OriginOf("a", "v2"), absl::Now()}).has_value());
  EXPECT_TRUE(Open()->Find(OriginOf("a", "v2")).has_value());
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, RemembersABoundedNumberOfOrigins) {
  const auto tier = Open();
  for (int i = 0; i < kOriginsMax; ++i) {
    ASSERT_TRUE(Put(*tier, OriginOf("a", absl::StrCat("v", i))).ok());
  }
  // The commit's own origin is one more, and the oldest has given way.
  EXPECT_FALSE(tier->Find(OriginOf("a", "v0")).has_value());
  EXPECT_TRUE(tier->Find(OriginOf("a", "v1")).has_value());
  EXPECT_TRUE(Open()->Find(OriginOf("a", absl::StrCat("v", kOriginsMax - 1))).has_value());
}

TEST_F(DiskTierTest, EvictsTheLeastRecentlyUsed) {
  const auto tier = Open(300);
  for (const char* repo : {"a", "b", "c"}) ASSERT_TRUE(Put(*tier, OriginOf(repo)).ok());
  EXPECT_TRUE(tier->Find(OriginOf("a")).has_value());
  ASSERT_TRUE(Put(*tier, OriginOf("d")).ok());
  EXPECT_FALSE(tier->Find(OriginOf("b")).has_value());
  for (const char* repo : {"a", "c", "d"}) EXPECT_TRUE(tier->Find(OriginOf(repo)).has_value());
  EXPECT_EQ(tier->stats().evictions, 1);
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, BoundsTheNumberOfAdaptersAndTheLeastRecentlyUsedGoes) {
  {
    const auto tier = Open(1000, SteadyNow, 3);
    for (const char* repo : {"a", "b", "c"}) ASSERT_TRUE(Put(*tier, OriginOf(repo)).ok());
    EXPECT_EQ(tier->stats().evictions, 0) << "as many as may be";
    EXPECT_EQ(tier->stats().generations, 3);
    ASSERT_TRUE(Put(*tier, OriginOf("d")).ok());
    EXPECT_EQ(tier->stats().evictions, 1);
    EXPECT_FALSE(tier->Find(OriginOf("a")).has_value());
    CheckBooks(*tier);
    const auto first = tier->Stage(1), second = tier->Stage(1);
    EXPECT_EQ(tier->stats().generations, 1) << "what comes counts, too";
    ASSERT_TRUE(first.ok() && second.ok());
  }
  for (const int adapters_max : {1, 0}) {
    const auto tier = Open(1000, SteadyNow, adapters_max);
    EXPECT_EQ(tier->stats().generations, adapters_max);
    EXPECT_EQ(tier->Find(OriginOf("d")).has_value(), adapters_max == 1);
    CheckBooks(*tier);
  }
}

TEST_F(DiskTierTest, KeepsTheOrderOfUseAndAnewBoundAcrossARestart) {
  {
    const auto tier = Open(300);
    for (const char* repo : {"a", "b", "c"}) {
      ASSERT_TRUE(Put(*tier, OriginOf(repo)).ok());
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  const auto tier = Open(299);
  EXPECT_FALSE(tier->Find(OriginOf("a")).has_value());
  EXPECT_TRUE(tier->Find(OriginOf("b")).has_value());
  EXPECT_TRUE(tier->Find(OriginOf("c")).has_value());
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, AUseCountsAcrossARestartThoughTheWallClockIsSetBack) {
  fakes::SteppedClock wall;
  absl::Time now = SteadyNow();
  {
    const auto tier = Open(300, [&now] { return now; });
    for (const char* repo : {"a", "b", "c"}) {
      ASSERT_TRUE(Put(*tier, OriginOf(repo)).ok());
      now += absl::Seconds(1);
    }
    wall.StepTo(-absl::Hours(24));
    now += absl::Minutes(1);
    EXPECT_TRUE(tier->Find(OriginOf("a")).has_value());
  }
  const auto tier = Open(299);
  EXPECT_FALSE(tier->Find(OriginOf("b")).has_value()) << "the least recently used";
  EXPECT_TRUE(tier->Find(OriginOf("a")).has_value());
  EXPECT_TRUE(tier->Find(OriginOf("c")).has_value());
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, LeasedContentStays) {
  const auto tier = Open(200);
  auto a = Put(*tier, OriginOf("a"));
  auto b = Put(*tier, OriginOf("b"));
  ASSERT_TRUE(a.ok() && b.ok());
  const absl::Status full = Put(*tier, OriginOf("c")).status();
  EXPECT_TRUE(absl::IsUnavailable(full)) << full;
  std::shared_ptr<Source> held = b->source();
  a = absl::UnknownError("let go of");
  b = absl::UnknownError("held through its source");
  ASSERT_TRUE(Put(*tier, OriginOf("c")).ok());
  EXPECT_FALSE(tier->Find(OriginOf("a")).has_value());
  EXPECT_TRUE(tier->Find(OriginOf("b")).has_value());
  held = nullptr;
  EXPECT_TRUE(Put(*tier, OriginOf("d"), 200).ok());
  EXPECT_EQ(tier->stats().generations, 1);
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, BoundsWhatIsStaged) {
  const auto tier = Open(100);
  const absl::Status beyond = tier->Stage(101).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond)) << beyond;
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("--disk-bytes"));
  auto staging = tier->Stage(100);
  ASSERT_TRUE(staging.ok());
  EXPECT_TRUE(absl::IsUnavailable(tier->Stage(1).status()));
  auto file = (*staging)->Create("adapter_config.json");
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->Append(std::string(100, 'x')).ok());
  EXPECT_TRUE(absl::IsDataLoss((*file)->Append("x")));
  EXPECT_TRUE((*file)->Restart().ok());
  EXPECT_TRUE((*file)->Append(std::string(100, 'y')).ok());
  file->reset();
  staging->reset();
  CheckBooks(*tier);
  EXPECT_TRUE(tier->Stage(100).ok());
}

TEST_F(DiskTierTest, WhatTheDiskHasNoRoomForIsRefusedBeforeItComes) {
  const auto tier = Open(1000);
  fakes::g_disk_bytes_left = 99;
  const absl::Status status = tier->Stage(100).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("99 left"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("--disk-bytes")));
  CheckBooks(*tier);
  fakes::g_disk_bytes_left = 100;
  EXPECT_TRUE(tier->Stage(100).ok());
  fakes::g_disk_bytes_left = -1;
  EXPECT_TRUE(tier->Stage(1000).ok()) << "nothing is left of what was refused";
}

TEST_F(DiskTierTest, DroppedContentIsGoneForAll) {
  const auto tier = Open();
  const auto lease = Put(*tier, OriginOf("a"));
  ASSERT_TRUE(lease.ok());
  tier->Drop(lease->digest());
  tier->Drop(lease->digest());
  EXPECT_FALSE(tier->Find(OriginOf("a")).has_value());
  EXPECT_THAT(Read(*lease), HasSubstr("does not exist"));
  EXPECT_EQ(tier->stats().removals, 1);
  CheckBooks(*tier);
  EXPECT_EQ(Read(*Put(*tier, OriginOf("a"))), Weights("a", 100));
}

TEST_F(DiskTierTest, WhatAnotherAccessHasBroughtStaysForIt) {
  auto tier = Open();
  RemoteOrigin other = OriginOf("a");
  other.access = "other";
  const std::string digest = (*Put(*tier, OriginOf("a"))).digest();
  ASSERT_EQ((*Put(*tier, other)).digest(), digest);
  const auto lease = tier->Find(other);
  EXPECT_TRUE(tier->Forget(digest, "").ok()) << "also while it is held: it stays";
  EXPECT_FALSE(tier->Peek(OriginOf("a")).has_value());
  EXPECT_FALSE(tier->Peek(OriginOf("a", kCommit)).has_value()) << "nor by its commit";
  EXPECT_EQ(tier->Peek(other)->first, digest);
  CheckBooks(*tier);
  tier = Open();
  EXPECT_FALSE(tier->Peek(OriginOf("a")).has_value()) << "nor after a restart";
  EXPECT_EQ(tier->Peek(other)->first, digest);
  EXPECT_TRUE(tier->Forget(digest, "nobody's").ok());
  EXPECT_TRUE(tier->Has(digest));
  EXPECT_TRUE(tier->Forget(digest, "other").ok());
  EXPECT_FALSE(tier->Has(digest));
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, WhatIsHeldIsNotRemoved) {
  const auto tier = Open();
  std::optional<DiskLease> lease = *Put(*tier, OriginOf("a"));
  const std::string digest = lease->digest();
  EXPECT_EQ(tier->Peek(OriginOf("a"))->first, digest);
  EXPECT_EQ(tier->Origins().size(), 2u) << "the revision and its commit";
  EXPECT_TRUE(absl::IsFailedPrecondition(tier->Forget(digest, "")));
  EXPECT_TRUE(tier->Has(digest));
  lease.reset();
  EXPECT_TRUE(tier->Forget(digest, "").ok());
  EXPECT_FALSE(tier->Has(digest));
  EXPECT_FALSE(tier->Peek(OriginOf("a")).has_value());
  EXPECT_THAT(tier->Origins(), IsEmpty());
  EXPECT_EQ(tier->stats().removals, 1);
  EXPECT_EQ(tier->stats().hits + tier->stats().misses, 0) << "looks are no use of it";
  EXPECT_TRUE(tier->Forget(digest, "").ok());
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, ForgetsWhatIsNotWhole) {
  std::string digest;
  {
    const auto tier = Open();
    for (const char* repo : {"a", "b", "c", "d", "e"}) {
      ASSERT_TRUE(Put(*tier, OriginOf(repo)).ok());
    }
    digest = tier->Find(OriginOf("e"))->digest();
  }
  const auto path = [&](const std::string& repo) {
    return "disk/content/" + DigestOf(Weights(repo, 100));
  };
  const fs::path root = folder_.path();
  fs::remove(root / path("a") / "adapter_config.json");
  fs::remove(root / path("b") / "adapter_model.safetensors");
  fs::create_directory(root / path("b") / "adapter_model.safetensors");
  folder_.Write(path("c") + "/origins.json", "{");
  fs::remove(root / path("d") / "adapter_model.safetensors");
  fs::create_symlink("/etc/passwd", root / path("d") / "adapter_model.safetensors");
  folder_.Write("disk/content/not-a-digest/adapter_config.json", "{}");
  folder_.Write("disk/content/file", "");
  folder_.Write("disk/tmp/7/adapter_config.json", "{}");
  const auto tier = Open();
  EXPECT_THAT(Names("content"), ElementsAre(digest));
  CheckBooks(*tier);
}

TEST_F(DiskTierTest, ForgetsWhatSaysTooMuchOfWhereItCameFrom) {
  const std::string name = "disk/content/" + DigestOf(Weights("a", 100)) + "/origins.json";
  { ASSERT_TRUE(Put(*Open(), OriginOf("a")).ok()); }
  for (const int64_t more : {0, 1}) {
    std::string origins = WriteDiskOrigins({{OriginOf("a"), absl::Now()}});
    origins.resize(kOriginsBytesMax + more, ' ');
    folder_.Write(name, origins);
    const auto tier = Open();
    EXPECT_EQ(tier->Find(OriginOf("a")).has_value(), more == 0);
    CheckBooks(*tier);
  }
}

TEST_F(DiskTierTest, AFolderThatCannotBeIsAnError) {
  folder_.Write("disk", "a file");
  EXPECT_TRUE(absl::IsFailedPrecondition(DiskTier::Open(folder_.path() + "/disk", 100).status()));
}

// The limit on file sizes stands for a full disk.
TEST_F(DiskTierTest, AFullDiskLeavesNothingBehind) {
  const auto tier = Open(1 << 20);
  ASSERT_TRUE(Put(*tier, OriginOf("a")).ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  for (const int64_t limit : {0, 1, 2, 50, 5000, 9999}) {
    small.rlim_cur = limit;
    setrlimit(RLIMIT_FSIZE, &small);
    const absl::Status status = Put(*tier, OriginOf("b"), 10000).status();
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(absl::IsUnavailable(status), limit < 9998) << limit << status;
    CheckBooks(*tier);
  }
  EXPECT_TRUE(tier->Find(OriginOf("a")).has_value());
}

TEST_F(DiskTierTest, KilledAtAnyMomentItHoldsWholeContentsAlone) {
  std::mt19937 random(3);
  for (int round = 0; round < 15; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      auto tier = DiskTier::Open(folder_.path() + "/disk", 2000);
      for (int i = 0; tier.ok(); ++i) {
        Put(**tier, OriginOf(absl::StrCat("r", (round * 31 + i) % 40)), 300).status().IgnoreError();
      }
      _exit(1);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30000));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << round;
    const auto tier = Open(2000);
    CheckBooks(*tier);
    for (int i = 0; i < 40; ++i) {
      const auto found = tier->Find(OriginOf(absl::StrCat("r", i)));
      EXPECT_TRUE(!found || DigestOf(Read(*found)) == found->digest());
    }
  }
}

TEST_F(DiskTierTest, ManyThreadsShareIt) {
  const auto tier = Open(500);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&tier, t] {
      for (int i = 0; i < 30; ++i) {
        const RemoteOrigin origin = OriginOf(absl::StrCat("r", (t + i) % 8));
        if (const auto found = tier->Find(origin)) {
          EXPECT_EQ(DigestOf(Read(*found)), found->digest());
        } else {
          Put(*tier, origin).status().IgnoreError();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CheckBooks(*tier);
}

}  // namespace
}  // namespace lorica
