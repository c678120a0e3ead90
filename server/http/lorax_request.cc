#include "server/http/lorax_request.h"

#include <algorithm>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "server/api/field_error.h"
#include "server/http/adapter_source.h"
#include "server/http/fields.h"
#include "server/http/format_request.h"

namespace lorica {
namespace {

uint64_t NewSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

MergeRule ReadMergeRule(Fields& merge) {
  MergeRule rule;
  const auto method = ParseMergeMethod(merge.Text("merge_strategy").value_or("linear"));
  if (method.ok()) rule.method = *method;
  if (!method.ok()) merge.Refuse("merge_strategy", method.status().message());
  const auto sign = ParseMajoritySign(merge.Text("majority_sign_method").value_or("total"));
  if (sign.ok()) rule.majority_sign = *sign;
  if (!sign.ok()) merge.Refuse("majority_sign_method", sign.status().message());
  rule.density = merge.Number("density").value_or(0.0);
  if (absl::Status s = CheckMergeRule(rule); !s.ok()) merge.Refuse("density", s.message());
  return rule;
}

// A merge of one is that adapter, whatever its weight.
void ReadMerge(Fields& fields, GenerateCall* call) {
  const Json* value = fields.Find("merged_adapters");
  if (value == nullptr) return;
  Fields merge(*value, "parameters.merged_adapters.");
  const std::vector<std::string> ids = merge.Texts("ids");
  const Json* weights = merge.Find("weights");
  const bool list = weights != nullptr && weights->is_array();
  if (ids.empty()) merge.Refuse("ids", "must name at least one adapter");
  if (!list || weights->size() != ids.size()) {
    merge.Refuse("weights", "must have as many entries as ids");
  }
  const MergeRule rule = ReadMergeRule(merge);
  for (size_t i = 0; i < ids.size() && merge.status().ok(); ++i) {
    const Json& weight = (*weights)[i];
    if (!weight.is_number()) merge.Refuse("weights", "must be numbers");
    if (merge.status().ok()) call->adapters.push_back({ids[i], weight.get<double>()});
  }
  fields.Add(merge.status());
  if (!call->adapter_id.empty()) {
    fields.Refuse("adapter_id", "and merged_adapters: at most one of the two may be given");
  }
  if (call->adapters.size() == 1) {
    call->adapter_id = call->adapters[0].adapter_id;
    call->adapters.clear();
  } else if (!call->adapters.empty()) {
    call->merge = rule;
  }
}

void ReadAdapters(Fields& fields, const std::string& adapters_dir, GenerateCall* call) {
  call->adapter_id = fields.Text("adapter_id").value_or("");
  call->hub_token = fields.Text("api_token").value_or("");
  ReadMerge(fields, call);
  fields.Add(ReadAdapterSource(fields, adapters_dir, call));
}

void RefuseUnserved(Fields& fields) {
  fields.Bool("apply_chat_template");  // without effect, as in LoRAX, but of one type there too
  if (fields.Bool("watermark").value_or(false)) fields.Refuse("watermark", "is not served");
  const double typical_p = fields.Number("typical_p").value_or(1.0);
  if (typical_p != 1.0) fields.Refuse("typical_p", "is not served; use top_p or top_k");
}

void ReadSampling(Fields& fields, LoraxRequest* request) {
  GenerateCall& call = request->call;
  const auto temperature = fields.Number("temperature");
  call.top_k = fields.Int("top_k");
  call.top_p = fields.Number("top_p");
  call.repetition_penalty = fields.Number("repetition_penalty");
  call.frequency_penalty =
      fields.NumberWithin("frequency_penalty", -kHttpPenaltyMax, kHttpPenaltyMax);
  call.presence_penalty =
      fields.NumberWithin("presence_penalty", -kHttpPenaltyMax, kHttpPenaltyMax);
  if (call.top_k && *call.top_k < 1) fields.Refuse("top_k", "must be strictly positive");
  const bool wants = fields.Bool("do_sample").value_or(false) ||
                     (temperature && *temperature != 0.0 && *temperature != 1.0) || call.top_k ||
                     call.top_p.value_or(1.0) < 1.0;
  const bool samples = wants && temperature.value_or(1.0) != 0.0;
  call.temperature = samples ? temperature.value_or(1.0) : std::min(0.0, temperature.value_or(0.0));
  const auto seed = fields.Unsigned("seed");
  const auto best_of = fields.Int("best_of");
  request->best_of = best_of.value_or(1);
  if (request->best_of < 1 || request->best_of > kSamplesMax) {
    fields.Refuse("best_of", absl::StrCat("must be from 1 to ", kSamplesMax));
  }
  if (request->best_of > 1) {
    if (!samples) fields.Refuse("best_of", "above 1 needs sampling: set do_sample");
    if (seed) fields.Refuse("seed", "must not be set when best_of > 1");
    if (request->stream) fields.Refuse("best_of", "must be 1 when streaming");
  }
  if (!samples) return;
  call.seed = request->seed = seed ? *seed : NewSeed();
}

void ReadOutput(Fields& fields, LoraxRequest* request) {
  GenerateCall& call = request->call;
  call.max_tokens = fields.Int("max_new_tokens");
  if (call.max_tokens.value_or(1) < 1) fields.Refuse("max_new_tokens", "must be strictly positive");
  call.max_tokens_default = std::numeric_limits<int32_t>::max();
  call.truncate = fields.Int("truncate");
  call.ignore_eos = fields.Bool("ignore_eos_token").value_or(false);
  call.stop = fields.Texts("stop");
  call.include_stop = true;
  request->return_full_text = fields.Bool("return_full_text").value_or(false);
  request->details = fields.Bool("details").value_or(false);
  auto alternatives = fields.Int("return_k_alternatives");
  if (alternatives && *alternatives < 1) {
    fields.Refuse("return_k_alternatives", "must be strictly positive");
  }
  if (alternatives) alternatives = std::min<int32_t>(*alternatives, kLogprobsMax);
  if (fields.Bool("decoder_input_details").value_or(false)) {
    if (request->stream) {
      fields.Refuse("decoder_input_details", "is not supported when streaming");
    }
    request->details = true;
    call.prompt_logprobs = 0;
  }
  if (request->details || request->stream || alternatives || request->best_of > 1) {
    call.logprobs = alternatives.value_or(0);
  }
}

}  // namespace

absl::StatusOr<LoraxRequest> ParseLoraxRequest(const Json& body, std::string_view text,
                                               LoraxStream stream,
                                               const std::string& adapters_dir) {
  LoraxRequest request;
  Fields top(body);
  request.input = top.Text("inputs").value_or("");
  if (!top.Has("inputs")) top.Refuse("inputs", "is missing");
  request.call.prompt = request.input;
  const bool asked = top.Bool("stream").value_or(false);
  request.stream = stream == LoraxStream::kAlways || (asked && stream == LoraxStream::kAsAsked);
  if (!top.status().ok()) return top.status();
  const Json none = Json::object();
  const Json* parameters = top.Find("parameters");
  Fields fields(parameters == nullptr ? none : *parameters, "parameters.");
  ReadAdapters(fields, adapters_dir, &request.call);
  RefuseUnserved(fields);
  ReadSampling(fields, &request);
  ReadOutput(fields, &request);
  request.call.format = ReadLoraxFormat(fields, text);
  if (!fields.status().ok()) return fields.status();
  return request;
}

}  // namespace lorica
