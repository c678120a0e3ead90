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
      : store_(*Store::Open(adapters, data.path())), pipe_(pipe), random_(seed) {}

  [[noreturn]] void Live() {
    for (;;) Act();
  }

 private:
  int Draw(int count) { return static_cast<int>(random_() % count); }
  void Tell(const std::string& line) {
    if (write(pipe_, line.data(), line.size()) != std::ssize(line)) _exit(1);
  }
  void Act() {
    AdapterCatalog& catalog = store_->catalog();
    const std::string name = absl::StrCat("name", Draw(kStoreNames));
    const std::string alias = absl::StrCat("alias", Draw(2));
    const int what = Draw(10);
    if (what < 5) {
      const std::string version = absl::StrCat("v", Draw(kVersions));
      Change(name, (*catalog.Resolve(kStoreTenant, version))->digest, [&] {
        return catalog.Register(kStoreTenant, name, {version, true, ""}).status();
      });
    } else if (what < 7) {
      Change(name, DigestBefore(name),
             [&] { return catalog.Rollback(kStoreTenant, name, "", "").status(); });
    } else if (what < 9) {
      Change(name, kGoneState, [&] { return catalog.Delete(kStoreTenant, name); });
    } else if (Draw(2) == 0) {
      Change(alias, absl::StrCat(">", name, ";"),
             [&] { return catalog.SetAlias(kStoreTenant, alias, name, {.replace = true}); });
    } else {
      Change(alias, kGoneState, [&] { return catalog.Delete(kStoreTenant, alias); });
    }
  }
  // `wanted`: how what the name is then begins.
  template <typename Make>
  void Change(const std::string& name, const std::string& wanted, const Make& make) {
    Tell(absl::StrCat("try ", name, " ", wanted, "\n"));
    const absl::Status status = make();
    const std::string is = StateOf(store_->catalog(), name);
    if (status.ok() && is.rfind(wanted, 0) != 0) _exit(2);
    Tell(absl::StrCat("is ", name, " ", is, "\n"));
  }
  std::string DigestBefore(const std::string& name) {
    const auto named = store_->catalog().History(kStoreTenant, name);
    const NamedGeneration* before = named.ok() ? named->Numbered(named->now().previous) : nullptr;
    return before == nullptr ? "none" : before->digest;
  }

  const std::unique_ptr<Store> store_;
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
  // What was being changed, if anything, and how what it was to be begins.
  struct Trying {
    std::string name;
    std::string wanted;
  };
  // Names by what was acknowledged. What was said in part was not said.
  static Trying Follow(const std::string& said, States* states, int64_t* acknowledged) {
    std::istringstream lines(said.substr(0, said.rfind('\n') + 1));
    std::string verb;
    std::string name;
    std::string text;
    Trying trying;
    while (lines >> verb >> name >> text) {
      trying = verb == "try" ? Trying{name, text} : Trying{};
      if (verb != "is") continue;
      (*states)[name] = text;
      ++*acknowledged;
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
  int done_unsaid = 0;
  for (int kill = 0; kill < g_kills; ++kill) {
    SCOPED_TRACE(absl::StrCat("kill ", kill, " seed ", g_seed));
    States expected = before;
    const int life_us = static_cast<int>(random() % LifeUsMax(lived_us, acknowledged)) + 1;
    const std::string said = LiveAndDie(random(), life_us);
    lived_us += life_us;
    const Trying trying = Follow(said, &expected, &acknowledged);
    in_flight += !trying.name.empty();
    const States after = Reopen();
    for (const auto& [name, state] : after) {
      const bool as_asked = name == trying.name && state.rfind(trying.wanted, 0) == 0;
      if (!as_asked) {
        ASSERT_EQ(state, expected[name]) << name;
      }
      done_unsaid += as_asked && state != expected[name];
    }
    before = after;
  }
  std::printf(
      "%d kills, %lld acknowledged changes, %d killed within a change, %d of them with it done\n",
      g_kills, static_cast<long long>(acknowledged), in_flight, done_unsaid);
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
