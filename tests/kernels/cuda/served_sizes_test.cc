#include "kernels/cuda/served_sizes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace lorica::cuda {
namespace {

using ::testing::HasSubstr;

struct Case {
  std::string name;
  std::string says;
  std::function<void(AttentionShape&, ModelSizes&, int64_t over)> set;  // to the limit + over
};

class ServedSizes : public ::testing::TestWithParam<Case> {};

absl::Status Check(const Case& limit, int64_t over) {
  AttentionShape shape{.layers = 32, .heads = 32, .kv_heads = 8, .head_size = 128};
  ModelSizes sizes{.hidden = 4096, .ffn = 14336, .vocabulary = 32000};
  limit.set(shape, sizes, over);
  return CheckServedSizes(shape, sizes);
}

TEST_P(ServedSizes, TheLimitIsServedAndOneMoreIsRefusedByName) {
  EXPECT_TRUE(Check(GetParam(), 0).ok()) << Check(GetParam(), 0);
  const absl::Status over = Check(GetParam(), 1);
  EXPECT_EQ(over.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(over.message()), HasSubstr(GetParam().says));
  EXPECT_THAT(std::string(over.message()), HasSubstr("--device cpu"));
}

// As many requests as run by default, of the context that its files name.
TEST(ServedShapes, TheLargestOfTheShapesIsOne) {
  const AttentionShape llama_70b{.layers = 80, .heads = 64, .kv_heads = 8, .head_size = 128};
  const absl::Status served = CheckServedSizes(
      llama_70b,
      {.hidden = 8192, .ffn = 28672, .vocabulary = 128256, .pages = 288 * 8192 / kBlockTokens});
  EXPECT_TRUE(served.ok()) << served;
}

INSTANTIATE_TEST_SUITE_P(
    Limits, ServedSizes,
    ::testing::Values(
        Case{"HeadSize", "heads of 264",
             [](auto& shape, auto&, int64_t over) {
               shape.head_size = kServedHeadSizeMax + static_cast<int>(over) * 8;
             }},
        Case{"Group", "33 query heads",
             [](auto& shape, auto&, int64_t over) {
               shape.kv_heads = 1;
               shape.heads = kServedGroupMax + static_cast<int>(over);
             }},
        Case{"Layers", "257 layers",
             [](auto& shape, auto&, int64_t over) {
               shape.layers = kServedLayersMax + static_cast<int>(over);
             }},
        Case{"Width", "multiple of 8", [](auto&, auto& sizes, int64_t over) { sizes.ffn += over; }},
        Case{"Hidden", "hidden size of 8200",
             [](auto&, auto& sizes, int64_t over) { sizes.hidden = kServedHiddenMax + over * 8; }},
        Case{"FeedForward", "feed-forward size of 65544",
             [](auto&, auto& sizes, int64_t over) { sizes.ffn = kServedFfnMax + over * 8; }},
        Case{"Pages", "8388609 pages",
             [](auto&, auto& sizes, int64_t over) { sizes.pages = kServedPagesMax + over; }},
        Case{"Vocabulary", "vocabulary of 262145",
             [](auto&, auto& sizes, int64_t over) {
               sizes.vocabulary = kServedVocabularyMax + over;
             }}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::cuda
