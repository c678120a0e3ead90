#include "server/text/bpe.h"

#include <climits>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using testing::ElementsAre;

TEST(SpellingTest, UndoesThePrintableAlphabet) {
  EXPECT_EQ(SpellingToBytes("abc!~"), "abc!~");
  EXPECT_EQ(SpellingToBytes("\u0120a\u010A"), " a\n");
  EXPECT_EQ(SpellingToBytes("\u0100\u0143\u00FF\u00AE"), std::string("\0\xAD\xFF\xAE", 4));
  EXPECT_EQ(SpellingToBytes(" "), std::nullopt);
  EXPECT_EQ(SpellingToBytes("\u0144"), std::nullopt);
  EXPECT_EQ(SpellingToBytes("\u65E5"), std::nullopt);
  EXPECT_EQ(SpellingToBytes(""), "");
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::pair<std::string, std::string>> merges;
};

// Merges of what is there already, in any order of rank: also of orders no training gives.
Vocabulary RandomVocabulary(std::mt19937* random) {
  Vocabulary made{.tokens = {"a", "b", "c"}, .merges = {}};
  std::set<std::string> known(made.tokens.begin(), made.tokens.end());
  for (int i = 0; i < 12; ++i) {
    const auto& left = made.tokens[(*random)() % made.tokens.size()];
    const auto& right = made.tokens[(*random)() % made.tokens.size()];
    made.merges.emplace_back(left, right);
    if (known.insert(left + right).second) made.tokens.push_back(left + right);
  }
  std::shuffle(made.merges.begin(), made.merges.end(), *random);
  return made;
}

BytePairEncoder Build(const Vocabulary& vocabulary) {
  BytePairEncoder encoder;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    encoder.AddToken(vocabulary.tokens[i], static_cast<int32_t>(i));
  }
  for (const auto& [left, right] : vocabulary.merges) {
    EXPECT_TRUE(encoder.AddMerge(left, right).ok());
  }
  return encoder;
}

// The definition: look for the best pair again after each merge.
std::vector<std::string> MergeByDefinition(const Vocabulary& vocabulary, std::string_view word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  while (true) {
    int best = INT_MAX;
    size_t place = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      for (int rank = static_cast<int>(vocabulary.merges.size()) - 1; rank >= 0; --rank) {
        if (vocabulary.merges[rank] != std::pair(parts[i], parts[i + 1])) continue;
        if (rank < best) best = rank, place = i;
        break;  // of equal pairs the last rank counts
      }
    }
    if (best == INT_MAX) return parts;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + place + 1);
  }
}

TEST(BpeTest, EqualsTheDefinitionForAnyOrderOfMerges) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const Vocabulary vocabulary = RandomVocabulary(&random);
    const BytePairEncoder encoder = Build(vocabulary);
    BpeScratch scratch;
    for (int i = 0; i < 5; ++i) {
      std::string word;
      for (int n = random() % 40; n > 0; --n) word += static_cast<char>('a' + random() % 3);
      std::vector<int32_t> ids;
      encoder.Encode(word, &scratch, &ids);
      std::vector<std::string> parts;
      for (const int32_t id : ids) parts.push_back(vocabulary.tokens[id]);
      ASSERT_EQ(parts, MergeByDefinition(vocabulary, word)) << word;
    }
  }
}

TEST(BpeTest, MergesOfWhatIsNoTokenAreRefused) {
  BytePairEncoder encoder;
  encoder.AddToken("a", 0);
  encoder.AddToken("ab", 1);
  EXPECT_EQ(encoder.AddMerge("a", "b").code(), absl::StatusCode::kNotFound);
  encoder.AddToken("b", 2);
  EXPECT_TRUE(encoder.AddMerge("a", "b").ok());
  EXPECT_EQ(encoder.AddMerge("b", "a").code(), absl::StatusCode::kNotFound);
  BpeScratch scratch;
  std::vector<int32_t> ids;
  encoder.Encode("aba", &scratch, &ids);
  encoder.Encode("", &scratch, &ids);
  EXPECT_THAT(ids, ElementsAre(1, 0));
}

}  // namespace
}  // namespace lorica
