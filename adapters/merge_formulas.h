// How adapters are merged into one: PEFT's formulas, tensor by tensor.
//
// kLinear sums; kTies keeps the largest values of each, elects a sign for every place and
// averages those that agree; kDareLinear and kDareTies drop values at random and scale up
// what stays; kMagnitudePrune keeps the largest and sums. All of these work on A and on B
// separately, as PEFT's add_weighted_adapter does, so their result is no sum of deltas.
// kCat puts ranks side by side and is exact.
//
// PEFT draws the random choice from a generator that nobody can repeat; here it depends on
// (seed, stream, place) alone. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorica {

enum class MergeMethod : uint8_t { kLinear, kCat, kTies, kDareLinear, kDareTies, kMagnitudePrune };

// Which sign wins in TIES: that of the sum, or that of most values.
enum class MajoritySign : uint8_t { kTotal, kFrequency };

struct MergeRule {
  MergeMethod method = MergeMethod::kLinear;
  double density = 0.0;  // share of the values that stay; kLinear and kCat ignore it
  MajoritySign majority_sign = MajoritySign::kTotal;
  uint64_t seed = 0;  // of kDareLinear and kDareTies
};

// "linear", "cat", "ties", "dare_linear", "dare_ties", "magnitude_prune": PEFT's names.
// InvalidArgument lists them.
absl::StatusOr<MergeMethod> ParseMergeMethod(std::string_view name);
std::string_view MergeMethodName(MergeMethod method);
// "total", "frequency".
absl::StatusOr<MajoritySign> ParseMajoritySign(std::string_view name);
bool UsesDensity(MergeMethod method);
// InvalidArgument: a density that the method needs is not above 0 and at most 1.
absl::Status CheckMergeRule(const MergeRule& rule);

// Merges tensors of one size, in place of the first. streams[i] seeds the random choice of
// tensor i. REQUIRES: not kCat; one weight and one stream a tensor; at least one tensor.
void MergeTensors(const MergeRule& rule, absl::Span<const float> weights,
                  absl::Span<const uint64_t> streams, std::vector<std::vector<float>>& tensors);

// The stream of a part's tensor: the first 8 bytes, little endian, of SHA-256 over
// "<seed>/<module>/<A or B>/<part>".
uint64_t MergeStream(uint64_t seed, std::string_view module, char tensor, int part);

}  // namespace lorica
