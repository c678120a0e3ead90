#include "adapters/merge_formulas.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"
#include "adapters/sha256.h"
#include "kernels/check.h"
#include "kernels/noise.h"

namespace lorica {
namespace {

constexpr const char* kMethodNames[] = {"linear",      "cat",       "ties",
                                        "dare_linear", "dare_ties", "magnitude_prune"};
constexpr const char* kSignNames[] = {"total", "frequency"};

void KeepLargest(double density, std::vector<float>& values) {
  const auto keep = static_cast<int64_t>(density * static_cast<double>(values.size()));
  if (keep >= std::ssize(values)) return;
  if (keep == 0) return std::fill(values.begin(), values.end(), 0.0f);
  std::vector<float> sizes(values.size());
  std::transform(values.begin(), values.end(), sizes.begin(), [](float v) { return std::abs(v); });
  std::nth_element(sizes.begin(), sizes.begin() + keep - 1, sizes.end(), std::greater<float>());
  const float least = sizes[keep - 1];
  // Of values that are as large as the last one the first stay.
  int64_t room = keep - std::count_if(values.begin(), values.end(),
                                      [&](float v) { return std::abs(v) > least; });
  for (float& value : values) {
    const bool stays = std::abs(value) > least || (std::abs(value) == least && room-- > 0);
    if (!stays) value = 0.0f;
  }
}

void KeepSome(double density, uint64_t stream, std::vector<float>& values) {
  const auto scale = static_cast<float>(density);
  for (size_t i = 0; i < values.size(); ++i) {
    const double chance = static_cast<double>(SplitMix64(stream, i) >> 11) * 0x1.0p-53;
    values[i] = chance < density ? values[i] / scale : 0.0f;
  }
}

void Sparsify(const MergeRule& rule, uint64_t stream, std::vector<float>& values) {
  if (!UsesDensity(rule.method) || rule.density >= 1.0) return;
  const bool random =
      rule.method == MergeMethod::kDareLinear || rule.method == MergeMethod::kDareTies;
  random ? KeepSome(rule.density, stream, values) : KeepLargest(rule.density, values);
}

float SignOf(float value) { return static_cast<float>((value > 0) - (value < 0)); }

// The weighted mean of those values in one place that have the elected sign.
float MergeByVote(MajoritySign method, absl::Span<const float> weights, size_t place,
                  const std::vector<std::vector<float>>& tensors) {
  float votes = 0;
  for (const std::vector<float>& tensor : tensors) {
    votes += method == MajoritySign::kTotal ? tensor[place] : SignOf(tensor[place]);
  }
  const float elected = votes >= 0 ? 1.0f : -1.0f;
  float sum = 0;
  int count = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (SignOf(tensors[i][place]) != elected) continue;
    sum += tensors[i][place] * weights[i];
    ++count;
  }
  return sum / static_cast<float>(std::max(count, 1));
}

float Sum(absl::Span<const float> weights, size_t place,
          const std::vector<std::vector<float>>& tensors) {
  float sum = 0;
  for (size_t i = 0; i < tensors.size(); ++i) sum += tensors[i][place] * weights[i];
  return sum;
}

}  // namespace

absl::StatusOr<MergeMethod> ParseMergeMethod(std::string_view name) {
  for (size_t i = 0; i < std::size(kMethodNames); ++i) {
    if (name == kMethodNames[i]) return static_cast<MergeMethod>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "merge method ", Quoted(name),
      " is unknown: linear, cat, ties, dare_linear, dare_ties and magnitude_prune ", "are served"));
}

std::string_view MergeMethodName(MergeMethod method) {
  return kMethodNames[static_cast<int>(method)];
}

absl::StatusOr<MajoritySign> ParseMajoritySign(std::string_view name) {
  for (size_t i = 0; i < std::size(kSignNames); ++i) {
    if (name == kSignNames[i]) return static_cast<MajoritySign>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("majority sign method ", Quoted(name), " is unknown: total or frequency"));
}

bool UsesDensity(MergeMethod method) {
  return method != MergeMethod::kLinear && method != MergeMethod::kCat;
}

absl::Status CheckMergeRule(const MergeRule& rule) {
  if (!UsesDensity(rule.method) || (rule.density > 0.0 && rule.density <= 1.0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("density ", rule.density, " is not above 0 and ", "at most 1, which ",
                   kMethodNames[static_cast<int>(rule.method)], " needs"));
}

void MergeTensors(const MergeRule& rule, absl::Span<const float> weights,
                  absl::Span<const uint64_t> streams, std::vector<std::vector<float>>& tensors) {
  LORICA_CHECK(rule.method != MergeMethod::kCat && !tensors.empty());
  LORICA_CHECK(weights.size() == tensors.size() && streams.size() == tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) Sparsify(rule, streams[i], tensors[i]);
  const bool votes = rule.method == MergeMethod::kTies || rule.method == MergeMethod::kDareTies;
  for (size_t place = 0; place < tensors[0].size(); ++place) {
    tensors[0][place] = votes ? MergeByVote(rule.majority_sign, weights, place, tensors)
                              : Sum(weights, place, tensors);
  }
}

uint64_t MergeStream(uint64_t seed, std::string_view module, char tensor, int part) {
  Sha256 hash;
  hash.Update(std::to_string(seed) + "/" + std::string(module) + "/" + tensor + "/" +
              std::to_string(part));
  const std::string bytes = absl::HexStringToBytes(hash.Finish().substr(0, 16));
  uint64_t stream = 0;
  std::memcpy(&stream, bytes.data(), sizeof(stream));
  return stream;
}

}  // namespace lorica
