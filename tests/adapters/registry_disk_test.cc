// Goal: whichever change of the disk fails, or is the last before the power goes, what was
// acknowledged is there at the next start, nothing is half, and nothing foreign is left; whichever
// read fails, nothing is lost by it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <vector>

#include "adapters/content_digest.h"
#include "adapters/disk_tier.h"
#include "adapters/sha256.h"
#include "tests/adapters/registered_store.h"
#include "tests/fakes/disk_shim.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using fakes::DiskShim;
using ::testing::AnyOf;
using ::testing::Eq;
using ::testing::HasSubstr;

constexpr int kVersions = 4;
// Of full disks, broken ones, and ones that may not be written.
constexpr int kErrors[] = {ENOSPC, EIO, EDQUOT, EROFS, EACCES, EMFILE};
// Of what a disk does at once, or not at all: nobody waits for it to get better.
const absl::Duration kChangeMax = kInstrumentationFactor * absl::Seconds(5);

// Returns what `change` does, within the limit.
template <typename Change>
auto Timed(const Change& change) {
  const absl::Time begun = absl::Now();
  auto result = change();
  EXPECT_LT(absl::Now() - begun, kChangeMax);
  return result;
}

class DiskFaults : public ::testing::Test {
 protected:
  DiskFaults() {
    for (int i = 0; i < kVersions; ++i) {
      SmallestAdapter(i + 1).WriteTo(adapters_, absl::StrCat("v", i));
    }
  }
  static void ActAtRandom(AdapterCatalog& catalog, std::mt19937_64& random) {
    const auto draw = [&random](int count) { return static_cast<int>(random() % count); };
    const std::string name = absl::StrCat("name", draw(kStoreNames));
    const std::string alias = absl::StrCat("alias", draw(2));
    const int what = draw(10);
    if (what < 5) {
      (void)catalog.Register(kStoreTenant, name, {absl::StrCat("v", draw(kVersions)), true, ""});
    } else if (what < 7) {
      (void)catalog.Rollback(kStoreTenant, name, "", "");
    } else if (what < 8) {
      (void)catalog.Delete(kStoreTenant, name);
    } else if (what < 9) {
      (void)catalog.SetAlias(kStoreTenant, alias, name, {.replace = true});
    } else {
      (void)catalog.Delete(kStoreTenant, alias);
    }
  }

  TemporaryFolder adapters_;
  const TemporaryFolder gone_;  // of an operator who relies on the copies
};

TEST_F(DiskFaults, WhenThePowerGoesWhatWasAcknowledgedIsThere) {
  constexpr int kActs = 40, kPowerCuts = 80;
  constexpr uint64_t kSeed = 107;
  std::mt19937_64 random(kSeed);
  TemporaryFolder data;
  DiskShim shim(data.path());
  const auto opened = Store::Open(adapters_, data.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  Store& store = **opened;
  // After so many changes of the disk that was acknowledged.
  std::vector<std::pair<int, States>> acknowledged = {{shim.changes(), StatesOf(store.catalog())}};
  for (int act = 0; act < kActs; ++act) {
    Timed([&] {
      ActAtRandom(store.catalog(), random);
      return act;
    });
    acknowledged.emplace_back(shim.changes(), StatesOf(store.catalog()));
  }
  const int first = acknowledged.front().first;
  const int all = acknowledged.back().first;
  ASSERT_GT(all, first + 5 * kActs) << "not recorded";
  for (int cut = 0; cut < kPowerCuts; ++cut) {
    const int changes = first + static_cast<int>(random() % (all - first + 1));
    SCOPED_TRACE(absl::StrCat("power cut ", cut, " after ", changes, " changes, seed ", kSeed));
    size_t last = 0;
    while (last + 1 < acknowledged.size() && acknowledged[last + 1].first <= changes) ++last;
    const size_t next = std::min(last + 1, acknowledged.size() - 1);
    TemporaryFolder left;
    shim.LayOut(changes, DiskShim::Rest::kAny, random, left.path());
    const States found = ReopenedStates(gone_, left.path());
    EXPECT_THAT(found, AnyOf(Eq(acknowledged[last].second), Eq(acknowledged[next].second)));
  }
}

// The first look at a copy after a start reads all of it; a copy that may not be served here, once
// more. Whatever read fails, nobody takes the copy for damaged and removes it.
TEST_F(DiskFaults, ACopyThatCannotBeReadIsRefusedAndStays) {
  constexpr int kRoomForNone = 0;
  for (const int32_t blocks_max : {kRoomForNone, 1000}) {
    TemporaryFolder data;
    DiskShim shim(data.path());
    {
      const auto store = *Store::Open(adapters_, data.path());
      ASSERT_TRUE(store->catalog().Register(kStoreTenant, "name0", {"v0"}).ok());
    }
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("read ", k, ", room for ", blocks_max));
      const auto store = *Store::Open(gone_, data.path(), blocks_max);
      const auto resolve = [&] {
        return Timed([&] { return store->catalog().Resolve(kStoreTenant, "name0").status(); });
      };
      const absl::StatusCode otherwise = blocks_max == kRoomForNone
                                             ? absl::StatusCode::kFailedPrecondition
                                             : absl::StatusCode::kOk;
      shim.FailReadsFrom(k, EIO);
      const absl::Status status = resolve();
      failed = shim.failed();
      shim.FailReadsFrom(0, 0);
      EXPECT_EQ(status.code(), failed ? absl::StatusCode::kUnavailable : otherwise) << status;
      if (failed) {
        EXPECT_THAT(std::string(status.message()), HasSubstr("ask again"));
      }
      EXPECT_EQ(resolve().code(), otherwise);
      EXPECT_TRUE(failed || k > 3) << "a look reads more";
    }
  }
}

// --- what was fetched -------------------------------------------------------------------------

// Puts an adapter of another seed each time, as a fetch does.
absl::Status Put(DiskTier& tier, int seed) {
  const MadeAdapter adapter = SmallestAdapter(seed);
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
  const RemoteOrigin origin{"hub", absl::StrCat("org/", seed), "main", std::string(40, 'c')};
  return tier
      .Publish(*std::move(staging), GenerationDigest(sums[0], sums[1]), {origin, absl::Now()})
      .status();
}

// Each content is what its name says; how many there are.
int WholeContents(const std::string& folder) {
  const auto tier = DiskTier::Open(folder, 1 << 20);
  EXPECT_TRUE(tier.ok()) << tier.status();
  const std::shared_ptr<Source> source = *MakeLocalSource(folder + "/content");
  int count = 0;
  for (const auto& entry : fs::directory_iterator(folder + "/content")) {
    const std::string digest = entry.path().filename();
    EXPECT_EQ(ContentDigest(*source, digest).value_or(""), digest);
    ++count;
  }
  EXPECT_TRUE(fs::is_empty(folder + "/tmp"));
  EXPECT_EQ((*tier)->stats().generations, count);
  return count;
}

TEST(DiskTierFaults, WhenThePowerGoesContentIsWholeOrNotThere) {
  constexpr int kFetches = 12, kPowerCuts = 80;
  constexpr uint64_t kSeed = 108;
  std::mt19937_64 random(kSeed);
  TemporaryFolder data;
  DiskShim shim(data.path());
  // Room for a few, so that others give way.
  const auto tier = *DiskTier::Open(data.path() + "/fetched", 8000);
  const int first = shim.changes();
  for (int seed = 1; seed <= kFetches; ++seed) {
    ASSERT_TRUE(Timed([&] { return Put(*tier, seed); }).ok());
  }
  EXPECT_GT(tier->stats().evictions, 0);
  for (int cut = 0; cut < kPowerCuts; ++cut) {
    const int changes = first + static_cast<int>(random() % (shim.changes() - first + 1));
    SCOPED_TRACE(absl::StrCat("power cut ", cut, " after ", changes, " changes, seed ", kSeed));
    TemporaryFolder left;
    shim.LayOut(changes, DiskShim::Rest::kAny, random, left.path());
    fs::create_directories(left.path() + "/fetched");
    WholeContents(left.path() + "/fetched");
  }
}

TEST(DiskTierFaults, AnyChangeOfAFetchMayFail) {
  for (const int error : kErrors) {
    for (int k = 1;; ++k) {
      SCOPED_TRACE(absl::StrCat("change ", k, ": ", std::strerror(error)));
      TemporaryFolder data;
      DiskShim shim(data.path());
      const std::string folder = data.path() + "/fetched";
      int kept = 1;
      bool failed = false;
      {
        const auto tier = *DiskTier::Open(folder, 1 << 20);
        ASSERT_TRUE(Put(*tier, 1).ok());
        shim.FailAt(k, error);
        const absl::Status status = Timed([&] { return Put(*tier, 2); });
        failed = shim.failed();
        shim.FailAt(0, 0);
        EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
        kept += status.ok();
        EXPECT_EQ(tier->stats().generations, kept);
        const absl::Status again = Timed([&] { return Put(*tier, 3); });
        EXPECT_TRUE(again.ok()) << again;
        ++kept;
      }
      EXPECT_LE(WholeContents(folder), kept);
      if (!failed) {
        EXPECT_GT(k, 8) << "a fetch changes more";
        break;
      }
    }
  }
}

// What was fetched is not thrown away for it.
TEST(DiskTierFaults, AStartThatCannotReadRefusesAndKeepsAll) {
  TemporaryFolder data;
  DiskShim shim(data.path());
  const std::string folder = data.path() + "/fetched";
  {
    const auto tier = *DiskTier::Open(folder, 1 << 20);
    for (int seed = 1; seed <= 2; ++seed) ASSERT_TRUE(Put(*tier, seed).ok());
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
    EXPECT_EQ(WholeContents(folder), 2);
    EXPECT_TRUE(failed || k > 2) << "a start reads more";
  }
}

}  // namespace
}  // namespace lorica
