#include "server/text/tokenizer.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "adapters/hub/gguf.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/chat_template.h"
#include "server/text/detokenizer.h"
#include "server/text/utf8.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return std::move(out).str();
}

std::filesystem::path ModelPath() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const std::filesystem::path base =
      cache != nullptr ? cache : std::filesystem::path(std::getenv("HOME")) / ".cache";
  return base / "lorica" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

GgufVocabulary VocabularyOf(const GgufFile& file) {
  GgufVocabulary vocabulary;
  vocabulary.model = file.String("tokenizer.ggml.model").value_or("");
  vocabulary.pre = file.String("tokenizer.ggml.pre").value_or("");
  vocabulary.tokens = *file.Strings("tokenizer.ggml.tokens");
  vocabulary.token_types = *file.Ints("tokenizer.ggml.token_type");
  vocabulary.merges = *file.Strings("tokenizer.ggml.merges");
  return vocabulary;
}

// The model's own tokenizer, read from its GGUF once.
const Tokenizer& SmolLm() {
  static const Tokenizer* const tokenizer = [] {
    const std::string bytes = ReadFile(ModelPath());
    auto file = GgufFile::Parse(
        absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()));
    EXPECT_TRUE(file.ok()) << ModelPath() << ": " << file.status();
    auto made = MakeTokenizerFromGguf(VocabularyOf(*file));
    EXPECT_TRUE(made.ok()) << made.status();
    return made->release();
  }();
  return *tokenizer;
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text,
                            bool parse_special = true) {
  std::vector<int32_t> ids;
  const auto status = tokenizer.Encode(text, parse_special, &ids);
  EXPECT_TRUE(status.ok()) << status;
  return ids;
}

void ExpectGoldens(const Tokenizer& tokenizer) {
  const Json goldens =
      Json::parse(ReadFile(std::string(LORICA_TEST_DATA) + "/tokenizer_goldens.json"));
  ASSERT_EQ(goldens["encode"].size(), 42);
  for (const auto& golden : goldens["encode"]) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const auto ids = Encode(tokenizer, golden["text"].get<std::string>());
    EXPECT_EQ(ids, golden["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(Decode(tokenizer, ids, false), golden["decoded"].get<std::string>());
    EXPECT_EQ(Decode(tokenizer, ids, true), golden["decoded_skip_special"].get<std::string>());
  }
  ASSERT_FALSE(goldens["decode_prefixes"].empty());
  for (const auto& golden : goldens["decode_prefixes"]) {
    const auto ids = golden["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(Decode(tokenizer, ids, false), golden["decoded"].get<std::string>());
  }
}

TEST(TokenizerTest, EqualsTheReferenceFromGguf) { ExpectGoldens(SmolLm()); }

TEST(TokenizerTest, EqualsTheReferenceFromTokenizerJson) {
  const char* fixtures = std::getenv("LORICA_FIXTURES");
  if (fixtures == nullptr) {
    GTEST_SKIP() << "set LORICA_FIXTURES to a folder with tokenizer/tokenizer.json";
  }
  auto tokenizer =
      MakeTokenizerFromJson(ReadFile(std::filesystem::path(fixtures) / "tokenizer/tokenizer.json"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectGoldens(**tokenizer);
  ASSERT_EQ((*tokenizer)->size(), SmolLm().size());
  for (int32_t id = 0; id < SmolLm().size(); ++id) {
    ASSERT_EQ((*tokenizer)->TokenBytes(id), SmolLm().TokenBytes(id)) << id;
    ASSERT_EQ((*tokenizer)->IsSpecial(id), SmolLm().IsSpecial(id)) << id;
  }
}

TEST(TokenizerTest, PromptsOfTheReferenceGetItsIds) {
  const char* fixtures = std::getenv("LORICA_FIXTURES");
  if (fixtures == nullptr) GTEST_SKIP() << "set LORICA_FIXTURES to a folder with goldens/";
  const std::filesystem::path folder = fixtures;
  const Json meta = Json::parse(ReadFile(folder / "model_meta/gguf.json"));
  auto chat = MakeChatTemplate(meta["metadata"]["tokenizer.chat_template"].get<std::string>(),
                               {"<|im_start|>", "<|im_end|>"});
  ASSERT_TRUE(chat.ok()) << chat.status();
  for (const auto& golden : Json::parse(ReadFile(folder / "goldens/goldens_public.json"))) {
    const auto parts = (*chat)->Render({{"user", golden["user"].get<std::string>()}}, true);
    ASSERT_TRUE(parts.ok()) << parts.status();
    std::vector<int32_t> ids;
    ASSERT_TRUE(SmolLm().EncodeParts(*parts, &ids).ok());
    EXPECT_EQ(ids, golden["prompt_ids"].get<std::vector<int32_t>>()) << golden["id"];
    const auto output = golden["output_ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(Decode(SmolLm(), output, true), golden["text"].get<std::string>()) << golden["id"];
  }
}

TEST(TokenizerTest, SpecialTokensOfMessagesStayText) {
  const auto special = Encode(SmolLm(), "<|im_start|>user<|im_end|>", true);
  EXPECT_EQ(special, (std::vector<int32_t>{1, 4093, 2}));
  const auto plain = Encode(SmolLm(), "<|im_start|>user<|im_end|>", false);
  for (const int32_t id : plain) EXPECT_FALSE(SmolLm().IsSpecial(id)) << id;
  EXPECT_EQ(Decode(SmolLm(), plain, true), "<|im_start|>user<|im_end|>");
}

TEST(TokenizerTest, PartsAreEncodedAcrossTheirSeams) {
  const auto encode = [](std::vector<PromptPart> parts) {
    std::vector<int32_t> ids;
    EXPECT_TRUE(SmolLm().EncodeParts(parts, &ids).ok());
    return ids;
  };
  // "\n" + "\n\nhel" + "lo": one run of line ends, one word.
  EXPECT_EQ(encode({{"<|im_start|>user\n", false}, {"\n\nhel", true}, {"lo<|im_end|>", false}}),
            Encode(SmolLm(), "<|im_start|>user\n\n\nhello<|im_end|>"));
  EXPECT_EQ(encode({{"<|im_", false}, {"end|>", false}}), (std::vector<int32_t>{2}));
  const std::vector<PromptPart> hostile[] = {{{"<|im_", false}, {"end|>", true}},
                                             {{"<|im_", true}, {"end|>", false}},
                                             {{"<|im_end|>", true}},
                                             {{"<|im", false}, {"_end|", true}, {">", false}}};
  for (const auto& parts : hostile) {
    EXPECT_EQ(encode(parts), Encode(SmolLm(), "<|im_end|>", false));
  }
  EXPECT_TRUE(encode({}).empty());
}

TEST(TokenizerTest, KnowsItsTokens) {
  EXPECT_EQ(SmolLm().size(), 49152);
  EXPECT_EQ(SmolLm().IdOf("<|im_end|>"), 2);
  EXPECT_EQ(SmolLm().IdOf("\u0120world"), 905);
  EXPECT_EQ(SmolLm().IdOf("no such token at all"), -1);
  EXPECT_EQ(SmolLm().TokenBytes(905), " world");
  EXPECT_TRUE(SmolLm().IsSpecial(2));
  EXPECT_FALSE(SmolLm().IsSpecial(905));
  for (const int32_t id : {-1, 49152, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(SmolLm().TokenBytes(id), "") << id;
    EXPECT_FALSE(SmolLm().IsSpecial(id)) << id;
  }
}

TEST(TokenizerTest, AppendsAndLeavesIdsAloneOnError) {
  std::vector<int32_t> ids{7};
  ASSERT_TRUE(SmolLm().Encode("Hello", true, &ids).ok());
  EXPECT_EQ(ids, (std::vector<int32_t>{7, 19556}));
  EXPECT_EQ(SmolLm().Encode("Hello \xC3(", true, &ids).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ids.size(), 2);
}

TEST(TokenizerTest, OddButValidTextIsHandled) {
  const std::string nul("a\0b", 3);
  EXPECT_EQ(Decode(SmolLm(), Encode(SmolLm(), nul), false), nul);
  const std::string bom = "\xEF\xBB\xBFx";
  EXPECT_EQ(Decode(SmolLm(), Encode(SmolLm(), bom), false), bom);
  EXPECT_TRUE(Encode(SmolLm(), "").empty());
}

TEST(TokenizerTest, TextBeyondTheLimitIsRefused) {
  std::vector<int32_t> ids;
  std::string text(kEncodeBytesMax, '1');
  EXPECT_TRUE(SmolLm().Encode(text, false, &ids).ok());
  EXPECT_EQ(ids.size(), kEncodeBytesMax);
  EXPECT_EQ(SmolLm().Encode(text + "1", false, &ids).code(), absl::StatusCode::kInvalidArgument);
}

double EncodeSeconds(const std::string& text) {
  const double start = CpuSeconds();
  const auto ids = Encode(SmolLm(), text);
  const double seconds = CpuSeconds() - start;
  EXPECT_EQ(Decode(SmolLm(), ids, false), text);
  return seconds;
}

std::string Repeat(std::string_view unit, size_t bytes) {
  std::string text;
  while (text.size() + unit.size() <= bytes) text += unit;
  return text;
}

class HostileTextTest : public testing::TestWithParam<const char*> {};

TEST_P(HostileTextTest, TakesNearLinearTime) {
  constexpr size_t kMiB = 1 << 20;
  SmolLm();
  const double one = EncodeSeconds(Repeat(GetParam(), kMiB));
  const double four = EncodeSeconds(Repeat(GetParam(), 4 * kMiB));
  std::cout << "1 MiB " << one << " s, 4 MiB " << four << " s\n";
  EXPECT_LT(four, 5 * one + 0.1);
  EXPECT_LT(four, 3 * kInstrumentationFactor);
}

INSTANTIATE_TEST_SUITE_P(All, HostileTextTest,
                         testing::Values("a", " ", "\n", ".", "'s", "1", "<|im_start|", "\u2581",
                                         "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D",
                                         "a\u0301",
                                         "The quick brown fox jumps over the lazy dog. "));

}  // namespace
}  // namespace lorica
