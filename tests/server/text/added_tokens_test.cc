#include "server/text/added_tokens.h"

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using testing::ElementsAre;
using testing::Pair;

std::vector<std::pair<std::string, int32_t>> Pieces(std::vector<AddedToken> tokens,
                                                    std::string_view text) {
  std::vector<std::pair<std::string, int32_t>> pieces;
  const TextRange whole{0, text.size()};
  AddedTokenMatcher(std::move(tokens))
      .Split(text, {whole},
             [&](std::string_view piece, int32_t id) { pieces.emplace_back(piece, id); });
  return pieces;
}

TEST(AddedTokensTest, TheLongestAtTheLeftmostPlaceWins) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<a>"},
                                          {.id = 2, .content = "<a><b>"},
                                          {.id = 3, .content = "a><"},
                                          {.id = 4, .content = ""}};
  EXPECT_THAT(
      Pieces(tokens, "x<a><b>y<a>z"),
      ElementsAre(Pair("x", -1), Pair("<a><b>", 2), Pair("y", -1), Pair("<a>", 1), Pair("z", -1)));
  EXPECT_THAT(Pieces(tokens, "<a><a>"), ElementsAre(Pair("<a>", 1), Pair("<a>", 1)));
  EXPECT_THAT(Pieces(tokens, "plain"), ElementsAre(Pair("plain", -1)));
  EXPECT_THAT(Pieces(tokens, "<a"), ElementsAre(Pair("<a", -1)));
  EXPECT_THAT(Pieces(tokens, ""), ElementsAre());
  EXPECT_THAT(Pieces({}, "x"), ElementsAre(Pair("x", -1)));
}

TEST(AddedTokensTest, StripSwallowsBlanks) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<l>", .lstrip = true},
                                          {.id = 2, .content = "<r>", .rstrip = true}};
  EXPECT_THAT(Pieces(tokens, "a \u00A0<l> b"),
              ElementsAre(Pair("a", -1), Pair(" \u00A0<l>", 1), Pair(" b", -1)));
  EXPECT_THAT(Pieces(tokens, "a <r> \n\u3000b"),
              ElementsAre(Pair("a ", -1), Pair("<r> \n\u3000", 2), Pair("b", -1)));
  EXPECT_THAT(Pieces(tokens, "<r>  <l>"), ElementsAre(Pair("<r>  ", 2), Pair("<l>", 1)));
}

TEST(AddedTokensTest, SingleWordsNeedNeighboursThatAreNone) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "ab", .single_word = true}};
  EXPECT_THAT(Pieces(tokens, "ab"), ElementsAre(Pair("ab", 1)));
  EXPECT_THAT(Pieces(tokens, "(ab)"), ElementsAre(Pair("(", -1), Pair("ab", 1), Pair(")", -1)));
  EXPECT_THAT(Pieces(tokens, "abc"), ElementsAre(Pair("abc", -1)));
  EXPECT_THAT(Pieces(tokens, "\u00E9ab"), ElementsAre(Pair("\u00E9ab", -1)));
  EXPECT_THAT(Pieces(tokens, "ab_"), ElementsAre(Pair("ab_", -1)));
}

TEST(AddedTokensTest, TokensLieWithinARange) {
  const AddedTokenMatcher matcher({{.id = 1, .content = "<end>", .rstrip = true}});
  const std::string text = "<end>x<end>  y<end>";
  std::vector<std::pair<std::string, int32_t>> pieces;
  const auto collect = [&](std::string_view piece, int32_t id) { pieces.emplace_back(piece, id); };
  matcher.Split(text, {{0, 4}, {6, 11}, {14, 16}, {16, 19}}, collect);
  EXPECT_THAT(pieces, ElementsAre(Pair("<end>x", -1), Pair("<end>  ", 1), Pair("y<end>", -1)));
  pieces.clear();
  matcher.Split(text, {}, collect);
  EXPECT_THAT(pieces, ElementsAre(Pair(text, -1)));
}

}  // namespace
}  // namespace lorica
