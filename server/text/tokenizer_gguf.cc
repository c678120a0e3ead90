// GGUF metadata to a tokenizer: only the name of the pre-tokeniser is recorded there, so
// each name served is listed with what it stands for.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/text/byte_level_tokenizer.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

enum TokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
};

struct NamedPreTokenizer {
  absl::string_view name;
  std::vector<PreTokenizerStep> steps;
  bool nfc = false;
  bool ignore_merges = false;
};

const std::vector<NamedPreTokenizer>& NamedPreTokenizers() {
  static const auto* const all = new std::vector<NamedPreTokenizer>{
      {"default", {SplitStep::kGpt2}},
      {"gpt-2", {SplitStep::kGpt2}},
      {"phi-2", {SplitStep::kGpt2}},
      {"smollm", {SplitStep::kDigits, SplitStep::kGpt2}},
      {"starcoder", {SplitStep::kDigits, SplitStep::kGpt2}},
      {"refact", {SplitStep::kDigits, SplitStep::kGpt2}},
      {"command-r", {SplitStep::kDigits, SplitStep::kGpt2}},
      {"llama-bpe", {SplitStep::kLlama3}, false, true},
      {"llama3", {SplitStep::kLlama3}, false, true},
      {"llama-v3", {SplitStep::kLlama3}, false, true},
      {"qwen2", {SplitStep::kQwen2}, true, false},
  };
  return *all;
}

absl::StatusOr<NamedPreTokenizer> FindPreTokenizer(const std::string& name) {
  std::vector<absl::string_view> known;
  for (const auto& candidate : NamedPreTokenizers()) {
    if (candidate.name == name) return candidate;
    known.push_back(candidate.name);
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the GGUF's pre-tokeniser '", name, "' (tokenizer.ggml.pre) is not served: send token_ids, ",
      "or use a model with one of ", absl::StrJoin(known, ", ")));
}

absl::Status CheckVocabulary(const GgufVocabulary& vocabulary) {
  if (vocabulary.model != "gpt2") {
    return absl::FailedPreconditionError(
        absl::StrCat("the GGUF's tokenizer '", vocabulary.model, "' (tokenizer.ggml.model) is not ",
                     "served, only byte-level BPE ('gpt2') is: send token_ids"));
  }
  if (vocabulary.tokens.size() > kTokenizerVocabularyMax) {
    return absl::FailedPreconditionError(absl::StrCat("tokenizer.ggml.tokens has ",
                                                      vocabulary.tokens.size(), " items, limit ",
                                                      kTokenizerVocabularyMax));
  }
  const bool typed = !vocabulary.token_types.empty();
  if (typed && vocabulary.token_types.size() != vocabulary.tokens.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("tokenizer.ggml.token_type has ", vocabulary.token_types.size(),
                     " items, tokenizer.ggml.tokens ", vocabulary.tokens.size()));
  }
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (!CheckUtf8(vocabulary.tokens[i]).ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("tokenizer.ggml.tokens item ", i, " is not valid UTF-8"));
    }
  }
  return absl::OkStatus();
}

void AddTokens(const GgufVocabulary& vocabulary, ByteLevelParts* parts) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const int64_t type = vocabulary.token_types.empty() ? kNormal : vocabulary.token_types[i];
    const int32_t id = static_cast<int32_t>(i);
    const bool special = type == kControl || type == kUnknown;
    if (special || type == kUserDefined) {
      parts->added_tokens.push_back(
          {.id = id, .content = vocabulary.tokens[i], .special = special});
    }
    const bool padding = type == kUnused;  // keeps its id, has no text
    parts->vocabulary.push_back({padding ? "" : vocabulary.tokens[i], id});
  }
}

absl::Status AddMerges(const GgufVocabulary& vocabulary, ByteLevelParts* parts) {
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    const std::string& merge = vocabulary.merges[i];
    const size_t blank = merge.find(' ', 1);
    if (blank == std::string::npos || !CheckUtf8(merge).ok()) {
      return absl::FailedPreconditionError(absl::StrCat("tokenizer.ggml.merges item ", i,
                                                        " is not two tokens with a blank between"));
    }
    parts->merges.emplace_back(merge.substr(0, blank), merge.substr(blank + 1));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizerFromGguf(const GgufVocabulary& vocabulary) {
  if (auto status = CheckVocabulary(vocabulary); !status.ok()) return status;
  auto named = FindPreTokenizer(vocabulary.pre);
  if (!named.ok()) return named.status();
  ByteLevelParts parts{
      .steps = named->steps, .nfc = named->nfc, .ignore_merges = named->ignore_merges};
  AddTokens(vocabulary, &parts);
  if (auto status = AddMerges(vocabulary, &parts); !status.ok()) return status;
  return MakeByteLevelTokenizer(std::move(parts));
}

}  // namespace lorica
