// A request as the engine knows it: token ids, parameters, generations, a sink.
// No text, no protobuf, no names.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "adapters/adapter.h"
#include "kernels/step_batch.h"
#include "server/engine/token_constraint.h"

namespace lorica {

using RequestId = uint64_t;

struct MixTerm {
  GenerationPtr generation;
  float weight = 1.0f;
};

enum class StopReason : uint8_t { kNone, kEndToken, kStopString, kLength };

struct RequestTimings {
  absl::Duration queue;        // submitted to first scheduled
  absl::Duration load;         // of that, waiting for an adapter
  absl::Duration first_token;  // submitted to first token
  absl::Duration total;
  int32_t preemptions = 0;
};

// Tokens of one step (or several, when the reader was slow).
struct TokenEvent {
  struct Token {
    int32_t id = 0;
    float logprob = 0.0f;
    std::vector<Logprob> top;
  };
  std::vector<Token> tokens;
  // With the first token, where prompt_logprobs was asked for: the whole prompt. The log
  // probability of its first token, which nothing predicts, is NaN.
  std::vector<Token> prompt;
};

// The one final event. Status OK: `reason` says why it ended.
struct FinishEvent {
  absl::Status status;
  StopReason reason = StopReason::kNone;
  // Of the prompt, as far as steps were launched for it: all of it once there is a first token.
  // Each counts once, whatever was preempted.
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;  // of prompt_tokens, not computed: their KV was there
  RequestTimings timings;
};

// Hears a request's tokens. Runs on the engine's thread or its relay's (EventRelay) and must
// not block: it enqueues. OnFinish is called exactly once, after all OnTokens, also for cancelled
// and failed requests; the sink may be destroyed after it returns.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnTokens(const TokenEvent& event) = 0;
  virtual void OnFinish(const FinishEvent& event) = 0;
};

struct EngineRequest {
  std::string tenant;           // the queue is fair among these
  double tenant_weight = 1.0;   // above 0: its share where there is not enough for all
  std::vector<int32_t> prompt;  // not empty
  int32_t max_tokens = 0;       // >= 1
  SampleParams params;
  int32_t prompt_logprobs = -1;  // of each prompt token, and of so many best; -1 = none
  std::vector<TokenBias> logit_bias;
  std::vector<int32_t> end_tokens;      // any of them ends it, unless ignore_end
  std::vector<int32_t> stop_token_ids;  // these end it even with ignore_end
  bool ignore_end = false;
  std::shared_ptr<TokenConstraint> constraint;  // null: any token may follow
  std::vector<MixTerm> mix;                     // empty = base; at most kMixTermsMax
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<TokenSink> sink;
};

}  // namespace lorica
