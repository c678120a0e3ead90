#include "client/commands/answer_printer.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/json_mapping.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr size_t kShortDigest = 8;

std::string FinishName(const v1::GenerateResponse& response) {
  const Json name = MessageToJson(response)["finish_reason"];
  return name.is_string() ? name.get<std::string>() : "unfinished";
}

}  // namespace

void AnswerPrinter::Add(const v1::GenerateStreamResponse& chunk) {
  response_.mutable_text()->append(chunk.text());
  response_.mutable_token_ids()->MergeFrom(chunk.token_ids());
  response_.mutable_logprobs()->MergeFrom(chunk.logprobs());
  response_.mutable_prompt_logprobs()->MergeFrom(chunk.prompt_logprobs());
  if (chunk.has_finish()) {
    response_.set_finish_reason(chunk.finish().finish_reason());
    *response_.mutable_adapter() = chunk.finish().adapter();
    *response_.mutable_usage() = chunk.finish().usage();
    *response_.mutable_timings() = chunk.finish().timings();
  }
  if (!print_) return;
  const std::string shown = IsTerminal(stdout) ? Printable(chunk.text()) : chunk.text();
  std::fwrite(shown.data(), 1, shown.size(), stdout);
  std::fflush(stdout);
}

void AnswerPrinter::EndLine() {
  const std::string& text = response_.text();
  if (text.empty() || text.back() != '\n') std::printf("\n");
  std::fflush(stdout);
}

void AnswerPrinter::PrintStats() const {
  const v1::Timings& timings = response_.timings();
  std::string line = absl::StrCat(FinishName(response_), " · ", response_.usage().prompt_tokens(),
                                  " + ", response_.usage().completion_tokens(), " tokens · ",
                                  Fixed(timings.tokens_per_second(), 1), " tok/s · first token ",
                                  HumanDuration(timings.ttft_ms() / 1000));
  if (timings.load_ms() > 0) {
    absl::StrAppend(&line, " (", HumanDuration(timings.load_ms() / 1000), " loading)");
  }
  absl::StrAppend(&line, " · ", DescribeAdapter(response_.adapter()));
  std::fprintf(stderr, "%s\n", Paint(Ink::kDim, line, stderr).c_str());
}

std::string DescribeAdapter(const v1::AdapterUsed& used) {
  if (!used.mix().empty()) {
    return "mix of " + absl::StrJoin(used.mix(), " + ", [](std::string* out, const auto& part) {
             absl::StrAppend(out, part.adapter_id(), " ×", part.weight());
           });
  }
  if (used.adapter_id().empty()) return "base";
  const std::string weight = used.weight() == 1.0 ? "" : absl::StrCat(" ×", used.weight());
  return absl::StrCat(used.adapter_id(), "@", used.generation().substr(0, kShortDigest), weight);
}

}  // namespace lorica
