#include "adapters/hub/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/test_paths.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<GgufFile> Parse(const std::string& text) {
  return GgufFile::Parse({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

void ExpectRefused(const GgufWriter& writer, const std::string& text) {
  const auto file = Parse(writer.text());
  EXPECT_TRUE(absl::IsFailedPrecondition(file.status())) << text;
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(text));
}

TEST(GgufTest, ReadsValuesOfEveryType) {
  GgufWriter writer(0, 14);
  writer.Key<uint8_t>("u8", 0, 200).Key<int8_t>("i8", 1, -3).Key<uint16_t>("u16", 2, 60000);
  writer.Key<int16_t>("i16", 3, -300).Key<uint32_t>("u32", 4, 4000000000u);
  writer.Key<int32_t>("i32", 5, -5).Key<float>("f32", 6, 0.5f).Key<uint8_t>("bool", 7, 1);
  writer.String("text").Put<uint32_t>(8).String("hello");
  writer.Key<uint64_t>("u64", 10, ~uint64_t{0}).Key<int64_t>("i64", 11, -7);
  writer.Key<double>("f64", 12, 0.25);
  writer.String("words").Put<uint32_t>(9).Put<uint32_t>(8).Put<uint64_t>(2).String("a").String("b");
  writer.String("ids").Put<uint32_t>(9).Put<uint32_t>(5).Put<uint64_t>(2).Put(int32_t{-1}).Put(7);
  const std::string text = writer.text();
  const auto file = Parse(text);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Int("u8"), 200);
  EXPECT_EQ(file->Int("i8"), -3);
  EXPECT_EQ(file->Int("u16"), 60000);
  EXPECT_EQ(file->Int("i16"), -300);
  EXPECT_EQ(file->Int("u32"), 4000000000);
  EXPECT_EQ(file->Int("i32"), -5);
  EXPECT_EQ(file->Int("i64"), -7);
  EXPECT_EQ(file->Int("u64"), std::nullopt);
  EXPECT_EQ(file->Number("f32"), 0.5);
  EXPECT_EQ(file->Number("f64"), 0.25);
  EXPECT_EQ(file->Number("i32"), -5.0);
  EXPECT_EQ(file->Bool("bool"), true);
  EXPECT_EQ(file->String("text"), "hello");
  EXPECT_EQ(*file->Strings("words"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(*file->Ints("ids"), (std::vector<int64_t>{-1, 7}));
  EXPECT_EQ(file->Strings("ids"), nullptr);
  EXPECT_EQ(file->String("u8"), std::nullopt);
  EXPECT_EQ(file->FindValue("absent"), nullptr);
}

TEST(GgufTest, SizesTensorsByTheirType) {
  struct Case {
    uint32_t type;
    int64_t bytes;
  };
  for (const Case& c : {Case{0, 256}, {1, 128}, {2, 36}, {3, 40}, {8, 68}, {30, 128}, {12, 0}}) {
    GgufWriter writer(1, 0);
    writer.TensorInfo("t", {32, 2}, c.type, 0).Data(c.bytes);
    const std::string text = writer.text();
    const auto file = Parse(text);
    ASSERT_TRUE(file.ok()) << file.status();
    const GgufTensor* tensor = file->FindTensor("t");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->bytes, c.bytes) << c.type;
    EXPECT_EQ(tensor->begin, text.size() - c.bytes);
    if (c.bytes == 0) continue;
    const std::string cut = text.substr(0, text.size() - 1);
    EXPECT_THAT(std::string(Parse(cut).status().message()),
                HasSubstr(absl::StrCat("tensor 't': data ends at ", text.size(), ", file has ",
                                       text.size() - 1, " bytes")));
  }
}

TEST(GgufTest, HonoursTheFilesAlignment) {
  GgufWriter writer(1, 1);
  writer.Key<uint32_t>("general.alignment", 4, 128).TensorInfo("t", {4}, 0, 128).Data(144, 128);
  const std::string text = writer.text();
  const auto file = Parse(text);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->FindTensor("t")->begin % 128, 0);
  for (const uint32_t alignment : {0u, 3u, 1u << 21}) {
    GgufWriter bad(0, 1);
    bad.Key<uint32_t>("general.alignment", 4, alignment);
    ExpectRefused(bad, "power of two");
  }
  GgufWriter text_value(0, 1);
  text_value.String("general.alignment").Put<uint32_t>(8).String("32");
  ExpectRefused(text_value, "power of two");
}

TEST(GgufTest, RefusesOtherFilesAndVersions) {
  EXPECT_THAT(std::string(Parse("PK\3\4 and more").status().message()), HasSubstr("magic"));
  EXPECT_FALSE(Parse("").ok());
  EXPECT_TRUE(Parse(GgufWriter(0, 0, 2).text()).ok());
  ExpectRefused(GgufWriter(0, 0, 1), "version: 1 is not supported");
  ExpectRefused(GgufWriter(0, 0, 4), "version: 4 is not supported");
  ExpectRefused(GgufWriter(0, 0, 0x03000000), "big-endian");
}

TEST(GgufTest, AllocatesNothingOnCountsThatLie) {
  ExpectRefused(GgufWriter(kGgufTensorsMax, 0), "needs 8 bytes");
  ExpectRefused(GgufWriter(kGgufTensorsMax + 1, 0), "tensor_count: 65537 is over the limit");
  ExpectRefused(GgufWriter(0, kGgufKeysMax), "needs 8 bytes");
  ExpectRefused(GgufWriter(0, kGgufKeysMax + 1), "metadata_kv_count: 65537 is over the limit");
  ExpectRefused(GgufWriter(~uint64_t{0}, ~uint64_t{0}), "over the limit");
  ExpectRefused(GgufWriter(0, 1).Put<uint64_t>(60000), "needs 60000 bytes");
  ExpectRefused(GgufWriter(0, 1).Put(~uint64_t{0}), "over the limit");
  const auto array = [](uint32_t type, uint64_t count) {
    return GgufWriter(0, 1).String("k").Put<uint32_t>(9).Put(type).Put(count);
  };
  for (const uint32_t type : {0u, 7u, 8u, 12u}) {
    ExpectRefused(array(type, kGgufArrayMax), "key 'k': an array of 16777216");
    ExpectRefused(array(type, kGgufArrayMax + 1), "over the limit of 16777216");
    ExpectRefused(array(type, ~uint64_t{0}), "over the limit");
  }
  ExpectRefused(array(9, 1), "arrays of type 9");
  ExpectRefused(array(77, 1), "arrays of type 77");
  ExpectRefused(GgufWriter(0, 1).Key<uint32_t>("k", 77, 1), "value type 77 is unknown");
  const auto text = [](uint64_t bytes) {
    return GgufWriter(0, 1).String("k").Put<uint32_t>(8).Put(bytes);
  };
  ExpectRefused(text(kGgufStringBytesMax), "key 'k': needs 16777216 bytes");
  ExpectRefused(text(kGgufStringBytesMax + 1), "key 'k': its length");
}

TEST(GgufTest, RefusesTensorsThatLie) {
  const auto tensor = [](std::vector<uint64_t> dimensions, uint32_t type, uint64_t offset) {
    return GgufWriter(1, 0).TensorInfo("t", dimensions, type, offset).Data(64);
  };
  EXPECT_TRUE(Parse(tensor({16}, 0, 0).text()).ok());
  ExpectRefused(tensor({}, 0, 0), "tensor 't': has 0 dimensions");
  ExpectRefused(tensor({1, 1, 1, 1, 1}, 0, 0), "has 5 dimensions");
  ExpectRefused(tensor({0}, 0, 0), "dimension of 0");
  ExpectRefused(tensor({~uint64_t{0}}, 0, 0), "too large");
  ExpectRefused(tensor({1ull << 40, 1ull << 40}, 0, 0), "overflow");
  ExpectRefused(tensor({1ull << 62}, 8, 0), "overflow");
  ExpectRefused(tensor({33}, 8, 0), "multiple of its blocks");
  ExpectRefused(tensor({16}, 0, 31), "offset 31 is not a multiple of 32");
  ExpectRefused(tensor({16}, 0, (1ull << 63) - 32), "overflows");
  ExpectRefused(tensor({16}, 0, 1ull << 63), "too large");
  ExpectRefused(tensor({16}, 0, 32), "data ends at");
  ExpectRefused(tensor({1}, 12, 96), "data ends at");
}

TEST(GgufTest, RefusesNamesThatAppearTwice) {
  ExpectRefused(GgufWriter(0, 2).Key<uint8_t>("k", 0, 1).Key<uint8_t>("k", 0, 1), "'k': appears");
  GgufWriter twice(2, 0);
  twice.TensorInfo("t", {1}, 0, 0).TensorInfo("t", {1}, 0, 0).Data(64);
  ExpectRefused(twice, "'t': appears twice");
}

TEST(GgufTest, SurvivesEveryCutAndManyFlips) {
  GgufWriter writer(2, 3);
  writer.String("text").Put<uint32_t>(8).String("hello").Key<float>("f32", 6, 0.5f);
  writer.String("words").Put<uint32_t>(9).Put<uint32_t>(8).Put<uint64_t>(2).String("a").String("b");
  writer.TensorInfo("x", {32}, 8, 0).TensorInfo("y", {8, 2}, 0, 64).Data(128);
  const std::string text = writer.text();
  ASSERT_TRUE(Parse(text).ok());
  for (size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(Parse(text.substr(0, size)).ok());
  const uint32_t seed = 20240611;
  std::mt19937 random(seed);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string flipped = text;
    for (int flips = 1 + random() % 4; flips > 0; --flips) {
      flipped[random() % flipped.size()] = static_cast<char>(random());
    }
    refused += !Parse(flipped).ok();
  }
  EXPECT_GT(refused, 1000) << "seed " << seed;
}

TEST(GgufTest, ReadsTheModel) {
  std::ifstream stream(SmolLmPath(), std::ios::binary);
  if (!stream) GTEST_SKIP() << SmolLmPath() << " is not there: run ./deploy/fetch.sh";
  const std::string text((std::istreambuf_iterator<char>(stream)), {});
  const auto file = Parse(text);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->String("general.architecture"), "llama");
  EXPECT_EQ(file->Strings("tokenizer.ggml.tokens")->size(), 49152u);
  EXPECT_EQ(file->tensors().size(), 272u);
  const GgufTensor* embedding = file->FindTensor("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->ggml_type, 8u);
  EXPECT_EQ(embedding->dimensions, (std::vector<int64_t>{576, 49152}));
  EXPECT_EQ(embedding->bytes, int64_t{49152} * 576 / 32 * 34);
}

}  // namespace
}  // namespace lorica
