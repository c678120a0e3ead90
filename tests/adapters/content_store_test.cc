#include "adapters/content_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <thread>

#include "adapters/peft_loader.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ContentStoreTest : public ::testing::Test {
 protected:
  ContentStoreTest() {
    for (uint32_t seed : {1, 2, 3}) {
      SmallestAdapter(seed).WriteTo(folder_, absl::StrCat("a", seed));
      made_.push_back(*loader_.Identify(source_, absl::StrCat("a", seed)));
    }
    Open();
  }
  void Open(int64_t bytes_max = 1 << 30) {
    store_.reset();
    auto store = ContentStore::Open(path_, bytes_max);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  int Entries() {
    return static_cast<int>(std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.path() + "/data/content";
  LittleModel model_;
  FakeBackend backend_;
  std::shared_ptr<Source> source_ = *MakeLocalSource(folder_.path());
  PeftLoader loader_{model_.targets(), &backend_, 128 << 10};
  std::vector<GenerationPtr> made_;
  std::unique_ptr<ContentStore> store_;
};

TEST_F(ContentStoreTest, CopiesAreTheSameContent) {
  ASSERT_TRUE(store_->Keep(*made_[0]).ok());
  ASSERT_TRUE(store_->Keep(*made_[0]).ok());
  EXPECT_TRUE(store_->Has(made_[0]->digest));
  fs::remove_all(folder_.path() + "/a1");
  const auto kept = loader_.Identify(store_->source(), made_[0]->digest);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ((*kept)->digest, made_[0]->digest);
  EXPECT_TRUE(loader_.LoadImage(**kept).ok());
  EXPECT_EQ(Entries(), 1);
}

// In full, its folder's name, which is its content's, would say nothing.
TEST_F(ContentStoreTest, WhatIsWrongWithACopyNamesItsGenerationShort) {
  MadeAdapter adapter = SmallestAdapter(4);
  const float bad = std::nanf("");
  std::memcpy(adapter.tensors[0].data.data() + 40, &bad, 4);
  adapter.WriteTo(folder_, "bad");
  const std::string digest = (*loader_.Identify(source_, "bad"))->digest;
  ASSERT_TRUE(store_->Keep(**loader_.Identify(source_, "bad")).ok());
  const auto kept = loader_.Identify(store_->source(), digest);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_THAT(std::string(loader_.LoadImage(**kept).status().message()),
              StartsWith("generation " + digest.substr(0, 12) + ": model.layers."));
  EXPECT_THAT(std::string(loader_.CheckWeights(**kept).message()), StartsWith("model.layers."));
}

TEST_F(ContentStoreTest, FindsItsCopiesAgainAndRemovesUnfinishedOnes) {
  ASSERT_TRUE(store_->Keep(*made_[0]).ok());
  const int64_t bytes = store_->bytes();
  EXPECT_GE(bytes, made_[0]->file_bytes);
  folder_.Write("data/content/.new-7/adapter_config.json", "half");
  Open();
  EXPECT_TRUE(store_->Has(made_[0]->digest));
  EXPECT_EQ(store_->bytes(), bytes);
  EXPECT_EQ(Entries(), 1);
}

TEST_F(ContentStoreTest, ContentThatChangesWhileItIsCopiedIsNotKept) {
  SmallestAdapter(9).WriteTo(folder_, "a1");
  const absl::Status status = store_->Keep(*made_[0]);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  fs::remove_all(folder_.path() + "/a2");
  EXPECT_TRUE(absl::IsNotFound(store_->Keep(*made_[1])));
  EXPECT_EQ(Entries(), 0);
  EXPECT_EQ(store_->bytes(), 0);
}

TEST_F(ContentStoreTest, BytesAreBounded) {
  const int64_t two = made_[0]->file_bytes + made_[1]->file_bytes;
  int64_t with_configs = 0;
  ASSERT_TRUE(store_->Keep(*made_[0]).ok());
  with_configs = store_->bytes() + made_[1]->file_bytes;
  EXPECT_GT(with_configs, two);
  Open(with_configs - 1);
  const absl::Status status = store_->Keep(*made_[1]);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kept-bytes"));
  Open(with_configs);
  EXPECT_TRUE(store_->Keep(*made_[1]).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(store_->Keep(*made_[2])));
  store_->Remove(made_[0]->digest);
  EXPECT_TRUE(store_->Keep(*made_[2]).ok());
}

TEST_F(ContentStoreTest, RemovesWhatNobodyWants) {
  for (const GenerationPtr& one : made_) ASSERT_TRUE(store_->Keep(*one).ok());
  store_->RemoveAllBut({made_[1]->digest});
  EXPECT_EQ(Entries(), 1);
  EXPECT_TRUE(store_->Has(made_[1]->digest));
  store_->Remove(made_[1]->digest);
  store_->Remove(made_[1]->digest);
  EXPECT_EQ(store_->bytes(), 0);
  EXPECT_EQ(Entries(), 0);
}

TEST_F(ContentStoreTest, ManyThreadsKeepOneCopy) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) EXPECT_TRUE(store_->Keep(*made_[(i + k) % 3]).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Entries(), 3);
  const int64_t bytes = store_->bytes();
  Open();
  EXPECT_EQ(store_->bytes(), bytes);
}

}  // namespace
}  // namespace lorica
