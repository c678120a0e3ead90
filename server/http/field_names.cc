#include "server/http/field_names.h"

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "adapters/hub/retry_delay.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

// "[2]" of "stop[2].x"; empty: none.
absl::string_view IndexOf(absl::string_view field) {
  const size_t begin = field.find('[');
  const size_t end = field.find(']');
  return begin < end && end != field.npos ? field.substr(begin, end + 1 - begin) : "";
}

// What the caller calls `field`, if `name` is about it.
std::optional<std::string> CallersName(const FieldName& name, absl::string_view field) {
  const absl::string_view index = IndexOf(field);
  std::string ours = name.ours;
  std::string callers = name.callers;
  if (!index.empty()) {
    ours = absl::StrReplaceAll(ours, {{"[]", index}});
    callers = absl::StrReplaceAll(callers, {{"[]", index}});
  }
  absl::string_view rest = field;
  if (!absl::ConsumePrefix(&rest, ours)) return std::nullopt;
  if (!rest.empty() && rest[0] != '[' && rest[0] != '.') return std::nullopt;
  return absl::StrCat(callers, rest);
}

FieldNames LoraxNames() {
  FieldNames names = {{"prompt", "inputs"},
                      {"max_tokens", "parameters.max_new_tokens"},
                      {"hub_token", "parameters.api_token"},
                      {"logprobs", "parameters.return_k_alternatives"},
                      {"prompt_logprobs", "parameters.decoder_input_details"},
                      {"n", "parameters.best_of"},
                      {"adapters[].adapter_id", "parameters.merged_adapters.ids[]"},
                      {"adapters[].weight", "parameters.merged_adapters.weights[]"},
                      {"adapters", "parameters.merged_adapters"}};
  for (const char* same :
       {"adapter_id", "temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty",
        "frequency_penalty", "seed", "truncate", "stop", "response_format"}) {
    names.push_back({same, absl::StrCat("parameters.", same)});
  }
  return names;
}

}  // namespace

absl::Status InWordsOf(const FieldNames& names, const absl::Status& status) {
  const std::optional<std::string> field = FieldOf(status);
  if (!field) return status;
  for (const FieldName& name : names) {
    const std::optional<std::string> callers = CallersName(name, *field);
    if (!callers) continue;
    absl::string_view rest = status.message();
    if (absl::ConsumePrefix(&rest, *field)) {
      absl::Status renamed = WithText(status, absl::StrCat(*callers, rest));
      SetField(&renamed, *callers);
      return renamed;
    }
  }
  return status;
}

absl::Status InLoraxWords(const absl::Status& status) {
  static const FieldNames* const names = new FieldNames(LoraxNames());
  return InWordsOf(*names, status);
}

}  // namespace lorica
