#include "adapters/local_looks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/adapter_catalog.h"
#include "tests/fakes/held_source.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using Result = absl::StatusOr<GenerationPtr>;

constexpr absl::Duration kSoon = absl::Seconds(10);
constexpr char kTenant[] = "default";

// What a ticket ended with.
class Outcome {
 public:
  explicit Outcome(const absl::StatusOr<FoundAdapter>& found) {
    if (!found.ok() || found->ticket == nullptr) {
      ADD_FAILURE() << "no ticket: " << found.status();
      return;
    }
    found->ticket->WhenDone([state = state_](const Result& result) {
      state->result = result;
      state->done.Notify();
    });
  }
  bool ended() const { return state_->done.HasBeenNotified(); }
  Result Await() const {
    if (!state_->done.WaitForNotificationWithTimeout(kSoon)) {
      return absl::UnknownError("it has not ended");
    }
    return state_->result;
  }

 private:
  struct State {
    Result result = GenerationPtr();
    absl::Notification done;
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

GenerationPtr Named(const std::string& digest) {
  auto generation = std::make_shared<Generation>();
  generation->digest = digest;
  return generation;
}

LocalLooks::Look At(const std::string& digest) {
  return [=]() -> absl::StatusOr<FoundAdapter> { return FoundAdapter{Named(digest), nullptr}; };
}

LocalLooks::Look Behind(const absl::Notification& gate, std::atomic<int>* begun = nullptr) {
  return [&gate, begun]() -> absl::StatusOr<FoundAdapter> {
    if (begun != nullptr) ++*begun;
    gate.WaitForNotification();
    return FoundAdapter{Named("behind"), nullptr};
  };
}

class LocalLooksTest : public ::testing::Test {
 protected:
  const std::unique_ptr<LoaderExecutor> threads_ = MakeLoaderThreads(kLocalLookThreads);
  absl::Notification gate_;
};

TEST_F(LocalLooksTest, EndWithWhatTheLookFound) {
  LocalLooks looks({}, threads_.get());
  EXPECT_EQ((*Outcome(looks.Find("a", "x", At("one"))).Await())->digest, "one");
  const auto failing = [] { return absl::DataLossError("it is damaged"); };
  EXPECT_EQ(Outcome(looks.Find("a", "x", failing)).Await().status(),
            absl::DataLossError("it is damaged"));
  const auto fetch = std::make_shared<FetchTicket>();
  const Outcome fetched(looks.Find("a", "x", [&]() -> absl::StatusOr<FoundAdapter> {
    return FoundAdapter{nullptr, fetch};
  }));
  EXPECT_FALSE(fetched.ended());
  fetch->End(Named("fetched"));
  EXPECT_EQ((*fetched.Await())->digest, "fetched");
}

TEST_F(LocalLooksTest, NobodyIsToldOfALookThatBeganBeforeHeAsked) {
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    std::atomic<int> version = 0;
    std::atomic<int> looked = 0;
    LocalLooks looks({.tenant_running_max = static_cast<int>(seed % 2) + 1}, threads_.get());
    const LocalLooks::Look look = [&]() -> absl::StatusOr<FoundAdapter> {
      ++looked;
      const int now = version;
      std::this_thread::yield();
      return FoundAdapter{Named(absl::StrCat(now)), nullptr};
    };
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) {
      callers.emplace_back([&, i] {
        std::mt19937 random(seed * 100 + i);
        for (int call = 0; call < 100; ++call) {
          if (random() % 3 == 0) ++version;
          const int asked = version;
          const auto found =
              looks.Find(absl::StrCat(random() % 2), absl::StrCat(random() % 2), look);
          const Result result = Outcome(found).Await();
          ASSERT_TRUE(result.ok()) << result.status() << ", seed " << seed;
          ASSERT_GE(std::stoi((*result)->digest), asked) << "seed " << seed;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_LE(looked, 400);
  }
}

TEST_F(LocalLooksTest, HoweverManyAskOneLookRunsAndOneWaits) {
  std::atomic<int> begun = 0;
  LocalLooks looks({}, threads_.get());
  const auto look = Behind(gate_, &begun);
  std::vector<Outcome> outcomes = {Outcome(looks.Find("a", "x", look))};
  while (begun == 0) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) outcomes.emplace_back(looks.Find("a", "x", look));
  // The other thread is free for others.
  EXPECT_EQ((*Outcome(looks.Find("a", "y", At("one"))).Await())->digest, "one");
  EXPECT_EQ(begun, 1);
  gate_.Notify();
  for (const Outcome& outcome : outcomes) EXPECT_TRUE(outcome.Await().ok());
  EXPECT_EQ(begun, 2);
}

TEST_F(LocalLooksTest, AreBoundedAltogetherAndForEachTenant) {
  LocalLooks looks({.names_max = 3, .tenant_names_max = 2, .tenant_running_max = 1},
                   threads_.get());
  std::vector<Outcome> outcomes;
  const auto find = [&](const std::string& tenant, const std::string& name) {
    const auto found = looks.Find(tenant, name, Behind(gate_));
    if (found.ok()) outcomes.emplace_back(found);
    return found.status();
  };
  EXPECT_TRUE(find("a", "1").ok());
  EXPECT_TRUE(find("a", "2").ok());
  EXPECT_TRUE(absl::IsUnavailable(find("a", "3"))) << "a's part";
  EXPECT_TRUE(find("b", "1").ok());
  EXPECT_TRUE(absl::IsUnavailable(find("b", "2"))) << "all";
  EXPECT_TRUE(find("a", "1").ok()) << "a name that is there already";
  gate_.Notify();
  for (const Outcome& outcome : outcomes) EXPECT_TRUE(outcome.Await().ok());
  EXPECT_EQ((*Outcome(looks.Find("b", "2", At("one"))).Await())->digest, "one");
}

TEST_F(LocalLooksTest, ATenantsLooksLeaveAThreadToOthers) {
  LocalLooks looks({.tenant_running_max = 1}, threads_.get());
  std::vector<Outcome> outcomes;
  for (int i = 0; i < 8; ++i) {
    outcomes.emplace_back(looks.Find("a", absl::StrCat(i), Behind(gate_)));
  }
  EXPECT_EQ((*Outcome(looks.Find("b", "x", At("one"))).Await())->digest, "one");
  gate_.Notify();
  for (const Outcome& outcome : outcomes) EXPECT_TRUE(outcome.Await().ok());
}

TEST_F(LocalLooksTest, StopCancelsAtOnceAndWaitsForWhatRuns) {
  std::atomic<int> begun = 0;
  LocalLooks looks({.tenant_running_max = 1}, threads_.get());
  std::vector<Outcome> outcomes;
  for (const char* name : {"x", "y"}) {
    outcomes.emplace_back(looks.Find("a", name, Behind(gate_, &begun)));
  }
  while (begun == 0) std::this_thread::yield();
  outcomes.emplace_back(looks.Find("a", "x", Behind(gate_, &begun)));
  std::atomic<bool> stopped = false;
  std::thread stop([&] {
    looks.Stop();
    stopped = true;
  });
  for (const Outcome& outcome : outcomes) {
    EXPECT_TRUE(absl::IsCancelled(outcome.Await().status())) << outcome.Await().status();
  }
  EXPECT_FALSE(stopped) << "a look still runs";
  EXPECT_TRUE(absl::IsCancelled(looks.Find("a", "z", At("one")).status()));
  gate_.Notify();
  stop.join();
  EXPECT_EQ(begun, 1) << "what had not begun never does";
}

// The catalog over a source whose folders "cold..." hang.
class CatalogLooksTest : public ::testing::Test {
 protected:
  CatalogLooksTest() {
    catalog_.SetLooks(&looks_);
    for (const char* name : {"warm", "cold", "other"}) {
      SmallestAdapter(name[0]).WriteTo(folder_, name);
    }
  }
  ~CatalogLooksTest() override { source_->LetGo(); }
  absl::StatusOr<FoundAdapter> Find(const std::string& id) { return catalog_.Find(kTenant, id); }
  std::string Digest(const std::string& id) {
    const auto found = Find(id);
    if (!found.ok()) return found.status().ToString();
    const Result result = found->ticket == nullptr ? found->generation : Outcome(found).Await();
    return result.ok() ? (*result)->digest : result.status().ToString();
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  std::shared_ptr<HeldSource> source_ =
      std::make_shared<HeldSource>(*MakeLocalSource(folder_.path()), "cold");
  PeftLoader loader_{model_.targets(), &backend_, 128 << 10};
  AdapterCatalog catalog_{source_, &loader_, "the-base"};
  const std::unique_ptr<LoaderExecutor> threads_ = MakeLoaderThreads(kLocalLookThreads);
  LocalLooks looks_{{}, threads_.get()};
};

TEST_F(CatalogLooksTest, WhatIsKnownIsFoundAtOnceBesideFoldersThatHang) {
  const std::string warm = Digest("warm");
  EXPECT_EQ(warm.size(), 64u);
  const Outcome cold(Find("cold"));
  ASSERT_TRUE(source_->AwaitHeld(1));
  const auto found = Find("warm");
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->ticket, nullptr);
  EXPECT_EQ(found->generation->digest, warm);
  EXPECT_EQ(Find("warm@" + warm.substr(0, 12))->generation->digest, warm);
  EXPECT_TRUE(absl::IsNotFound(Find("nobody").status()));
  EXPECT_TRUE(absl::IsNotFound(Find("warm@000000000000").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Find("../warm").status()));
  EXPECT_FALSE(cold.ended());
  source_->LetGo();
  const Result result = cold.Await();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Find("cold")->generation, *result);
}

TEST_F(CatalogLooksTest, ErrorsAreThoseOfTheLook) {
  folder_.Write("other/adapter_model.safetensors", "no weights");
  EXPECT_THAT(Digest("other"), HasSubstr("adapter 'other' cannot be served: "));
  folder_.Write("half/adapter_config.json", "{}");
  EXPECT_EQ(Find("half").status(), catalog_.Resolve(kTenant, "half").status()) << "nothing to hash";
}

TEST_F(CatalogLooksTest, ACallAfterAMoveGetsWhatTheNameStandsForThen) {
  const std::string other = Digest("other");
  const Outcome before(Find("cold"));
  ASSERT_TRUE(source_->AwaitHeld(1));
  // The folder's name is registered with other content while it hangs.
  ASSERT_TRUE(catalog_.SetAlias(kTenant, "now", "other", {}).ok());
  EXPECT_EQ(Digest("now"), other);
  EXPECT_FALSE(before.ended());
  source_->LetGo();
  ASSERT_TRUE(catalog_.Register(kTenant, "cold", {.location = "other", .replace = true}).ok());
  EXPECT_EQ(Digest("cold"), other);
  EXPECT_TRUE(before.Await().ok());
}

}  // namespace
}  // namespace lorica
