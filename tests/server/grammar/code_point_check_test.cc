#include <gtest/gtest.h>

#include <string>

#include "server/grammar/response_format.h"

namespace lorica {
namespace {

TEST(CodePointCheck, CharactersEndWhereUnicodeDoes) {
  for (const char* good :
       {"\\u{10FFFF}", "\\U0010ffff", "\\u{d7ff}\\u{E000}", "[\\u{41}-\\u{10fff0}]", "\\u{0}", "a",
        "\\", "\\u", "\\u{", "\\u{110000", "\\U", "\\U0011", "\\\\u{110000}", "u{110000}", ""}) {
    EXPECT_TRUE(CheckCodePoints(good).ok()) << good;
  }
  for (const char* bad : {"\\u{110000}", "root ::= [\\U00110000]", "[\\u{10FFF0}-\\u{110010}]",
                          "\\u{d800}", "\\u{DFFF}", "\\U0000d800", "\\u{fffffffffffffffffffffff}",
                          "\\\\\\u{110000}"}) {
    const absl::Status status = CheckCodePoints(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad << status;
  }
}

}  // namespace
}  // namespace lorica
