// Goal: whichever change of the disk fails, or is the last before the power goes, what was
// acknowledged is there at the next start, nothing is half, and nothing foreign is left; whichever
// read fails, nothing is lost by it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <vector>

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

}  // namespace
}  // namespace lorica
