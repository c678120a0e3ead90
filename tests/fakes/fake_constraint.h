// A constraint for tests of the engine: about a quarter of the tokens may follow, and which ones
// depends on all the tokens before. A mask takes as many questions as `lateness` says before it is
// there, so that rows are computed in vain.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "server/engine/token_constraint.h"
#include "tests/fakes/fake_device.h"

namespace lorica::fakes {

class FakeConstraint : public PureConstraint {
 public:
  FakeConstraint(uint64_t seed, int32_t vocabulary, std::function<int()> lateness)
      : seed_(seed), vocabulary_(vocabulary), lateness_(std::move(lateness)), left_(lateness_()) {}

  int fail_after = -1;  // tokens after which it fails; -1: it does not

  std::vector<int32_t> MaskAfter(absl::Span<const int32_t> tokens) const override {
    uint64_t state = seed_;
    for (const int32_t token : tokens) state = Mix(state, token);
    std::vector<int32_t> mask((vocabulary_ + 31) / 32);
    const auto allow = [&](int32_t token) { mask[token / 32] |= 1u << token % 32; };
    allow(static_cast<int32_t>(state % vocabulary_));
    for (int32_t token = 0; token < vocabulary_; ++token) {
      if (Mix(state, token) % 4 == 0) allow(token);
    }
    return mask;
  }

  absl::StatusOr<bool> Ready() override {
    if (std::ssize(tokens_) == fail_after) return absl::InvalidArgumentError("injected: no mask");
    return left_ <= 0 || --left_ <= 0;
  }
  void Accept(int32_t token) override {
    tokens_.push_back(token);
    left_ = lateness_();
  }
  absl::StatusOr<bool> TakeMask(absl::Duration, absl::Span<int32_t> mask) override {
    const absl::StatusOr<bool> ready = Ready();
    if (!ready.ok() || !*ready) return ready;
    const std::vector<int32_t> now = MaskAfter(tokens_);
    LORICA_CHECK(mask.size() == now.size(), mask.size(), now.size());
    std::copy(now.begin(), now.end(), mask.begin());
    return true;
  }

 private:
  const uint64_t seed_;
  const int32_t vocabulary_;
  const std::function<int()> lateness_;
  int left_;
  std::vector<int32_t> tokens_;
};

}  // namespace lorica::fakes
