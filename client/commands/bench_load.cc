#include "client/commands/bench_load.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lorica {
namespace {

// Special tokens sit at the bottom of every vocabulary we know.
constexpr int kSpecialIds = 256;

std::mt19937_64 Generator(uint64_t seed, int64_t stream, int64_t number) {
  std::seed_seq sequence{seed, seed >> 32, static_cast<uint64_t>(stream),
                         static_cast<uint64_t>(number), static_cast<uint64_t>(number) >> 32};
  return std::mt19937_64(sequence);
}

double Uniform(std::mt19937_64* generator) {
  return static_cast<double>((*generator)() >> 11) * 0x1p-53;
}

}  // namespace

const std::vector<std::string>& PatternNames() {
  static const auto* names =
      new std::vector<std::string>{"none", "identical", "distinct", "uniform", "zipf"};
  return *names;
}

absl::StatusOr<Pattern> ParsePattern(const std::string& name) {
  const auto& names = PatternNames();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Pattern>(found - names.begin());
  return absl::InvalidArgumentError(
      absl::StrCat("--pattern: expected one of ", absl::StrJoin(names, ", "), ", got ", name));
}

ZipfSampler::ZipfSampler(int count, double exponent) {
  double sum = 0;
  for (int k = 0; k < count; ++k) cumulative_.push_back(sum += std::pow(k + 1, -exponent));
  for (double& value : cumulative_) value /= sum;
  cumulative_.back() = 1;
}

int ZipfSampler::Rank(double uniform) const {
  return std::upper_bound(cumulative_.begin(), cumulative_.end() - 1, uniform) -
         cumulative_.begin();
}

LoadPlan::LoadPlan(LoadOptions options)
    : options_(std::move(options)),
      zipf_(std::max<int>(1, options_.adapters.size()),
            options_.pattern == Pattern::kZipf ? options_.zipf_exponent : 0) {}

const std::string& LoadPlan::PickAdapter(int stream, double uniform) const {
  static const std::string base;
  const auto& adapters = options_.adapters;
  if (adapters.empty() || options_.pattern == Pattern::kNone) return base;
  if (options_.pattern == Pattern::kIdentical) return adapters.front();
  if (options_.pattern == Pattern::kDistinct) return adapters[stream % adapters.size()];
  return adapters[zipf_.Rank(uniform)];
}

v1::GenerateRequest LoadPlan::Request(int stream, int64_t number) const {
  std::mt19937_64 generator = Generator(options_.seed, stream, number);
  v1::GenerateRequest request;
  request.set_adapter_id(PickAdapter(stream, Uniform(&generator)));
  const int lowest = std::min(kSpecialIds, options_.vocabulary / 2);
  for (int i = 0; i < options_.prompt_tokens; ++i) {
    const double range = options_.vocabulary - lowest;
    request.add_token_ids(lowest + static_cast<int>(Uniform(&generator) * range));
  }
  request.set_max_tokens(options_.output_tokens);
  request.set_temperature(0);
  const bool shaped = !options_.json_schema.empty() && stream % 2 == 1;
  if (shaped) request.mutable_response_format()->set_json_schema(options_.json_schema);
  request.set_ignore_eos(!shaped);
  return request;
}

double LoadPlan::ArrivalGap(int64_t number, double rate) const {
  std::mt19937_64 generator = Generator(options_.seed, -1, number);
  return -std::log1p(-Uniform(&generator)) / rate;
}

}  // namespace lorica
