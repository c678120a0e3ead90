#include "server/text/unicode.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "gtest/gtest.h"
#include "server/text/utf8.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica::unicode {
namespace {

TEST(UnicodeTest, ClassesAreThoseOfTheStandard) {
  EXPECT_EQ(ClassesOf('a'), kLetter | kWord);
  EXPECT_EQ(ClassesOf('7'), kNumber | kWord);
  EXPECT_EQ(ClassesOf('_'), kWord);
  EXPECT_EQ(ClassesOf('-'), 0);
  EXPECT_EQ(ClassesOf(U'\u00B2'), kNumber | kWord);
  EXPECT_EQ(ClassesOf(U'\u0301'), kWord);
  EXPECT_EQ(ClassesOf(U'\u65E5'), kLetter | kWord);
  EXPECT_EQ(ClassesOf(U'\U0001F600'), 0);
  EXPECT_EQ(ClassesOf(0x10FFFF), 0);
  for (const char32_t c : U" \t\n\v\f\r\u0085\u00A0\u1680\u2009\u2028\u202F\u205F\u3000") {
    EXPECT_EQ(ClassesOf(c), c == 0 ? 0 : kSpace) << static_cast<uint32_t>(c);
  }
  EXPECT_EQ(ClassesOf(U'\u200B') & kSpace, 0);
  EXPECT_EQ(ClassesOf(U'\u180E') & kSpace, 0);
}

TEST(UnicodeTest, NfcEqualsTheReference) {
  std::ifstream in(std::string(LORICA_TEST_DATA) + "/nfc_cases.json");
  const auto cases = nlohmann::json::parse(in);
  ASSERT_EQ(cases.size(), 1000);
  for (const auto& pair : cases) {
    const auto text = pair[0].get<std::string>();
    ASSERT_EQ(NormalizeNfc(text), pair[1].get<std::string>()) << pair[0].dump(-1, ' ', true);
  }
}

TEST(UnicodeTest, NfcLeavesItsOwnResultAlone) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string text = "e";
    AppendUtf8(c, &text);
    const std::string once = NormalizeNfc(text);
    ASSERT_EQ(NormalizeNfc(once), once) << static_cast<uint32_t>(c);
  }
}

TEST(UnicodeTest, MarksBeyondMeasureTakeNearLinearTime) {
  std::string text = "e";
  for (int i = 0; i < 1 << 20; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const double start = CpuSeconds();
  EXPECT_LE(NormalizeNfc(text).size(), text.size());
  EXPECT_LT(CpuSeconds() - start, 3 * kInstrumentationFactor);
}

}  // namespace
}  // namespace lorica::unicode
