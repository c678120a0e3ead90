#include "server/engine/request_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace lorica {
namespace {

absl::Status CheckTokens(const EngineRequest& request, const EngineOptions& options) {
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, ", must be at least 1"));
  }
  const int64_t total = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  if (options.context_tokens > 0 && total > options.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt (", request.prompt.size(), " tokens) and max_tokens (",
                     request.max_tokens, ") exceed the context of ", options.context_tokens));
  }
  if (options.vocabulary <= 0) return absl::OkStatus();
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= options.vocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", token, " is outside [0, ", options.vocabulary, ")"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMix(const std::vector<MixTerm>& mix) {
  if (mix.size() > kMixTermsMax) {
    return absl::InvalidArgumentError(absl::StrCat("a mix has ", mix.size(), " adapters, at most ",
                                                   kMixTermsMax, " can be combined"));
  }
  for (const MixTerm& term : mix) {
    LORICA_CHECK(term.generation != nullptr, "a mix term without a generation");
    if (!std::isfinite(term.weight)) {
      return absl::InvalidArgumentError("the weight of an adapter is not a finite number");
    }
    if (mix.size() > 1 && term.generation->config.use_dora) {
      return absl::InvalidArgumentError("a DoRA adapter cannot be part of a mix");
    }
  }
  return absl::OkStatus();
}

std::string TileKey(const std::vector<MixTerm>& mix) {
  std::string key;
  for (const MixTerm& term : mix) {
    uint32_t bits = 0;
    std::memcpy(&bits, &term.weight, sizeof(bits));
    absl::StrAppend(&key, term.generation->digest, "*", absl::Hex(bits, absl::kZeroPad8), ";");
  }
  return key;
}

void PrepareScores(RequestState& state) {
  const std::vector<int32_t>& prompt = state.request.prompt;
  for (const int32_t token : prompt) state.scored_tokens.push_back({token, kScoringBias});
  state.scores.push_back({prompt.front(), std::numeric_limits<float>::quiet_NaN()});
}

void NameGenerations(RequestState& state) {
  for (const MixTerm& term : state.request.mix) {
    const bool known =
        std::any_of(state.generations.begin(), state.generations.end(),
                    [&](const GenerationPtr& g) { return g->digest == term.generation->digest; });
    if (known) continue;
    state.generations.push_back(term.generation);
    state.adapter_blocks += term.generation->block_count;
  }
  state.tile_key = TileKey(state.request.mix);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RequestState>> CheckRequest(EngineRequest request,
                                                           const EngineOptions& options,
                                                           int32_t arena_blocks, absl::Time now) {
  LORICA_CHECK(request.sink != nullptr, "a request without a sink");
  if (absl::Status status = CheckTokens(request, options); !status.ok()) return status;
  if (absl::Status status = CheckMix(request.mix); !status.ok()) return status;
  if (request.deadline <= now) {
    return absl::DeadlineExceededError("the deadline had passed when the request came");
  }
  // Positions are 32-bit, and so is everything counted in blocks.
  const int64_t positions = static_cast<int64_t>(request.prompt.size()) + request.max_tokens - 1;
  auto state = std::make_unique<RequestState>();
  state->request = std::move(request);
  state->submitted = now;
  if (state->request.constraint != nullptr) state->mask.resize((options.vocabulary + 31) / 32);
  if (state->request.prompt_logprobs >= 0) PrepareScores(*state);
  NameGenerations(*state);
  if (state->adapter_blocks >= arena_blocks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the adapters take ", state->adapter_blocks, " blocks together, the arena has ",
        arena_blocks, " for them and the prompt: name fewer, or smaller ones"));
  }
  const int64_t blocks = state->adapter_blocks + (positions + kBlockTokens - 1) / kBlockTokens;
  if (blocks > arena_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request needs up to ", blocks, " blocks (", state->adapter_blocks,
                     " for adapters), the arena has ", arena_blocks, "; ask for fewer max_tokens"));
  }
  return state;
}

}  // namespace lorica
