#include "server/grammar/compiler_words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lorica {
namespace {

std::string Text(FormatKind kind, const char* message) {
  const absl::Status status = InOurWords(kind, message);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(CompilerWords, WhatIsKnownHasOurTextAndItsPlace) {
  EXPECT_EQ(Text(FormatKind::kRegex,
                 "Regex parsing error at position 3: The parenthesis is not closed.\n"),
            "cannot be served: a '(' is not closed (at character 3)");
  EXPECT_EQ(
      Text(FormatKind::kEbnf, "EBNF lexer error at line 2, column 14: Unexpected character: $"),
      "cannot be served: a character has no meaning there (line 2, column 14)");
  EXPECT_EQ(Text(FormatKind::kJsonSchema,
                 "Check failed: (val <= MAX) is false: Integer exceeds maximum limit"),
            "cannot be served: a bound of an integer has more than 64 bits");
  EXPECT_EQ(Text(FormatKind::kJsonSchema, "Regex parsing error at position 3: Unclosed '['"),
            "cannot be served: a '[' is not closed (at character 3 of a pattern)");
}

TEST(CompilerWords, LinesThatNobodyWroteAreLeftOut) {
  EXPECT_EQ(
      Text(FormatKind::kRegex,
           "EBNF parser error at line 1, column 16: Lower bound is larger than upper bound: 2 > 1"),
      "cannot be served: a repetition's lower bound is above its upper one");
}

TEST(CompilerWords, KeywordsOfSchemasAreNamed) {
  EXPECT_EQ(Text(FormatKind::kJsonSchema, "minLength 3 is greater than maxLength 2"),
            "cannot be served: minLength 3 is greater than maxLength 2");
  EXPECT_EQ(Text(FormatKind::kJsonSchema, "Keyword contentEncoding is not supported"),
            "cannot be served: contentEncoding is not served");
}

TEST(CompilerWords, WhatIsNotKnownSaysWhatItIsNot) {
  const char* strange = "Check failed: (x > 0) is false: /src/cpp/fsm.cc:12 strange";
  EXPECT_EQ(Text(FormatKind::kRegex, strange), "cannot be served: it is no regex that is served");
  EXPECT_EQ(Text(FormatKind::kEbnf, strange), "cannot be served: it is no grammar that is served");
  EXPECT_EQ(Text(FormatKind::kJsonSchema, strange),
            "cannot be served: it is no schema that is served");
}

}  // namespace
}  // namespace lorica
