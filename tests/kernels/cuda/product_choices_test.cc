#include "kernels/cuda/product_choices.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/fakes/temporary_folder.h"

namespace lorica::cuda {
namespace {

const ProductChoices::Shape kShape = {4096, 6144, 2048};
const ProductChoices::Algorithm kAlgorithm = {1, 0xfedcba9876543210, 3, 4, 5, 6, 0, ~uint64_t{0}};

class ProductChoicesTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_) << text; }

  const TemporaryFolder folder_;
  const std::string path_ = folder_.path() + "/products.txt";
};

TEST_F(ProductChoicesTest, ComeBackAsTheyWereKept) {
  ProductChoices choices(path_, "device, version 1");
  EXPECT_EQ(choices.size(), 0);
  choices.Set(kShape, {});
  choices.Set(kShape, kAlgorithm);
  choices.Set({1, 2, 3}, {});
  ASSERT_TRUE(choices.Save().ok());
  const ProductChoices again(path_, "device, version 1");
  EXPECT_EQ(again.size(), 2);
  ASSERT_NE(again.Find(kShape), nullptr);
  EXPECT_EQ(*again.Find(kShape), kAlgorithm);
  EXPECT_EQ(again.Find({4096, 6144, 2049}), nullptr);
}

TEST_F(ProductChoicesTest, AreThoseOfOneDeviceAndVersion) {
  ProductChoices choices(path_, "device, version 1");
  choices.Set(kShape, kAlgorithm);
  ASSERT_TRUE(choices.Save().ok());
  EXPECT_EQ(ProductChoices(path_, "device, version 2").size(), 0);
}

TEST_F(ProductChoicesTest, LinesThatMakeNoSenseAreSkipped) {
  Write(
      "lorica products 1, d\n"
      "256 10 20 1 2 3 4 5 6 7 8\n"
      "256 10 21 1 2 3 4 5 6 7\n"      // too short
      "256 10 22 1 2 3 4 5 6 7 8 9\n"  // too long
      "256 10 23 1 2 3 4 5 6 7 zebra\n"
      "\n"
      "256 10 24 1 2 3 4 5 6 7 1ffffffffffffffff\n");  // more than 64 bits
  const ProductChoices choices(path_, "d");
  EXPECT_EQ(choices.size(), 1);
  EXPECT_NE(choices.Find({256, 10, 20}), nullptr);
}

TEST_F(ProductChoicesTest, WithoutAPathNothingIsKept) {
  ProductChoices choices("", "d");
  choices.Set(kShape, kAlgorithm);
  EXPECT_TRUE(choices.Save().ok());
  EXPECT_EQ(*choices.Find(kShape), kAlgorithm);
}

TEST_F(ProductChoicesTest, AFolderThatIsNotThereIsAnError) {
  ProductChoices choices(path_ + "/no/such/folder", "d");
  EXPECT_EQ(choices.Save().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace lorica::cuda
