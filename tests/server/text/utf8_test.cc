#include "server/text/utf8.h"

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(Utf8Test, EveryCodePointGoesThereAndBack) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string bytes;
    AppendUtf8(c, &bytes);
    const Utf8Step step = NextUtf8(bytes);
    ASSERT_EQ(step.kind, Utf8Kind::kCharacter) << static_cast<uint32_t>(c);
    ASSERT_EQ(step.bytes, bytes.size());
    ASSERT_EQ(step.code_point, c);
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const Utf8Step part = NextUtf8(std::string_view(bytes).substr(0, cut));
      ASSERT_EQ(part.kind, Utf8Kind::kIncomplete);
      ASSERT_EQ(part.bytes, cut);
    }
  }
}

TEST(Utf8Test, InvalidPartsAreMaximal) {
  // Table 3-8 of the Unicode standard, and neighbours.
  const auto bytes_of = [](std::string_view text) {
    const Utf8Step step = NextUtf8(text);
    EXPECT_EQ(step.kind, Utf8Kind::kInvalid);
    return step.bytes;
  };
  EXPECT_EQ(bytes_of("\x80"), 1);
  EXPECT_EQ(bytes_of("\xC0\xAF"), 1);
  EXPECT_EQ(bytes_of("\xC1\xBF"), 1);
  EXPECT_EQ(bytes_of("\xE0\x80\x80"), 1);
  EXPECT_EQ(bytes_of("\xE1\x80z"), 2);
  EXPECT_EQ(bytes_of("\xED\xA0\x80"), 1);
  EXPECT_EQ(bytes_of("\xF0\x80\x80"), 1);
  EXPECT_EQ(bytes_of("\xF1\x80\x80z"), 3);
  EXPECT_EQ(bytes_of("\xF4\x91\x80"), 1);
  EXPECT_EQ(bytes_of("\xF5"), 1);
  EXPECT_EQ(bytes_of("\xFF"), 1);
}

TEST(Utf8Test, CheckNamesTheOffset) {
  EXPECT_TRUE(CheckUtf8("").ok());
  EXPECT_TRUE(CheckUtf8(std::string_view("a\0b\xEF\xBB\xBF \u65E5\U0001F600", 14)).ok());
  const auto status = CheckUtf8("0123456789\xED\xA0\x80");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.ToString().find("byte 10"), std::string::npos) << status;
  EXPECT_FALSE(CheckUtf8("0123456789ab\xE6\x97").ok());
}

TEST(Utf8Test, CountsCharacters) {
  EXPECT_EQ(CountCharacters(""), 0);
  EXPECT_EQ(CountCharacters("h\xC3\xA9h\xC3\xA9 \xF0\x9F\x98\x80"), 6);
}

}  // namespace
}  // namespace lorica
