#include "server/http/json.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

std::string Nested(int depth) {
  return absl::StrCat(std::string(depth, '['), std::string(depth, ']'));
}

TEST(JsonTest, ReadsWhatIsWellFormed) {
  const std::string text = R"({"a":[1,-2,0.5,null,true,"\u00e9\ud83d\ude00"],"b":{"c":{}}})";
  const auto json = ParseJson(text);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(*json, Json::parse(text));
  EXPECT_EQ(*ParseJson("7"), 7);
  EXPECT_EQ((*ParseJson("18446744073709551615")).get<uint64_t>(), UINT64_MAX);
}

TEST(JsonTest, BoundsNestingAndCount) {
  EXPECT_TRUE(ParseJson(Nested(kJsonDepthMax)).ok());
  EXPECT_FALSE(ParseJson(Nested(kJsonDepthMax + 1)).ok());
  EXPECT_FALSE(ParseJson(std::string(4 << 20, '[')).ok());
  std::string numbers = "[";
  for (int i = 0; i < kJsonValuesMax - 2; ++i) numbers += "1,";
  EXPECT_TRUE(ParseJson(numbers + "1]").ok());
  EXPECT_FALSE(ParseJson(numbers + "1,1]").ok());
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const std::string text :
       {"", " ", "{", "[1,]", "{\"a\":1}x", "{'a':1}", "NaN", "[Infinity]", "\xff", "\"\xc3\"",
        "\"\\ud800\"", "{\"a\":1,\"a\":2}", "nul", "1e999"}) {
    const auto json = ParseJson(text);
    EXPECT_TRUE(absl::IsInvalidArgument(json.status())) << text << json.status();
  }
}

TEST(JsonTest, WhatIsOutOfRangeIsNoSyntaxError) {
  EXPECT_TRUE(ParseJson("[1e308]").ok());
  EXPECT_EQ(ParseJson("[1e309]").status().message(),
            "the body is not usable JSON: a number too large for a double, up to byte 6");
  EXPECT_EQ(ParseJson("[1e]").status().message(),
            "the body is not usable JSON: a syntax error at byte 4");
}

TEST(JsonTest, AMemberKeepsTheOrderInWhichItWasWritten) {
  const std::string text =
      R"({ "a": {"b": 0, "z": {"z": [1, {"b": 2.50, "a": "\n\u00e9\""}, []], "a": null, "b": {}}},
           "z": {"z": 1} })";
  EXPECT_EQ(MemberText(text, {"a", "z"}),
            "{\"z\":[1,{\"b\":2.50,\"a\":\"\\n\u00e9\\\"\"},[]],\"a\":null,\"b\":{}}");
  EXPECT_EQ(MemberText(text, {"a", "z", "b"}), "{}");
  EXPECT_EQ(MemberText(text, {"a", "z", "a"}), "null");
  EXPECT_EQ(MemberText(text, {"a", "b"}), "0");
  EXPECT_EQ(MemberText(text, {"z", "z"}), "1");
  EXPECT_EQ(MemberText(text, {"z", "a"}), "");
  EXPECT_EQ(MemberText(text, {"b"}), "");
}

TEST(JsonTest, FloatsPrintShortly) {
  EXPECT_EQ(Dump(Json(ShortDouble(-0.11f))), "-0.11");
  EXPECT_EQ(Dump(Json(ShortDouble(0.1f + 0.2f))), "0.3");
  EXPECT_EQ(static_cast<float>(ShortDouble(1.0f / 3.0f)), 1.0f / 3.0f);
}

}  // namespace
}  // namespace lorica
