#include "kernels/cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/philox.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sample.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

// The largest of `count` floats; NaN when one of them is NaN.
float MaxOrNan(const float* x, size_t count) {
  V max[kStripVectors], bad[kStripVectors];
  for (size_t i = 0; i < kStripVectors; ++i) {
    max[i] = Splat(-HUGE_VALF);
    bad[i] = hn::Zero(Floats());
  }
  size_t c = 0;
  for (; c + kStrip <= count; c += kStrip) {
    for (size_t i = 0; i < kStripVectors; ++i) {
      const V v = LoadVector(x + c + i * kLanes);
      max[i] = hn::Max(max[i], v);
      bad[i] = hn::IfThenElse(hn::Eq(v, v), bad[i], v);
    }
  }
  float result = MaxStrip(max);
  for (; c < count; ++c) {
    if (x[c] != x[c]) return x[c];
    result = x[c] > result ? x[c] : result;
  }
  const float nan = SumStrip(bad);
  return nan == 0.0f ? result : nan;
}

// out[i] = exp(scale * (x[i] - max)), sums[g] their sum over each group of `group` elements.
// REQUIRES: group is a multiple of 16; out has room for whole strips.
void ExpGroups(const float* x, size_t count, float max, float scale, size_t group, float* out,
               float* sums) {
  const V shift = Splat(max);
  const V factor = Splat(scale);
  for (size_t begin = 0; begin < count; begin += group) {
    V sum[kStripVectors];
    for (V& s : sum) s = hn::Zero(Floats());
    const size_t end = HWY_MIN(count, begin + group);
    for (size_t c = begin; c < end; c += kStrip) {
      float rest[kStrip];
      const float* from = x + c;
      if (end - c < kStrip) {
        for (size_t i = 0; i < kStrip; ++i) rest[i] = c + i < end ? x[c + i] : -HUGE_VALF;
        from = rest;
      }
      for (size_t i = 0; i < kStripVectors; ++i) {
        const V v = hn::Mul(hn::Sub(LoadVector(from + i * kLanes), shift), factor);
        const V e = Exp(v);
        StoreVector(e, out + c + i * kLanes);
        sum[i] = hn::Add(sum[i], e);
      }
    }
    sums[begin / group] = SumStrip(sum);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorica {

HWY_EXPORT(MaxOrNan);
HWY_EXPORT(ExpGroups);

namespace {

constexpr float kNoChance = -std::numeric_limits<float>::infinity();
constexpr int kGroupTokens = 64;  // tokens that share one maximum when looking for the best

struct Candidate {
  int32_t token;
  float logit;
  double probability;  // not normalised
};

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

float MaxLogit(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(MaxOrNan)(x, count); }

// exp(scale * (x - max)) of all tokens, and sums of groups of kGroupTokens.
class Softmax {
 public:
  Softmax(const float* x, int64_t count, float max, float scale)
      : exps_(count + kStripRoom), sums_((count + kGroupTokens - 1) / kGroupTokens) {
    HWY_DYNAMIC_DISPATCH(ExpGroups)
    (x, count, max, scale, kGroupTokens, exps_.data(), sums_.data());
    for (const float sum : sums_) total_ += sum;
  }

  double total() const { return total_; }

  // The first token whose running sum exceeds `uniform` of the total.
  int32_t Choose(double uniform, int64_t count) const {
    const double target = uniform * total_;
    double sum = 0.0;
    size_t group = 0;
    while (group + 1 < sums_.size() && sum + sums_[group] <= target) sum += sums_[group++];
    const int64_t begin = static_cast<int64_t>(group) * kGroupTokens;
    const int64_t end = std::min(count, begin + kGroupTokens);
    int64_t last = begin;  // with a chance: rounding may leave the target just out of reach
    for (int64_t i = begin; i < end; ++i) {
      if (exps_[i] > 0.0f) last = i;
      sum += exps_[i];
      if (sum > target) break;
    }
    return static_cast<int32_t>(last);
  }

 private:
  static constexpr int kStripRoom = 16;

  std::vector<float> exps_;
  std::vector<float> sums_;
  double total_ = 0.0;
};

// A bound that at least `count` of the logits reach: the count-th best of group maxima.
float LowerBoundOfBest(const std::vector<float>& maxima, int64_t count) {
  if (count > static_cast<int64_t>(maxima.size())) return kNoChance;
  std::vector<float> sorted = maxima;
  std::nth_element(sorted.begin(), sorted.begin() + count - 1, sorted.end(), std::greater<>());
  return sorted[count - 1];
}

std::vector<float> GroupMaxima(const float* x, int64_t count) {
  std::vector<float> maxima;
  maxima.reserve(count / kGroupTokens + 1);
  for (int64_t i = 0; i < count; i += kGroupTokens) {
    maxima.push_back(MaxLogit(x + i, std::min<int64_t>(kGroupTokens, count - i)));
  }
  return maxima;
}

// Every token whose logit is at least `bound` and above -inf, in order of id.
std::vector<Candidate> AtLeast(const float* x, int64_t count, const std::vector<float>& maxima,
                               float bound) {
  std::vector<Candidate> found;
  for (size_t g = 0; g < maxima.size(); ++g) {
    if (!(maxima[g] >= bound)) continue;
    const int64_t begin = static_cast<int64_t>(g) * kGroupTokens;
    const int64_t end = std::min(count, begin + kGroupTokens);
    for (int64_t i = begin; i < end; ++i) {
      if (x[i] >= bound && x[i] > kNoChance) found.push_back({static_cast<int32_t>(i), x[i], 0.0});
    }
  }
  return found;
}

// How often each token occurs in a history, sparse.
class TokenCounts {
 public:
  explicit TokenCounts(int64_t vocabulary) : counts_(vocabulary, 0) {}

  void Add(const int32_t* tokens, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
      const int32_t token = tokens[i];
      if (token < 0 || token >= static_cast<int64_t>(counts_.size())) continue;
      if (counts_[token]++ == 0) seen_.push_back(token);
    }
  }
  const std::vector<int32_t>& seen() const { return seen_; }
  int32_t count(int32_t token) const { return counts_[token]; }

 private:
  std::vector<int32_t> counts_;
  std::vector<int32_t> seen_;
};

// `pending`: what the row's slot holds, where that counts as output.
void AddOutput(const SampleRow& row, int32_t pending, TokenCounts& counts) {
  counts.Add(row.output, row.output_count);
  counts.Add(&pending, row.output_pending);
}

void ApplyRepetition(const SampleRow& row, int32_t pending, float* logits, int64_t vocabulary) {
  const float penalty = row.params.repetition_penalty;
  if (penalty == 1.0f) return;
  TokenCounts history(vocabulary);
  history.Add(row.prompt, row.prompt_count);
  AddOutput(row, pending, history);
  for (const int32_t token : history.seen()) {
    logits[token] = logits[token] > 0.0f ? logits[token] / penalty : logits[token] * penalty;
  }
}

void ApplyFrequency(const SampleRow& row, int32_t pending, float* logits, int64_t vocabulary) {
  const SampleParams& params = row.params;
  if (params.frequency_penalty == 0.0f && params.presence_penalty == 0.0f) return;
  TokenCounts output(vocabulary);
  AddOutput(row, pending, output);
  for (const int32_t token : output.seen()) {
    logits[token] -= params.frequency_penalty * static_cast<float>(output.count(token));
    logits[token] -= params.presence_penalty;
  }
}

void ApplyMaskAndBias(const SampleRow& row, float* logits, int64_t vocabulary) {
  for (int32_t i = 0; i < row.bias_count; ++i) {
    const TokenBias& bias = row.bias[i];
    if (bias.token < 0 || bias.token >= vocabulary) continue;
    logits[bias.token] = bias.bias <= kBanBias ? kNoChance : logits[bias.token] + bias.bias;
  }
  if (row.allowed_mask == nullptr) return;
  LORICA_CHECK(row.allowed_words * int64_t{32} >= vocabulary, row.allowed_words, vocabulary);
  for (int64_t token = 0; token < vocabulary; ++token) {
    const auto word = static_cast<uint32_t>(row.allowed_mask[token / 32]);
    if ((word >> (token % 32) & 1) == 0) logits[token] = kNoChance;
  }
}

// The row's logits after mask, penalties and bias; the raw ones when nothing applies.
const float* AdjustLogits(const SampleRow& row, int32_t pending, const float* raw,
                          int64_t vocabulary, std::vector<float>& adjusted) {
  const bool applies =
      HasPenalties(row.params) || row.bias_count > 0 || row.allowed_mask != nullptr;
  if (!applies) return raw;
  adjusted.assign(raw, raw + vocabulary);
  ApplyRepetition(row, pending, adjusted.data(), vocabulary);
  ApplyFrequency(row, pending, adjusted.data(), vocabulary);
  ApplyMaskAndBias(row, adjusted.data(), vocabulary);
  return adjusted.data();
}

void KeepTopK(int64_t k, std::vector<Candidate>& candidates) {
  if (k >= static_cast<int64_t>(candidates.size())) return;
  std::vector<float> logits;
  logits.reserve(candidates.size());
  for (const Candidate& c : candidates) logits.push_back(c.logit);
  std::nth_element(logits.begin(), logits.begin() + k - 1, logits.end(), std::greater<>());
  const float bound = logits[k - 1];
  std::erase_if(candidates, [bound](const Candidate& c) { return c.logit < bound; });
}

void Weigh(std::vector<Candidate>& candidates, float max, float scale) {
  for (Candidate& c : candidates) {
    c.probability = std::exp(double{scale} * (double{c.logit} - double{max}));
  }
}

double Total(const std::vector<Candidate>& candidates) {
  double total = 0.0;
  for (const Candidate& c : candidates) total += c.probability;
  return total;
}

// Keeps the best of `candidates` up to `p` of `total`; false when they do not reach it.
bool KeepTopP(double p, double total, std::vector<Candidate>& candidates) {
  std::sort(candidates.begin(), candidates.end(), Better);
  double sum = 0.0;
  size_t kept = 0;
  while (kept < candidates.size() && (kept == 0 || sum < p * total)) {
    sum += candidates[kept++].probability;
  }
  const bool reached = sum >= p * total;
  candidates.resize(kept);
  return reached;
}

class RowSampler {
 public:
  RowSampler(const SampleRow& row, const float* logits, int64_t vocabulary, float max)
      : params_(row.params), logits_(logits), vocabulary_(vocabulary), max_(max) {}

  int32_t Greedy() const {
    for (int64_t i = 0; i < vocabulary_; ++i) {
      if (logits_[i] == max_) return static_cast<int32_t>(i);
    }
    return -1;
  }

  int32_t Draw(double uniform) {
    scale_ = 1.0f / params_.temperature;
    if (!KeepsBest() && !KeepsNucleus() && !(params_.min_p > 0.0f)) {
      return Softmax(logits_, vocabulary_, max_, scale_).Choose(uniform, vocabulary_);
    }
    maxima_ = GroupMaxima(logits_, vocabulary_);
    std::vector<Candidate> kept = Keep();
    if (params_.min_p > 0.0f) {
      const double bound = std::min(params_.min_p, 1.0f);
      std::erase_if(kept, [bound](const Candidate& c) { return c.probability < bound; });
    }
    const double target = uniform * Total(kept);
    double sum = 0.0;
    for (const Candidate& c : kept) {
      sum += c.probability;
      if (sum > target) return c.token;
    }
    return kept.back().token;
  }

 private:
  bool KeepsBest() const { return params_.top_k > 0 && params_.top_k < vocabulary_; }
  bool KeepsNucleus() const { return params_.top_p < 1.0f; }

  // Candidates after top-k and top-p, in order of id.
  std::vector<Candidate> Keep() {
    if (!KeepsBest() && KeepsNucleus()) return KeepNucleus();
    if (!KeepsBest()) return Weighed(MinPBound());
    std::vector<Candidate> candidates = Weighed(LowerBoundOfBest(maxima_, params_.top_k));
    KeepTopK(params_.top_k, candidates);
    if (KeepsNucleus()) {
      KeepTopP(params_.top_p, Total(candidates), candidates);
      SortById(candidates);
    }
    return candidates;
  }

  // Top-p alone: looks at ever less likely tokens until they hold enough probability.
  std::vector<Candidate> KeepNucleus() {
    const double total = Softmax(logits_, vocabulary_, max_, scale_).total();
    for (const float depth : {4.0f, 8.0f, 12.0f, 16.0f}) {
      std::vector<Candidate> candidates = Weighed(max_ - depth / scale_);
      if (Total(candidates) < params_.top_p * total) continue;
      if (!KeepTopP(params_.top_p, total, candidates)) continue;
      SortById(candidates);
      return candidates;
    }
    std::vector<Candidate> candidates = Weighed(kNoChance);
    KeepTopP(params_.top_p, Total(candidates), candidates);
    SortById(candidates);
    return candidates;
  }

  // Where min-p alone decides, what lies well below its bound need not be looked at.
  float MinPBound() const { return max_ + (std::log(params_.min_p) - 0.01f) / scale_; }

  std::vector<Candidate> Weighed(float bound) const {
    std::vector<Candidate> candidates = AtLeast(logits_, vocabulary_, maxima_, bound);
    Weigh(candidates, max_, scale_);
    return candidates;
  }

  static void SortById(std::vector<Candidate>& candidates) {
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  }

  const SampleParams& params_;
  const float* logits_;
  int64_t vocabulary_;
  float max_;
  float scale_ = 1.0f;
  std::vector<float> maxima_;
};

void ReportLogprobs(const float* raw, int64_t vocabulary, float raw_max, int32_t wanted,
                    SampleResult& result) {
  const auto normaliser =
      static_cast<float>(raw_max + std::log(Softmax(raw, vocabulary, raw_max, 1.0f).total()));
  result.logprob = raw[result.token] - normaliser;
  const int64_t count = std::min<int64_t>({wanted, kLogprobsMax, vocabulary});
  if (count == 0) return;
  const std::vector<float> maxima = GroupMaxima(raw, vocabulary);
  std::vector<Candidate> best = AtLeast(raw, vocabulary, maxima, LowerBoundOfBest(maxima, count));
  const int64_t found = std::min<int64_t>(count, best.size());
  std::partial_sort(best.begin(), best.begin() + found, best.end(), Better);
  for (int64_t i = 0; i < found; ++i) {
    result.top.push_back({best[i].token, best[i].logit - normaliser});
  }
}

void SampleOne(const SampleRow& row, int32_t pending, const float* raw, int64_t vocabulary,
               SampleResult& result) {
  result = SampleResult{};
  const float raw_max = MaxLogit(raw, vocabulary);
  thread_local std::vector<float> adjusted;
  const float* logits = AdjustLogits(row, pending, raw, vocabulary, adjusted);
  const float max = logits == raw ? raw_max : MaxLogit(logits, vocabulary);
  result.finite = std::isfinite(raw_max) && std::isfinite(max);
  if (!result.finite) return;
  RowSampler sampler(row, logits, vocabulary, max);
  result.token = row.params.temperature >= kGreedyTemperature
                     ? sampler.Draw(PhiloxUniform(row.params.seed, row.token_index))
                     : sampler.Greedy();
  if (row.params.logprobs >= 0) {
    ReportLogprobs(raw, vocabulary, raw_max, row.params.logprobs, result);
  }
}

}  // namespace

void RunSample(Tensor logits, int32_t vocabulary_used, const std::vector<SampleRow>& rows,
               absl::Span<const int32_t> slots, absl::Span<SampleResult> results,
               ThreadPool& pool) {
  LORICA_CHECK(vocabulary_used > 0 && vocabulary_used <= logits.columns, vocabulary_used,
               logits.columns);
  LORICA_CHECK(rows.size() == results.size(), rows.size(), results.size());
  pool.Run(static_cast<int64_t>(rows.size()), [&](int64_t index, int) {
    const SampleRow& row = rows[index];
    const int32_t pending = row.output_pending > 0 ? slots.at(row.slot) : -1;
    SampleOne(row, pending, logits.f32() + index * logits.columns, vocabulary_used, results[index]);
  });
}

}  // namespace lorica
#endif
