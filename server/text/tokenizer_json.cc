// tokenizer.json to a tokenizer: every part that is not served is refused by its name.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/text/byte_level_tokenizer.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr int kJsonNestingMax = 32;  // copies and destructors recurse

// Null if it is no JSON or nested too deeply.
Json ParseBounded(std::string_view text) {
  bool too_deep = false;
  const auto check = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kJsonNestingMax;
    return depth <= kJsonNestingMax;
  };
  Json document = Json::parse(text, check, /*allow_exceptions=*/false);
  return too_deep || document.is_discarded() ? Json() : document;
}

absl::Status NotServed(absl::string_view what, const Json& part) {
  std::string kind = part.is_object() ? part.value("type", "?") : std::string(part.type_name());
  return absl::FailedPreconditionError(
      absl::StrCat("tokenizer.json: ", what, " '", kind,
                   "' is not served, only byte-level BPE is: send token_ids"));
}

std::string TypeOf(const Json& part) {
  return part.is_object() ? part.value("type", "") : std::string();
}

// Absent and null mean the same in these files.
template <typename T>
T ValueOr(const Json& object, const char* key, T fallback) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? fallback : found->get<T>();
}

absl::Status ReadNormalizer(const Json& part, ByteLevelParts* parts) {
  if (part.is_null()) return absl::OkStatus();
  if (TypeOf(part) == "NFC") {
    parts->nfc = true;
    return absl::OkStatus();
  }
  if (TypeOf(part) != "Sequence") return NotServed("normalizer", part);
  for (const auto& inner : part.at("normalizers")) {
    if (auto status = ReadNormalizer(inner, parts); !status.ok()) return status;
  }
  return absl::OkStatus();
}

struct KnownPattern {
  std::string_view pattern;
  SplitStep step;
};

constexpr KnownPattern kKnownPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     SplitStep::kGpt2},
    {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     SplitStep::kGpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     SplitStep::kLlama3},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     SplitStep::kQwen2},
};

absl::StatusOr<SplitKeeps> ReadBehavior(const Json& part) {
  const std::string behavior = part.value("behavior", "");
  if (behavior == "Isolated") return SplitKeeps::kAll;
  if (behavior != "Removed") {
    return absl::FailedPreconditionError(
        absl::StrCat("tokenizer.json: the pre-tokenizer Split with the behavior '", behavior,
                     "' is not served, only Isolated and Removed are: send token_ids"));
  }
  return part.value("invert", false) ? SplitKeeps::kMatches : SplitKeeps::kGaps;
}

absl::Status ReadSplit(const Json& part, ByteLevelParts* parts) {
  const auto keeps = ReadBehavior(part);
  if (!keeps.ok()) return keeps.status();
  const Json& pattern = part.at("pattern");
  const bool literal = pattern.contains("String");
  const std::string text = pattern.at(literal ? "String" : "Regex").get<std::string>();
  // The known patterns match every character, so keeping only matches changes nothing.
  const bool keeps_matches = !literal && *keeps != SplitKeeps::kGaps;
  for (const auto& known : kKnownPatterns) {
    if (keeps_matches && known.pattern == text) {
      parts->steps.push_back(known.step);
      return absl::OkStatus();
    }
  }
  auto compiled = SplitPattern::Compile(text, {.literal = literal, .keeps = *keeps});
  if (!compiled.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("tokenizer.json: the pre-tokenizer's pattern ", pattern.dump().substr(0, 200),
                     " ", compiled.status().message(), ": send token_ids"));
  }
  parts->steps.push_back(*std::move(compiled));
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const Json& part, bool* ends, ByteLevelParts* parts) {
  const std::string type = TypeOf(part);
  if (*ends) return NotServed("after ByteLevel the pre-tokenizer", part);
  if (type == "Sequence") {
    for (const auto& inner : part.at("pretokenizers")) {
      if (auto status = ReadPreTokenizer(inner, ends, parts); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  if (type == "Split") return ReadSplit(part, parts);
  if (type == "Digits") {
    const bool alone = part.value("individual_digits", false);
    parts->steps.push_back(alone ? SplitStep::kDigits : SplitStep::kDigitRuns);
    return absl::OkStatus();
  }
  if (type != "ByteLevel") return NotServed("pre-tokenizer", part);
  if (part.value("add_prefix_space", true)) parts->steps.push_back(SplitStep::kPrefixSpace);
  if (part.value("use_regex", true)) parts->steps.push_back(SplitStep::kGpt2);
  *ends = true;
  return absl::OkStatus();
}

absl::Status CheckModel(const Json& model) {
  const std::string type = ValueOr<std::string>(model, "type", "BPE");
  if (type != "BPE") return NotServed("model", model);
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!ValueOr<std::string>(model, affix, "").empty()) {
      return absl::FailedPreconditionError(absl::StrCat("tokenizer.json: a BPE model with ", affix,
                                                        " is not served: send token_ids"));
    }
  }
  if (ValueOr<double>(model, "dropout", 0) != 0) {
    return absl::FailedPreconditionError(
        "tokenizer.json: a BPE model with dropout is not served: set it to null");
  }
  return absl::OkStatus();
}

absl::Status ReadMerge(const Json& merge, ByteLevelParts* parts) {
  if (merge.is_array() && merge.size() == 2) {
    parts->merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    return absl::OkStatus();
  }
  const std::string text = merge.is_string() ? merge.get<std::string>() : "";
  if (absl::StartsWith(text, "#version")) return absl::OkStatus();
  const size_t blank = text.find(' ');
  if (blank == std::string::npos) {
    return absl::FailedPreconditionError(absl::StrCat(
        "tokenizer.json: the merge ", merge.dump().substr(0, 200), " is not a pair of tokens"));
  }
  parts->merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
  return absl::OkStatus();
}

// -1: it is none, which the tokenizer refuses where it is used.
int32_t TokenId(const Json& id) {
  const int64_t number = id.is_number_integer() ? id.get<int64_t>() : -1;
  return number >= 0 && number < kTokenizerVocabularyMax ? static_cast<int32_t>(number) : -1;
}

absl::Status ReadModel(const Json& model, ByteLevelParts* parts) {
  if (auto status = CheckModel(model); !status.ok()) return status;
  const Json& vocabulary = model.at("vocab");
  for (const auto& [spelling, id] : vocabulary.items()) {
    parts->vocabulary.push_back({spelling, TokenId(id)});
  }
  for (const auto& merge : model.at("merges")) {
    if (auto status = ReadMerge(merge, parts); !status.ok()) return status;
  }
  parts->ignore_merges = ValueOr(model, "ignore_merges", false);
  parts->byte_fallback = ValueOr(model, "byte_fallback", false);
  parts->fuse_unknown = ValueOr(model, "fuse_unk", false);
  const auto unknown = vocabulary.find(ValueOr<std::string>(model, "unk_token", ""));
  if (unknown != vocabulary.end()) parts->unknown_id = TokenId(*unknown);
  return absl::OkStatus();
}

void ReadAddedTokens(const Json& document, ByteLevelParts* parts) {
  const Json& vocabulary = document.at("model").at("vocab");
  for (const auto& token : document.value("added_tokens", Json::array())) {
    AddedToken added;
    added.content = token.at("content").get<std::string>();
    // Where the two disagree the vocabulary is right.
    const auto known = vocabulary.find(added.content);
    added.id = TokenId(known == vocabulary.end() ? token.at("id") : *known);
    added.special = token.value("special", false);
    added.lstrip = token.value("lstrip", false);
    added.rstrip = token.value("rstrip", false);
    added.single_word = token.value("single_word", false);
    const bool normalized = token.value("normalized", !added.special);
    (normalized ? parts->normalized_added_tokens : parts->added_tokens).push_back(std::move(added));
  }
}

absl::StatusOr<ByteLevelParts> ReadParts(const Json& document) {
  ByteLevelParts parts;
  if (auto status = ReadModel(document.at("model"), &parts); !status.ok()) return status;
  const auto part = [&](const char* key) { return document.value(key, Json()); };
  if (auto status = ReadNormalizer(part("normalizer"), &parts); !status.ok()) return status;
  bool ends = false;
  auto status = ReadPreTokenizer(part("pre_tokenizer"), &ends, &parts);
  if (!status.ok()) return status;
  if (!ends) return NotServed("without ByteLevel, the pre-tokenizer", part("pre_tokenizer"));
  if (const Json decoder = part("decoder"); !decoder.is_null() && TypeOf(decoder) != "ByteLevel") {
    return NotServed("decoder", decoder);
  }
  ReadAddedTokens(document, &parts);
  return parts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizerFromJson(std::string_view tokenizer_json) {
  if (tokenizer_json.size() > kTokenizerJsonBytesMax) {
    return absl::FailedPreconditionError(absl::StrCat("tokenizer.json has ", tokenizer_json.size(),
                                                      " bytes, limit ", kTokenizerJsonBytesMax));
  }
  const Json document = ParseBounded(tokenizer_json);
  if (!document.is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "tokenizer.json is not a JSON object of at most ", kJsonNestingMax, " levels"));
  }
  try {
    auto parts = ReadParts(document);
    if (!parts.ok()) return parts.status();
    return MakeByteLevelTokenizer(*std::move(parts));
  } catch (const Json::exception& error) {
    return absl::FailedPreconditionError(
        absl::StrCat("tokenizer.json does not have the expected shape: ", error.what()));
  }
}

}  // namespace lorica
