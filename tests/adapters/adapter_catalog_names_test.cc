// Registered names: what they stand for, how they move, what survives a restart.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include "adapters/adapter_catalog.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const char kTenant[] = "default";

class CatalogNamesTest : public ::testing::Test {
 protected:
  CatalogNamesTest() {
    for (uint32_t version = 1; version <= 3; ++version) {
      const std::string folder = absl::StrCat("v", version);
      SmallestAdapter(version).WriteTo(folder_, folder);
      digests_.push_back((*loader_.Identify(source_, folder))->digest);
    }
    Start();
  }
  // A server's restart: nothing of the one before is left but its files.
  void Start(bool durable = true) {
    catalog_.reset();
    registry_.reset();
    content_.reset();
    catalog_ = std::make_unique<AdapterCatalog>(source_, &loader_, "the-base");
    if (!durable) return;
    registry_ = *Registry::Open(data_.path() + "/registry.db");
    content_ = *ContentStore::Open(data_.path() + "/content", 1 << 30);
    const absl::Status restored = catalog_->Restore(registry_.get(), content_.get());
    ASSERT_TRUE(restored.ok()) << restored;
  }
  std::string Digest(const std::string& id, const std::string& tenant = kTenant) {
    const auto generation = catalog_->Resolve(tenant, id);
    return generation.ok() ? (*generation)->digest : generation.status().ToString();
  }
  absl::Status Register(const std::string& id, const std::string& location, bool replace = false,
                        const std::string& expected = "") {
    return catalog_->Register(kTenant, id, {location, replace, expected}).status();
  }
  absl::Status Rollback(const std::string& id, const std::string& to = "",
                        const std::string& expected = "") {
    return catalog_->Rollback(kTenant, id, to, expected).status();
  }
  std::vector<std::string> Ids(const std::string& tenant = kTenant) {
    std::vector<std::string> ids;
    const auto entries = catalog_->List(tenant, "", "", 100);
    for (const CatalogEntry& entry : *entries) {
      ids.push_back(entry.adapter_id);
    }
    return ids;
  }
  int Copies() {
    return static_cast<int>(
        std::distance(fs::directory_iterator(data_.path() + "/content"), fs::directory_iterator()));
  }
  void RemoveFolder(const std::string& name) { fs::remove_all(folder_.path() + "/" + name); }

  TemporaryFolder folder_;
  TemporaryFolder data_;
  LittleModel model_;
  FakeBackend backend_;
  std::shared_ptr<Source> source_ = *MakeLocalSource(folder_.path());
  PeftLoader loader_{model_.targets(), &backend_, 128 << 10};
  std::vector<std::string> digests_;  // of v1, v2, v3
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<ContentStore> content_;
  std::unique_ptr<AdapterCatalog> catalog_;
};

TEST_F(CatalogNamesTest, NamesAliasesAndDeletionsSurviveARestart) {
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(Register("app", "v2", true).ok());
  ASSERT_TRUE(Register("gone", "v1").ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "app", {}).ok());
  ASSERT_TRUE(catalog_->Delete(kTenant, "gone").ok());
  ASSERT_TRUE(catalog_->Delete(kTenant, "v3").ok());
  Start();
  EXPECT_THAT(Ids(), ElementsAre("app", "live", "v1", "v2"));
  EXPECT_EQ(Digest("app"), digests_[1]);
  EXPECT_EQ(Digest("live"), digests_[1]);
  EXPECT_THAT(Digest("v3"), HasSubstr("NOT_FOUND"));
  ASSERT_TRUE(Rollback("app").ok());
  Start();
  EXPECT_EQ(Digest("app"), digests_[0]);
  EXPECT_EQ(Digest("live"), digests_[0]);
  const auto history = catalog_->History(kTenant, "live");
  ASSERT_TRUE(history.ok());
  EXPECT_EQ(history->generations.size(), 2u);
  EXPECT_EQ(history->current, 1);
}

TEST_F(CatalogNamesTest, ARegisteredNameKeepsItsContentWhateverBecomesOfTheFolder) {
  ASSERT_TRUE(Register("app", "v1").ok());
  SmallestAdapter(9).WriteTo(folder_, "v1");
  EXPECT_NE(Digest("v1"), digests_[0]) << "a folder's own name follows the folder";
  EXPECT_EQ(Digest("app"), digests_[0]);
  RemoveFolder("v1");
  Start();
  const auto generation = catalog_->Resolve(kTenant, "app");
  ASSERT_TRUE(generation.ok()) << generation.status();
  EXPECT_EQ((*generation)->digest, digests_[0]);
  EXPECT_TRUE(loader_.LoadImage(**generation).ok());
  EXPECT_TRUE(catalog_->Check(kTenant, "app").ok());
}

TEST_F(CatalogNamesTest, WithoutADataFolderAChangedFolderIsRefused) {
  Start(/*durable=*/false);
  ASSERT_TRUE(Register("app", "v1").ok());
  EXPECT_EQ(Digest("app"), digests_[0]);
  SmallestAdapter(9).WriteTo(folder_, "v1");
  const absl::Status changed = catalog_->Resolve(kTenant, "app").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(changed)) << changed;
  EXPECT_THAT(std::string(changed.message()), HasSubstr("register it again"));
  ASSERT_TRUE(Register("app", "v2", true).ok());
  const absl::Status back = Rollback("app");
  EXPECT_TRUE(absl::IsFailedPrecondition(back)) << back;
  EXPECT_EQ(Digest("app"), digests_[1]) << "refused: nothing moved";
  SmallestAdapter(1).WriteTo(folder_, "v1");
  EXPECT_TRUE(Rollback("app").ok()) << "the files are back";
  EXPECT_EQ(Digest("app"), digests_[0]);
}

TEST_F(CatalogNamesTest, RollsBackStepByStepOrToAGeneration) {
  for (const char* folder : {"v1", "v2", "v3"}) ASSERT_TRUE(Register("app", folder, true).ok());
  for (const char* folder : {"v1", "v2", "v3"}) RemoveFolder(folder);
  ASSERT_TRUE(Rollback("app").ok());
  EXPECT_EQ(Digest("app"), digests_[1]);
  ASSERT_TRUE(Rollback("app").ok());
  EXPECT_EQ(Digest("app"), digests_[0]);
  EXPECT_TRUE(absl::IsNotFound(Rollback("app")));
  ASSERT_TRUE(Rollback("app", digests_[2].substr(0, 8)).ok()) << "and forward again";
  EXPECT_EQ(Digest("app"), digests_[2]);
  EXPECT_TRUE(absl::IsNotFound(Rollback("app", digests_[1].substr(0, 7))));
  EXPECT_TRUE(absl::IsNotFound(Rollback("app", std::string(64, '0'))));
  EXPECT_TRUE(absl::IsAborted(Rollback("app", "", digests_[0])));
  EXPECT_TRUE(Rollback("app", "", digests_[2]).ok());
  EXPECT_TRUE(absl::IsNotFound(Rollback("v1")));
  EXPECT_TRUE(absl::IsNotFound(Rollback("never")));
  EXPECT_TRUE(absl::IsInvalidArgument(Rollback("app@x")));
}

TEST_F(CatalogNamesTest, ARollbackNeverLeadsToWhatWasRolledBackFrom) {
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(Register("app", "v2", true).ok());
  ASSERT_TRUE(Rollback("app").ok());
  Start();
  ASSERT_TRUE(Register("app", "v3", true).ok());
  Start();
  ASSERT_TRUE(Rollback("app").ok());
  EXPECT_EQ(Digest("app"), digests_[0]);
  EXPECT_TRUE(absl::IsNotFound(Rollback("app")));
}

TEST_F(CatalogNamesTest, TheSameContentFromElsewhereIsKnownToComeFromThere) {
  std::string open = "v1";
  catalog_->SetScope([&](const std::string&, const std::string& location) {
    return location == open || open.empty();
  });
  ASSERT_TRUE(Register("app", "v1").ok());
  SmallestAdapter(1).WriteTo(folder_, "copy");
  open = "copy";
  EXPECT_THAT(Digest("app"), HasSubstr("NOT_FOUND"));
  ASSERT_TRUE(Register("app", "copy").ok());
  EXPECT_EQ(Digest("app"), digests_[0]);
  Start();
  const RegisteredName name = *catalog_->History(kTenant, "app");
  ASSERT_EQ(name.generations.size(), 1u);
  EXPECT_EQ(name.now().location, "copy");
  EXPECT_EQ(name.now().number, 1);
}

// All at once, each to content of its own: one is first, whatever it does with its name.
TEST_F(CatalogNamesTest, OfManyMovesWithOneExpectedGenerationOneIsMade) {
  constexpr int kMoves = 8;
  constexpr int kRounds = 10;
  std::vector<std::string> made;
  for (int i = 0; i < kMoves; ++i) {
    made.push_back(absl::StrCat("made-", i));
    SmallestAdapter(100 + i).WriteTo(folder_, made.back());
  }
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(Register("app", "v2", /*replace=*/true).ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "v1", {}).ok());
  using Move = std::function<absl::Status(int i, const std::string& expected)>;
  const auto race = [&](const std::string& id, const Move& move) {
    const std::string before = Digest(id);
    std::vector<absl::Status> results(kMoves);
    std::vector<std::thread> threads;
    std::atomic<int> waiting = 0;
    for (int i = 0; i < kMoves; ++i) {
      threads.emplace_back([&, i] {
        ++waiting;
        while (waiting < kMoves) std::this_thread::yield();
        results[i] = move(i, before);
      });
    }
    for (std::thread& thread : threads) thread.join();
    int moved = 0;
    for (const absl::Status& result : results) {
      moved += result.ok();
      EXPECT_TRUE(result.ok() || absl::IsAborted(result)) << result;
    }
    EXPECT_EQ(moved, 1) << id;
    EXPECT_NE(Digest(id), before);
  };
  for (int round = 0; round < kRounds; ++round) {
    race("app", [&](int i, const std::string& expected) {
      return Register("app", made[i], /*replace=*/i % 2 == 0, expected);
    });
    race("app", [&](int i, const std::string& expected) {
      if (i % 2 == 0) return Register("app", "v3", false, expected);  // the same content
      return Rollback("app", "", expected);
    });
    race("live", [&](int i, const std::string& expected) {
      return catalog_->SetAlias(kTenant, "live", made[(i + round) % kMoves],
                                {.replace = i % 2 == 0, .expected_generation = expected});
    });
    ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "v1", {.replace = true}).ok());
  }
}

TEST_F(CatalogNamesTest, AnAliasMovesFromWhatIsExpectedAlone) {
  const auto set = [&](const std::string& alias, const std::string& target,
                       const std::string& expected) {
    return catalog_->SetAlias(kTenant, alias, target, {.expected_generation = expected});
  };
  EXPECT_TRUE(absl::IsAborted(set("live", "v1", digests_[0]))) << "there is no such alias";
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "v1", {}).ok());
  EXPECT_TRUE(absl::IsAborted(set("live", "v2", digests_[1])));
  EXPECT_TRUE(absl::IsAborted(set("live", "v1", digests_[1]))) << "also to where it is";
  EXPECT_TRUE(absl::IsAborted(set("live", "v2", digests_[0].substr(0, 7))));
  ASSERT_TRUE(set("live", "v2", digests_[0].substr(0, 8)).ok());
  EXPECT_EQ(Digest("live"), digests_[1]);
  EXPECT_TRUE(absl::IsAlreadyExists(set("v3", "v2", digests_[2]))) << "a folder's name is no alias";
  ASSERT_TRUE(Register("app", "v1").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(set("app", "v2", digests_[0])));
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "app", {.replace = true}).ok());
  ASSERT_TRUE(Register("app", "v3", /*replace=*/true).ok());
  EXPECT_TRUE(absl::IsAborted(set("live", "v2", digests_[0]))) << "its target has moved";
  EXPECT_TRUE(set("live", "v2", digests_[2]).ok());
}

TEST_F(CatalogNamesTest, AnExpectedGenerationMayBeCutToEightDigits) {
  ASSERT_TRUE(Register("app", "v1").ok());
  EXPECT_TRUE(absl::IsAborted(Register("app", "v2", false, digests_[0].substr(0, 7))));
  EXPECT_TRUE(absl::IsAborted(Register("app", "v2", false, digests_[0] + "0")));
  EXPECT_TRUE(absl::IsAborted(Register("app", "v2", false, digests_[1].substr(0, 8))));
  ASSERT_TRUE(Register("app", "v2", false, digests_[0].substr(0, 8)).ok());
  EXPECT_TRUE(absl::IsAborted(Rollback("app", "", digests_[1].substr(0, 7))));
  EXPECT_TRUE(Rollback("app", "", digests_[1].substr(0, 12)).ok());
}

TEST_F(CatalogNamesTest, EarlierGenerationsCanBeAskedForByRevision) {
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(Register("app", "v2", true).ok());
  EXPECT_EQ(Digest("app@" + digests_[0].substr(0, 8)), digests_[0]);
  EXPECT_EQ(Digest("app@" + digests_[1]), digests_[1]);
  EXPECT_THAT(Digest("app@" + digests_[2]), HasSubstr("NOT_FOUND"));
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "app", {}).ok());
  EXPECT_EQ(Digest("live@" + digests_[0].substr(0, 8)), digests_[0]);
}

TEST_F(CatalogNamesTest, HistoryIsBoundedAndDropsItsContent) {
  for (int i = 1; i <= kGenerationsKeptMax + 1; ++i) {
    SmallestAdapter(100 + i).WriteTo(folder_, "next");
    ASSERT_TRUE(Register("app", "next", true).ok());
    const auto history = catalog_->History(kTenant, "app");
    EXPECT_EQ(history->generations.size(), std::min(i, kGenerationsKeptMax));
    EXPECT_EQ(history->current, i);
    EXPECT_EQ(Copies(), std::min(i, kGenerationsKeptMax));
  }
  ASSERT_TRUE(catalog_->Delete(kTenant, "app").ok());
  EXPECT_EQ(Copies(), 0);
}

TEST_F(CatalogNamesTest, ContentGoesWithItsLastName) {
  ASSERT_TRUE(Register("one", "v1").ok());
  ASSERT_TRUE(Register("two", "v1").ok());
  EXPECT_EQ(Copies(), 1);
  ASSERT_TRUE(catalog_->Delete(kTenant, "one").ok());
  EXPECT_EQ(Copies(), 1);
  const GenerationPtr held = *catalog_->Resolve(kTenant, "two");
  ASSERT_TRUE(catalog_->Delete(kTenant, "two").ok());
  EXPECT_TRUE(loader_.LoadImage(*held).ok()) << "whoever holds it may still load it";
  Start();
  EXPECT_EQ(Copies(), 0);
}

TEST_F(CatalogNamesTest, ARefusedRegistrationLeavesNoCopy) {
  ASSERT_TRUE(Register("app", "v1").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Register("app", "v2")));
  EXPECT_TRUE(absl::IsAborted(Register("app", "v2", false, digests_[2])));
  EXPECT_EQ(Copies(), 1);
  ASSERT_TRUE(Register("app", "v2", false, digests_[0]).ok());
  EXPECT_EQ(Copies(), 2);
}

TEST_F(CatalogNamesTest, ADamagedCopyIsNotServed) {
  ASSERT_TRUE(Register("app", "v1").ok());
  const std::string file = data_.path() + "/content/" + digests_[0] + "/adapter_model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  RemoveFolder("v1");
  EXPECT_FALSE(catalog_->Resolve(kTenant, "app").ok());
  SmallestAdapter(2).WriteTo(data_, "content/" + digests_[0]);
  const absl::Status status = catalog_->Resolve(kTenant, "app").status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  SmallestAdapter(1).WriteTo(folder_, "v1");
  ASSERT_TRUE(Register("app", "v1").ok());
  EXPECT_EQ(Digest("app"), digests_[0]);
}

TEST_F(CatalogNamesTest, AliasesPointAtNamesOfTheirTenant) {
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "v1", {}).ok());
  EXPECT_EQ(Digest("live"), digests_[0]);
  EXPECT_TRUE(catalog_->SetAlias(kTenant, "live", "v1", {}).ok()) << "the same again";
  EXPECT_TRUE(absl::IsAlreadyExists(catalog_->SetAlias(kTenant, "live", "v2", {})));
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "v2", {.replace = true}).ok());
  EXPECT_EQ(Digest("live"), digests_[1]);
  EXPECT_EQ(catalog_->Get(kTenant, "live")->alias_of, "v2");
  EXPECT_TRUE(absl::IsInvalidArgument(catalog_->SetAlias(kTenant, "more", "live", {})));
  EXPECT_TRUE(absl::IsInvalidArgument(catalog_->SetAlias(kTenant, "v1", "v1", {})));
  EXPECT_TRUE(absl::IsInvalidArgument(catalog_->SetAlias(kTenant, "the-base", "v1", {})));
  EXPECT_TRUE(absl::IsAlreadyExists(catalog_->SetAlias(kTenant, "v1", "v2", {.replace = true})));
  EXPECT_TRUE(absl::IsAlreadyExists(catalog_->SetAlias(kTenant, "LIVE", "v1", {})));
  EXPECT_TRUE(absl::IsNotFound(catalog_->SetAlias(kTenant, "x", "absent", {})));
  EXPECT_TRUE(absl::IsNotFound(catalog_->SetAlias("other", "x", "absent", {})));
  EXPECT_TRUE(absl::IsAlreadyExists(Register("live", "v1", true)));
  EXPECT_TRUE(absl::IsFailedPrecondition(Rollback("live")));
  EXPECT_THAT(std::string(Rollback("live").message()), HasSubstr("roll back 'v2' instead"));
  ASSERT_TRUE(catalog_->Delete(kTenant, "live").ok());
  EXPECT_THAT(Digest("live"), HasSubstr("NOT_FOUND"));
  EXPECT_EQ(Digest("v2"), digests_[1]);
}

TEST_F(CatalogNamesTest, AnAliasWhoseTargetIsGoneSaysSo) {
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "app", {}).ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "two", "v2", {}).ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "three", "v3", {}).ok());
  const auto error = [this](const std::string& id) {
    const auto entries = catalog_->List(kTenant, id, "", 1);
    if (!entries.ok() || entries->size() != 1 || entries->front().adapter_id != id) {
      return std::string("not listed");
    }
    return std::string(entries->front().error.message());
  };
  for (const char* alias : {"live", "two", "three"}) EXPECT_EQ(error(alias), "") << alias;
  RemoveFolder("v3");
  EXPECT_EQ(error("live"), "");
  EXPECT_EQ(error("two"), "");
  EXPECT_THAT(error("three"), HasSubstr("'v3', which it is an alias of, is gone"));
  ASSERT_TRUE(Register("v3", "v1").ok());
  EXPECT_EQ(error("three"), "");
}

TEST_F(CatalogNamesTest, WhatHasAliasesIsNotDeleted) {
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(Register("app", "v1").ok());
  for (const auto& [alias, target] :
       {std::pair("live", "app"), std::pair("next", "app"), std::pair("two", "v2")}) {
    ASSERT_TRUE(catalog_->SetAlias(kTenant, alias, target, {}).ok());
  }
  for (int start = 0; start < 2; ++start) {
    const absl::Status status = catalog_->Delete(kTenant, "app");
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("'app' has aliases: delete 'live', 'next' first"));
    EXPECT_TRUE(absl::IsFailedPrecondition(catalog_->Delete(kTenant, "v2")));
    EXPECT_TRUE(absl::IsFailedPrecondition(catalog_->Unregister(kTenant, "app")));
    EXPECT_EQ(Digest("live"), digests_[0]);
    Start();
  }
  EXPECT_TRUE(absl::IsNotFound(catalog_->Delete("other", "app"))) << "other tenants have others";
  ASSERT_TRUE(catalog_->Delete(kTenant, "next").ok());
  ASSERT_TRUE(catalog_->SetAlias(kTenant, "live", "v3", {.replace = true}).ok());
  EXPECT_TRUE(catalog_->Delete(kTenant, "app").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(catalog_->Delete(kTenant, "v3")));
}

TEST_F(CatalogNamesTest, UnregisteringLeavesTheFolder) {
  ASSERT_TRUE(Register("v1", "v1").ok());
  ASSERT_TRUE(catalog_->Unregister(kTenant, "v1").ok());
  EXPECT_TRUE(absl::IsNotFound(catalog_->Unregister(kTenant, "v1")));
  EXPECT_EQ(Digest("v1"), digests_[0]);
  EXPECT_EQ(Copies(), 0);
}

// --- content that cannot be loaded ---------------------------------------------------------

MadeAdapter NotFinite() {
  MadeAdapter adapter = SmallestAdapter(4);
  const float bad = std::nanf("");
  std::memcpy(adapter.tensors[1].data.data() + 40, &bad, 4);
  return adapter;
}

TEST_F(CatalogNamesTest, NoNameMovesToWeightsThatAreNotFinite) {
  NotFinite().WriteTo(folder_, "bad");
  for (const bool durable : {true, false}) {
    Start(durable);
    ASSERT_TRUE(Register("app", "v1").ok());
    for (const absl::Status& status :
         {Register("app", "bad", true), Register("new", "bad"), Register("bad", "bad"),
          catalog_->SetAlias(kTenant, "live", "bad", {})}) {
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("q_proj.lora_B holds NaN or infinity"));
      EXPECT_THAT(std::string(status.message()), StartsWith("adapter 'bad': model.layers.0."));
    }
    EXPECT_EQ(Digest("app"), digests_[0]);
    EXPECT_THAT(Ids(), ElementsAre("app", "bad", "v1", "v2", "v3"));
    EXPECT_TRUE(absl::IsDataLoss(catalog_->Check(kTenant, "bad").status()));
    EXPECT_EQ(Copies(), 1);
  }
}

// Registered before weights were looked at.
TEST_F(CatalogNamesTest, NoNameGoesBackToWeightsThatAreNotFinite) {
  NotFinite().WriteTo(folder_, "bad");
  const GenerationPtr bad = *loader_.Identify(source_, "bad");
  ASSERT_TRUE(Register("app", "v1").ok());
  ASSERT_TRUE(content_->Keep(*bad).ok());
  RegisteredName old = *catalog_->History(kTenant, "app");
  old.generations = {{1, bad->digest, "bad", "", absl::Now(), 0},
                     {2, digests_[0], "v1", "", absl::Now(), 1}};
  old.current = 2;
  ASSERT_TRUE(registry_->Put(old).ok());
  Start();
  EXPECT_TRUE(absl::IsDataLoss(Rollback("app"))) << Rollback("app");
  EXPECT_EQ(Digest("app"), digests_[0]);
}

// --- copies that were damaged --------------------------------------------------------------

TEST_F(CatalogNamesTest, ADamagedCopyIsMadeAnewFromItsSource) {
  ASSERT_TRUE(Register("app", "v1").ok());
  const std::string copy = data_.path() + "/content/" + digests_[0];
  for (const bool removed : {false, true}) {
    removed ? static_cast<void>(fs::remove_all(copy))
            : SmallestAdapter(2).WriteTo(data_, "content/" + digests_[0]);
    EXPECT_TRUE(catalog_->Check(kTenant, "app").ok());
    EXPECT_EQ((*catalog_->Resolve(kTenant, "app"))->source, content_->source());
    EXPECT_EQ(Digest("app"), digests_[0]);
    EXPECT_EQ((*loader_.Identify(content_->source(), digests_[0]))->digest, digests_[0]);
  }
}

TEST_F(CatalogNamesTest, ADamagedCopyWithoutItsSourceFailsUntilItIsRegisteredAgain) {
  ASSERT_TRUE(Register("app", "v1").ok());
  SmallestAdapter(2).WriteTo(data_, "content/" + digests_[0]);
  SmallestAdapter(3).WriteTo(folder_, "v1");
  for (int start = 0; start < 2; ++start) {
    for (const absl::Status& status :
         {catalog_->Check(kTenant, "app").status(), catalog_->Resolve(kTenant, "app").status(),
          catalog_->Resolve(kTenant, "app").status()}) {
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("copy of it is gone or damaged"));
      EXPECT_THAT(std::string(status.message()), HasSubstr("register it again"));
    }
    Start();
  }
  SmallestAdapter(1).WriteTo(folder_, "elsewhere");
  ASSERT_TRUE(Register("app", "elsewhere").ok());
  EXPECT_EQ(Digest("app"), digests_[0]);
  EXPECT_EQ((*catalog_->Resolve(kTenant, "app"))->source, content_->source());
}

// What no loader takes is damaged where it is not what its name says, and is not served where it
// is: another base would have taken it.
TEST_F(CatalogNamesTest, ACopyThatCannotBeReadIsMadeAnewIfItIsDamaged) {
  ASSERT_TRUE(Register("app", "v1").ok());
  const std::string copy = data_.path() + "/content/" + digests_[0] + "/";
  fs::resize_file(copy + "adapter_model.safetensors", 100);
  EXPECT_EQ(Digest("app"), digests_[0]);
  fs::resize_file(copy + "adapter_config.json", 0);
  EXPECT_EQ(Digest("app"), digests_[0]);
  PeftLoader of_another_base({}, &backend_, 128 << 10);
  AdapterCatalog catalog(source_, &of_another_base, "another");
  ASSERT_TRUE(catalog.Restore(registry_.get(), content_.get()).ok());
  for (int look = 0; look < 2; ++look) {
    const absl::Status status = catalog.Resolve(kTenant, "app").status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
  EXPECT_EQ(Copies(), 1);
}

TEST_F(CatalogNamesTest, ManyCallersOfADamagedCopyAreAllAnswered) {
  ASSERT_TRUE(Register("app", "v1").ok());
  for (int round = 0; round < 5; ++round) {
    SmallestAdapter(2).WriteTo(data_, "content/" + digests_[0]);
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] { EXPECT_EQ(Digest("app"), digests_[0]); });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

// --- the base's own name -------------------------------------------------------------------

TEST_F(CatalogNamesTest, AFolderOfTheBasesNameCannotBeAskedFor) {
  SmallestAdapter(5).WriteTo(folder_, "the-base");
  const absl::Status check = catalog_->Check(kTenant, "the-base").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(check)) << check;
  EXPECT_THAT(std::string(check.message()), HasSubstr("'the-base' always means the base model"));
  EXPECT_TRUE(absl::IsInvalidArgument(catalog_->Delete(kTenant, "the-base")));
  EXPECT_TRUE(Register("free", "the-base").ok());
  EXPECT_TRUE(catalog_->Check(kTenant, "free").ok());
}

TEST_F(CatalogNamesTest, ADeletedFolderSaysSo) {
  ASSERT_TRUE(catalog_->Delete(kTenant, "v1").ok());
  for (const absl::Status& status :
       {catalog_->Resolve(kTenant, "v1").status(), catalog_->Get(kTenant, "v1").status(),
        catalog_->Delete(kTenant, "v1")}) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("was deleted"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("register it to bring it back"));
  }
  ASSERT_TRUE(Register("v1", "").ok());
  EXPECT_EQ(Digest("v1"), digests_[0]);
}

TEST_F(CatalogNamesTest, TenantsHaveTheirOwnNamesAndSeeTheirFoldersAlone) {
  catalog_->SetScope([](const std::string& tenant, const std::string& location) {
    return tenant != "small" || location == "v2";
  });
  ASSERT_TRUE(Register("app", "v1").ok());
  EXPECT_THAT(Ids("small"), ElementsAre("v2"));
  for (const char* id : {"app", "v1", "v3"}) {
    EXPECT_EQ(Digest(id, "small"), Digest("absent", "small").replace(20, 6, id)) << id;
    EXPECT_TRUE(absl::IsNotFound(catalog_->Check("small", id).status()));
    EXPECT_TRUE(absl::IsNotFound(catalog_->Delete("small", id)));
    EXPECT_TRUE(absl::IsNotFound(catalog_->Register("small", "x", {.location = id}).status()));
    EXPECT_TRUE(absl::IsNotFound(catalog_->SetAlias("small", "x", id, {})));
  }
  ASSERT_TRUE(catalog_->Register("small", "app", {.location = "v2"}).ok());
  ASSERT_TRUE(catalog_->Register("small", "v1", {.location = "v2"}).ok());
  EXPECT_EQ(Digest("app", "small"), digests_[1]);
  EXPECT_EQ(Digest("app"), digests_[0]);
  ASSERT_TRUE(catalog_->Delete("small", "v2").ok());
  EXPECT_EQ(Digest("v2"), digests_[1]) << "hidden from one tenant alone";
}

TEST_F(CatalogNamesTest, AScopeThatShrinksTakesNamesWithIt) {
  bool open = true;
  catalog_->SetScope([&open](const std::string&, const std::string&) { return open; });
  ASSERT_TRUE(Register("app", "v1").ok());
  open = false;
  EXPECT_THAT(Digest("app"), HasSubstr("NOT_FOUND"));
  EXPECT_THAT(Ids(), IsEmpty());
}

// Names move while many resolve them: everybody gets one of the two, nobody an error, and
// what they got can be loaded.
TEST_F(CatalogNamesTest, MovesUnderLoadNeverShowAGap) {
  ASSERT_TRUE(Register("app", "v1").ok());
  std::atomic<bool> stop = false;
  std::atomic<int> answers = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        const auto generation = catalog_->Resolve(kTenant, "app");
        if (!generation.ok()) ADD_FAILURE() << generation.status();
        if (!generation.ok()) return;
        EXPECT_TRUE(loader_.LoadImage(**generation).ok());
        ++answers;
      }
    });
  }
  for (uint32_t i = 0; i < 30 || answers < 30; ++i) {
    SmallestAdapter(200 + i).WriteTo(folder_, "next");
    EXPECT_TRUE(Register("app", "next", true).ok());
    EXPECT_TRUE(i % 3 != 2 || Rollback("app").ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lorica
