// How many prompt tokens may share a step with rows that decode, so that no stream stalls.
//
// A step with prompt tokens should take at most `stretch` times one without. What both take
// is learnt from measured steps, device and adapters as they are: the mean of the steps that
// only decode, and what a prompt token adds, which rises at once and falls slowly. Few tokens
// tell little about many, so the allowance at most doubles from one measurement to the next.
// Now and then a step goes without prompts, so that the first of the two is known. The
// engine's thread owns it; time comes from outside.
#pragma once

#include "absl/time/time.h"

namespace lorica {

inline constexpr int kPaceTokensMin = 16;   // a prompt always proceeds
inline constexpr int kPaceProbeSteps = 32;  // most steps with prompts between two without

class StepPace {
 public:
  // `stretch` 0: any number of prompt tokens, else above 1.
  explicit StepPace(double stretch);

  // Prompt tokens that the next step may have beside rows that decode.
  int TokensBeside() const;
  // The next step as it is planned.
  void Planned(int decode_rows, int prompt_tokens);
  // What a step took, from the end of the one before if that came later than its launch.
  // Not above zero: it was not measured.
  void Measured(int prompt_tokens, absl::Duration took);

  // Of a step that only decodes; zero: not known.
  absl::Duration decode_step() const { return absl::Milliseconds(decode_ms_); }

 private:
  void LearnToken(int prompt_tokens, double ms);

  const double stretch_;
  double decode_ms_ = 0.0;
  double token_ms_ = 0.0;
  bool token_known_ = false;
  int tokens_ = kPaceTokensMin;
  int steps_with_prompts_ = 0;  // since one without
};

}  // namespace lorica
