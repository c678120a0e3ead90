// Goal: any change of the disk that writing the bill makes may fail, or be the last before the
// power goes or the process is killed: the next server has the sums of one writing, whole, and at
// least those of the last one that was told to be on the disk; and the server that failed goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "server/usage_file.h"
#include "tests/fakes/disk_shim.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using fakes::DiskShim;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int kErrors[] = {ENOSPC, EIO, EDQUOT, EROFS, EACCES, EMFILE};
// What the power leaves, each time: none of what was not synced, all of it, and any.
constexpr DiskShim::Rest kRests[] = {DiskShim::Rest::kNone, DiskShim::Rest::kAll,
                                     DiskShim::Rest::kAny, DiskShim::Rest::kAny};
constexpr uint64_t kSeed = 105;
constexpr int kChangesMin = 5;  // made, written, synced, renamed, its folder synced

// A server's life, which writes when it is told to.
struct Life {
  explicit Life(const std::string& folder) {
    auto opened = UsageFile::Open(folder + "/usage.json", accounts.get(), absl::Hours(1));
    EXPECT_TRUE(opened.ok()) << opened.status();
    file = *std::move(opened);
  }
  void Bill(int64_t tokens) {
    auto charge = *accounts->Enter(std::make_shared<const Tenant>(Tenant{.name = "a"}));
    charge->SetGeneration("g");
    charge->Bill({.requests = 1, .prompt_tokens = tokens});
  }
  int64_t Tokens() const {
    const auto rows = accounts->Bill("");
    return rows.empty() ? 0 : rows[0].usage.prompt_tokens;
  }
  std::shared_ptr<Accounts> accounts = std::make_shared<Accounts>(absl::Now);
  std::unique_ptr<UsageFile> file;
};

TEST(UsageFileFaults, MayLoseThePowerAfterAnyChange) {
  std::mt19937_64 random(kSeed);
  TemporaryFolder data;
  DiskShim shim(data.path());
  Life life(data.path());
  int64_t before = 0;
  for (int writing = 1; writing <= 2; ++writing) {  // the first one makes the file
    const int first = shim.changes();
    life.Bill(10);
    ASSERT_EQ(life.file->Save(), absl::OkStatus());
    const int last = shim.changes();
    ASSERT_GE(last, first + kChangesMin) << "not recorded";
    for (int changes = first; changes <= last; ++changes) {
      for (const DiskShim::Rest rest : kRests) {
        SCOPED_TRACE(absl::StrCat("after change ", changes - first, " of writing ", writing,
                                  ", rest ", static_cast<int>(rest), ", seed ", kSeed));
        TemporaryFolder left;
        shim.LayOut(changes, rest, random, left.path());
        const int64_t found = Life(left.path()).Tokens();
        if (changes == last) {
          EXPECT_EQ(found, life.Tokens());
        } else {
          EXPECT_THAT(found, AnyOf(before, life.Tokens()));
        }
      }
    }
    before = life.Tokens();
  }
}

TEST(UsageFileFaults, MayFailAtAnyChange) {
  for (const int error : kErrors) {
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("change ", k, ": ", std::strerror(error)));
      TemporaryFolder data;
      DiskShim shim(data.path());
      Life life(data.path());
      life.Bill(1);
      ASSERT_EQ(life.file->Save(), absl::OkStatus());
      life.Bill(10);
      shim.FailAt(k, error);
      const absl::Status status = life.file->Save();
      failed = shim.failed();
      shim.FailAt(0, 0);
      EXPECT_EQ(absl::IsUnavailable(status), failed) << status;
      if (failed) {
        EXPECT_THAT(std::string(status.message()), HasSubstr(std::strerror(error)));
      }
      {
        std::mt19937_64 random(kSeed);
        TemporaryFolder left;
        shim.LayOut(shim.changes(), DiskShim::Rest::kAll, random, left.path());
        EXPECT_THAT(Life(left.path()).Tokens(), AnyOf(1, 11)) << "it is killed then";
      }
      EXPECT_EQ(life.file->Save(), absl::OkStatus()) << "it may go better";
      EXPECT_EQ(Life(data.path()).Tokens(), 11);
      EXPECT_TRUE(failed || k > kChangesMin) << "it changes more";
    }
  }
}

}  // namespace
}  // namespace lorica
