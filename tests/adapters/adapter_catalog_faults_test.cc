// Goal: whatever changes names, or starts with them, any of the changes of the disk that it makes
// may fail, or be the last before the power goes or the process is killed: what was acknowledged is
// there at the next start, as a whole and alone. Method: every operation, every one of its changes
// of the disk, every error that disks have.
//
//   adapter_catalog_faults_test                 full disks and broken ones
//   adapter_catalog_faults_test --all-errors    also those that may not be written
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <regex>
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

std::vector<int> g_errors = {ENOSPC, EIO};
// What the power leaves, each time: none of what was not synced, all of it, and any.
constexpr DiskShim::Rest kRests[] = {DiskShim::Rest::kNone, DiskShim::Rest::kAll,
                                     DiskShim::Rest::kAny, DiskShim::Rest::kAny};
constexpr uint64_t kSeed = 107;
constexpr char kFolder[] = "name4";  // a folder's own name
// Copies that are made at a time: files whose content is to be known must have lain for a moment,
// and those that wait together wait once.
constexpr int kCopiesMade = 50;
// Of what a disk does at once, or not at all: nobody waits for it to get better.
const absl::Duration kChangeMax = kInstrumentationFactor * absl::Seconds(5);

struct Operation {
  std::string name;
  std::function<void(Store&)> prepare;
  std::function<absl::Status(Store&)> act;
  int changes_min = 0;  // of the disk; fewer, and they are not seen
};
void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

absl::Status Register(Store& store, const std::string& name, const std::string& location) {
  return store.catalog().Register(kStoreTenant, name, {location, true, ""}).status();
}
absl::Status SetAlias(Store& store, const std::string& alias, const std::string& target) {
  return store.catalog().SetAlias(kStoreTenant, alias, target, {.replace = true});
}
absl::Status Delete(Store& store, const std::string& name) {
  return store.catalog().Delete(kStoreTenant, name);
}
void MustDo(const absl::Status& status) {
  LORICA_CHECK(status.ok(), std::string(status.message()));
}

// Two names that hold content besides, and what is done to others.
std::vector<Operation> Operations() {
  const auto name1 = [](std::vector<std::string> locations) {
    return [locations](Store& store) {
      for (const std::string& location : locations) MustDo(Register(store, "name1", location));
    };
  };
  std::vector<std::string> many;
  for (int i = 0; i < kGenerationsKeptMax; ++i) many.push_back(absl::StrCat("v", i));
  const auto with_alias = [](Store& store) {
    MustDo(Register(store, "name1", "v1"));
    MustDo(SetAlias(store, "alias0", "name0"));
  };
  const MergeChoice merge{{}, {{"v1", 0.5}, {"v2", 2.0}}};
  return {
      {"Register", name1({}), [](Store& s) { return Register(s, "name1", "v1"); }, 20},
      {"Replace", name1({"v1"}), [](Store& s) { return Register(s, "name1", "v2"); }, 20},
      {"ReplaceTheOldestOfMany", name1(many),
       [](Store& s) { return Register(s, "name1", absl::StrCat("v", kGenerationsKeptMax)); }, 23},
      {"KnowFromElsewhere", name1({"v1"}),
       [](Store& s) { return Register(s, "name1", "v1-again"); }, 8},
      {"TwoNamesOfOneContent", name1({"v1"}), [](Store& s) { return Register(s, "name2", "v1"); },
       8},
      {"Import", name1({}), [](Store& s) { return Register(s, kFolder, kFolder); }, 20},
      {"Merge", name1({"v1"}), [merge](Store& s) { return s.Merge("name1", merge); }, 20},
      {"RollBack", name1({"v1", "v2"}),
       [](Store& s) { return s.catalog().Rollback(kStoreTenant, "name1", "", "").status(); }, 8},
      {"Alias", name1({"v1"}), [](Store& s) { return SetAlias(s, "alias0", "name1"); }, 8},
      {"MoveAlias", with_alias, [](Store& s) { return SetAlias(s, "alias0", "name1"); }, 8},
      {"DeleteAlias", with_alias, [](Store& s) { return Delete(s, "alias0"); }, 8},
      {"Delete", name1({"v1", "v2", "v3"}), [](Store& s) { return Delete(s, "name1"); }, 17},
      {"DeleteAFoldersName", name1({}), [](Store& s) { return Delete(s, kFolder); }, 8},
      {"DeleteAnImport", [](Store& store) { MustDo(Register(store, kFolder, kFolder)); },
       [](Store& s) { return Delete(s, kFolder); }, 11},
      {"Unregister", [](Store& store) { MustDo(Register(store, kFolder, kFolder)); },
       [](Store& s) { return s.catalog().Unregister(kStoreTenant, kFolder); }, 11},
  };
}

// What two runs of the same say of one name.
States WithoutTimes(States states) {
  for (auto& [name, state] : states) {
    state = std::regex_replace(state, std::regex("@[0-9]+@"), "@@");
  }
  return states;
}

// What the disk holds when the power goes after so many changes.
struct Cut {
  int changes;
  std::string text;
  std::unique_ptr<TemporaryFolder> left = std::make_unique<TemporaryFolder>();
};
std::vector<Cut> LayOut(const DiskShim& shim, int first, int last, std::mt19937_64& random) {
  std::vector<Cut> cuts;
  for (int changes = first; changes <= last; ++changes) {
    for (const DiskShim::Rest rest : kRests) {
      cuts.push_back({changes, absl::StrCat("after change ", changes - first, " of ", last - first,
                                            ", rest ", static_cast<int>(rest), ", seed ", kSeed)});
      shim.LayOut(changes, rest, random, cuts.back().left->path());
    }
  }
  return cuts;
}

// Copies of a folder, each for one use, beneath a folder that is watched already.
class Copies {
 public:
  Copies(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  std::string Next() {
    for (; used_ == made_ || made_ % kCopiesMade != 0; ++made_) {
      fs::copy(from_, PathOf(made_), fs::copy_options::recursive);
    }
    return PathOf(used_++);
  }

 private:
  std::string PathOf(int copy) const { return absl::StrCat(to_, "/", copy); }

  const std::string from_;
  const std::string to_;
  int made_ = 0;
  int used_ = 0;
};

class CatalogFaults : public ::testing::TestWithParam<Operation> {
 protected:
  CatalogFaults() : random_(kSeed) {
    for (int i = 0; i <= kGenerationsKeptMax; ++i) {
      SmallestAdapter(i + 1).WriteTo(adapters_, absl::StrCat("v", i));
    }
    SmallestAdapter(2).WriteTo(adapters_, "v1-again");
    for (const TemporaryFolder* folder : {&adapters_, &gone_}) {
      SmallestAdapter(kGenerationsKeptMax + 2).WriteTo(*folder, kFolder);
    }
  }
  std::unique_ptr<Store> Open(const std::string& data) {
    auto store = Store::Open(adapters_, data);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  std::unique_ptr<Store> Prepared(const std::string& data) {
    auto store = Open(data);
    MustDo(Register(*store, "name0", "v0"));
    GetParam().prepare(*store);
    return store;
  }
  // Within the limit.
  static absl::Status Timed(const std::function<absl::Status()>& change) {
    const absl::Time begun = absl::Now();
    const absl::Status status = change();
    EXPECT_LT(absl::Now() - begun, kChangeMax);
    return status;
  }

  TemporaryFolder adapters_;
  TemporaryFolder gone_;  // of an operator who relies on the copies, and has but one folder left
  std::mt19937_64 random_;
};

// Row 107. All that was not synced is what is left when the process is killed.
TEST_P(CatalogFaults, MayLoseThePowerAfterAnyChange) {
  TemporaryFolder data;
  DiskShim shim(data.path());
  const auto store = Prepared(data.path());
  const States before = StatesOf(store->catalog());
  const int first = shim.changes();
  const absl::Status status = GetParam().act(*store);
  ASSERT_TRUE(status.ok()) << status;
  const States after = StatesOf(store->catalog());
  ASSERT_NE(before, after);
  const int last = shim.changes();
  ASSERT_GE(last, first + GetParam().changes_min) << "not recorded";
  for (const Cut& cut : LayOut(shim, first, last, random_)) {
    SCOPED_TRACE(cut.text);
    const States found = ReopenedStates(gone_, cut.left->path());
    if (cut.changes == last) {
      EXPECT_EQ(found, after);
    } else {
      EXPECT_THAT(found, AnyOf(Eq(before), Eq(after)));
    }
  }
}

// Row 105.
TEST_P(CatalogFaults, MayFailAtAnyChange) {
  TemporaryFolder prepared;
  const States before = [&] {
    const DiskShim shim(prepared.path());
    return StatesOf(Prepared(prepared.path())->catalog());
  }();
  TemporaryFolder all;
  DiskShim shim(all.path());
  Copies copies(prepared.path(), all.path());
  const States wanted = [&] {
    const auto store = Open(copies.Next());
    EXPECT_TRUE(GetParam().act(*store).ok());
    return WithoutTimes(StatesOf(store->catalog()));
  }();
  for (const int error : g_errors) {
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("change ", k, ": ", std::strerror(error)));
      const std::string data = copies.Next();
      auto store = Open(data);
      ASSERT_EQ(StatesOf(store->catalog()), before);
      shim.FailAt(k, error);
      const auto act = [&] { return Timed([&] { return GetParam().act(*store); }); };
      const absl::Status status = act();
      failed = shim.failed();
      shim.FailAt(0, 0);
      const States now = StatesOf(store->catalog());
      if (status.ok()) {
        EXPECT_EQ(WithoutTimes(now), wanted);
      } else {
        EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) << status;
        EXPECT_EQ(now, before);
      }
      EXPECT_TRUE(store->catalog().Resolve(kStoreTenant, "name0").ok());
      // Refused for good, or it may go better.
      const absl::Status again = status.ok() ? status : act();
      EXPECT_TRUE(again.ok() || absl::IsUnavailable(again)) << again;
      store.reset();
      const States found = ReopenedStates(gone_, data);
      if (again.ok()) {
        EXPECT_EQ(WithoutTimes(found), wanted);
      } else if (found != before) {  // as it was, or as asked
        EXPECT_EQ(WithoutTimes(found), wanted);
      }
      EXPECT_TRUE(failed || k > GetParam().changes_min) << "it changes more";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, CatalogFaults, ::testing::ValuesIn(Operations()),
                         [](const auto& of) { return of.param.name; });

// A start that finds a copy that never ended, one that no name has, and what the last operation
// left: it removes them.
class StartFaults : public ::testing::Test {
 protected:
  StartFaults() : random_(kSeed) {
    for (int i = 0; i < 3; ++i) SmallestAdapter(i + 1).WriteTo(adapters_, absl::StrCat("v", i));
  }
  // Returns what its names are.
  States LeaveWork(const std::string& data) {
    auto store = *Store::Open(adapters_, data);
    for (int i = 0; i < 2; ++i) {
      MustDo(Register(*store, absl::StrCat("name", i), absl::StrCat("v", i)));
    }
    for (const char* folder : {"/content/.new-7", "/content/unnamed"}) {
      fs::create_directory(data + folder);
      SmallestAdapter(9).WriteTo(adapters_, "left");
      for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
        fs::create_hard_link(adapters_.path() + "/v2/" + file,
                             absl::StrCat(data, folder, "/", file));
      }
    }
    return StatesOf(store->catalog());
  }

  TemporaryFolder adapters_;
  const TemporaryFolder gone_;
  std::mt19937_64 random_;
};

TEST_F(StartFaults, MayLoseThePowerAfterAnyChange) {
  TemporaryFolder data;
  DiskShim shim(data.path());
  const States names = LeaveWork(data.path());
  const int first = shim.changes();
  ASSERT_TRUE(Store::Open(gone_, data.path()).ok());
  const int last = shim.changes();
  ASSERT_GE(last, first + 6) << "not recorded";
  for (const Cut& cut : LayOut(shim, first, last, random_)) {
    SCOPED_TRACE(cut.text);
    EXPECT_EQ(ReopenedStates(gone_, cut.left->path()), names);
  }
}

// A start is refused, or succeeds; the next one has all names.
TEST_F(StartFaults, MayFailAtAnyChange) {
  TemporaryFolder left;
  const States names = LeaveWork(left.path());
  TemporaryFolder all;
  DiskShim shim(all.path());
  Copies copies(left.path(), all.path());
  int refused = 0;
  for (const int error : g_errors) {
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("change ", k, ": ", std::strerror(error)));
      const std::string data = copies.Next();
      shim.FailAt(k, error);
      absl::Status status;
      {
        const auto store = Store::Open(gone_, data);
        status = store.status();
        if (store.ok()) {
          EXPECT_EQ(StatesOf((*store)->catalog()), names);
        }
      }
      failed = shim.failed();
      shim.FailAt(0, 0);
      refused += !status.ok();
      EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status) || absl::IsUnavailable(status))
          << status;
      EXPECT_EQ(ReopenedStates(gone_, data), names);
      EXPECT_TRUE(failed || k > 6) << "a start changes more";
    }
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (argc > 1 && std::string(argv[1]) == "--all-errors") {
    lorica::g_errors = {ENOSPC, EIO, EDQUOT, EROFS, EACCES, EMFILE};
  }
  return RUN_ALL_TESTS();
}
