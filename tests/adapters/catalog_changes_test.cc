// Changes beside each other: a name that is moved to a large adapter holds up no other name, and
// what is moved meanwhile is looked at as it is then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "adapters/adapter_catalog.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fakes/watched_source.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

constexpr char kTenant[] = "default";
constexpr absl::Duration kPatience = absl::Seconds(20);

// Files whose reader waits in the middle, once it is armed for their folder.
class SlowSource : public WatchedSource {
 public:
  explicit SlowSource(std::shared_ptr<Source> source)
      : WatchedSource(std::move(source),
                      [this](const std::string& location, const std::string&, int64_t) {
                        if (location != slow_ || reading.HasBeenNotified()) return;
                        reading.Notify();
                        go_on.WaitForNotification();
                      }) {}

  void WaitIn(const std::string& location) { slow_ = location; }
  absl::Notification reading;
  absl::Notification go_on;

 private:
  std::string slow_;
};

class CatalogChangesTest : public ::testing::Test {
 protected:
  CatalogChangesTest() {
    for (uint32_t version = 1; version <= 3; ++version) {
      SmallestAdapter(version).WriteTo(folder_, absl::StrCat("v", version));
      EXPECT_TRUE(Register("app", absl::StrCat("v", version)).ok());
      digests_.push_back(Digest("app"));
    }
  }
  absl::Status Register(const std::string& id, const std::string& location, bool replace = true) {
    return catalog_.Register(kTenant, id, {.location = location, .replace = replace}).status();
  }
  std::string Digest(const std::string& id) {
    const auto generation = catalog_.Resolve(kTenant, id);
    return generation.ok() ? (*generation)->digest : generation.status().ToString();
  }
  // Runs `slow`, which reads the weights in `location`, and `meanwhile` in the middle of that.
  absl::Status Beside(const std::string& location, const std::function<absl::Status()>& slow,
                      const std::function<void()>& meanwhile) {
    source_->WaitIn(location);
    absl::Status result;
    std::thread first([&] { result = slow(); });
    EXPECT_TRUE(source_->reading.WaitForNotificationWithTimeout(kPatience));
    absl::Notification done;
    std::thread second([&] {
      meanwhile();
      done.Notify();
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(kPatience)) << "it waited for the first one";
    source_->go_on.Notify();
    first.join();
    second.join();
    return result;
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, 128 << 10};
  std::shared_ptr<SlowSource> source_ =
      std::make_shared<SlowSource>(*MakeLocalSource(folder_.path()));
  AdapterCatalog catalog_{source_, &loader_, "the-base"};
  std::vector<std::string> digests_;  // of v1, v2, v3
};

TEST_F(CatalogChangesTest, WhoListensHearsOfEachChangeAndOfNoneThatWasRefused) {
  std::vector<std::string> heard;
  catalog_.SetOnChange([&](const std::string&, const std::string& name, const RegisteredName* now) {
    const bool is_adapter = now != nullptr && now->kind == NameKind::kAdapter;
    heard.push_back(absl::StrCat(name, " ",
                                 now == nullptr ? "gone"
                                 : is_adapter   ? "at "
                                                : "alias",
                                 is_adapter ? now->now().number : 0));
  });
  ASSERT_TRUE(Register("a", "v1", false).ok());
  ASSERT_TRUE(Register("a", "v1", false).ok()) << "the same again is no change";
  EXPECT_FALSE(Register("a", "v2", false).ok());
  ASSERT_TRUE(Register("a", "v2").ok());
  ASSERT_TRUE(catalog_.Rollback(kTenant, "a", "", "").status().ok());
  ASSERT_TRUE(catalog_.SetAlias(kTenant, "b", "a", {}).ok());
  EXPECT_FALSE(catalog_.Delete(kTenant, "a").ok()) << "it has an alias";
  ASSERT_TRUE(catalog_.Delete(kTenant, "b").ok());
  ASSERT_TRUE(catalog_.Delete(kTenant, "a").ok());
  EXPECT_THAT(heard, ::testing::ElementsAre("a at 1", "a at 2", "a at 1", "b alias0", "b gone0",
                                            "a gone0"));
}

TEST_F(CatalogChangesTest, ARegistrationHoldsUpNobody) {
  SmallestAdapter(4).WriteTo(folder_, "v4");
  const absl::Status status = Beside(
      "v4", [this] { return Register("app", "v4"); },
      [this] { EXPECT_TRUE(Register("other", "v1").ok()); });
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(CatalogChangesTest, ARollbackHoldsUpNobody) {
  const absl::Status status = Beside(
      "v2", [this] { return catalog_.Rollback(kTenant, "app", "", "").status(); },
      [this] { EXPECT_TRUE(Register("other", "v1").ok()); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Digest("app"), digests_[1]);
  EXPECT_EQ(Digest("other"), digests_[0]);
}

TEST_F(CatalogChangesTest, AnAliasHoldsUpNobody) {
  const absl::Status status = Beside(
      "v3", [this] { return catalog_.SetAlias(kTenant, "live", "app", {}); },
      [this] { EXPECT_TRUE(Register("other", "v1").ok()); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Digest("live"), digests_[2]);
}

TEST_F(CatalogChangesTest, ARollbackGoesBackFromWhatTheNameIsThen) {
  const absl::Status status = Beside(
      "v2", [this] { return catalog_.Rollback(kTenant, "app", "", "").status(); },
      [this] { EXPECT_TRUE(catalog_.Rollback(kTenant, "app", digests_[1], "").ok()); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Digest("app"), digests_[0]) << "two steps, by two";
}

TEST_F(CatalogChangesTest, AStaleRollbackChangesNothing) {
  const absl::Status status = Beside(
      "v2", [this] { return catalog_.Rollback(kTenant, "app", "", digests_[2]).status(); },
      [this] { EXPECT_TRUE(Register("app", "v1").ok()); });
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_EQ(Digest("app"), digests_[0]);
}

TEST_F(CatalogChangesTest, AnAliasIsNotSetToWhatIsGoneOrCannotBeServedThen) {
  MadeAdapter bad = SmallestAdapter(5);
  const float none = std::nanf("");
  std::memcpy(bad.tensors[1].data.data(), &none, sizeof none);
  SmallestAdapter(4).WriteTo(folder_, "live-target");
  const absl::Status status = Beside(
      "live-target", [this] { return catalog_.SetAlias(kTenant, "live", "live-target", {}); },
      [&] { bad.WriteTo(folder_, "live-target"); });
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::IsNotFound(catalog_.Resolve(kTenant, "live").status()));
}

TEST_F(CatalogChangesTest, ANameIsNoSourceAndTheErrorSaysWhatItIs) {
  ASSERT_TRUE(catalog_.SetAlias(kTenant, "live", "app", {}).ok());
  const absl::Status of_name = Register("copy", "app");
  EXPECT_TRUE(absl::IsNotFound(of_name)) << of_name;
  EXPECT_THAT(std::string(of_name.message()),
              HasSubstr("'app' is a name that was registered from 'v3' and no folder"));
  EXPECT_THAT(std::string(Register("app", "").message()), HasSubstr("registered from 'v3'"));
  const absl::Status of_alias = Register("copy", "live");
  EXPECT_TRUE(absl::IsNotFound(of_alias)) << of_alias;
  EXPECT_THAT(std::string(of_alias.message()), HasSubstr("'live' is an alias of 'app'"));
  EXPECT_TRUE(Register("v1", "").ok()) << "a folder's own name";
  EXPECT_TRUE(Register("copy", "v1").ok()) << "still a folder";
}

TEST_F(CatalogChangesTest, ErrorsOfAliasesNameWhatToLookFor) {
  const absl::Status itself = catalog_.SetAlias(kTenant, "none", "none", {});
  EXPECT_TRUE(absl::IsInvalidArgument(itself)) << itself;
  EXPECT_THAT(std::string(itself.message()), HasSubstr("not for itself: 'none'"));
  ASSERT_TRUE(catalog_.SetAlias(kTenant, "live", "v1", {}).ok());
  std::filesystem::remove_all(folder_.path() + "/v1");
  const absl::Status gone = catalog_.Resolve(kTenant, "live").status();
  EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
  EXPECT_THAT(std::string(gone.message()), HasSubstr("adapter 'v1' is neither registered nor"));
}

TEST_F(CatalogChangesTest, BoundsTheNamesOfAllKinds) {
  AdapterCatalog catalog(source_, &loader_, "the-base", "", {.names_max = 3});
  const auto add = [&catalog](const std::string& id, const std::string& location) {
    return catalog.Register(kTenant, id, {.location = location, .replace = true}).status();
  };
  EXPECT_TRUE(add("one", "v1").ok());
  EXPECT_TRUE(catalog.SetAlias(kTenant, "live", "one", {}).ok());
  EXPECT_TRUE(catalog.Delete(kTenant, "v3").ok()) << "a folder's, which is hidden from now on";
  EXPECT_EQ(add("two", "v2").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(catalog.SetAlias(kTenant, "new", "one", {}).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(catalog.Delete(kTenant, "v2").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(add("one", "v2").ok()) << "it moves";
  EXPECT_TRUE(catalog.Delete(kTenant, "live").ok());
  EXPECT_TRUE(add("two", "v1").ok());
}

TEST_F(CatalogChangesTest, NoTenantTakesAllOfTheNames) {
  AdapterCatalog catalog(source_, &loader_, "the-base", "",
                         {.names_max = 5, .tenant_names_max = 2});
  const auto add = [&catalog](const std::string& tenant, const std::string& id) {
    return catalog.Register(tenant, id, {.location = "v1", .replace = true}).status();
  };
  const auto says = [](const absl::Status& status, absl::string_view holder) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(holder));
    EXPECT_THAT(std::string(status.message()), HasSubstr("delete some"));
  };
  EXPECT_TRUE(add("greedy", "one").ok());
  EXPECT_TRUE(catalog.SetAlias("greedy", "live", "one", {}).ok());
  says(add("greedy", "two"), "tenant 'greedy' holds 2 names");
  says(catalog.SetAlias("greedy", "new", "one", {}), "tenant 'greedy'");
  says(catalog.Delete("greedy", "v2"), "tenant 'greedy'");
  EXPECT_TRUE(add("greedy", "one").ok()) << "it moves";
  EXPECT_TRUE(catalog.Delete("greedy", "live").ok());
  EXPECT_TRUE(add("greedy", "two").ok()) << "in the place of what was deleted";
  EXPECT_TRUE(add("modest", "one").ok()) << "another tenant has its own share";
  EXPECT_TRUE(add("modest", "two").ok());
  EXPECT_TRUE(add("third", "one").ok());
  says(add("third", "two"), "the catalog holds 5 names");
}

// The name that the alias does not stand for comes and goes.
TEST_F(CatalogChangesTest, AnAliasThatMovesLeadsToItsOldTargetOrToItsNew) {
  constexpr absl::Duration kHammered = absl::Seconds(2);
  ASSERT_TRUE(Register("blue", "v1").ok());
  ASSERT_TRUE(Register("green", "v2").ok());
  ASSERT_TRUE(catalog_.SetAlias(kTenant, "live", "green", {}).ok());
  const std::vector<std::function<absl::Status()>> looks = {
      [this] { return catalog_.Resolve(kTenant, "live").status(); },
      [this] { return catalog_.Get(kTenant, "live").status(); },
      // Touch no file, so that they come between two changes oftenest.
      [this] { return catalog_.History(kTenant, "live").status(); },
      [this] { return catalog_.History(kTenant, "live").status(); },
  };
  std::atomic<bool> stop = false;
  std::vector<std::thread> readers;
  for (const auto& look : looks) {
    readers.emplace_back([&stop, &look] {
      while (!stop.load()) {
        const absl::Status status = look();
        ASSERT_TRUE(status.ok()) << status;
      }
    });
  }
  const absl::Time end = absl::Now() + kHammered;
  int64_t moves = 0;
  while (absl::Now() < end && !HasFailure()) {
    const bool to_blue = moves++ % 2 == 0;
    const std::string target = to_blue ? "blue" : "green";
    const std::string other = to_blue ? "green" : "blue";
    ASSERT_TRUE(catalog_.SetAlias(kTenant, "live", target, {.replace = true}).ok());
    ASSERT_TRUE(catalog_.Delete(kTenant, other).ok());
    ASSERT_TRUE(Register(other, to_blue ? "v2" : "v1").ok());
  }
  stop.store(true);
  for (std::thread& reader : readers) reader.join();
  EXPECT_GT(moves, 2);
}

}  // namespace
}  // namespace lorica
