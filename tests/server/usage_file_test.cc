#include "server/usage_file.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

class UsageFileTest : public ::testing::Test {
 protected:
  // A server's life: what it bills, and how it ends.
  struct Life {
    explicit Life(const std::string& path, absl::Duration interval = absl::Hours(1)) {
      auto opened = UsageFile::Open(path, accounts.get(), interval);
      EXPECT_TRUE(opened.ok()) << opened.status();
      file = *std::move(opened);
    }
    void Bill(const std::string& tenant, const std::string& generation, int64_t tokens) {
      auto charge = *accounts->Enter(std::make_shared<const Tenant>(Tenant{.name = tenant}));
      charge->SetGeneration(generation);
      charge->Bill({.requests = 1,
                    .prompt_tokens = 2 * tokens,
                    .completion_tokens = tokens,
                    .cached_tokens = 1});
    }
    std::shared_ptr<Accounts> accounts = std::make_shared<Accounts>(absl::Now);
    std::unique_ptr<UsageFile> file;
  };

  TemporaryFolder folder_;
  const std::string path_ = folder_.path() + "/usage.json";
};

TEST_F(UsageFileTest, SumsGoOnAfterARestart) {
  absl::Time since;
  for (int life = 1; life <= 3; ++life) {
    Life server(path_);
    if (life == 1) since = server.file->since();
    EXPECT_LT(absl::AbsDuration(server.file->since() - since), absl::Milliseconds(2));
    server.Bill("a", "g", 10);
    server.Bill("a", "", 1);
    server.Bill("b", "g", 5);
    const auto rows = server.accounts->Bill("");
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[0].usage.completion_tokens, life);
    EXPECT_EQ(rows[1].usage.completion_tokens, 10 * life);
    EXPECT_EQ(rows[1].usage.prompt_tokens, 20 * life);
    EXPECT_EQ(rows[1].usage.requests, life);
    EXPECT_EQ(rows[1].usage.cached_tokens, life);
    EXPECT_EQ(rows[2].usage.completion_tokens, 5 * life);
  }
}

TEST_F(UsageFileTest, WritesByItself) {
  Life server(path_, absl::Milliseconds(5));
  server.Bill("a", "g", 10);
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (access(path_.c_str(), F_OK) != 0) {
    ASSERT_LT(absl::Now(), end);
    absl::SleepFor(absl::Milliseconds(1));
  }
}

// What was saved is there, nothing counts twice, and the file is whole.
TEST_F(UsageFileTest, AKillLosesAtMostWhatWasNotWrittenYet) {
  int64_t before = 0;
  for (int kill_after_us = 1000; kill_after_us <= 20'000; kill_after_us += 1000) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      Life server(path_);
      for (int64_t saved = 0;; saved += 7) {
        if (write(ends[1], &saved, sizeof saved) != sizeof saved) _exit(1);
        server.Bill("a", "g", 7);
        if (!server.file->Save().ok()) _exit(1);
      }
    }
    close(ends[1]);
    usleep(kill_after_us);
    kill(child, SIGKILL);
    int64_t saved = 0;
    int64_t one = 0;
    while (read(ends[0], &one, sizeof one) == sizeof one) saved = one;
    close(ends[0]);
    waitpid(child, nullptr, 0);
    Life server(path_);
    const auto rows = server.accounts->Bill("a");
    const int64_t now = rows.empty() ? 0 : rows[0].usage.completion_tokens;
    EXPECT_GE(now, before + saved);
    EXPECT_LE(now, before + saved + 7);
    before = now;
  }
  EXPECT_GT(before, 0);
}

TEST_F(UsageFileTest, ADamagedFileIsNotCountedOver) {
  for (const char* text :
       {"", "{", "[]", "{}", R"({"since_unix_ms": 1, "rows": [1]})",
        R"({"since_unix_ms": 1, "rows": [{"tenant": "a"}]})",
        R"({"since_unix_ms": -1, "rows": []})",
        R"({"since_unix_ms": 1, "rows": [{"tenant": "a", "generation": "", "requests": -1,
            "prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 1}]})"}) {
    std::ofstream(path_) << text;
    Accounts accounts(absl::Now);
    const auto opened = UsageFile::Open(path_, &accounts);
    EXPECT_TRUE(absl::IsFailedPrecondition(opened.status())) << text;
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("move it away"));
    EXPECT_TRUE(accounts.Bill("").empty());
  }
}

TEST_F(UsageFileTest, AFolderThatIsGoneIsAnErrorAndNoEnd) {
  Life server(folder_.path() + "/absent/usage.json");
  server.Bill("a", "g", 1);
  EXPECT_TRUE(absl::IsUnavailable(server.file->Save()));
}

}  // namespace
}  // namespace lorica
