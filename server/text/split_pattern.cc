#include "server/text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

using CodePtr = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;
using MatchDataPtr = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;
using ContextPtr = std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)>;

PCRE2_SPTR Units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  const int length = pcre2_get_error_message(code, buffer, sizeof buffer);
  return std::string(reinterpret_cast<const char*>(buffer), std::max(length, 0));
}

struct Work {
  int64_t left = 0;
  size_t at = 0;
};

// Called by PCRE2 before each item of the pattern.
int Charge(pcre2_callout_block* block, void* data) {
  Work& work = *static_cast<Work*>(data);
  const size_t at = block->current_position;
  work.left -= 1 + static_cast<int64_t>(at > work.at ? at - work.at : work.at - at);
  work.at = at;
  return work.left < 0 ? PCRE2_ERROR_CALLOUT : 0;
}

class Pcre2Pattern final : public SplitPattern {
 public:
  Pcre2Pattern(CodePtr code, SplitKeeps keeps) : code_(std::move(code)), keeps_(keeps) {}

  absl::Status Split(std::string_view text,
                     absl::FunctionRef<void(std::string_view)> piece) const override {
    Work work{kSplitWorkMin + kSplitWorkPerByteMax * static_cast<int64_t>(text.size())};
    const ContextPtr context = MakeContext(&work);
    const MatchDataPtr match(pcre2_match_data_create_from_pattern(code_.get(), nullptr),
                             pcre2_match_data_free);
    const auto emit = [&](size_t begin, size_t end, SplitKeeps unwanted) {
      if (begin < end && keeps_ != unwanted) piece(text.substr(begin, end - begin));
    };
    size_t done = 0;
    for (size_t from = 0; from <= text.size();) {
      work.at = from;
      const int found = pcre2_match(code_.get(), Units(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                                    match.get(), context.get());
      if (found == PCRE2_ERROR_NOMATCH) break;
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
      if (found < 0 || bounds[0] < done || bounds[1] < bounds[0]) return TooMuch();
      emit(done, bounds[0], SplitKeeps::kMatches);
      emit(bounds[0], bounds[1], SplitKeeps::kGaps);
      done = bounds[1];
      from = done;  // behind an empty match, which parts but holds nothing: one further
      if (bounds[0] == bounds[1])
        from += done < text.size() ? NextUtf8(text.substr(done)).bytes : 1;
    }
    emit(done, text.size(), SplitKeeps::kMatches);
    return absl::OkStatus();
  }

 private:
  static ContextPtr MakeContext(Work* work) {
    ContextPtr context(pcre2_match_context_create(nullptr), pcre2_match_context_free);
    pcre2_set_callout(context.get(), Charge, work);
    const auto limit = static_cast<uint32_t>(std::min<int64_t>(work->left, UINT32_MAX));
    pcre2_set_match_limit(context.get(), limit);
    pcre2_set_depth_limit(context.get(), limit);
    pcre2_set_heap_limit(context.get(), kSplitHeapBytesMax >> 10);
    return context;
  }

  static absl::Status TooMuch() {
    return absl::InvalidArgumentError(
        "the model's own pattern for cutting text needs too much work for this one: send other "
        "text, or token_ids");
  }

  const CodePtr code_;
  const SplitKeeps keeps_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const SplitPattern>> SplitPattern::Compile(std::string_view pattern,
                                                                          const Options& options) {
  if (pattern.empty() || pattern.size() > kSplitPatternBytesMax) {
    return absl::FailedPreconditionError(
        absl::StrCat("has ", pattern.size(), " bytes; 1 to ", kSplitPatternBytesMax, " are taken"));
  }
  // Unicode classes as the reference's engine has them; every item counted.
  constexpr uint32_t kRegex = PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
  constexpr uint32_t kAlways = PCRE2_UTF | PCRE2_AUTO_CALLOUT;
  int error = 0;
  PCRE2_SIZE offset = 0;
  CodePtr code(
      pcre2_compile(Units(pattern), pattern.size(),
                    kAlways | (options.literal ? PCRE2_LITERAL : kRegex), &error, &offset, nullptr),
      pcre2_code_free);
  if (code == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("is not understood: ", ErrorText(error), " at byte ", offset));
  }
  return std::make_shared<const Pcre2Pattern>(std::move(code), options.keeps);
}

}  // namespace lorica
