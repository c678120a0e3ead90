#include "server/grammar/grammar.h"

#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <exception>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/grammar/compiler_words.h"
#include "server/grammar/one_of.h"
#include "server/grammar/xgrammar_log.h"
#include "support/logging.h"

namespace lorica {
namespace {

constexpr char kAnyObject[] = R"({"type": "object", "additionalProperties": true})";

// What `work` on a form of that kind throws, as a status.
template <typename Work>
absl::Status Caught(FormatKind kind, const Work& work) {
  try {
    work();
    return absl::OkStatus();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("needs too much memory; make it simpler");
  } catch (const xgrammar::LogFatalError& error) {
    return InOurWords(kind, error.std::runtime_error::what());
  } catch (const std::exception& error) {
    return InOurWords(kind, error.what());
  }
}

// Keeps halves of surrogate pairs out of answers: the compiler takes them for characters, UTF-8
// has none. They begin with 0xED and go on with 0xA0 to 0xBF.
class SurrogateGuard {
 public:
  explicit SurrogateGuard(const std::vector<std::string>& tokens)
      : begins_(tokens.size()), no_tails_((tokens.size() + 31) / 32, -1) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      const std::string& token = tokens[id];
      if (token.empty()) continue;
      begins_[id] = token.back() == kBegin;
      if (IsTail(token.front())) no_tails_[id / 32] &= ~(uint32_t{1} << id % 32);
    }
  }

  static bool HasSurrogate(const std::string& token) {
    for (size_t i = 1; i < token.size(); ++i) {
      if (token[i - 1] == kBegin && IsTail(token[i])) return true;
    }
    return false;
  }
  // Whether an answer may be within one after the token.
  bool Begins(int32_t token) const { return begins_[token]; }
  void Forbid(absl::Span<int32_t> mask) const {
    for (size_t i = 0; i < mask.size(); ++i) mask[i] &= no_tails_[i];
  }

 private:
  static constexpr char kBegin = '\xED';
  static bool IsTail(char c) { return (static_cast<unsigned char>(c) & 0xE0) == 0xA0; }

  std::vector<bool> begins_;
  std::vector<int32_t> no_tails_;
};

class CompiledGrammar final : public Grammar {
 public:
  CompiledGrammar(FormatKind kind, xgrammar::CompiledGrammar compiled,
                  std::shared_ptr<const SurrogateGuard> guard)
      : kind_(kind),
        compiled_(std::move(compiled)),
        guard_(std::move(guard)),
        bytes_(static_cast<int64_t>(compiled_.MemorySizeBytes())) {}
  int64_t bytes() const override { return bytes_; }
  FormatKind kind() const { return kind_; }
  const xgrammar::CompiledGrammar& compiled() const { return compiled_; }
  const SurrogateGuard& guard() const { return *guard_; }

 private:
  const FormatKind kind_;
  const xgrammar::CompiledGrammar compiled_;
  const std::shared_ptr<const SurrogateGuard> guard_;
  const int64_t bytes_;
};

class MatcherWalk final : public GrammarWalk {
 public:
  explicit MatcherWalk(std::shared_ptr<const Grammar> grammar)
      : grammar_(std::move(grammar)),
        kind_(static_cast<const CompiledGrammar&>(*grammar_).kind()),
        guard_(static_cast<const CompiledGrammar&>(*grammar_).guard()),
        matcher_(static_cast<const CompiledGrammar&>(*grammar_).compiled()) {}

  absl::Status Accept(int32_t token) override {
    bool accepted = false;
    const absl::Status status = Caught(kind_, [&] { accepted = matcher_.AcceptToken(token); });
    in_surrogate_ = guard_.Begins(token);
    if (accepted || !status.ok()) return status;
    return absl::InternalError(absl::StrCat("token ", token, " is in the mask, but not accepted"));
  }

  absl::Status FillMask(absl::Span<int32_t> mask) override {
    std::fill(mask.begin(), mask.end(), 0);
    int64_t words = std::ssize(mask);
    DLTensor tensor = {mask.data(), {kDLCPU, 0}, 1, xgrammar::GetBitmaskDLType(),
                       &words,      nullptr,     0};
    const absl::Status status = Caught(kind_, [&] { matcher_.FillNextTokenBitmask(&tensor); });
    if (!status.ok()) return status;
    if (in_surrogate_) guard_.Forbid(mask);
    const bool any = std::any_of(mask.begin(), mask.end(), [](int32_t word) { return word != 0; });
    if (any) return absl::OkStatus();
    return absl::InvalidArgumentError("has a part that no text fits, and the answer got there");
  }

 private:
  const std::shared_ptr<const Grammar> grammar_;
  const FormatKind kind_;
  const SurrogateGuard& guard_;
  xgrammar::GrammarMatcher matcher_;
  bool in_surrogate_ = false;
};

xgrammar::CompiledGrammar Compile(xgrammar::GrammarCompiler& compiler,
                                  const ResponseFormat& format) {
  const auto json = [&](const std::string& schema) {
    // One way to write it: small models get lost among blanks that they may choose.
    return compiler.CompileJSONSchema(schema, /*any_whitespace=*/false, std::nullopt,
                                      std::pair<std::string, std::string>(", ", ": "),
                                      /*strict_mode=*/true);
  };
  switch (format.kind) {
    case FormatKind::kJsonObject:
      return json(kAnyObject);
    case FormatKind::kJsonSchema:
      return json(WithEasyOneOf(format.text));
    case FormatKind::kRegex:
      return compiler.CompileRegex(format.text);
    case FormatKind::kEbnf:
      return compiler.CompileGrammar(format.text);
  }
  LORICA_CHECK(false, static_cast<int>(format.kind));
}

std::vector<std::string> TextTokens(std::vector<std::string> tokens) {
  for (std::string& token : tokens) {
    if (SurrogateGuard::HasSurrogate(token)) token.clear();
  }
  return tokens;
}

// The compiler lets control characters into strings of limited length, where JSON has none. No
// JSON needs them.
std::vector<std::string> JsonTokens(std::vector<std::string> tokens) {
  const auto stray = [](char c) { return static_cast<unsigned char>(c) < ' '; };
  for (std::string& token : tokens) {
    if (std::any_of(token.begin(), token.end(), stray)) token.clear();
  }
  return TextTokens(std::move(tokens));
}

xgrammar::TokenizerInfo InfoOf(const std::vector<std::string>& tokens,
                               const std::vector<int32_t>& end_tokens) {
  return xgrammar::TokenizerInfo(tokens, xgrammar::VocabType::RAW, static_cast<int>(tokens.size()),
                                 end_tokens);
}

// The n-th token of a mask, counted around. REQUIRES: it has one.
int32_t SomeToken(const std::vector<int32_t>& mask, uint32_t n) {
  std::vector<int32_t> tokens;
  for (int32_t token = 0; token < 32 * std::ssize(mask); ++token) {
    if (mask[token / 32] >> token % 32 & 1) tokens.push_back(token);
  }
  return tokens[n % tokens.size()];
}

bool IsJson(const ResponseFormat& format) {
  return format.kind == FormatKind::kJsonObject || format.kind == FormatKind::kJsonSchema;
}

}  // namespace

struct GrammarMaker::Impl {
  explicit Impl(const GrammarVocabulary& vocabulary)
      : tokens(InfoOf(TextTokens(vocabulary.tokens), vocabulary.end_tokens)),
        json_tokens(InfoOf(JsonTokens(vocabulary.tokens), vocabulary.end_tokens)),
        guard(std::make_shared<const SurrogateGuard>(vocabulary.tokens)) {}
  const xgrammar::TokenizerInfo tokens;
  const xgrammar::TokenizerInfo json_tokens;
  const std::shared_ptr<const SurrogateGuard> guard;
};

GrammarMaker::GrammarMaker(const GrammarVocabulary& vocabulary)
    : impl_(std::make_unique<Impl>(vocabulary)) {
  LORICA_CHECK(!vocabulary.end_tokens.empty(), vocabulary.tokens.size());
}

GrammarMaker::~GrammarMaker() = default;

int GrammarMaker::mask_words() const {
  return xgrammar::GetBitmaskSize(impl_->tokens.GetVocabSize());
}

absl::StatusOr<std::shared_ptr<const Grammar>> GrammarMaker::Make(
    const ResponseFormat& format) const {
  const XgrammarWarnings warnings;
  std::shared_ptr<const Grammar> grammar;
  const absl::Status compiled = Caught(format.kind, [&] {
    const xgrammar::TokenizerInfo& tokens = IsJson(format) ? impl_->json_tokens : impl_->tokens;
    // Its cache saves work among the rules of one grammar.
    xgrammar::GrammarCompiler compiler(tokens, /*max_threads=*/1, /*cache_enabled=*/true);
    grammar = std::make_shared<const CompiledGrammar>(format.kind, Compile(compiler, format),
                                                      impl_->guard);
  });
  if (!compiled.ok()) return compiled;
  // It warns where it leaves something out, and answers would not be held to that.
  if (!warnings.first().empty()) return InOurWords(format.kind, warnings.first());
  std::vector<int32_t> mask(mask_words());
  const absl::Status first = Walk(grammar)->FillMask(absl::MakeSpan(mask));
  if (absl::IsInvalidArgument(first)) {
    return absl::InvalidArgumentError("is a grammar that no text fits");
  }
  if (!first.ok()) return first;
  return grammar;
}

void GrammarMaker::Rehearse(const std::shared_ptr<const Grammar>& grammar) const {
  std::minstd_rand random(1);
  std::vector<int32_t> mask(mask_words());
  for (int way = 0; way < kRehearsedWays; ++way) {
    const std::unique_ptr<GrammarWalk> walk = Walk(grammar);
    for (int i = 0; i < kRehearsedTokens; ++i) {
      if (!walk->FillMask(absl::MakeSpan(mask)).ok()) break;
      const int32_t token = SomeToken(mask, random());
      const auto& ends = impl_->tokens.GetStopTokenIds();
      if (std::find(ends.begin(), ends.end(), token) != ends.end()) break;
      if (!walk->Accept(token).ok()) break;
    }
  }
}

std::unique_ptr<GrammarWalk> GrammarMaker::Walk(std::shared_ptr<const Grammar> grammar) {
  return std::make_unique<MatcherWalk>(std::move(grammar));
}

}  // namespace lorica
