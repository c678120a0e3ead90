#include "server/text/pre_tokenizer.h"

#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using testing::ElementsAre;

std::vector<std::string> Pieces(std::vector<PreTokenizerStep> steps, std::string_view text) {
  std::vector<std::string> pieces;
  EXPECT_TRUE(PreTokenizer(std::move(steps))
                  .Split(text, [&](std::string_view piece) { pieces.emplace_back(piece); })
                  .ok());
  return pieces;
}

TEST(PreTokenizerTest, CutsAsPublishedExamplesDo) {
  EXPECT_THAT(Pieces({SplitStep::kGpt2}, "Hello  it's 3.14\n\n x "),
              ElementsAre("Hello", " ", " it", "'s", " 3", ".", "14", "\n\n", " x", " "));
  EXPECT_THAT(Pieces({SplitStep::kLlama3}, "IT'S 12345 a.b!\r\n\n  c"),
              ElementsAre("IT", "'S", " ", "123", "45", " a", ".b", "!\r\n\n", " ", " c"));
  EXPECT_THAT(Pieces({SplitStep::kQwen2}, "x12 \n y"), ElementsAre("x", "1", "2", " \n", " y"));
  EXPECT_THAT(Pieces({SplitStep::kDigits, SplitStep::kGpt2}, "a 12"),
              ElementsAre("a", " ", "1", "2"));
  EXPECT_THAT(Pieces({SplitStep::kDigitRuns}, "a12\u00B2b"), ElementsAre("a", "12\u00B2", "b"));
  EXPECT_THAT(Pieces({SplitStep::kPrefixSpace, SplitStep::kGpt2}, "a b"), ElementsAre(" a", " b"));
  EXPECT_THAT(Pieces({SplitStep::kPrefixSpace}, " a"), ElementsAre(" a"));
  EXPECT_THAT(Pieces({SplitStep::kGpt2}, ""), ElementsAre());
}

// The published patterns themselves, run by PCRE2.
std::vector<std::string> RegexPieces(const std::string& pattern, const std::string& text) {
  auto compiled = SplitPattern::Compile(pattern, {});
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return Pieces({*std::move(compiled)}, text);
}

struct Published {
  SplitStep step;
  const char* pattern;
};

class PatternTest : public testing::TestWithParam<Published> {};

TEST_P(PatternTest, EqualsThePublishedPatternOnRandomText) {
  const std::vector<std::string> alphabet = {
      "a",          "s",      "S",      "t",         "T",
      "r",          "e",      "E",      "v",         "V",
      "l",          "L",      "m",      "d",         "D",
      "'",          "'",      "\u2019", "1",         "7",
      "\u00B2",     "\u0663", "\u2167", " ",         " ",
      " ",          "\t",     "\n",     "\r",        "\v",
      "\u0085",     "\u00A0", "\u2003", "\u2028",    "\u3000",
      ".",          "!",      "_",      "-",         "\u017F",
      "\u212A",     "\u00E9", "\u0301", "\u65E5",    "\u0E01\u0E31",
      "\U0001F600", "\u200D", "\u200B", "\U00010400"};
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (int n = random() % 12 + 1; n > 0; --n) text += alphabet[random() % alphabet.size()];
    ASSERT_EQ(Pieces({GetParam().step}, text), RegexPieces(GetParam().pattern, text)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, PatternTest,
    testing::Values(Published{SplitStep::kGpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+)"
                                                R"(| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
                    Published{SplitStep::kLlama3,
                              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                              R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
                    Published{SplitStep::kQwen2,
                              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                              R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
                    Published{SplitStep::kDigits, R"(\p{N}|\P{N}+)"},
                    Published{SplitStep::kDigitRuns, R"(\p{N}+|\P{N}+)"}));

}  // namespace
}  // namespace lorica
