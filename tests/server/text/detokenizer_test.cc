#include "server/text/detokenizer.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

// Token i is the i-th string; ids in `special` are special.
class ListTokenizer : public Tokenizer {
 public:
  explicit ListTokenizer(std::vector<std::string> tokens, std::vector<int32_t> special = {})
      : tokens_(std::move(tokens)), special_(std::move(special)) {}
  absl::Status Encode(std::string_view, bool, std::vector<int32_t>*) const override {
    return absl::UnimplementedError("only decodes");
  }
  std::string_view TokenBytes(int32_t id) const override {
    return id >= 0 && id < size() ? tokens_[id] : std::string_view();
  }
  bool IsSpecial(int32_t id) const override {
    return std::find(special_.begin(), special_.end(), id) != special_.end();
  }
  int32_t IdOf(std::string_view) const override { return -1; }
  int32_t size() const override { return static_cast<int32_t>(tokens_.size()); }

 private:
  std::vector<std::string> tokens_;
  std::vector<int32_t> special_;
};

ListTokenizer BytesTokenizer() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* piece :
       {"abc", "\u65E5", "\xE6\x97", "\xF0\x9F", "\x98\x80", "<|end|>", "", " "}) {
    tokens.push_back(piece);
  }
  return ListTokenizer(tokens, {261});
}

TEST(DetokenizerTest, HoldsBackUntilTheCharacterIsWhole) {
  const ListTokenizer tokens({"\xF0\x9F", "\x98", "\x80!", "ok"});
  Detokenizer stream(&tokens, false);
  EXPECT_EQ(stream.Push(0), "");
  EXPECT_EQ(stream.Push(1), "");
  EXPECT_EQ(stream.Push(2), "\U0001F600!");
  EXPECT_EQ(stream.Push(3), "ok");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(DetokenizerTest, EachMaximalInvalidPartBecomesOneReplacement) {
  const ListTokenizer tokens({"\xE6\x97", "x", "\xFF\xFE", "\xF0\x9F\x98"});
  const std::string r = "\uFFFD";
  EXPECT_EQ(Decode(tokens, {0, 1}, false), r + "x");
  EXPECT_EQ(Decode(tokens, {2}, false), r + r);
  EXPECT_EQ(Decode(tokens, {3}, false), r);
  EXPECT_EQ(Decode(tokens, {3, 0}, false), r + r);
  // A genuine U+FFFD in the output does not stall the stream.
  const ListTokenizer genuine({r, "a"});
  Detokenizer stream(&genuine, false);
  EXPECT_EQ(stream.Push(0), r);
  EXPECT_EQ(stream.Push(1), "a");
}

TEST(DetokenizerTest, SpecialTokensAreSkippedOrShown) {
  const ListTokenizer tokens({"a", "<|end|>"}, {1});
  EXPECT_EQ(Decode(tokens, {0, 1, 0}, true), "aa");
  EXPECT_EQ(Decode(tokens, {0, 1, 0}, false), "a<|end|>a");
  EXPECT_EQ(Decode(tokens, {0, -1, 2, 1 << 30, 0}, false), "aa");
}

// Python's bytes.decode("utf-8", "replace"), by trying every cut.
std::string ReplaceInvalid(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind == Utf8Kind::kCharacter) {
      out += bytes.substr(0, step.bytes);
    } else {
      out += "\uFFFD";
    }
    bytes.remove_prefix(step.bytes);
  }
  return out;
}

TEST(DetokenizerTest, PiecesOfRandomTokensJoinToTheWhole) {
  const ListTokenizer tokens = BytesTokenizer();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20'000; ++round) {
    const bool skip = random() % 2 == 0;
    std::vector<int32_t> ids(random() % 16);
    for (auto& id : ids) id = random() % (random() % 2 == 0 ? 264 : 8) + (random() % 2) * 0xF0;
    Detokenizer stream(&tokens, skip);
    std::string joined, bytes;
    for (const int32_t id : ids) {
      if (!(skip && tokens.IsSpecial(id))) bytes += tokens.TokenBytes(id);
      const std::string piece = stream.Push(id);
      ASSERT_TRUE(CheckUtf8(piece).ok());
      joined += piece;
    }
    const std::string rest = stream.Finish();
    ASSERT_TRUE(CheckUtf8(rest).ok());
    ASSERT_EQ(joined + rest, Decode(tokens, ids, skip));
    ASSERT_EQ(joined + rest, ReplaceInvalid(bytes));
  }
}

std::string Streamed(std::vector<std::string> stops, const std::vector<std::string>& pieces,
                     bool* stopped = nullptr) {
  StopMatcher matcher(std::move(stops));
  std::string out;
  for (const auto& piece : pieces) out += matcher.Push(piece);
  out += matcher.Finish();
  if (stopped != nullptr) *stopped = matcher.stopped();
  return out;
}

TEST(StopMatcherTest, FindsStopsAcrossPieces) {
  bool stopped = false;
  EXPECT_EQ(Streamed({"END"}, {"abcE", "N", "Dxyz", "more"}, &stopped), "abc");
  EXPECT_TRUE(stopped);
  EXPECT_EQ(Streamed({"aab"}, {"aa", "a", "b"}), "a");
  EXPECT_EQ(Streamed({"\n\n"}, {"a\n", "b\n", "\nc"}), "a\nb");
  EXPECT_EQ(Streamed({"stop"}, {"stop"}), "");
}

TEST(StopMatcherTest, HeldTextIsFlushedAtTheEnd) {
  bool stopped = true;
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("abEN"), "ab");
  EXPECT_EQ(matcher.Push("x"), "ENx");
  EXPECT_EQ(matcher.Push("E"), "");
  EXPECT_EQ(matcher.Finish(), "E");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(Streamed({}, {"a", "b"}, &stopped), "ab");
  EXPECT_FALSE(stopped);
  EXPECT_EQ(Streamed({""}, {"a", "b"}, &stopped), "ab");
  EXPECT_FALSE(stopped);
}

TEST(StopMatcherTest, NothingFollowsTheStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("aEND"), "a");
  EXPECT_EQ(matcher.Push("b"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, TheFirstCompleteStopWinsAndTheLongestOfThose) {
  EXPECT_EQ(Streamed({"abc", "ab"}, {"xabc"}), "x");      // one is a prefix of the other
  EXPECT_EQ(Streamed({"bcd", "c"}, {"abcd"}), "ab");      // the inner one is complete first
  EXPECT_EQ(Streamed({"c", "abc"}, {"xabc"}), "x");       // complete together
  EXPECT_EQ(Streamed({"bab", "aba"}, {"xababab"}), "x");  // overlapping
}

std::string Definition(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 0; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const auto& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop)) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(StopMatcherTest, CutsOfTheTextMakeNoDifference) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto word = [&](int longest) {
    std::string text;
    for (int n = random() % longest + 1; n > 0; --n) text += random() % 3 == 0 ? "b" : "a";
    return text;
  };
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::string> stops, pieces;
    for (int n = random() % 4; n > 0; --n) stops.push_back(word(6));
    std::string text;
    for (int n = random() % 8; n > 0; --n) text += pieces.emplace_back(word(5));
    ASSERT_EQ(Streamed(stops, pieces), Definition(stops, text));
  }
}

TEST(StopMatcherTest, HoldsNoMoreThanItMust) {
  StopMatcher matcher({"\u65E5\u672C", "zz"});
  EXPECT_EQ(matcher.Push("a\u65E5"), "a");
  EXPECT_EQ(matcher.Push("\u65E5z"), "\u65E5\u65E5");
  EXPECT_EQ(matcher.Push("y"), "zy");
}

TEST(StopMatcherTest, HostileTextTakesLinearTime) {
  StopMatcher matcher({std::string(4096, 'a') + "b"});
  size_t out = 0;
  const std::string text(1 << 10, 'a');
  for (int i = 0; i < 4096; ++i) out += matcher.Push(text).size();
  EXPECT_EQ(out, (4 << 20) - 4096);
  EXPECT_EQ(matcher.Finish().size(), 4096);
}

}  // namespace
}  // namespace lorica
