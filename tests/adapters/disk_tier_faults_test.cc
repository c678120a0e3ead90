// Goal: whatever a tier does to its disk, any of those changes may fail, or be the last before the
// power goes or the process is killed: the next start finds whole contents alone, those that it had
// and kept among them, and nothing that was forgotten; and a start that cannot read throws nothing
// away. Method: every operation, every one of its changes of the disk, every error.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "adapters/content_digest.h"
#include "adapters/disk_tier.h"
#include "adapters/sha256.h"
#include "kernels/check.h"
#include "tests/fakes/disk_shim.h"
#include "tests/fakes/made_adapter.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using fakes::DiskShim;
using ::testing::HasSubstr;
using ::testing::IsSubsetOf;
using Strings = std::set<std::string>;

// Of full disks, broken ones, and ones that may not be written.
constexpr int kErrors[] = {ENOSPC, EIO, EDQUOT, EROFS, EACCES, EMFILE};
// What the power leaves, each time: none of what was not synced, all of it, and any.
constexpr DiskShim::Rest kRests[] = {DiskShim::Rest::kNone, DiskShim::Rest::kAll,
                                     DiskShim::Rest::kAny, DiskShim::Rest::kAny};
constexpr uint64_t kSeed = 108;
// Room for so many contents.
int64_t RoomFor(int contents) {
  const MadeAdapter one = SmallestAdapter(1);
  return contents * (std::ssize(one.ConfigText()) + std::ssize(one.WeightsText()));
}
// Of what a disk does at once, or not at all: nobody waits for it to get better.
const absl::Duration kChangeMax = kInstrumentationFactor * absl::Seconds(5);

// Returns what `change` does, within the limit.
absl::Status Timed(const std::function<absl::Status()>& change) {
  const absl::Time begun = absl::Now();
  absl::Status result = change();
  EXPECT_LT(absl::Now() - begun, kChangeMax);
  return result;
}

// Who may read a repository, and which one.
struct Asked {
  std::string access;
  int seed = 0;  // of the adapter that is there
};
DatedOrigin OriginOf(const Asked& asked) {
  return {{"hub", absl::StrCat("org/", asked.seed), "main", asked.access, std::string(40, 'c')},
          absl::Now()};
}

// Puts an adapter of that seed, as a fetch does.
absl::Status Put(DiskTier& tier, const Asked& asked) {
  const MadeAdapter adapter = SmallestAdapter(asked.seed);
  const std::pair<std::string, std::string> files[] = {
      {"adapter_config.json", adapter.ConfigText()},
      {"adapter_model.safetensors", adapter.WeightsText()}};
  auto staging = tier.Stage(std::ssize(files[0].second) + std::ssize(files[1].second));
  if (!staging.ok()) return staging.status();
  std::string sums[2];
  for (int i = 0; i < 2; ++i) {
    auto sink = (*staging)->Create(files[i].first);
    if (!sink.ok()) return sink.status();
    if (absl::Status s = (*sink)->Append(files[i].second); !s.ok()) return s;
    Sha256 hash;
    hash.Update(files[i].second);
    sums[i] = hash.Finish();
  }
  return tier.Publish(*std::move(staging), GenerationDigest(sums[0], sums[1]), OriginOf(asked))
      .status();
}

std::string DigestOf(DiskTier& tier, const Asked& asked) {
  const auto found = tier.Peek(OriginOf(asked).origin);
  return found ? found->first : "";
}

// What a tier finds, by commit and branch, of both who ask; and what it holds.
struct Holdings {
  Strings origins;
  Strings contents;
  friend bool operator==(const Holdings&, const Holdings&) = default;
};
Holdings HoldingsOf(DiskTier& tier) {
  Holdings holdings;
  for (const RemoteOrigin& origin : tier.Origins()) {
    const auto found = tier.Peek(origin);
    EXPECT_TRUE(found.has_value());
    holdings.origins.insert(absl::StrCat(origin.repo, "@", origin.revision.substr(0, 4), " for '",
                                         origin.access, "' ", found->first));
    holdings.contents.insert(found->first);
  }
  EXPECT_EQ(tier.stats().generations, std::ssize(holdings.contents));
  return holdings;
}

// As a start finds it: each content is what its name says, and nothing else is there.
Holdings Reopened(const std::string& data, int64_t bytes_max = RoomFor(3)) {
  const std::string folder = data + "/fetched";
  fs::create_directories(folder);
  const auto tier = DiskTier::Open(folder, bytes_max);
  EXPECT_TRUE(tier.ok()) << tier.status();
  Holdings holdings = HoldingsOf(**tier);
  const std::shared_ptr<Source> source = *MakeLocalSource(folder + "/content");
  Strings there;
  for (const auto& entry : fs::directory_iterator(folder + "/content")) {
    const std::string digest = entry.path().filename();
    EXPECT_EQ(ContentDigest(*source, digest).value_or(""), digest);
    there.insert(digest);
  }
  EXPECT_EQ(there, holdings.contents);
  EXPECT_TRUE(fs::is_empty(folder + "/tmp"));
  return holdings;
}

Strings Either(Strings one, const Strings& other) {
  one.insert(other.begin(), other.end());
  return one;
}

struct Operation {
  std::string name;
  std::function<absl::Status(DiskTier&)> act;
  int changes_min = 0;  // of the disk; fewer, and they are not seen
  // Whether it can say that it failed, and what it was told to take away then stays.
  bool may_refuse = true;
  // Of what it writes down the next server may do without: it asks the hub again.
  bool is_kept = true;
};
void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

// Of a tier that has 1 and 2 for the server, and 2 for a tenant.
std::vector<Operation> Operations() {
  const Asked first{"", 1}, second{"", 2}, third{"", 3}, fourth{"", 4}, of_tenant{"tenant", 2};
  const auto drop = [first](DiskTier& tier) {
    tier.Drop(DigestOf(tier, first));
    return absl::OkStatus();
  };
  const auto adopt = [](DiskTier& tier) {
    DatedOrigin origin = OriginOf({"", 1});
    origin.origin.revision = "v1.0";
    return tier.Adopt(origin) ? absl::OkStatus() : absl::NotFoundError("no such commit");
  };
  return {
      {"Fetch", [third](DiskTier& tier) { return Put(tier, third); }, 12},
      {"FetchInAnothersPlace",
       [=](DiskTier& tier) {
         const absl::Status status = Put(tier, third);
         return status.ok() ? Put(tier, fourth) : status;
       },
       28},
      {"FetchWhatIsThere",
       [](DiskTier& tier) {
         return Put(tier, {"tenant", 1});
       },
       12, true, false},
      {"Adopt", adopt, 3, false, false},
      {"ForgetForOne",
       [=](DiskTier& tier) { return tier.Forget(DigestOf(tier, second), of_tenant.access); }, 4},
      {"Forget", [=](DiskTier& tier) { return tier.Forget(DigestOf(tier, first), ""); }, 5},
      {"DropWhatIsDamaged", drop, 4, false, false},
  };
}

class DiskTierFaults : public ::testing::TestWithParam<Operation> {
 protected:
  static std::unique_ptr<DiskTier> Prepared(const std::string& data) {
    auto tier = *DiskTier::Open(data + "/fetched", RoomFor(3));
    for (const Asked& asked : {Asked{"", 1}, Asked{"", 2}, Asked{"tenant", 2}}) {
      LORICA_CHECK(Put(*tier, asked).ok());
    }
    return tier;
  }
  // What was before and is afterwards is there, and nothing that was at neither time. Of origins
  // the last to be written may be missing: the hub is asked again.
  static void ExpectBetween(const Holdings& found, const Holdings& before, const Holdings& after) {
    Strings kept;
    std::set_intersection(before.contents.begin(), before.contents.end(), after.contents.begin(),
                          after.contents.end(), std::inserter(kept, kept.end()));
    EXPECT_THAT(kept, IsSubsetOf(found.contents));
    EXPECT_THAT(found.contents, IsSubsetOf(Either(before.contents, after.contents)));
    EXPECT_THAT(found.origins, IsSubsetOf(Either(before.origins, after.origins)));
  }

  std::mt19937_64 random_{kSeed};
};

TEST_P(DiskTierFaults, MayLoseThePowerAfterAnyChange) {
  TemporaryFolder data;
  DiskShim shim(data.path());
  const auto tier = Prepared(data.path());
  const Holdings before = HoldingsOf(*tier);
  const int first = shim.changes();
  ASSERT_EQ(GetParam().act(*tier), absl::OkStatus());
  const Holdings after = HoldingsOf(*tier);
  ASSERT_FALSE(after == before);
  const int last = shim.changes();
  ASSERT_GE(last, first + GetParam().changes_min) << "not recorded";
  for (int changes = first; changes <= last; ++changes) {
    for (const DiskShim::Rest rest : kRests) {
      SCOPED_TRACE(absl::StrCat("after change ", changes - first, " of ", last - first, ", rest ",
                                static_cast<int>(rest), ", seed ", kSeed));
      TemporaryFolder left;
      shim.LayOut(changes, rest, random_, left.path());
      const Holdings found = Reopened(left.path());
      ExpectBetween(found, before, after);
      if (changes == last && GetParam().is_kept) {
        EXPECT_EQ(found.contents, after.contents);
        EXPECT_THAT(found.origins, IsSubsetOf(after.origins)) << "forgotten for good";
      }
    }
  }
}

TEST_P(DiskTierFaults, MayFailAtAnyChange) {
  const Holdings wanted = [] {
    TemporaryFolder data;
    const DiskShim shim(data.path());
    const auto tier = Prepared(data.path());
    EXPECT_TRUE(GetParam().act(*tier).ok());
    return HoldingsOf(*tier);
  }();
  for (const int error : kErrors) {
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("change ", k, ": ", std::strerror(error)));
      TemporaryFolder data;
      DiskShim shim(data.path());
      auto tier = Prepared(data.path());
      const Holdings before = HoldingsOf(*tier);
      shim.FailAt(k, error);
      const absl::Status status = Timed([&] { return GetParam().act(*tier); });
      failed = shim.failed();
      shim.FailAt(0, 0);
      EXPECT_TRUE(status.ok() || (GetParam().may_refuse && absl::IsUnavailable(status))) << status;
      const Holdings now = HoldingsOf(*tier);
      if (status.ok()) {
        EXPECT_EQ(now.contents, wanted.contents);
        EXPECT_EQ(now.origins, wanted.origins);
      } else {
        ExpectBetween(now, before, wanted);
      }
      EXPECT_EQ(Put(*tier, {"", 9}), absl::OkStatus()) << "it may go better";
      const Holdings later = HoldingsOf(*tier);
      tier = nullptr;
      const Holdings found = Reopened(data.path());
      if (status.ok() && GetParam().is_kept) {
        EXPECT_EQ(found.contents, later.contents);
        EXPECT_THAT(found.origins, IsSubsetOf(later.origins)) << "forgotten for good";
      }
      EXPECT_TRUE(failed || k > GetParam().changes_min) << "it changes more";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, DiskTierFaults, ::testing::ValuesIn(Operations()),
                         [](const auto& of) { return of.param.name; });

// A start that finds a fetch that never ended and a folder of nobody's, and has room for less.
class DiskTierStartFaults : public ::testing::Test {
 protected:
  static Holdings LeaveWork(const std::string& data) {
    const std::string folder = data + "/fetched";
    const auto tier = *DiskTier::Open(folder, RoomFor(3));
    for (int seed = 1; seed <= 2; ++seed) LORICA_CHECK(Put(*tier, {"", seed}).ok());
    fs::create_directories(folder + "/tmp/7");
    fs::create_directories(folder + "/content/nobodys");
    std::ofstream(folder + "/tmp/7/adapter_config.json") << "{}";
    std::ofstream(folder + "/content/nobodys/file") << "text";
    return HoldingsOf(*tier);
  }
  std::mt19937_64 random_{kSeed};
};

TEST_F(DiskTierStartFaults, MayLoseThePowerAfterAnyChange) {
  TemporaryFolder data;
  DiskShim shim(data.path());
  const Holdings before = LeaveWork(data.path());
  const int first = shim.changes();
  ASSERT_TRUE(DiskTier::Open(data.path() + "/fetched", RoomFor(1)).ok());
  const int last = shim.changes();
  ASSERT_GE(last, first + 8) << "not recorded";
  for (int changes = first; changes <= last; ++changes) {
    for (const DiskShim::Rest rest : kRests) {
      SCOPED_TRACE(absl::StrCat("after change ", changes - first, ", rest ", static_cast<int>(rest),
                                ", seed ", kSeed));
      TemporaryFolder left;
      shim.LayOut(changes, rest, random_, left.path());
      const Holdings found = Reopened(left.path(), RoomFor(1));
      EXPECT_EQ(found.contents.size(), 1u);
      EXPECT_THAT(found.contents, IsSubsetOf(before.contents));
    }
  }
}

TEST_F(DiskTierStartFaults, MayFailAtAnyChange) {
  int refused = 0;
  for (const int error : kErrors) {
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("change ", k, ": ", std::strerror(error)));
      TemporaryFolder data;
      DiskShim shim(data.path());
      const Holdings before = LeaveWork(data.path());
      shim.FailAt(k, error);
      const absl::Status status =
          Timed([&] { return DiskTier::Open(data.path() + "/fetched", RoomFor(1)).status(); });
      failed = shim.failed();
      shim.FailAt(0, 0);
      refused += !status.ok();
      EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status) || absl::IsUnavailable(status))
          << status;
      const Holdings found = Reopened(data.path(), RoomFor(1));
      EXPECT_EQ(found.contents.size(), 1u);
      EXPECT_THAT(found.contents, IsSubsetOf(before.contents));
      EXPECT_TRUE(failed || k > 8) << "a start changes more";
    }
  }
  EXPECT_GT(refused, 0);
}

// What was fetched is not thrown away for it.
TEST(DiskTierReads, AStartThatCannotReadRefusesAndKeepsAll) {
  TemporaryFolder data;
  DiskShim shim(data.path());
  const std::string folder = data.path() + "/fetched";
  {
    const auto tier = *DiskTier::Open(folder, 1 << 20);
    for (int seed = 1; seed <= 2; ++seed) ASSERT_TRUE(Put(*tier, {"", seed}).ok());
  }
  bool failed = true;
  for (int k = 1; failed; ++k) {
    SCOPED_TRACE(absl::StrCat("read ", k));
    shim.FailReadsFrom(k, EIO);
    const absl::Status status = Timed([&] { return DiskTier::Open(folder, 1 << 20).status(); });
    failed = shim.failed();
    shim.FailReadsFrom(0, 0);
    EXPECT_EQ(absl::IsFailedPrecondition(status), failed) << status;
    if (failed) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("have its disk looked at"));
    }
    EXPECT_EQ(Reopened(data.path(), 1 << 20).contents.size(), 2u);
    EXPECT_TRUE(failed || k > 2) << "a start reads more";
  }
}

}  // namespace
}  // namespace lorica
