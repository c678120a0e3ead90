#include "server/text/split_pattern.h"

#include <iostream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Pieces = std::vector<std::string>;

// The pattern that GPT-4o's family publishes.
constexpr char kO200k[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::shared_ptr<const SplitPattern> Compiled(std::string_view pattern,
                                             SplitPattern::Options options = {}) {
  auto compiled = SplitPattern::Compile(pattern, options);
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return *compiled;
}

Pieces PiecesOf(std::string_view pattern, SplitPattern::Options options, std::string_view text) {
  Pieces pieces;
  const auto status = Compiled(pattern, options)->Split(text, [&](std::string_view piece) {
    pieces.emplace_back(piece);
  });
  EXPECT_TRUE(status.ok()) << status;
  return pieces;
}

// Expected values: the Split pre-tokenizer of the tokenizers package, 0.23.
TEST(SplitPatternTest, EqualsTheReference) {
  EXPECT_THAT(PiecesOf(kO200k, {}, "HelloWorld's 12345 caf\u00E9s IT'S e\u0301\n\n  x/\n"),
              ElementsAre("Hello", "World's", " ", "123", "45", " caf\u00E9s", " IT'S", " e\u0301",
                          "\n\n", " ", " x", "/\n"));
  constexpr SplitKeeps kAll = SplitKeeps::kAll, kMatches = SplitKeeps::kMatches,
                       kGaps = SplitKeeps::kGaps;
  const struct {
    const char* pattern;
    SplitPattern::Options options;
    const char* text;
    Pieces pieces;
  } cases[] = {
      {"[a-z]+", {false, kAll}, "ab1 cd-E\u00E9f", {"ab", "1 ", "cd", "-E\u00E9", "f"}},
      {"[a-z]+", {false, kGaps}, "ab1 cd-E\u00E9f", {"1 ", "-E\u00E9"}},
      {"[a-z]+", {false, kMatches}, "ab1 cd-E\u00E9f", {"ab", "cd", "f"}},
      {" ", {true, kAll}, " a  b ", {" ", "a", " ", " ", "b", " "}},
      {" ", {true, kGaps}, " a  b ", {"a", "b"}},
      {" ", {true, kMatches}, " a  b ", {" ", " ", " ", " "}},
      {"(?=[A-Z])", {false, kAll}, "aBcDE", {"a", "Bc", "D", "E"}},
      {"(?=[A-Z])", {false, kGaps}, "aBcDE", {"a", "Bc", "D", "E"}},
      {"(?=[A-Z])", {false, kMatches}, "aBcDE", {}},
      {"x*", {false, kAll}, "axxb\u00E9x", {"a", "xx", "b", "\u00E9", "x"}},
      {"x*", {false, kGaps}, "axxb\u00E9x", {"a", "b", "\u00E9"}},
      {"x*", {false, kMatches}, "axxb\u00E9x", {"xx", "x"}},
      {"a.b", {true, kAll}, "a.baxba.b", {"a.b", "axb", "a.b"}},
      {"a.b", {true, kGaps}, "a.baxba.b", {"axb"}},
      {"a.b", {true, kMatches}, "a.baxba.b", {"a.b", "a.b"}},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(PiecesOf(one.pattern, one.options, one.text), one.pieces)
        << one.pattern << " in " << one.text;
  }
  EXPECT_THAT(PiecesOf("x", {}, ""), ElementsAre());
}

TEST(SplitPatternTest, WhatIsNoPatternIsRefusedInWords) {
  const auto complaint = [](const std::string& pattern) {
    const auto compiled = SplitPattern::Compile(pattern, {});
    EXPECT_EQ(compiled.status().code(), absl::StatusCode::kFailedPrecondition) << pattern;
    return std::string(compiled.status().message());
  };
  EXPECT_THAT(complaint("a("), HasSubstr("missing closing parenthesis at byte 2"));
  EXPECT_THAT(complaint("\\C"), HasSubstr("\\C"));
  EXPECT_THAT(complaint("\xFF"), HasSubstr("UTF-8"));
  EXPECT_THAT(complaint(""), HasSubstr("0 bytes"));
  EXPECT_TRUE(SplitPattern::Compile(std::string(kSplitPatternBytesMax, 'a'), {}).ok());
  EXPECT_THAT(complaint(std::string(kSplitPatternBytesMax + 1, 'a')), HasSubstr("4097 bytes"));
}

TEST(SplitPatternTest, APublishedPatternIsNearLinear) {
  const auto pattern = Compiled(kO200k);
  for (const char letter : {'a', 'A', ' ', '\n', '.', '1', '\''}) {
    double seconds[2];
    for (const int mib : {1, 4}) {
      const std::string text(mib << 20, letter);
      const double start = CpuSeconds();
      const auto status = pattern->Split(text, [](std::string_view) {});
      EXPECT_TRUE(status.ok()) << letter << ": " << status;
      seconds[mib == 4] = CpuSeconds() - start;
    }
    EXPECT_LT(seconds[1], 5 * seconds[0] + 0.1) << letter;
    EXPECT_LT(seconds[1], 3 * kInstrumentationFactor) << letter;
  }
}

// Patterns that take squared or exponential time on some text are cut off.
TEST(SplitPatternTest, HostileTextIsRefusedInLinearTime) {
  const std::string letters(4 << 20, 'a');
  // No pattern ends in one letter that must come: whether it does at all is looked up first.
  for (const char* pattern : {"(a+)+$|x", "(a|aa)+$|x", "a++[bc]|x", "[^@#]+[@#]|x", "(?=.*[bc])a",
                              "(?:a)+[bc]", "(a?){64}a{64}[bc]", "(?>a|b)*[cd]"}) {
    const std::string text = letters + "!";
    const double start = CpuSeconds();
    const auto status = Compiled(pattern)->Split(text, [](std::string_view) {});
    const double seconds = CpuSeconds() - start;
    std::cout << pattern << ": " << seconds << " s\n";
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr("too much work"));
    EXPECT_LT(seconds, 5 * kInstrumentationFactor) << pattern;
  }
}

TEST(SplitPatternTest, TheBoundGrowsWithTheText) {
  // Each of n starts passes over all that follows: n * n / 2 bytes.
  const auto split = [](int bytes) {
    return Compiled("a++[bc]")->Split(std::string(bytes, 'a'), [](std::string_view) {});
  };
  EXPECT_TRUE(split(64).ok());
  EXPECT_FALSE(split(64 << 10).ok());
}

}  // namespace
}  // namespace lorica
