#include "adapters/hub/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/cpu_timer.h"
#include "tests/fakes/safetensors_writer.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<SafetensorsHeader> ParseFile(const std::string& file) {
  const auto* bytes = reinterpret_cast<const std::byte*>(file.data());
  const int64_t size = std::ssize(file);
  absl::StatusOr<int64_t> length = SafetensorsHeaderBytes({bytes, std::min<size_t>(8, size)}, size);
  if (!length.ok()) return length.status();
  return ParseSafetensorsHeader(std::string_view(file).substr(8, *length), size);
}

absl::StatusOr<SafetensorsHeader> ParseHeader(const std::string& header, int64_t data_bytes) {
  return ParseFile(SafetensorsFile(header, std::string(data_bytes, 'x')));
}

void ExpectRefused(const std::string& header, int64_t data_bytes, const std::string& text) {
  const auto parsed = ParseHeader(header, data_bytes);
  EXPECT_TRUE(absl::IsFailedPrecondition(parsed.status())) << header.substr(0, 200);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(text));
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("\"", name, R"(":{"dtype":")", dtype, R"(","shape":)", shape,
                      R"(,"data_offsets":)", offsets, "}");
}

std::string InBraces(const std::string& entries) { return absl::StrCat("{", entries, "}"); }

TEST(SafetensorsTest, ReadsEntriesByNameWithOffsetsInTheFile) {
  const std::string file = SafetensorsFile(
      {{"b", "F32", {2, 3}, std::string(24, 'b')}, {"a", "BF16", {}, std::string(2, 'a')}});
  const auto header = ParseFile(file);
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->entries.size(), 2u);
  EXPECT_EQ(header->entries[0].name, "a");
  EXPECT_EQ(header->metadata.at("format"), "pt");
  const SafetensorsEntry* b = header->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, "F32");
  EXPECT_EQ(b->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.substr(b->begin, b->end - b->begin), std::string(24, 'b'));
  EXPECT_EQ(header->Find("c"), nullptr);
}

TEST(SafetensorsTest, AcceptsBlanksBehindTheHeaderAndFilesWithoutTensors) {
  EXPECT_TRUE(ParseHeader("{}   ", 0).ok());
  EXPECT_TRUE(ParseHeader(InBraces(Entry("a", "U8", "[0]", "[0,0]")), 0).ok());
}

TEST(SafetensorsTest, RefusesFilesTooShortForALength) {
  for (const int bytes : {0, 1, 7}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(ParseFile(std::string(bytes, '\0')).status()));
  }
  EXPECT_FALSE(ParseFile(std::string(8, '\0')).ok());  // N = 0: no '{'
  EXPECT_FALSE(ParseFile(SafetensorsFile("{")).ok());
}

TEST(SafetensorsTest, RefusesHeaderLengthsThatLie) {
  for (const int64_t length : {int64_t{0}, int64_t{1}, int64_t{-2}, int64_t{3},
                               int64_t{100'000'001}, std::numeric_limits<int64_t>::max()}) {
    std::string file = SafetensorsFile("{}", "");
    std::memcpy(file.data(), &length, 8);
    const auto parsed = ParseFile(file);
    EXPECT_TRUE(absl::IsFailedPrecondition(parsed.status())) << length;
  }
}

TEST(SafetensorsTest, CapsTheHeader) {
  std::string first(8, '\0');
  const auto length_of = [&](int64_t length) {
    std::memcpy(first.data(), &length, 8);
    return SafetensorsHeaderBytes({reinterpret_cast<const std::byte*>(first.data()), 8},
                                  int64_t{1} << 40);
  };
  EXPECT_TRUE(length_of(kSafetensorsHeaderBytesMax).ok());
  EXPECT_FALSE(length_of(kSafetensorsHeaderBytesMax + 1).ok());
}

TEST(SafetensorsTest, RefusesTextThatIsNotOnePlainObject) {
  ExpectRefused(" {}", 0, "begin with '{'");
  ExpectRefused("\xEF\xBB\xBF{}", 0, "begin with '{'");
  ExpectRefused("[]", 0, "begin with '{'");
  ExpectRefused("{}x", 0, "does not end");
  ExpectRefused("{}\n", 0, "does not end");
  ExpectRefused("{}{}", 0, "not valid JSON");
  ExpectRefused(std::string("{}\0\0", 4), 0, "NUL");
  ExpectRefused(std::string("{}\0PK}", 6), 0, "NUL");
  ExpectRefused("{\"\xff\xfe\":{}}", 0, "not valid JSON");
  ExpectRefused("{\"a\":" + std::string(1 << 20, '[') + "}", 0, "tensor 'a': unexpected an array");
}

TEST(SafetensorsTest, RefusesOffsetsThatOverlapLeaveHolesOrLie) {
  const auto two = [](const std::string& first, const std::string& second) {
    return InBraces(Entry("a", "U8", "[4]", first) + "," + Entry("b", "U8", "[4]", second));
  };
  EXPECT_TRUE(ParseHeader(two("[4,8]", "[0,4]"), 8).ok());
  ExpectRefused(two("[0,4]", "[2,6]"), 8, "expected 4");
  ExpectRefused(two("[0,4]", "[0,4]"), 4, "expected 4");
  ExpectRefused(two("[0,4]", "[5,9]"), 9, "expected 4");
  ExpectRefused(two("[1,5]", "[5,9]"), 9, "expected 0");
  ExpectRefused(two("[4,0]", "[0,4]"), 8, "end before they begin");
  ExpectRefused(two("[0,4]", "[4,8]"), 7,
                "data ends at 8, file has 7 bytes of data: it was cut, copy it again");
  ExpectRefused(two("[0,4]", "[4,8]"), 12, "tensors end at 8, file has 12");
  ExpectRefused(two("[0,4]", "[4,9223372036854775807]"), 8, "data ends at");
}

TEST(SafetensorsTest, RefusesShapesThatDoNotMatch) {
  const auto one = [](const std::string& dtype, const std::string& shape) {
    return InBraces(Entry("a", dtype, shape, "[0,8]"));
  };
  EXPECT_TRUE(ParseHeader(one("F16", "[2,2]"), 8).ok());
  ExpectRefused(one("F16", "[2,3]"), 8, "need 12 bytes");
  ExpectRefused(one("F16", "[4611686018427387904,4]"), 8, "overflows");
  ExpectRefused(one("F16", "[18446744073709551615]"), 8, "too large");
  ExpectRefused(one("F16", "[-4]"), 8, "negative");
  ExpectRefused(one("F16", "[4.0]"), 8, "not a 64-bit integer");
  ExpectRefused(one("F16", "[1e2]"), 8, "not a 64-bit integer");
  ExpectRefused(one("F16", "[99999999999999999999]"), 8, "not a 64-bit integer");
  ExpectRefused(one("F16", "\"4\""), 8, "unexpected a string");
  ExpectRefused(one("F16", "[1,1,1,1,1,1,1,1,4]"), 8, "more than 8");
  ExpectRefused(one("F4", "[1,1,1,17]"), 8, "whole number of bytes");
  ExpectRefused(one("X9", "[4]"), 8, "dtype 'X9' is unknown");
  EXPECT_TRUE(ParseHeader(one("F16", "[1,1,1,1,1,1,1,4]"), 8).ok());
}

TEST(SafetensorsTest, RefusesEntriesWithMissingOrSurplusFields) {
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[]}})", 1, "data_offsets is not two numbers");
  ExpectRefused(R"({"a":{"shape":[],"data_offsets":[0,1]}})", 1, "dtype is missing");
  ExpectRefused(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "shape is missing");
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0]}})", 1, "not two numbers");
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1,2]}})", 1, "more than 2");
  ExpectRefused(R"({"a":{"dtype":"U8","dtype":"U8"}})", 1, "dtype appears twice");
  ExpectRefused(R"({"a":{"strides":[1]}})", 1, "unknown field 'strides'");
  ExpectRefused(R"({"a":null})", 0, "unexpected null");
  ExpectRefused(R"({"a":3})", 0, "unexpected a number");
}

TEST(SafetensorsTest, RefusesNamesThatRepeatOrHoldControlCharacters) {
  const std::string a = Entry("a", "U8", "[1]", "[0,1]");
  ExpectRefused(InBraces(a + "," + a), 1, "tensor 'a': appears twice");
  ExpectRefused("{\"a\\u0000\":{}}", 0, "control characters");
  ExpectRefused("{\"a\\n\":{}}", 0, "control characters");
  ExpectRefused("{\"\":{}}", 0, "empty");
  const auto named = [](int bytes) {
    return InBraces(Entry(std::string(bytes, 'n'), "U8", "[1]", "[0,1]"));
  };
  EXPECT_TRUE(ParseHeader(named(kSafetensorsNameBytesMax), 1).ok());
  ExpectRefused(named(kSafetensorsNameBytesMax + 1), 1, "over 512 bytes");
  EXPECT_TRUE(ParseHeader(InBraces(Entry("__proto__", "U8", "[1]", "[0,1]")), 1).ok());
}

TEST(SafetensorsTest, BoundsMetadata) {
  const auto with = [](int bytes) {
    return R"({"__metadata__":{"k":")" + std::string(bytes - 1, 'm') + "\"}}";
  };
  EXPECT_TRUE(ParseHeader(with(64 << 10), 0).ok());
  ExpectRefused(with((64 << 10) + 1), 0, "__metadata__: over");
  ExpectRefused(R"({"__metadata__":{"k":1}})", 0, "where a string belongs");
  ExpectRefused(R"({"__metadata__":{"k":{}}})", 0, "where a string belongs");
  ExpectRefused(R"({"__metadata__":{"k":"a","k":"b"}})", 0, "'k' appears twice");
}

TEST(SafetensorsTest, CapsTheNumberOfTensorsQuickly) {
  const auto with = [](int count) {
    std::string header = "{";
    for (int i = 0; i < count; ++i) {
      header += Entry(absl::StrCat("t", i), "U8", "[0]", "[0,0]") + (i + 1 < count ? "," : "}");
    }
    return header;
  };
  EXPECT_TRUE(ParseHeader(with(kSafetensorsTensorsMax), 0).ok());
  const CpuTimer timer;
  ExpectRefused(with(kSafetensorsTensorsMax + 1), 0, "more than 65536 tensors");
  EXPECT_LT(timer.seconds(), 1.0);
}

}  // namespace
}  // namespace lorica
