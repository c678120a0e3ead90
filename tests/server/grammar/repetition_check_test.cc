#include <gtest/gtest.h>

#include <string>

#include "server/grammar/response_format.h"

namespace lorica {
namespace {

bool Taken(FormatKind kind, const std::string& text) {
  const absl::Status status = CheckRepetitions(kind, text);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << text << status;
  return status.ok();
}

TEST(RepetitionCheck, CountsAreOf32Bits) {
  for (const char* good : {"a{2147483647}", "a{0,2147483647}", "a{2,}", "a", "{}", "{", ""}) {
    EXPECT_TRUE(Taken(FormatKind::kRegex, good)) << good;
  }
  for (const char* bad : {"a{2147483648}", "a{1,2147483648}", "a{4294967297}", "a{4294967297,}",
                          "(a{9999999999999999999999}|b)", "\\{a{2147483648}"}) {
    EXPECT_FALSE(Taken(FormatKind::kRegex, bad)) << bad;
  }
}

TEST(RepetitionCheck, WhatIsNoRepetitionMayHoldAnyNumber) {
  EXPECT_TRUE(Taken(FormatKind::kRegex, "\\{2147483648\\}[{2147483648}]2147483648"));
  EXPECT_TRUE(
      Taken(FormatKind::kEbnf, "root ::= \"{2147483648}\" [{2147483648}] # {2147483648}\""));
  EXPECT_FALSE(Taken(FormatKind::kEbnf, "root ::= a # \"\na ::= \"b\"{2147483648}"));
  EXPECT_FALSE(Taken(FormatKind::kEbnf, "root ::= \"a\\\"\"{1, 2147483648}"));
  EXPECT_FALSE(Taken(FormatKind::kRegex, "\"a{2147483648}\""));
}

}  // namespace
}  // namespace lorica
