#include "adapters/identified_contents.h"

#include <gtest/gtest.h>

#include "tests/fakes/fake_backend.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fakes/meddling_source.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

constexpr int64_t kBlockBytes = 128 << 10;

class IdentifiedContentsTest : public ::testing::Test {
 protected:
  struct Looked {
    absl::StatusOr<GenerationPtr> generation;
    bool was_read = false;
  };
  Looked Look(const std::string& key, const std::string& location) {
    bool was_read = false;
    auto source = std::make_shared<MeddlingSource>(*MakeLocalSource(folder_.path()), 1,
                                                   [&was_read] { was_read = true; });
    auto generation = contents_.Identify(key, source, location);
    if (generation.ok()) {
      EXPECT_EQ((*generation)->source, source);
    }
    return {std::move(generation), was_read};
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, kBlockBytes};
  IdentifiedContents contents_{&loader_, 2};
};

TEST_F(IdentifiedContentsTest, ReadsUnchangedFilesOnce) {
  SmallestAdapter().WriteTo(folder_, "a");
  const Looked first = Look("a", "a");
  ASSERT_TRUE(first.generation.ok()) << first.generation.status();
  EXPECT_TRUE(first.was_read);
  const Looked again = Look("a", "a");
  EXPECT_FALSE(again.was_read);
  EXPECT_EQ((*again.generation)->digest, (*first.generation)->digest);
  EXPECT_EQ((*again.generation)->block_count, (*first.generation)->block_count);
  EXPECT_TRUE(loader_.LoadImage(**again.generation).ok());
  SmallestAdapter(2).WriteTo(folder_, "a");
  const Looked changed = Look("a", "a");
  EXPECT_TRUE(changed.was_read);
  EXPECT_NE((*changed.generation)->digest, (*first.generation)->digest);
}

TEST_F(IdentifiedContentsTest, KeepsNoSourceInUse) {
  SmallestAdapter().WriteTo(folder_, "a");
  const Looked looked = Look("a", "a");
  EXPECT_EQ((*looked.generation)->source.use_count(), 1);
  const GenerationPtr last = contents_.Last("a");
  EXPECT_EQ(last->source, nullptr);
  EXPECT_EQ(last->digest, (*looked.generation)->digest);
}

TEST_F(IdentifiedContentsTest, RemembersABoundedNumber) {
  for (const char* id : {"a", "b", "c"}) SmallestAdapter().WriteTo(folder_, id);
  ASSERT_TRUE(Look("a", "a").generation.ok());
  ASSERT_TRUE(Look("b", "b").generation.ok());
  EXPECT_TRUE(contents_.Last("a") != nullptr && contents_.Last("b") != nullptr);
  ASSERT_TRUE(Look("c", "c").generation.ok());
  EXPECT_NE(contents_.Last("c"), nullptr);
  EXPECT_TRUE((contents_.Last("a") == nullptr) != (contents_.Last("b") == nullptr));
  EXPECT_FALSE(Look("d", "d").generation.ok());
  EXPECT_EQ(contents_.Last("d"), nullptr);
}

}  // namespace
}  // namespace lorica
