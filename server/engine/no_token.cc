#include "server/engine/no_token.h"

#include <iterator>

#include "absl/container/flat_hash_set.h"
#include "adapters/adapter_fault.h"

namespace lorica {
namespace {

using TokenIds = absl::flat_hash_set<int32_t>;

TokenIds BannedBy(const EngineRequest& request) {
  TokenIds banned;
  for (const TokenBias& one : request.logit_bias) {
    if (one.bias <= kBanBias) banned.insert(one.token);
  }
  return banned;
}

// Whether a token may come next, whatever the logits were.
bool IsAnyLeft(const RequestState& state, const TokenIds& banned, int32_t vocabulary) {
  if (state.mask.empty() && std::ssize(banned) < vocabulary) return true;
  for (int32_t token = 0; token < vocabulary; ++token) {
    const bool allowed = state.mask.empty() || (state.mask[token / 32] >> token % 32 & 1) != 0;
    if (allowed && !banned.contains(token)) return true;
  }
  return vocabulary <= 0;  // not known
}

absl::Status NoneLeft(const RequestState& state, const TokenIds& banned) {
  if (state.mask.empty()) return absl::InvalidArgumentError("logit_bias bans every token there is");
  return absl::InvalidArgumentError(
      banned.empty()
          ? "response_format leaves no token that may come next: none of this model's vocabulary "
            "goes on with it; ask for another form"
          : "logit_bias bans every token that response_format leaves to come next: ban fewer "
            "tokens, or ask for another form");
}

}  // namespace

absl::Status NoScore(const RequestState& state, const SampleResult& result) {
  if (result.no_room) {
    return absl::ResourceExhaustedError(
        "the device or its host has no memory left for what this request asks of its tokens "
        "(penalties, logit_bias, a response format, prompt_logprobs): try again later, or without");
  }
  if (state.request.mix.empty()) {
    return absl::InternalError(
        "the base model's output for this request is not finite: its weights or the device may be "
        "damaged");
  }
  return AdapterFault(absl::DataLossError(
      "the output for this request is not finite: the adapter's weights are damaged, or too large "
      "for this model; save and register it again, or leave it out"));
}

absl::Status NoToken(const RequestState& state, const SampleResult& result, int32_t vocabulary) {
  if (result.no_room) return NoScore(state, result);
  const TokenIds banned = BannedBy(state.request);
  return IsAnyLeft(state, banned, vocabulary) ? NoScore(state, result) : NoneLeft(state, banned);
}

}  // namespace lorica
