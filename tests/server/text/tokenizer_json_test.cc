#include <nlohmann/json.hpp>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"

namespace lorica {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;
using testing::HasSubstr;

// a, b, c, blank, ab, abc, " a" and one special token.
Json SmallTokenizer() {
  return Json::parse(R"({
    "version": "1.0",
    "added_tokens": [{"id": 8, "content": "<end>", "special": true, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "unk_token": null, "ignore_merges": false,
      "vocab": {"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "abc": 5, "\u0120a": 6, "bc": 7},
      "merges": ["b c", "a b", "\u0120 a", ["ab", "c"]]}})");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const Json& json) {
  return MakeTokenizerFromJson(json.dump());
}

std::vector<int32_t> Encode(const Json& json, std::string_view text, bool parse_special = true) {
  auto tokenizer = Make(json);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<int32_t> ids;
  EXPECT_TRUE((*tokenizer)->Encode(text, parse_special, &ids).ok());
  return ids;
}

void ExpectRefused(const Json& json, const std::string& names) {
  const auto tokenizer = Make(json);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(names));
}

TEST(TokenizerJsonTest, MergesByRankThenFromTheLeft) {
  EXPECT_THAT(Encode(SmallTokenizer(), "abc"), ElementsAre(0, 7));  // "b c" ranks before "a b"
  EXPECT_THAT(Encode(SmallTokenizer(), "ab ab"), ElementsAre(4, 3, 4));
  EXPECT_THAT(Encode(SmallTokenizer(), "aabb"), ElementsAre(0, 4, 1));
}

TEST(TokenizerJsonTest, BytesWithoutATokenVanishAndTheirNeighboursMeet) {
  EXPECT_THAT(Encode(SmallTokenizer(), "xazb"), ElementsAre(4));
  EXPECT_THAT(Encode(SmallTokenizer(), "\u65E5"), ElementsAre());
}

TEST(TokenizerJsonTest, BytesWithoutATokenBecomeTheUnknownToken) {
  Json json = SmallTokenizer();
  json["model"]["vocab"]["<unk>"] = 9;
  json["model"]["unk_token"] = "<unk>";
  EXPECT_THAT(Encode(json, "axxb"), ElementsAre(0, 9, 9, 1));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(Encode(json, "axxb"), ElementsAre(0, 9, 1));
}

TEST(TokenizerJsonTest, IgnoreMergesTakesWholeWords) {
  Json json = SmallTokenizer();
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(json, "abc"), ElementsAre(5));
  EXPECT_THAT(Encode(json, "abca"), ElementsAre(0, 7, 0));
}

TEST(TokenizerJsonTest, SpecialTokensAreSeenOnlyWhenAskedFor) {
  EXPECT_THAT(Encode(SmallTokenizer(), "a<end>b"), ElementsAre(0, 8, 1));
  EXPECT_THAT(Encode(SmallTokenizer(), "ab<end>", false), ElementsAre(4));
  Json json = SmallTokenizer();  // also where the vocabulary repeats it and whole words count
  json["model"]["vocab"]["end"] = 8;
  json["model"]["ignore_merges"] = true;
  json["added_tokens"][0]["content"] = "end";
  EXPECT_THAT(Encode(json, "end", true), ElementsAre(8));
  EXPECT_THAT(Encode(json, "end", false), ElementsAre());
}

TEST(TokenizerJsonTest, NfcComesBeforeNormalizedAddedTokens) {
  Json json = SmallTokenizer();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  json["added_tokens"].push_back({{"id", 9}, {"content", "\u00E9"}, {"normalized", true}});
  json["added_tokens"].push_back({{"id", 10}, {"content", "u\u0308"}, {"normalized", false}});
  EXPECT_THAT(Encode(json, "ae\u0301b"), ElementsAre(0, 9, 1));
  EXPECT_THAT(Encode(json, "\u00E9"), ElementsAre(9));
  EXPECT_THAT(Encode(json, "u\u0308"), ElementsAre(10));
  EXPECT_THAT(Encode(json, "\u00FC"), ElementsAre());
}

TEST(TokenizerJsonTest, EveryPreTokenizerServedIsRead) {
  Json json = SmallTokenizer();
  const auto with = [&](const char* text) {
    json["pre_tokenizer"] = Json::parse(text);
    return Encode(json, "a a");
  };
  EXPECT_THAT(with(R"({"type": "ByteLevel"})"), ElementsAre(6, 6));
  EXPECT_THAT(with(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})"),
              ElementsAre(0, 6));
  const std::string llama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                             R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const Json split = {
      {"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", llama3}}}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}};
  EXPECT_THAT(Encode(json, "a a,ab"), ElementsAre(0, 6, 4));
}

TEST(TokenizerJsonTest, PatternsThatNobodyPublishedAreRunWithinBounds) {
  Json json = SmallTokenizer();
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto split = [&](const char* pattern) {
    json["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {Json{{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", pattern}}}},
          bytes}}};
  };
  split("[^a]+|a");
  EXPECT_THAT(Encode(json, "ab"), ElementsAre(0, 1));
  split("\\w+");
  EXPECT_THAT(Encode(json, "ab"), ElementsAre(4));

  split("a++[cd]");
  auto tokenizer = MakeTokenizerFromJson(json.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<int32_t> ids{7};
  EXPECT_TRUE(absl::IsInvalidArgument(
      (*tokenizer)->Encode("b" + std::string(1 << 20, 'a') + "b", true, &ids)));
  EXPECT_THAT(ids, ElementsAre(7)) << "left as they were";
}

TEST(TokenizerJsonTest, OtherPartsAreRefusedByName) {
  const auto with = [](const char* pointer, const char* text) {
    Json json = SmallTokenizer();
    json[Json::json_pointer(pointer)] = Json::parse(text);
    return json;
  };
  ExpectRefused(with("/model/type", R"("Unigram")"), "Unigram");
  ExpectRefused(with("/model/type", R"("WordPiece")"), "WordPiece");
  ExpectRefused(with("/model/byte_fallback", "true"), "byte_fallback");
  ExpectRefused(with("/model/end_of_word_suffix", R"("</w>")"), "end_of_word_suffix");
  ExpectRefused(with("/model/dropout", "0.1"), "dropout");
  ExpectRefused(with("/normalizer", R"({"type": "Lowercase"})"), "Lowercase");
  ExpectRefused(with("/normalizer", R"({"type": "Prepend", "prepend": "_"})"), "Prepend");
  ExpectRefused(with("/pre_tokenizer", "null"), "pre-tokenizer");
  ExpectRefused(with("/pre_tokenizer", R"({"type": "Metaspace"})"), "Metaspace");
  ExpectRefused(with("/pre_tokenizer", R"({"type": "Split", "behavior": "Contiguous",
      "pattern": {"Regex": "[a-z]+"}})"),
                "Contiguous");
  ExpectRefused(with("/pre_tokenizer", R"({"type": "Split", "behavior": "Isolated",
      "pattern": {"Regex": "([a-z]+"}})"),
                "([a-z]+");
  ExpectRefused(with("/pre_tokenizer", R"({"type": "Sequence", "pretokenizers":
      [{"type": "ByteLevel"}, {"type": "Digits"}]})"),
                "Digits");
  ExpectRefused(with("/decoder", R"({"type": "Fuse"})"), "Fuse");
}

TEST(TokenizerJsonTest, FilesThatLieAreRefused) {
  const auto with = [](const char* pointer, const char* text) {
    Json json = SmallTokenizer();
    json[Json::json_pointer(pointer)] = Json::parse(text);
    return json;
  };
  ExpectRefused(with("/model/vocab/a", "-1"), "token id");
  ExpectRefused(with("/model/vocab/a", "4194304"), "token id");
  ExpectRefused(with("/model/vocab/a", "1e30"), "token id");
  ExpectRefused(with("/model/vocab/a", R"("0")"), "token id");
  ExpectRefused(with("/added_tokens/0/id", "9223372036854775807"), "token id");
  ExpectRefused(with("/added_tokens/0/id", "1e100"), "token id");
  ExpectRefused(with("/added_tokens/0/id", R"("3")"), "token id");
  ExpectRefused(with("/added_tokens/0/content", "7"), "shape");
  ExpectRefused(with("/model/merges/0", R"("a")"), "pair of tokens");
  ExpectRefused(with("/model/merges/0", R"("a x")"), "'a' and 'x'");
  ExpectRefused(with("/model", "[]"), "shape");
  ExpectRefused(Json::array(), "not a JSON object");
  EXPECT_FALSE(MakeTokenizerFromJson("").ok());
  EXPECT_FALSE(MakeTokenizerFromJson("{\"model\"").ok());
  EXPECT_FALSE(MakeTokenizerFromJson(std::string(kTokenizerJsonBytesMax + 1, ' ')).ok());
}

TEST(TokenizerJsonTest, TheLargestIdIsServed) {
  Json json = SmallTokenizer();
  json["model"]["vocab"]["a"] = kTokenizerVocabularyMax - 1;
  auto tokenizer = Make(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->size(), kTokenizerVocabularyMax);
  EXPECT_EQ((*tokenizer)->TokenBytes(kTokenizerVocabularyMax - 1), "a");
  EXPECT_EQ((*tokenizer)->TokenBytes(0), "");
}

TEST(TokenizerJsonTest, DeepNestingIsRefused) {
  const std::string deep(1 << 20, '[');
  EXPECT_FALSE(MakeTokenizerFromJson(deep).ok());
  const std::string closed = deep + std::string(1 << 20, ']');
  EXPECT_FALSE(MakeTokenizerFromJson("{\"model\": " + closed + "}").ok());
}

TEST(TokenizerJsonTest, DamagedFilesEndWithAStatus) {
  const std::string whole = SmallTokenizer().dump();
  const std::vector<std::string> values = {
      "null", "-1", "1e999", "\"\"", "[]", "{}", "true", "[[]]", "99999999999999999999"};
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  int served = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = whole;
    const size_t colon = text.find(':', random() % text.size());
    if (random() % 2 == 0 || colon == std::string::npos) {
      text[random() % text.size()] = static_cast<char>(random());
    } else {
      const size_t end = text.find_first_of(",}", colon);
      text.replace(colon + 1, end - colon - 1, values[random() % values.size()]);
    }
    const auto tokenizer = MakeTokenizerFromJson(text);
    if (!tokenizer.ok()) continue;
    ++served;
    std::vector<int32_t> ids;
    ASSERT_TRUE((*tokenizer)->Encode("ab <end> \u65E5 c", true, &ids).ok());
    for (const int32_t id : ids) ASSERT_LT(id, (*tokenizer)->size());
  }
  EXPECT_GT(served, 100);
}

GgufVocabulary SmallGguf() {
  return {.model = "gpt2",
          .pre = "gpt-2",
          .tokens = {"a", "b", "ab", "<end>", "<mark>", "[PAD5]"},
          .token_types = {1, 1, 1, 3, 4, 5},
          .merges = {"a b"}};
}

TEST(TokenizerGgufTest, TokenTypesDecideWhatIsSpecial) {
  auto tokenizer = MakeTokenizerFromGguf(SmallGguf());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::vector<int32_t> ids;
  ASSERT_TRUE((*tokenizer)->Encode("ab<end><mark>", true, &ids).ok());
  EXPECT_THAT(ids, ElementsAre(2, 3, 4));
  EXPECT_TRUE((*tokenizer)->IsSpecial(3));
  EXPECT_FALSE((*tokenizer)->IsSpecial(4));
  EXPECT_EQ((*tokenizer)->TokenBytes(5), "");
  EXPECT_EQ((*tokenizer)->size(), 6);
}

TEST(TokenizerGgufTest, OtherKindsAreRefusedByName) {
  const auto expect = [](GgufVocabulary vocabulary, const std::string& names) {
    const auto status = MakeTokenizerFromGguf(vocabulary).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(names));
  };
  GgufVocabulary vocabulary = SmallGguf();
  vocabulary.model = "llama";
  expect(vocabulary, "'llama'");
  vocabulary = SmallGguf();
  vocabulary.pre = "tekken";
  expect(vocabulary, "'tekken'");
  vocabulary.pre = "";
  expect(vocabulary, "tokenizer.ggml.pre");
  vocabulary = SmallGguf();
  vocabulary.token_types.pop_back();
  expect(vocabulary, "token_type");
  vocabulary = SmallGguf();
  vocabulary.tokens[0] = "\xFF";
  expect(vocabulary, "item 0");
  vocabulary = SmallGguf();
  vocabulary.merges[0] = "ab";
  expect(vocabulary, "merges item 0");
}

TEST(TokenizerGgufTest, Qwen2NormalisesAndLlamaTakesWholeWords) {
  GgufVocabulary vocabulary = SmallGguf();
  vocabulary.tokens = {"\u00C3", "\u00A9", "\u00C3\u00A9", "e"};
  vocabulary.token_types = {};
  vocabulary.merges = {"\u00C3 \u00A9"};
  vocabulary.pre = "qwen2";
  std::vector<int32_t> ids;
  ASSERT_TRUE((*MakeTokenizerFromGguf(vocabulary))->Encode("e\u0301", true, &ids).ok());
  EXPECT_THAT(ids, ElementsAre(2));
  ids.clear();
  vocabulary.merges.clear();
  vocabulary.pre = "llama-bpe";
  ASSERT_TRUE((*MakeTokenizerFromGguf(vocabulary))->Encode("\u00E9", true, &ids).ok());
  EXPECT_THAT(ids, ElementsAre(2));
}

}  // namespace
}  // namespace lorica
