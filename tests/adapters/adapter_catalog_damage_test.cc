// What becomes of copies that were damaged or lost while no server looked: seen by sizes at a
// start, by digests at the first look; said, counted, and made anew.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/adapters/registered_store.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CopyDamage : public ::testing::Test {
 protected:
  CopyDamage() {
    SmallestAdapter(1).WriteTo(adapters_, "v1");
    Start();
    const auto registered = catalog().Register(kStoreTenant, "name0", {"v1", true, ""});
    digest_ = (*registered).generation->digest;
  }
  void Start() {
    store_.reset();
    said_.clear();
    store_ = *Store::Open(adapters_, data_.path());
    catalog().SetOnDamage([this](const std::string& digest, const std::string& location) {
      said_.push_back(digest + " of " + location);
    });
  }
  AdapterCatalog& catalog() { return store_->catalog(); }
  std::string Copy() const { return data_.path() + "/content/" + digest_; }
  absl::Status Ask() { return catalog().Resolve(kStoreTenant, "name0").status(); }

  TemporaryFolder adapters_;
  TemporaryFolder data_;
  std::unique_ptr<Store> store_;
  std::string digest_;
  std::vector<std::string> said_;
};

TEST_F(CopyDamage, OfAnotherSizeIsSeenAtTheStartAndMadeAnewAtTheFirstLook) {
  const std::string file = Copy() + "/adapter_model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 1);
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 1);
  EXPECT_EQ(catalog().lost_at_restore().first.digest, digest_);
  EXPECT_EQ(catalog().lost_at_restore().first.location, "v1");
  EXPECT_EQ(catalog().damaged_copies(), 0) << "nothing is thrown away unread";
  EXPECT_TRUE(fs::exists(file));
  EXPECT_EQ(Ask(), absl::OkStatus());
  EXPECT_EQ(catalog().damaged_copies(), 1);
  EXPECT_THAT(said_, ElementsAre(digest_ + " of v1"));
  EXPECT_EQ(Ask(), absl::OkStatus());
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 0);
  EXPECT_EQ(Ask(), absl::OkStatus());
  EXPECT_THAT(said_, IsEmpty());
}

TEST_F(CopyDamage, OfTheSameSizeIsSeenAtTheFirstLook) {
  SmallestAdapter(7).WriteTo(data_, "content/" + digest_);
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 0);
  EXPECT_EQ(Ask(), absl::OkStatus());
  EXPECT_EQ((*catalog().Resolve(kStoreTenant, "name0"))->digest, digest_);
  EXPECT_EQ(catalog().damaged_copies(), 1);
  EXPECT_THAT(said_, ElementsAre(digest_ + " of v1"));
}

TEST_F(CopyDamage, WhatIsGoneIsMadeAnewAndThereIsNothingToThrowAway) {
  fs::remove_all(Copy());
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 1);
  EXPECT_EQ(Ask(), absl::OkStatus());
  EXPECT_TRUE(fs::exists(Copy()));
  EXPECT_EQ(catalog().damaged_copies(), 0);
  EXPECT_THAT(said_, IsEmpty());
}

TEST_F(CopyDamage, WithoutItsSourceItIsSaidOnceAndCallsNameTheRemedy) {
  SmallestAdapter(7).WriteTo(data_, "content/" + digest_);
  SmallestAdapter(8).WriteTo(adapters_, "v1");
  Start();
  for (int call = 0; call < 3; ++call) {
    EXPECT_TRUE(absl::IsDataLoss(Ask())) << Ask();
    EXPECT_THAT(std::string(Ask().message()), HasSubstr("register it again"));
  }
  EXPECT_EQ(catalog().damaged_copies(), 1);
  EXPECT_THAT(said_, ElementsAre(digest_ + " of v1"));
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 1) << "it is still missing";
}

// A registry from before sizes were written down: what is there is taken for whole until it is
// looked at.
TEST_F(CopyDamage, WhoseSizeNobodyKnowsIsMissedWhereItIsGone) {
  store_.reset();
  {
    const auto registry = *Registry::Open(data_.path() + "/registry.db");
    RegisteredName name = (*registry->Load())[0];
    EXPECT_GT(name.generations[0].bytes, 0);
    name.generations[0].bytes = 0;
    ASSERT_TRUE(registry->Put(name).ok());
  }
  fs::resize_file(Copy() + "/adapter_model.safetensors", 1);
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 0);
  EXPECT_EQ(Ask(), absl::OkStatus());
  EXPECT_EQ(catalog().damaged_copies(), 1);
  fs::remove_all(Copy());
  Start();
  EXPECT_EQ(catalog().lost_at_restore().count, 1);
}

}  // namespace
}  // namespace lorica
