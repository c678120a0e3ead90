// Merges under names: whose parts they may have, how they move, what survives a restart.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "adapters/adapter_catalog.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

const char kTenant[] = "default";

class CatalogMergesTest : public ::testing::Test {
 protected:
  CatalogMergesTest() {
    for (uint32_t seed = 1; seed <= 2; ++seed) {
      SmallestAdapter(seed).WriteTo(folder_, absl::StrCat("part-", seed));
    }
    SmallestAdapter(3).WriteTo(folder_, "secret");
    Start();
  }
  // A server's restart: nothing of the one before is left but its files.
  void Start(bool durable = true) {
    catalog_.reset();
    registry_.reset();
    content_.reset();
    merged_ = std::make_unique<MergedAdapters>(MergeLimits(), &loader_, &executor_);
    catalog_ = std::make_unique<AdapterCatalog>(source_, &loader_, "the-base");
    catalog_->SetMerged(merged_.get());
    catalog_->SetScope([](const std::string& tenant, const std::string& location) {
      return tenant == kTenant || location != "secret";
    });
    if (!durable) return;
    registry_ = *Registry::Open(data_.path() + "/registry.db");
    content_ = *ContentStore::Open(data_.path() + "/content", 1 << 30);
    const absl::Status restored = catalog_->Restore(registry_.get(), content_.get());
    ASSERT_TRUE(restored.ok()) << restored;
  }
  static MergeChoice Linear(double weight = 0.7) {
    return {{}, {{"part-1", weight}, {"part-2", 0.3}}};
  }
  // Makes the merge first, and holds it while it is registered.
  absl::StatusOr<AdapterCatalog::Registered> Merge(const std::string& id, const MergeChoice& choice,
                                                   bool replace = false,
                                                   const std::string& tenant = kTenant) {
    const auto found = catalog_->FindMerge(tenant, choice);
    if (!found.ok()) return found.status();
    GenerationPtr held = found->generation;
    if (found->ticket != nullptr) {
      executor_.RunAll();
      found->ticket->WhenDone([&](const absl::StatusOr<GenerationPtr>& made) {
        if (made.ok()) held = *made;
      });
    }
    return catalog_->RegisterMerge(tenant, id, choice, {"", replace, ""});
  }
  std::string Digest(const std::string& id, const std::string& tenant = kTenant) {
    const auto generation = catalog_->Resolve(tenant, id);
    return generation.ok() ? (*generation)->digest : generation.status().ToString();
  }

  TemporaryFolder folder_;
  TemporaryFolder data_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, 1 << 20};
  std::shared_ptr<Source> source_ = *MakeLocalSource(folder_.path());
  fakes::HeldExecutor executor_;
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<ContentStore> content_;
  std::unique_ptr<MergedAdapters> merged_;
  std::unique_ptr<AdapterCatalog> catalog_;
};

TEST_F(CatalogMergesTest, AMergeIsAnAdapterLikeAnyOther) {
  const auto merged = Merge("both", Linear());
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_TRUE(merged->created);
  const auto entry = catalog_->Get(kTenant, "both");
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->location, "merge:linear part-1=0.7 part-2=0.3");
  EXPECT_TRUE(loader_.LoadImage(*entry->generation).ok());
  EXPECT_TRUE(catalog_->Check(kTenant, "both").ok());
  // Again is fine, another one needs to be asked for.
  EXPECT_FALSE(Merge("both", Linear())->created);
  EXPECT_TRUE(absl::IsAlreadyExists(Merge("both", Linear(0.6)).status()));
  EXPECT_TRUE(Merge("both", Linear(0.6), true).ok());
  EXPECT_NE(Digest("both"), merged->generation->digest);
  EXPECT_EQ(catalog_->Rollback(kTenant, "both", "", "").value()->digest,
            merged->generation->digest);
  // It can be a part itself.
  EXPECT_TRUE(Merge("more", {{}, {{"both", 0.5}, {"part-1", 0.5}}}).ok());
}

// Whoever loses a part loses the merges made of it, whatever the part was called then and however
// many merges lie between.
TEST_F(CatalogMergesTest, AMergeIsForThoseWhoMayHaveAllThatItWasMadeOf) {
  std::set<std::string> taken_away;
  catalog_->SetScope([&](const std::string&, const std::string& location) {
    return !taken_away.contains(location);
  });
  ASSERT_TRUE(catalog_->Register(kTenant, "named", {"secret", false, ""}).ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "alias", "named", {}).ok());
  ASSERT_TRUE(Merge("plain", Linear()).ok());
  ASSERT_TRUE(Merge("by-name", {{}, {{"named", 0.5}, {"part-1", 0.5}}}).ok());
  ASSERT_TRUE(Merge("by-alias", {{}, {{"alias", 0.4}, {"part-1", 0.5}}}).ok());
  ASSERT_TRUE(Merge("nested", {{}, {{"by-name", 0.5}, {"part-2", 0.5}}}).ok());
  EXPECT_EQ(catalog_->Get(kTenant, "nested")->location,
            "merge:linear by-name=0.5 part-2=0.5 of part-1 part-2 secret");
  const std::string plain = Digest("plain");
  Start();
  catalog_->SetScope([&](const std::string&, const std::string& location) {
    return !taken_away.contains(location);
  });
  const auto served = [&](const std::string& id) {
    const absl::Status status = catalog_->Find(kTenant, id).status();
    EXPECT_TRUE(status.ok() || absl::IsNotFound(status)) << status;
    return status.ok();
  };
  for (const char* id : {"plain", "by-name", "by-alias", "nested"}) EXPECT_TRUE(served(id)) << id;
  taken_away = {"secret"};
  EXPECT_TRUE(served("plain"));
  EXPECT_EQ(Digest("plain"), plain);
  for (const char* id : {"by-name", "by-alias", "nested"}) EXPECT_FALSE(served(id)) << id;
  EXPECT_FALSE(Merge("again", {{}, {{"by-name", 0.5}, {"part-2", 0.5}}}).ok());
  taken_away = {"part-2"};
  EXPECT_FALSE(served("plain"));
  EXPECT_FALSE(served("nested"));
  EXPECT_TRUE(served("by-name"));
  taken_away = {};
  for (const char* id : {"plain", "by-name", "by-alias", "nested"}) EXPECT_TRUE(served(id)) << id;
}

TEST_F(CatalogMergesTest, AMergeOfTheNameOfItsPartHidesNoOther) {
  bool may_have_secret = true;
  catalog_->SetScope([&](const std::string&, const std::string& location) {
    return may_have_secret || location != "secret";
  });
  ASSERT_TRUE(Merge("part-1", {{}, {{"secret", 0.5}, {"part-1", 0.5}}}, true).ok());
  ASSERT_TRUE(Merge("again", {{}, {{"part-2", 0.5}, {"part-1", 0.5}}}).ok());
  EXPECT_TRUE(catalog_->Find(kTenant, "again").ok());
  may_have_secret = false;
  EXPECT_TRUE(absl::IsNotFound(catalog_->Find(kTenant, "again").status()));
}

// Merges that may differ read differently.
TEST(MergeText, SaysAllThatTheMethodHeeds) {
  MergeChoice choice{{MergeMethod::kDareTies, 0.5, MajoritySign::kFrequency, 9},
                     {{"seed", 0.7}, {"b", -1e-7}}};
  EXPECT_EQ(MergeText(choice), "merge:dare_ties 0.5 frequency seed 9 seed=0.7 b=-1e-07");
  choice.rule.method = MergeMethod::kTies;
  choice.rule.density = 0.50001;
  EXPECT_EQ(MergeText(choice), "merge:ties 0.50001 frequency seed=0.7 b=-1e-07");
  choice.rule.majority_sign = MajoritySign::kTotal;
  EXPECT_EQ(MergeText(choice), "merge:ties 0.50001 total seed=0.7 b=-1e-07");
  choice.rule.method = MergeMethod::kDareLinear;
  EXPECT_EQ(MergeText(choice), "merge:dare_linear 0.50001 seed 9 seed=0.7 b=-1e-07");
  choice.rule.method = MergeMethod::kMagnitudePrune;
  choice.parts[0].second = 0.70000001;
  EXPECT_EQ(MergeText(choice), "merge:magnitude_prune 0.50001 seed=0.70000001 b=-1e-07");
  choice.rule.method = MergeMethod::kCat;
  EXPECT_EQ(MergeText(choice), "merge:cat seed=0.70000001 b=-1e-07");
}

TEST_F(CatalogMergesTest, SurvivesARestartAndItsParts) {
  const std::string digest = Merge("both", Linear())->generation->digest;
  SmallestAdapter(9).WriteTo(folder_, "part-1");
  Start();
  EXPECT_EQ(Digest("both"), digest);
  EXPECT_TRUE(loader_.LoadImage(**catalog_->Resolve(kTenant, "both")).ok());
}

TEST_F(CatalogMergesTest, WithoutADataFolderItLivesInMemoryAsLongAsItHasAName) {
  Start(/*durable=*/false);
  const std::string digest = Merge("both", Linear())->generation->digest;
  const std::weak_ptr<const Generation> merged = *catalog_->Resolve(kTenant, "both");
  EXPECT_EQ(Digest("both"), digest);
  EXPECT_FALSE(merged.expired());
  EXPECT_TRUE(catalog_->Check(kTenant, "both").ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "both", {}).ok());
  EXPECT_EQ(Digest("live"), digest);
  EXPECT_TRUE(absl::IsFailedPrecondition(catalog_->Delete(kTenant, "both")));
  ASSERT_TRUE(catalog_->Delete(kTenant, "live").ok());
  ASSERT_TRUE(catalog_->Delete(kTenant, "both").ok());
  EXPECT_THAT(Digest("both"), HasSubstr("NOT_FOUND"));
  EXPECT_TRUE(merged.expired());
}

TEST_F(CatalogMergesTest, PartsAreThoseOfTheTenant) {
  const MergeChoice secret{{}, {{"secret", 0.5}, {"part-1", 0.5}}};
  EXPECT_TRUE(Merge("mine", secret).ok());
  EXPECT_TRUE(absl::IsNotFound(Merge("theirs", secret, false, "other").status()));
  EXPECT_TRUE(
      absl::IsNotFound(catalog_->FindMerge("other", {{}, {{"mine", 1}, {"part-1", 1}}}).status()));
  // A tenant's own merge is its own to use.
  EXPECT_TRUE(Merge("own", Linear(), false, "other").ok());
  EXPECT_THAT(Digest("own"), HasSubstr("NOT_FOUND"));
  EXPECT_EQ(Digest("own", "other").size(), 64u);
}

TEST_F(CatalogMergesTest, ChecksPartsBeforeItLooksAtThem) {
  MergeChoice choice = Linear();
  choice.parts.resize(kMergePartsMax + 1, {"missing", 1.0});
  EXPECT_TRUE(absl::IsInvalidArgument(catalog_->FindMerge(kTenant, choice).status()));
  choice.parts.resize(kMergePartsMax);
  EXPECT_TRUE(absl::IsNotFound(catalog_->FindMerge(kTenant, choice).status()));
  choice.parts.resize(1);
  EXPECT_TRUE(absl::IsInvalidArgument(catalog_->FindMerge(kTenant, choice).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(catalog_->RegisterMerge(kTenant, "the-base", Linear(), {}).status()));
  EXPECT_TRUE(absl::IsUnavailable(catalog_->RegisterMerge(kTenant, "new", Linear(), {}).status()));
  executor_.RunAll();
}

}  // namespace
}  // namespace lorica
