#include "server/text/pre_tokenizer.h"

#include <algorithm>
#include <string>

#include "server/text/unicode.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

using unicode::kLetter;
using unicode::kNumber;
using unicode::kSpace;

// What stands at one place of the text; past its end: no bytes, no classes.
struct Here {
  size_t bytes = 0;
  char32_t code_point = 0;
  uint8_t classes = 0;

  bool letter() const { return classes & kLetter; }
  bool number() const { return classes & kNumber; }
  bool space() const { return classes & kSpace; }
  bool line_end() const { return code_point == '\r' || code_point == '\n'; }
  bool other() const { return bytes != 0 && !(classes & (kLetter | kNumber | kSpace)); }
};

Here At(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const Utf8Step step = NextUtf8(text.substr(at));
  return {static_cast<size_t>(step.bytes), step.code_point, unicode::ClassesOf(step.code_point)};
}

template <typename Predicate>
size_t RunEnd(std::string_view text, size_t at, Predicate belongs) {
  for (Here here = At(text, at); here.bytes != 0 && belongs(here); here = At(text, at)) {
    at += here.bytes;
  }
  return at;
}

// Bytes of 's 't 're 've 'm 'll 'd at `at`, or 0. Without case, s also has its long form.
size_t ContractionBytes(std::string_view text, size_t at, bool any_case) {
  if (text[at] != '\'') return 0;
  const auto lower = [&](size_t i) {
    const char c = at + i < text.size() ? text[at + i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = lower(1), second = lower(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                   (first == 'l' && second == 'l');
  if (two) return 3;
  return any_case && At(text, at + 1).code_point == U'\u017F' ? 3 : 0;
}

// \s+(?!\S)|\s+ : all blanks but the last, which goes with what follows; a last run whole.
size_t BlanksEnd(std::string_view text, size_t at) {
  size_t end = at, last = at;
  for (Here here = At(text, at); here.space(); here = At(text, end)) {
    last = end;
    end += here.bytes;
  }
  return end == text.size() || last == at ? end : last;
}

size_t Gpt2End(std::string_view text, size_t at) {
  if (const size_t bytes = ContractionBytes(text, at, false)) return at + bytes;
  const size_t start = text[at] == ' ' ? at + 1 : at;
  const Here first = At(text, start);
  if (first.letter()) return RunEnd(text, start, [](const Here& h) { return h.letter(); });
  if (first.number()) return RunEnd(text, start, [](const Here& h) { return h.number(); });
  if (first.other()) return RunEnd(text, start, [](const Here& h) { return h.other(); });
  return BlanksEnd(text, at);
}

// \s*[\r\n]+ : blanks up to and with the last line end among them; `at` if there is none.
size_t LineEndsEnd(std::string_view text, size_t at) {
  size_t end = at;
  RunEnd(text, at, [&, next = at](const Here& h) mutable {
    if (!h.space()) return false;
    next += h.bytes;
    if (h.line_end()) end = next;
    return true;
  });
  return end;
}

size_t Llama3End(std::string_view text, size_t at, int digits_max) {
  if (const size_t bytes = ContractionBytes(text, at, true)) return at + bytes;
  const Here first = At(text, at);
  const size_t second = at + first.bytes;
  const auto letters = [](const Here& h) { return h.letter(); };
  if (first.letter()) return RunEnd(text, at, letters);
  if (first.number()) {
    return RunEnd(text, at, [&](const Here& h) { return h.number() && digits_max-- > 0; });
  }
  if (!first.line_end() && At(text, second).letter()) return RunEnd(text, second, letters);
  const size_t start = text[at] == ' ' ? second : at;
  if (At(text, start).other()) {
    const size_t end = RunEnd(text, start, [](const Here& h) { return h.other(); });
    return RunEnd(text, end, [](const Here& h) { return h.line_end(); });
  }
  const size_t end = LineEndsEnd(text, at);
  return end != at ? end : BlanksEnd(text, at);
}

size_t DigitsEnd(std::string_view text, size_t at, bool alone) {
  const Here first = At(text, at);
  if (first.number() && alone) return at + first.bytes;
  return RunEnd(text, at, [&](const Here& h) { return h.number() == first.number(); });
}

size_t PieceEnd(SplitStep step, std::string_view text, size_t at) {
  switch (step) {
    case SplitStep::kDigits:
      return DigitsEnd(text, at, true);
    case SplitStep::kDigitRuns:
      return DigitsEnd(text, at, false);
    case SplitStep::kGpt2:
      return Gpt2End(text, at);
    case SplitStep::kLlama3:
      return Llama3End(text, at, 3);
    case SplitStep::kQwen2:
      return Llama3End(text, at, 1);
    case SplitStep::kPrefixSpace:
      break;
  }
  return text.size();
}

}  // namespace

absl::Status PreTokenizer::Split(std::string_view text,
                                 absl::FunctionRef<void(std::string_view)> word) const {
  return SplitFrom(0, text, word);
}

absl::Status PreTokenizer::SplitFrom(size_t step, std::string_view text,
                                     absl::FunctionRef<void(std::string_view)> word) const {
  if (text.empty()) return absl::OkStatus();
  if (step == steps_.size()) {
    word(text);
    return absl::OkStatus();
  }
  if (const auto* pattern = std::get_if<std::shared_ptr<const SplitPattern>>(&steps_[step])) {
    absl::Status inner;
    const absl::Status outer = (*pattern)->Split(text, [&](std::string_view piece) {
      if (inner.ok()) inner = SplitFrom(step + 1, piece, word);
    });
    return outer.ok() ? inner : outer;
  }
  const SplitStep known = std::get<SplitStep>(steps_[step]);
  if (known == SplitStep::kPrefixSpace && text[0] != ' ') {
    return SplitFrom(step + 1, std::string(" ").append(text), word);
  }
  for (size_t at = 0; at < text.size();) {
    const size_t end = PieceEnd(known, text, at);
    const absl::Status status = SplitFrom(step + 1, text.substr(at, end - at), word);
    if (!status.ok()) return status;
    at = end;
  }
  return absl::OkStatus();
}

}  // namespace lorica
