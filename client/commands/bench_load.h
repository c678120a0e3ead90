// What load the bench puts on a server: which adapter, which prompt, when. Everything
// follows from a seed and a request's number, so equal flags send equal requests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lorica/v1/inference.pb.h"

namespace lorica {

// How requests spread over adapters; the popularity patterns of the LoRA literature.
//   none       the base model
//   identical  all the first adapter
//   distinct   stream i (request i in an open loop) uses adapter i, round and round
//   uniform    each request any adapter
//   zipf       adapter k with probability proportional to 1 / (k + 1)^exponent
enum class Pattern { kNone, kIdentical, kDistinct, kUniform, kZipf };

absl::StatusOr<Pattern> ParsePattern(const std::string& name);
const std::vector<std::string>& PatternNames();  // in the order of the enum

// Ranks 0 … count-1 with Zipf's weights. Immutable.
class ZipfSampler {
 public:
  // REQUIRES: count > 0, exponent >= 0 (0 = uniform).
  ZipfSampler(int count, double exponent);
  // `uniform` in [0, 1) -> rank.
  int Rank(double uniform) const;

 private:
  std::vector<double> cumulative_;  // [count], the last is 1
};

struct LoadOptions {
  Pattern pattern = Pattern::kDistinct;
  std::vector<std::string> adapters;  // empty = base model
  double zipf_exponent = 1.0;
  int prompt_tokens = 128;
  int output_tokens = 256;
  int vocabulary = 0;
  std::string json_schema;  // the answers of every second stream fit it; empty: all are free
  uint64_t seed = 1;
};

// Immutable, thread-safe.
class LoadPlan {
 public:
  explicit LoadPlan(LoadOptions options);

  // The `number`-th request of `stream`: random token ids, greedy, past the end token unless
  // the answer has to fit a schema.
  v1::GenerateRequest Request(int stream, int64_t number) const;

  // Seconds between arrival `number` - 1 and `number` at `rate` a second (exponential).
  double ArrivalGap(int64_t number, double rate) const;

  const LoadOptions& options() const { return options_; }

 private:
  const std::string& PickAdapter(int stream, double uniform) const;

  const LoadOptions options_;
  const ZipfSampler zipf_;
};

}  // namespace lorica
