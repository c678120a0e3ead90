// Goal: whenever the process is killed, what was acknowledged is there at the next start,
// nothing is half-written, and the start needs no help. Method: a child registers, moves,
// rolls back, aliases and deletes as fast as it can and tells each answer through a pipe;
// it is killed at a random moment, and its successor's names are compared with the answers.
//
//   registry_crash_test                       a few kills
//   registry_crash_test --kills=N --seed=N    more
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/adapters/registered_store.h"

namespace lorica {
namespace {

constexpr int kVersions = 6;
// A change takes several times as long in a sanitized build.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kLifeUsMax = 400'000;
#else
constexpr int kLifeUsMax = 60'000;
#endif
constexpr int kChangesALife = 4;  // at most, where changes take longer than that allows for
constexpr int kOpeningMsMax = 10'000;

int g_kills = 25;
uint64_t g_seed = 1;

class Child {
 public:
  Child(const TemporaryFolder& adapters, const TemporaryFolder& data, int pipe, uint64_t seed)
      : store_(adapters, data.path()), pipe_(pipe), random_(seed) {}

  [[noreturn]] void Live() {
    for (;;) Act();
  }

 private:
  int Draw(int count) { return static_cast<int>(random_() % count); }
  void Tell(const std::string& line) {
    if (write(pipe_, line.data(), line.size()) != std::ssize(line)) _exit(1);
  }
  void Act() {
    AdapterCatalog& catalog = store_.catalog();
    const std::string name = absl::StrCat("name", Draw(kStoreNames));
    const std::string alias = absl::StrCat("alias", Draw(2));
    const int what = Draw(10);
    const std::string& subject = what == 9 ? alias : name;
    Tell(absl::StrCat("try ", subject, "\n"));
    if (what < 5) {
      (void)catalog.Register(kStoreTenant, name, {absl::StrCat("v", Draw(kVersions)), true, ""});
    } else if (what < 7) {
      (void)catalog.Rollback(kStoreTenant, name, "", "");
    } else if (what < 9) {
      (void)catalog.Delete(kStoreTenant, name);
    } else if (Draw(2) == 0) {
      (void)catalog.SetAlias(kStoreTenant, alias, name, {.replace = true});
    } else {
      (void)catalog.Delete(kStoreTenant, alias);
    }
    Tell(absl::StrCat("is ", subject, " ", StateOf(catalog, subject), "\n"));
  }

  Store store_;
  const int pipe_;
  std::mt19937_64 random_;
};

class RegistryCrashTest : public ::testing::Test {
 protected:
  RegistryCrashTest() {
    for (int i = 0; i < kVersions; ++i) {
      SmallestAdapter(i + 1).WriteTo(adapters_, absl::StrCat("v", i));
    }
  }
  // One life; what the child said. Counted from its first word in three of four, whatever the
  // machine is busy with; the fourth may end while it opens its files.
  std::string LiveAndDie(uint64_t seed, int life_us) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      Child(adapters_, data_, ends[1], seed).Live();
    }
    close(ends[1]);
    pollfd first_word{ends[0], POLLIN, 0};
    if (seed % 4 != 0) poll(&first_word, 1, kOpeningMsMax);
    usleep(life_us);
    kill(child, SIGKILL);
    std::string said;
    char buffer[4096];
    for (ssize_t count; (count = read(ends[0], buffer, sizeof buffer)) > 0;) {
      said.append(buffer, count);
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "it died by itself";
    return said;
  }
  // Names by what was acknowledged; the one that was being changed, if any.
  static std::string Follow(const std::string& said, States* states, int64_t* acknowledged) {
    std::istringstream lines(said);
    std::string verb;
    std::string name;
    std::string trying;
    while (lines >> verb >> name) {
      trying = verb == "try" ? name : "";
      if (verb == "is" && lines >> (*states)[name]) ++*acknowledged;
    }
    return trying;
  }
  States Reopen() { return ReopenedStates(adapters_, data_.path()); }

  TemporaryFolder adapters_;
  TemporaryFolder data_;
};

// Where the disk is slow, or the machine busy, a life is longer.
int LifeUsMax(int64_t lived_us, int64_t acknowledged) {
  const int64_t of_a_change = lived_us / std::max<int64_t>(acknowledged, 1);
  return static_cast<int>(std::max<int64_t>(kLifeUsMax, kChangesALife * of_a_change));
}

TEST_F(RegistryCrashTest, WhatWasAcknowledgedIsThereAndNothingIsHalf) {
  std::mt19937_64 random(g_seed);
  States before = Reopen();
  int64_t acknowledged = 0;
  int64_t lived_us = 0;
  int in_flight = 0;
  for (int kill = 0; kill < g_kills; ++kill) {
    SCOPED_TRACE(absl::StrCat("kill ", kill, " seed ", g_seed));
    States expected = before;
    const int life_us = static_cast<int>(random() % LifeUsMax(lived_us, acknowledged)) + 1;
    const std::string said = LiveAndDie(random(), life_us);
    lived_us += life_us;
    const std::string trying = Follow(said, &expected, &acknowledged);
    in_flight += !trying.empty();
    const States after = Reopen();
    for (const auto& [name, state] : after) {
      const bool alias = name[0] == 'a';
      const std::string& wanted = expected[name];
      // An alias follows whether its target is there, so it may change with it.
      if (name == trying ||
          (alias && state != wanted && (wanted == kGoneState || state == kGoneState))) {
        continue;
      }
      ASSERT_EQ(state, wanted) << name;
    }
    before = after;
  }
  std::printf("%d kills, %lld acknowledged changes, %d killed within a change\n", g_kills,
              static_cast<long long>(acknowledged), in_flight);
  EXPECT_GT(acknowledged, g_kills);
  EXPECT_GT(in_flight, g_kills / 4);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--kills=", 0) == 0) {
      lorica::g_kills = std::atoi(argv[i] + 8);
    } else if (argument.rfind("--seed=", 0) == 0) {
      lorica::g_seed = std::strtoull(argv[i] + 7, nullptr, 10);
    } else {
      std::fprintf(stderr, "unknown argument %s; known: --kills=N --seed=N\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
