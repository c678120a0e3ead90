#include "server/engine/step_pace.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace lorica {
namespace {

constexpr int kUnlimited = std::numeric_limits<int>::max();
constexpr int kTokensMax = 1 << 20;

// Shares of a new measurement in what is believed. One outlier counts no more than so many
// times what was believed.
constexpr double kDecodeShare = 0.25;
constexpr double kTokenRise = 0.5;
constexpr double kTokenFall = 0.1;
constexpr double kDecodeOutlier = 2.0;
constexpr double kTokenOutlier = 4.0;

void Move(double& mean, double seen, double share) { mean += share * (seen - mean); }

}  // namespace

StepPace::StepPace(double stretch) : stretch_(stretch) {
  LORICA_CHECK(stretch == 0.0 || stretch > 1.0, "stretch", stretch);
}

int StepPace::TokensBeside() const {
  if (stretch_ == 0.0 || decode_ms_ == 0.0) return kUnlimited;
  return steps_with_prompts_ >= kPaceProbeSteps ? 0 : tokens_;
}

void StepPace::Planned(int decode_rows, int prompt_tokens) {
  if (prompt_tokens == 0) steps_with_prompts_ = 0;
  if (prompt_tokens > 0 && decode_rows > 0) ++steps_with_prompts_;
}

void StepPace::Measured(int prompt_tokens, absl::Duration took) {
  const double ms = absl::ToDoubleMilliseconds(took);
  if (ms <= 0.0) return;
  if (prompt_tokens > 0) return LearnToken(prompt_tokens, ms);
  if (decode_ms_ == 0.0) decode_ms_ = ms;
  Move(decode_ms_, std::min(ms, kDecodeOutlier * decode_ms_), kDecodeShare);
}

void StepPace::LearnToken(int prompt_tokens, double ms) {
  if (stretch_ == 0.0 || decode_ms_ == 0.0) return;
  // A few tokens hide behind what every step takes anyway.
  const bool tells = 2 * prompt_tokens >= tokens_ || ms > stretch_ * decode_ms_;
  if (!tells) return;
  double seen = std::max(0.0, ms - decode_ms_) / prompt_tokens;
  if (!token_known_) {
    token_ms_ = seen;
    token_known_ = true;
  }
  if (token_ms_ > 0.0) seen = std::min(seen, kTokenOutlier * token_ms_);
  Move(token_ms_, seen, seen > token_ms_ ? kTokenRise : kTokenFall);
  double allowed = kTokensMax;
  if (token_ms_ > 0.0) allowed = std::min(allowed, (stretch_ - 1.0) * decode_ms_ / token_ms_);
  const int growth = std::max(2 * tokens_, prompt_tokens);
  tokens_ = std::clamp(static_cast<int>(allowed), kPaceTokensMin, std::min(growth, kTokensMax));
}

}  // namespace lorica
