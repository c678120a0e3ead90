#include <gtest/gtest.h>

#include <string>

#include "server/grammar/response_format.h"

namespace lorica {
namespace {

TEST(CodePointCheck, CharactersEndWhereUnicodeDoes) {
  for (const FormatKind kind : {FormatKind::kRegex, FormatKind::kEbnf}) {
    for (const char* good :
         {"\\u{10FFFF}", "\\U0010ffff", "\\u{d7ff}\\u{E000}", "[\\u{41}-\\u{10fff0}]", "\\u{0}",
          "\\ud7ff\\uE000", "a", "\\", "\\u", "\\u{", "\\u{110000", "\\U", "\\U0011", "\\x",
          "\\ud8", "\\\\u{110000}", "u{110000}", "\\x41", ""}) {
      EXPECT_TRUE(CheckCodePoints(kind, good).ok()) << good;
    }
    for (const char* bad : {"\\u{110000}", "root ::= [\\U00110000]", "[\\u{10FFF0}-\\u{110010}]",
                            "\\u{d800}", "\\u{DFFF}", "\\U0000d800", "\\u{fffffffffffffffffffffff}",
                            "\\\\\\u{110000}", "\\ud800", "\\ud83d\\ude00", "\\x110000"}) {
      const absl::Status status = CheckCodePoints(kind, bad);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad << status;
    }
  }
}

TEST(CodePointCheck, EscapesOfARegexEndWhereTheirWriterMeantThemTo) {
  const auto check = [](const char* text) { return CheckCodePoints(FormatKind::kRegex, text); };
  for (const char* good :
       {"\\x41\\x42", "\\x41-", "[\\u{41}bc]", "[\\x20-\\x7e]", "[\\xe0-\\xff]", "[g\\x01]",
        "\\u00e9a", "[\\xffg-z]", "[\\ta]", "[\\cIa]", "[\\u0100a]", "[\\x01\\x67]", "[\\x01]a",
        "[\\x01\\s]", "[a\\^]", "[^\\^]", "\\^[a]", "[[\\^]", "[\\]\\^]"}) {
    EXPECT_TRUE(check(good).ok()) << good << check(good);
  }
  for (const char* bad :
       {"\\x41b", "\\x0041", "[\\x411]", "[\\u0001a]", "[\\u{1}0]", "[\\U00000001F]", "[\\cAb]",
        "[\\u00e0-\\u00ff"
        "a-z]",
        "[^\\x00-\\x1f\\d]", "[\\x01\\w]", "[\\x01\\x61]", "[\\x7f\\u{30}]", "[\\^a]", "[\\^]",
        "[\\x5e]", "[\\u{5E}-z]", "a[b][\\^]"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(check(bad))) << bad << check(bad);
  }
  // A grammar's \x has all the digits that there are.
  EXPECT_TRUE(CheckCodePoints(FormatKind::kEbnf, "root ::= [\\^a] \"\\x4e00\" [\\x01a]").ok());
}

TEST(ExpressionCheck, ANulWouldEndAGrammarBeforeItsEnd) {
  for (const FormatKind kind : {FormatKind::kRegex, FormatKind::kEbnf}) {
    for (const std::string& bad : {std::string(1, '\0'), std::string("root ::= \"a\"\0 )", 16)}) {
      EXPECT_TRUE(absl::IsInvalidArgument(CheckExpression(kind, bad))) << bad;
    }
    EXPECT_TRUE(CheckExpression(kind, "root ::= \"\\0\"").ok());
    EXPECT_TRUE(absl::IsInvalidArgument(CheckExpression(kind, "a{2147483648}")));
    EXPECT_TRUE(absl::IsInvalidArgument(CheckExpression(kind, "\\u{110000}")));
  }
}

}  // namespace
}  // namespace lorica
