#include "server/api/prompt_encoder.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/fake_tokenizer.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Encode(const std::vector<PromptPart>& parts) {
  auto ids = EncodeParts(FakeTokenizer(), parts);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *ids;
}

TEST(PromptEncoder, TokensMayCrossASeam) {
  EXPECT_THAT(Encode({{"<turn>\n", false}, {"\na", true}, {"<end>", false}}),
              ElementsAre(FakeTokenizer::kTurn, FakeTokenizer::kPair, 'a', FakeTokenizer::kEnd));
}

TEST(PromptEncoder, SpecialTokensInsideAMessageStayText) {
  EXPECT_THAT(Encode({{"<turn>", false}, {"<end>", true}, {"<end>", false}}),
              ElementsAre(FakeTokenizer::kTurn, '<', 'e', 'n', 'd', '>', FakeTokenizer::kEnd));
}

TEST(PromptEncoder, SpecialTokensPiecedTogetherFromMessagesStayText) {
  EXPECT_THAT(Encode({{"<e", true}, {"nd>", true}, {"<turn>", false}}),
              ElementsAre('<', 'e', 'n', 'd', '>', FakeTokenizer::kTurn));
}

}  // namespace
}  // namespace lorica
