#include "server/text/byte_level_tokenizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/text/added_tokens.h"
#include "server/text/bpe.h"
#include "server/text/string_map.h"
#include "server/text/unicode.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

// What tokenizer files spell in the byte alphabet; other spellings stand for themselves.
std::string BytesOf(std::string_view spelling) {
  return SpellingToBytes(spelling).value_or(std::string(spelling));
}

absl::Status CheckIds(const ByteLevelParts& parts) {
  const auto in_range = [](const auto& token) {
    return token.id >= 0 && token.id < kTokenizerVocabularyMax;
  };
  if (std::all_of(parts.vocabulary.begin(), parts.vocabulary.end(), in_range) &&
      std::all_of(parts.added_tokens.begin(), parts.added_tokens.end(), in_range) &&
      std::all_of(parts.normalized_added_tokens.begin(), parts.normalized_added_tokens.end(),
                  in_range)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("the tokenizer has a token id outside 0..",
                                                    kTokenizerVocabularyMax - 1,
                                                    ": check the model's files"));
}

class ByteLevelTokenizer final : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(ByteLevelParts parts)
      : nfc_(parts.nfc),
        steps_(parts.steps),
        raw_matcher_(parts.added_tokens),
        normalized_matcher_(Normalized(parts.normalized_added_tokens, parts.nfc)) {
    encoder_.set_ignore_merges(parts.ignore_merges);
    encoder_.set_unknown(parts.unknown_id, parts.fuse_unknown);
    for (const auto& entry : parts.vocabulary) SetToken(entry.id, BytesOf(entry.spelling), false);
    for (const auto& token : parts.added_tokens) AddAdded(token);
    for (const auto& token : parts.normalized_added_tokens) AddAdded(token);
  }

  absl::Status BuildEncoder(const ByteLevelParts& parts) {
    for (const auto& entry : parts.vocabulary) {
      const auto bytes = SpellingToBytes(entry.spelling);
      // A word must not become a control token merely by being spelled like one.
      const bool hidden = parts.ignore_merges && special_[entry.id];
      if (bytes && !bytes->empty() && !hidden) encoder_.AddToken(*bytes, entry.id);
    }
    for (const auto& [left, right] : parts.merges) {
      if (!encoder_.AddMerge(BytesOf(left), BytesOf(right)).ok()) {
        return absl::FailedPreconditionError(
            absl::StrCat("the tokenizer merges '", left, "' and '", right,
                         "', but one of them or the result is not in its vocabulary"));
      }
    }
    if (parts.byte_fallback && !encoder_.has_all_bytes()) {
      return absl::FailedPreconditionError(
          "a BPE tokenizer with byte_fallback is not served: send token_ids");
    }
    return absl::OkStatus();
  }

  absl::Status Encode(std::string_view text, bool parse_special,
                      std::vector<int32_t>* ids) const override {
    const TextRange whole{0, text.size()};
    const size_t ranges = parse_special ? 1 : 0;
    return EncodeRanges(text, absl::MakeConstSpan(&whole, ranges), ids);
  }

  absl::Status EncodeParts(absl::Span<const PromptPart> parts,
                           std::vector<int32_t>* ids) const override {
    std::string text;
    std::vector<TextRange> ranges;
    bool joins = false;  // with the range before
    for (const PromptPart& part : parts) {
      const TextRange range{text.size(), text.size() + part.text.size()};
      text += part.text;
      if (part.from_message && !part.text.empty()) joins = false;
      if (part.from_message) continue;
      if (joins) {
        ranges.back().end = range.end;
      } else {
        ranges.push_back(range);
      }
      joins = true;
    }
    return EncodeRanges(text, ranges, ids);
  }

  std::string_view TokenBytes(int32_t id) const override {
    return id < 0 || id >= size() ? std::string_view() : bytes_[id];
  }
  bool IsSpecial(int32_t id) const override { return id >= 0 && id < size() && special_[id]; }
  int32_t size() const override { return static_cast<int32_t>(bytes_.size()); }

  int32_t IdOf(std::string_view token) const override {
    if (const auto added = added_ids_.find(token); added != added_ids_.end()) return added->second;
    const auto bytes = SpellingToBytes(token);
    return bytes ? encoder_.IdOf(*bytes) : -1;
  }

 private:
  // One call of EncodeRanges.
  struct Run {
    std::vector<int32_t>* ids;
    BpeScratch scratch;
    absl::Status status;  // the first error; after it nothing is encoded
  };

  // Added tokens are recognised within `ranges` only.
  absl::Status EncodeRanges(std::string_view text, absl::Span<const TextRange> ranges,
                            std::vector<int32_t>* ids) const {
    if (text.size() > kEncodeBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(), " bytes, limit ",
                                                     kEncodeBytesMax, ": send less"));
    }
    if (auto status = CheckUtf8(text); !status.ok()) return status;
    const size_t size_before = ids->size();
    Run run{ids};
    raw_matcher_.Split(text, ranges, [&](std::string_view piece, int32_t id) {
      if (id >= 0) return ids->push_back(id);
      if (normalized_matcher_.empty()) return EncodePlain(Normalize(piece), &run);
      const size_t offset = static_cast<size_t>(piece.data() - text.data());
      EncodeNormalized(piece, Within(ranges, offset, offset + piece.size()), &run);
    });
    if (!run.status.ok()) ids->resize(size_before);
    return run.status;
  }

  // What of `ranges` lies in [begin, end), counted from `begin`.
  static std::vector<TextRange> Within(absl::Span<const TextRange> ranges, size_t begin,
                                       size_t end) {
    std::vector<TextRange> inner;
    for (const TextRange& range : ranges) {
      const TextRange cut{std::max(range.begin, begin), std::min(range.end, end)};
      if (cut.begin < cut.end) inner.push_back({cut.begin - begin, cut.end - begin});
    }
    return inner;
  }

  void EncodeNormalized(std::string_view text, absl::Span<const TextRange> ranges, Run* run) const {
    std::string normal;
    std::vector<TextRange> normal_ranges;
    size_t done = 0;
    for (const TextRange& range : ranges) {
      normal += Normalize(text.substr(done, range.begin - done));
      const size_t begin = normal.size();
      normal += Normalize(text.substr(range.begin, range.end - range.begin));
      normal_ranges.push_back({begin, normal.size()});
      done = range.end;
    }
    normal += Normalize(text.substr(done));
    normalized_matcher_.Split(normal, normal_ranges, [&](std::string_view piece, int32_t id) {
      if (id >= 0) return run->ids->push_back(id);
      EncodePlain(piece, run);
    });
  }

  static std::vector<AddedToken> Normalized(std::vector<AddedToken> tokens, bool nfc) {
    for (auto& token : tokens) {
      if (nfc) token.content = unicode::NormalizeNfc(token.content);
    }
    return tokens;
  }

  std::string Normalize(std::string_view text) const {
    return nfc_ ? unicode::NormalizeNfc(text) : std::string(text);
  }

  void EncodePlain(std::string_view text, Run* run) const {
    if (!run->status.ok()) return;
    run->status = steps_.Split(
        text, [&](std::string_view word) { encoder_.Encode(word, &run->scratch, run->ids); });
  }

  void SetToken(int32_t id, std::string bytes, bool special) {
    if (id >= size()) {
      bytes_.resize(id + 1);
      special_.resize(id + 1);
    }
    bytes_[id] = std::move(bytes);
    special_[id] = special;
  }

  void AddAdded(const AddedToken& token) {
    SetToken(token.id, token.content, token.special);
    added_ids_[token.content] = token.id;
  }

  bool nfc_;
  PreTokenizer steps_;
  AddedTokenMatcher raw_matcher_;
  AddedTokenMatcher normalized_matcher_;
  BytePairEncoder encoder_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_;       // by id
  StringMap<int32_t> added_ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeByteLevelTokenizer(ByteLevelParts parts) {
  if (auto status = CheckIds(parts); !status.ok()) return status;
  auto tokenizer = std::make_unique<ByteLevelTokenizer>(parts);
  if (auto status = tokenizer->BuildEncoder(parts); !status.ok()) return status;
  return tokenizer;
}

}  // namespace lorica
