#include "server/text/detokenizer.h"

#include <algorithm>
#include <utility>

#include "server/text/utf8.h"

namespace lorica {
namespace {

// Appends what is certain in `bytes`; returns how many of them were used.
size_t AppendCertain(std::string_view bytes, std::string* out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = NextUtf8(bytes.substr(at));
    if (step.kind == Utf8Kind::kIncomplete) break;
    if (step.kind == Utf8Kind::kCharacter) {
      out->append(bytes.substr(at, step.bytes));
    } else {
      AppendUtf8(kReplacementCharacter, out);
    }
    at += step.bytes;
  }
  return at;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer* tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

std::string Detokenizer::Push(int32_t id) {
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return "";
  pending_.append(tokenizer_->TokenBytes(id));
  std::string out;
  pending_.erase(0, AppendCertain(pending_, &out));
  return out;
}

std::string Detokenizer::Finish() {
  std::string out;
  if (!pending_.empty()) AppendUtf8(kReplacementCharacter, &out);
  pending_.clear();
  return out;
}

std::string Decode(const Tokenizer& tokenizer, absl::Span<const int32_t> ids,
                   bool skip_special_tokens) {
  Detokenizer stream(&tokenizer, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += stream.Push(id);
  return text + stream.Finish();
}

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (auto& stop : stops) {
    if (stop.empty()) continue;
    Pattern pattern{.text = std::move(stop)};
    pattern.border.resize(pattern.text.size());
    for (size_t i = 1, border = 0; i < pattern.text.size(); ++i) {
      while (border > 0 && pattern.text[i] != pattern.text[border]) {
        border = pattern.border[border - 1];
      }
      if (pattern.text[i] == pattern.text[border]) ++border;
      pattern.border[i] = border;
    }
    patterns_.push_back(std::move(pattern));
  }
}

bool StopMatcher::Pattern::Advance(char byte) {
  while (matched > 0 && text[matched] != byte) matched = border[matched - 1];
  if (text[matched] == byte) ++matched;
  return matched == text.size();
}

std::string StopMatcher::Push(std::string_view text) {
  if (stopped_) return "";
  for (size_t i = 0; i < text.size(); ++i) {
    size_t longest = 0;
    for (auto& pattern : patterns_) {
      if (pattern.Advance(text[i])) longest = std::max(longest, pattern.text.size());
    }
    if (longest > 0) return Stop(text.substr(0, i + 1), longest);
  }
  size_t undecided = 0;
  for (const auto& pattern : patterns_) undecided = std::max(undecided, pattern.matched);
  held_.append(text);
  std::string out = held_.substr(0, held_.size() - undecided);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::Stop(std::string_view text, size_t stop_bytes) {
  stopped_ = true;
  std::string out = std::exchange(held_, "").append(text);
  found_ = out.substr(out.size() - stop_bytes);
  out.resize(out.size() - stop_bytes);
  return out;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace lorica
